/* The optimizers before Adam (adam.h), in order of increasing complexity.  Each is a function that turns
 * a config into constants, in double, and one rule in the arrays' own type, for the loop of loop.h.  A
 * switch that the rule must know is set to a literal, so that each combination is a loop of its own
 * with nothing to decide inside; a switch that can be a constant (eps_hat, eps_inside_sqrt,
 * lr_in_momentum) is one.
 *
 * Compiled without contraction to FMA: the operations below are the operations done, so that every
 * instruction set gives the same bits, and the twins in pyoptk/reference too. */
#ifndef PK_OPTIM_H
#define PK_OPTIM_H

#include "loop.h"

static void common_constants(const pk_common *c, constants *k)
{
    *k = (constants){.scale = (real)c->grad_scale,
                     .clip = (real)c->clip_value,
                     .sign = c->maximize ? -1 : 1,
                     .decay = c->decoupled ? 0 : (real)c->weight_decay,
                     .keep = (real)(c->decoupled ? 1 - c->lr * c->weight_decay : 1),
                     .ema_keep = (real)c->ema_decay,
                     .ema_rest = (real)(1 - c->ema_decay),
                     .cautious = c->cautious,
                     .zero_grad = c->zero_grad};
    k->plain = c->grad_scale == 1 && c->clip_value == (double)INFINITY && !c->maximize &&
               k->decay == 0 && !c->cautious && !c->zero_grad;
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

PK_INLINE vectors sgd_rule(vectors x, constants k)
{
    vec d = x.g;
    if (k.has_momentum) {
        const vec pushed = k.gain * x.g;
        x.s[0] = k.first ? pushed : k.momentum * x.s[0] + pushed;
        d = k.nesterov ? k.direct * x.g + k.momentum * x.s[0] : x.s[0];
    }
    x.p = k.keep * x.p - k.rate * d;
    return x;
}

PK_INLINE size_t sgd_loop(const pk_tensor *t, constants k, int has_momentum, int first,
                          int nesterov)
{
    k.has_momentum = has_momentum;
    k.first = first;
    k.nesterov = nesterov;
    return update_by(sgd_rule, has_momentum ? STATE_0 : 0, NO_ROOTS, t, k);
}

static size_t sgd_update(const pk_tensor *t, const constants *k)
{
    if (!k->has_momentum)
        return sgd_loop(t, *k, 0, 0, 0);
    if (k->first)
        return k->nesterov ? sgd_loop(t, *k, 1, 1, 1) : sgd_loop(t, *k, 1, 1, 0);
    return k->nesterov ? sgd_loop(t, *k, 1, 0, 1) : sgd_loop(t, *k, 1, 0, 0);
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

PK_INLINE vectors adagrad_rule(vectors x, constants k)
{
    x.s[0] += x.g * x.g;
    x.p = k.keep * x.p - k.rate * x.g / (root_of(x.s[0] + k.eps_inside, k) + k.eps);
    return x;
}

static size_t adagrad_update(const pk_tensor *t, const constants *k)
{
    return update_by(adagrad_rule, STATE_0, ROOTS_2_IN_4, t, *k);
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

PK_INLINE vectors rmsprop_rule(vectors x, constants k)
{
    vec *const v = &x.s[0], *const avg = &x.s[1], *const velocity = &x.s[2];
    *v = k.beta2 * *v + k.rest2 * x.g * x.g;
    vec spread = *v;
    if (k.centered) {
        *avg = k.beta2 * *avg + k.rest2 * x.g;
        spread -= *avg * *avg;
        spread = larger_of(broadcast(0), spread); /* rounding; a NaN stays one */
    }
    const vec den = root_of(spread + k.eps_inside, k) + k.eps;
    if (k.has_momentum) {
        *velocity = k.momentum * *velocity + k.gain * x.g / den;
        x.p = k.keep * x.p - k.rate * *velocity;
    } else {
        x.p = k.keep * x.p - k.rate * x.g / den;
    }
    return x;
}

PK_INLINE size_t rmsprop_loop(const pk_tensor *t, constants k, int centered, int has_momentum)
{
    k.centered = centered;
    k.has_momentum = has_momentum;
    const int states = STATE_0 | (centered ? STATE_1 : 0) | (has_momentum ? STATE_2 : 0);
    return update_by(rmsprop_rule, states, ROOTS_2_IN_4, t, k);
}

static size_t rmsprop_update(const pk_tensor *t, const constants *k)
{
    if (k->centered)
        return k->has_momentum ? rmsprop_loop(t, *k, 1, 1) : rmsprop_loop(t, *k, 1, 0);
    return k->has_momentum ? rmsprop_loop(t, *k, 0, 1) : rmsprop_loop(t, *k, 0, 0);
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

PK_INLINE vectors adadelta_rule(vectors x, constants k)
{
    vec *const v = &x.s[0], *const acc_delta = &x.s[1];
    *v = k.beta2 * *v + k.rest2 * x.g * x.g;
    /* Two roots, not one of the quotient, which would leave the range where they do not. */
    const vec above = root_of(*acc_delta + k.eps_inside, k), below = root_of(*v + k.eps_inside, k);
    const vec delta = above / below * x.g;
    *acc_delta = k.beta2 * *acc_delta + k.rest2 * delta * delta;
    x.p = k.keep * x.p - k.rate * delta;
    return x;
}

static size_t adadelta_update(const pk_tensor *t, const constants *k)
{
    return update_by(adadelta_rule, STATES_01, ROOTS_2_IN_4, t, *k);
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

PK_INLINE vectors memory_roof_rule(vectors x, constants k)
{
    (void)k;
    x.s[0] += x.g;
    x.s[1] += x.g;
    x.p += x.g;
    return x;
}

static size_t memory_roof_update(const pk_tensor *t, const constants *k)
{
    return update_by(memory_roof_rule, STATES_01, NO_ROOTS, t, *k);
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
