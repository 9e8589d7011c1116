/* The optimizers before Adam (adam.h), in order of increasing complexity.  Each is a function that turns
 * a config into constants, in double, and one loop in the arrays' own type.  A switch that the loop
 * must know is a literal argument, so that each combination is a loop of its own with nothing to
 * decide inside; a switch that can be a constant (eps_hat, eps_inside_sqrt, lr_in_momentum) is one.
 *
 * Compiled without contraction to FMA: the operations below are the operations done, so that every
 * instruction set gives the same bits, and the twins in pyoptk/reference too. */
#ifndef PK_OPTIM_H
#define PK_OPTIM_H

#include "sweep.h"

static void common_constants(const pk_common *c, constants *k)
{
    *k = (constants){.keep = (real)(c->decoupled ? 1 - c->lr * c->weight_decay : 1)};
}

/* ---- SGD ------------------------------------------------------------------------------------- */

static void sgd_constants(const void *config, int64_t step, constants *k)
{
    const pk_sgd_config *c = config;
    const double lr = c->common.lr, damped = step == 1 ? 1 : 1 - c->dampening;
    common_constants(&c->common, k);
    k->has_momentum = c->momentum != 0;
    k->first = step == 1;
    k->nesterov = c->nesterov;
    k->momentum = (real)c->momentum;
    k->gain = (real)(c->lr_in_momentum ? -lr * damped : damped);
    k->direct = (real)(c->lr_in_momentum ? -lr : 1);
    k->rate = (real)(c->lr_in_momentum && k->has_momentum ? -1 : lr);
}

PK_INLINE void sgd_loop(const pk_tensor *t, const constants k, int has_momentum, int first,
                        int nesterov)
{
    real *restrict p = t->param, *restrict velocity = t->state[0];
    const real *restrict g = t->grad;
    const size_t n = t->n;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        real d = g[i];
        if (has_momentum) {
            const real pushed = k.gain * g[i];
            velocity[i] = first ? pushed : k.momentum * velocity[i] + pushed;
            d = nesterov ? k.direct * g[i] + k.momentum * velocity[i] : velocity[i];
        }
        p[i] = k.keep * p[i] - k.rate * d;
    }
}

static void sgd_update(const pk_tensor *t, const constants *k)
{
    if (!k->has_momentum)
        sgd_loop(t, *k, 0, 0, 0);
    else if (k->first)
        k->nesterov ? sgd_loop(t, *k, 1, 1, 1) : sgd_loop(t, *k, 1, 1, 0);
    else
        k->nesterov ? sgd_loop(t, *k, 1, 0, 1) : sgd_loop(t, *k, 1, 0, 0);
}

static void sgd(const pk_tensor *tensors, size_t count, const pk_sgd_config *configs, int nthreads)
{
    run_sweep((sweep){.tensors = tensors,
                      .count = count,
                      .configs = (const char *)configs,
                      .config_size = sizeof *configs,
                      .prepare = sgd_constants,
                      .update = sgd_update},
              nthreads);
}

/* ---- AdaGrad --------------------------------------------------------------------------------- */

static void adagrad_constants(const void *config, int64_t step, constants *k)
{
    const pk_adagrad_config *c = config;
    common_constants(&c->common, k);
    k->rate = (real)(c->common.lr / (1 + (double)(step - 1) * c->lr_decay));
    k->eps = (real)(c->eps_inside_sqrt ? 0 : c->eps);
    k->eps_inside = (real)(c->eps_inside_sqrt ? c->eps : 0);
}

static void adagrad_update(const pk_tensor *t, const constants *constants_)
{
    real *restrict p = t->param, *restrict s = t->state[0];
    const real *restrict g = t->grad;
    const constants k = *constants_;
    const size_t n = t->n;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        s[i] += g[i] * g[i];
        p[i] = k.keep * p[i] - k.rate * g[i] / (real_sqrt(s[i] + k.eps_inside) + k.eps);
    }
}

static void adagrad(const pk_tensor *tensors, size_t count, const pk_adagrad_config *configs,
                    int nthreads)
{
    run_sweep((sweep){.tensors = tensors,
                      .count = count,
                      .configs = (const char *)configs,
                      .config_size = sizeof *configs,
                      .prepare = adagrad_constants,
                      .update = adagrad_update},
              nthreads);
}

/* ---- RMSprop --------------------------------------------------------------------------------- */

static void rmsprop_constants(const void *config, int64_t step, constants *k)
{
    const pk_rmsprop_config *c = config;
    (void)step;
    common_constants(&c->common, k);
    k->has_momentum = c->momentum != 0;
    k->centered = c->centered;
    k->momentum = (real)c->momentum;
    k->beta2 = (real)c->rho;
    k->rest2 = (real)(1 - c->rho);
    k->eps = (real)(c->eps_inside_sqrt ? 0 : c->eps);
    k->eps_inside = (real)(c->eps_inside_sqrt ? c->eps : 0);
    const int inside = c->lr_in_momentum && k->has_momentum;
    k->gain = (real)(inside ? c->common.lr : 1);
    k->rate = (real)(inside ? 1 : c->common.lr);
}

PK_INLINE void rmsprop_loop(const pk_tensor *t, const constants k, int centered, int has_momentum)
{
    real *restrict p = t->param, *restrict v = t->state[0];
    real *restrict avg = t->state[1], *restrict velocity = t->state[2];
    const real *restrict g = t->grad;
    const size_t n = t->n;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        v[i] = k.beta2 * v[i] + k.rest2 * g[i] * g[i];
        real spread = v[i];
        if (centered) {
            avg[i] = k.beta2 * avg[i] + k.rest2 * g[i];
            spread -= avg[i] * avg[i];
            spread = spread < 0 ? 0 : spread; /* rounding; a NaN stays one */
        }
        const real den = real_sqrt(spread + k.eps_inside) + k.eps;
        if (has_momentum) {
            velocity[i] = k.momentum * velocity[i] + k.gain * g[i] / den;
            p[i] = k.keep * p[i] - k.rate * velocity[i];
        } else {
            p[i] = k.keep * p[i] - k.rate * g[i] / den;
        }
    }
}

static void rmsprop_update(const pk_tensor *t, const constants *k)
{
    if (k->centered)
        k->has_momentum ? rmsprop_loop(t, *k, 1, 1) : rmsprop_loop(t, *k, 1, 0);
    else
        k->has_momentum ? rmsprop_loop(t, *k, 0, 1) : rmsprop_loop(t, *k, 0, 0);
}

static void rmsprop(const pk_tensor *tensors, size_t count, const pk_rmsprop_config *configs,
                    int nthreads)
{
    run_sweep((sweep){.tensors = tensors,
                      .count = count,
                      .configs = (const char *)configs,
                      .config_size = sizeof *configs,
                      .prepare = rmsprop_constants,
                      .update = rmsprop_update},
              nthreads);
}

/* ---- Adadelta -------------------------------------------------------------------------------- */

static void adadelta_constants(const void *config, int64_t step, constants *k)
{
    const pk_adadelta_config *c = config;
    (void)step;
    common_constants(&c->common, k);
    k->rate = (real)c->common.lr;
    k->beta2 = (real)c->rho;
    k->rest2 = (real)(1 - c->rho);
    k->eps_inside = (real)c->eps;
}

static void adadelta_update(const pk_tensor *t, const constants *constants_)
{
    real *restrict p = t->param, *restrict v = t->state[0], *restrict acc_delta = t->state[1];
    const real *restrict g = t->grad;
    const constants k = *constants_;
    const size_t n = t->n;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        v[i] = k.beta2 * v[i] + k.rest2 * g[i] * g[i];
        /* Two roots, not one of the quotient, which would leave the range where they do not. */
        const real delta =
            real_sqrt(acc_delta[i] + k.eps_inside) / real_sqrt(v[i] + k.eps_inside) * g[i];
        acc_delta[i] = k.beta2 * acc_delta[i] + k.rest2 * delta * delta;
        p[i] = k.keep * p[i] - k.rate * delta;
    }
}

static void adadelta(const pk_tensor *tensors, size_t count, const pk_adadelta_config *configs,
                     int nthreads)
{
    run_sweep((sweep){.tensors = tensors,
                      .count = count,
                      .configs = (const char *)configs,
                      .config_size = sizeof *configs,
                      .prepare = adadelta_constants,
                      .update = adadelta_update},
              nthreads);
}

/* ---- the roof -------------------------------------------------------------------------------- */

static void memory_roof_constants(const void *config, int64_t step, constants *k)
{
    (void)step;
    common_constants(config, k);
}

static void memory_roof_update(const pk_tensor *t, const constants *k)
{
    real *restrict p = t->param, *restrict m = t->state[0], *restrict v = t->state[1];
    const real *restrict g = t->grad;
    const size_t n = t->n;
    (void)k;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        m[i] += g[i];
        v[i] += g[i];
        p[i] += g[i];
    }
}

static void memory_roof(const pk_tensor *tensors, size_t count, int nthreads)
{
    const pk_common common = PK_COMMON_DEFAULTS;
    run_sweep((sweep){.tensors = tensors,
                      .count = count,
                      .configs = (const char *)&common,
                      .prepare = memory_roof_constants,
                      .update = memory_roof_update},
              nthreads);
}

#endif
