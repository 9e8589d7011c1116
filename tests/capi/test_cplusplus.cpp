// The header as C++ sees it, and an optimizer step from there.
#include "pyoptk.h"

#include <cstdio>
#include <cstring>

int main()
{
    float param[3] = {1, 2, 3}, grad[3] = {1, 1, 1};
    pk_tensor tensor = {};
    pk_sgd_config config = {};
    tensor.param = param, tensor.grad = grad, tensor.n = 3, tensor.step = 1;
    config.common.lr = 0.5, config.common.grad_scale = 1, config.common.clip_value = INFINITY;
    pk_optim(PK_F32)->step(PK_SGD, &tensor, 1, &config, nullptr, 1);
    char version[32];
    std::snprintf(version, sizeof version, "%d.%d.%d", PK_VERSION_MAJOR, PK_VERSION_MINOR,
                  PK_VERSION_PATCH);
    const bool right = param[0] == 0.5f && param[2] == 2.5f && !std::strcmp(version, PK_VERSION);
    std::printf("%s from C++, %s: %s\n", version, pk_isa(), right ? "passed" : "FAILED");
    return right ? 0 : 1;
}
