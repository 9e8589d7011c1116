// The headers as C++ sees them, each without the others before it, and a kernel of each from there.
#include "pyoptk_dense.h"

#include "pyoptk_optim.h"

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
    float zero = 0, one = 0;
    pk_math(PK_F32)->exp(&zero, &one, 1);
    double row;
    pk_elementwise_loss loss = {};
    loss.M = loss.N = 1, loss.loss = PK_SQUARED, loss.x = &one, loss.target = &zero,
    loss.scratch = &row;
    const double square = pk_dense(PK_F32)->elementwise_loss(&loss, 1);
    char version[32];
    std::snprintf(version, sizeof version, "%d.%d.%d", PK_VERSION_MAJOR, PK_VERSION_MINOR,
                  PK_VERSION_PATCH);
    const bool named =
        !std::strcmp(version, PK_VERSION) && !std::strcmp(pk_optimizers[0]->name, "sgd");
    const bool right = named && param[0] == 0.5f && param[2] == 2.5f && one == 1 && square == 1;
    std::printf("%s from C++, %s: %s\n", version, pk_isa(), right ? "passed" : "FAILED");
    return right ? 0 : 1;
}
