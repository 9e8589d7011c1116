/* The optimizers other than Adam's relatives (adam.h).  Each has four parts:
 *     a context function   turns a config into numbers, in double
 *     a rule               the formula, for one vector of each array
 *     an update            calls update_arrays (loop.h) with the rule and literal switches
 *     an `optimizer`       puts them together; optim.c lists it
 * A switch that only changes numbers (eps_hat, eps_inside_sqrt, lr_in_momentum) is handled in the
 * context and needs no loop of its own.
 *
 * Compiled without contraction to FMA, so that every instruction set and the twins in
 * pyoptk/reference give the same bits. */
#ifndef PK_OPTIM_H
#define PK_OPTIM_H

#include "loop.h"

static void common_context(const pk_common *c, context *k)
{
    *k = (context){.scale = (real)c->grad_scale,
                   .clip = (real)c->clip_value,
                   .sign = c->maximize ? -1 : 1,
                   .decay = c->decoupled ? 0 : (real)c->weight_decay,
                   .shrink = (real)(c->decoupled ? 1 - c->lr * c->weight_decay : 1),
                   .ema_keep = (real)c->ema_decay,
                   .ema_rest = (real)(1 - c->ema_decay),
                   .cautious = c->cautious,
                   .zero_grad = c->zero_grad};
    k->rule_only = c->grad_scale == 1 && c->clip_value == (double)INFINITY && !c->maximize &&
                   k->decay == 0 && !c->cautious && !c->zero_grad;
}

/* ---- SGD ------------------------------------------------------------------------------------- */

enum { HAS_MOMENTUM = 1, IS_FIRST_STEP = 2, NESTEROV = 4, CENTERED = 8 }; /* variants */

static void sgd_context(const void *config, int64_t step, context *k)
{
    const pk_sgd_config *c = config;
    const double lr = c->common.lr, damped = step == 1 ? 1 : 1 - c->dampening;
    common_context(&c->common, k);
    if (c->momentum != 0)
        k->variant = HAS_MOMENTUM | (step == 1 ? IS_FIRST_STEP : 0) | (c->nesterov ? NESTEROV : 0);
    k->momentum = (real)c->momentum;
    k->gain = (real)(c->lr_in_momentum ? -lr * damped : damped);
    k->direct = (real)(c->lr_in_momentum ? -lr : 1);
    k->rate = (real)(c->lr_in_momentum && k->variant ? -1 : lr);
}

PK_INLINE vectors sgd_rule(vectors x, context k)
{
    vec d = x.g;
    if (k.variant & HAS_MOMENTUM) {
        const vec pushed = k.gain * x.g;
        x.s[0] = k.variant & IS_FIRST_STEP ? pushed : k.momentum * x.s[0] + pushed;
        d = k.variant & NESTEROV ? k.direct * x.g + k.momentum * x.s[0] : x.s[0];
    }
    x.p = k.shrink * x.p - k.rate * d;
    return x;
}

static size_t sgd_update(const piece *p, const context *k)
{
    switch (k->variant) {
    case HAS_MOMENTUM:
        return update_arrays(sgd_rule, HAS_MOMENTUM, STATE_0, PARAM | STATE_0, NO_ROOTS, p, *k);
    case HAS_MOMENTUM | NESTEROV:
        return update_arrays(sgd_rule, HAS_MOMENTUM | NESTEROV, STATE_0, PARAM | STATE_0, NO_ROOTS,
                             p, *k);
    case HAS_MOMENTUM | IS_FIRST_STEP:
        return update_arrays(sgd_rule, HAS_MOMENTUM | IS_FIRST_STEP, STATE_0, PARAM | STATE_0,
                             NO_ROOTS, p, *k);
    case HAS_MOMENTUM | IS_FIRST_STEP | NESTEROV:
        return update_arrays(sgd_rule, HAS_MOMENTUM | IS_FIRST_STEP | NESTEROV, STATE_0,
                             PARAM | STATE_0, NO_ROOTS, p, *k);
    default:
        return update_arrays(sgd_rule, 0, 0, PARAM, NO_ROOTS, p, *k);
    }
}

static const optimizer sgd = {
    .prepare = sgd_context, .update = sgd_update, .config_size = sizeof(pk_sgd_config)};

/* ---- AdaGrad --------------------------------------------------------------------------------- */

static void adagrad_context(const void *config, int64_t step, context *k)
{
    const pk_adagrad_config *c = config;
    common_context(&c->common, k);
    k->rate = (real)(c->common.lr / (1 + (double)(step - 1) * c->lr_decay));
    k->eps = (real)(c->eps_inside_sqrt ? 0 : c->eps);
    k->eps_inside = (real)(c->eps_inside_sqrt ? c->eps : 0);
}

PK_INLINE vectors adagrad_rule(vectors x, context k)
{
    x.s[0] += x.g * x.g;
    x.p = k.shrink * x.p - k.rate * x.g / (root_of(x.s[0] + k.eps_inside, k) + k.eps);
    return x;
}

static size_t adagrad_update(const piece *p, const context *k)
{
    return update_arrays(adagrad_rule, 0, STATE_0, PARAM | STATE_0, ROOTS_2_IN_4, p, *k);
}

static const optimizer adagrad = {
    .prepare = adagrad_context, .update = adagrad_update, .config_size = sizeof(pk_adagrad_config)};

/* ---- RMSprop --------------------------------------------------------------------------------- */

static void rmsprop_context(const void *config, int64_t step, context *k)
{
    const pk_rmsprop_config *c = config;
    (void)step;
    common_context(&c->common, k);
    k->variant = (c->momentum != 0 ? HAS_MOMENTUM : 0) | (c->centered ? CENTERED : 0);
    k->momentum = (real)c->momentum;
    k->beta2 = (real)c->rho;
    k->rest2 = (real)(1 - c->rho);
    k->eps = (real)(c->eps_inside_sqrt ? 0 : c->eps);
    k->eps_inside = (real)(c->eps_inside_sqrt ? c->eps : 0);
    const int inside = c->lr_in_momentum && c->momentum != 0;
    k->gain = (real)(inside ? c->common.lr : 1);
    k->rate = (real)(inside ? 1 : c->common.lr);
}

PK_INLINE vectors rmsprop_rule(vectors x, context k)
{
    vec *const v = &x.s[0], *const avg = &x.s[1], *const velocity = &x.s[2];
    *v = k.beta2 * *v + k.rest2 * x.g * x.g;
    vec spread = *v;
    if (k.variant & CENTERED) {
        *avg = k.beta2 * *avg + k.rest2 * x.g;
        spread -= *avg * *avg;
        spread = larger_of(broadcast(0), spread); /* rounding may make it negative; a NaN stays */
    }
    const vec den = root_of(spread + k.eps_inside, k) + k.eps;
    if (k.variant & HAS_MOMENTUM) {
        *velocity = k.momentum * *velocity + k.gain * x.g / den;
        x.p = k.shrink * x.p - k.rate * *velocity;
    } else {
        x.p = k.shrink * x.p - k.rate * x.g / den;
    }
    return x;
}

static size_t rmsprop_update(const piece *p, const context *k)
{
    switch (k->variant) {
    case HAS_MOMENTUM:
        return update_arrays(rmsprop_rule, HAS_MOMENTUM, STATE_0 | STATE_2,
                             PARAM | STATE_0 | STATE_2, ROOTS_2_IN_4, p, *k);
    case CENTERED:
        return update_arrays(rmsprop_rule, CENTERED, STATES_01, PARAM | STATES_01, ROOTS_2_IN_4, p,
                             *k);
    case CENTERED | HAS_MOMENTUM:
        return update_arrays(rmsprop_rule, CENTERED | HAS_MOMENTUM, STATES_01 | STATE_2,
                             PARAM | STATES_01 | STATE_2, ROOTS_2_IN_4, p, *k);
    default:
        return update_arrays(rmsprop_rule, 0, STATE_0, PARAM | STATE_0, ROOTS_2_IN_4, p, *k);
    }
}

static const optimizer rmsprop = {
    .prepare = rmsprop_context, .update = rmsprop_update, .config_size = sizeof(pk_rmsprop_config)};

/* ---- Adadelta -------------------------------------------------------------------------------- */

static void adadelta_context(const void *config, int64_t step, context *k)
{
    const pk_adadelta_config *c = config;
    (void)step;
    common_context(&c->common, k);
    k->rate = (real)c->common.lr;
    k->beta2 = (real)c->rho;
    k->rest2 = (real)(1 - c->rho);
    k->eps_inside = (real)c->eps;
}

PK_INLINE vectors adadelta_rule(vectors x, context k)
{
    vec *const v = &x.s[0], *const acc_delta = &x.s[1];
    *v = k.beta2 * *v + k.rest2 * x.g * x.g;
    /* Two roots, not one of the quotient, which may overflow or underflow. */
    const vec above = root_of(*acc_delta + k.eps_inside, k), below = root_of(*v + k.eps_inside, k);
    const vec delta = above / below * x.g;
    *acc_delta = k.beta2 * *acc_delta + k.rest2 * delta * delta;
    x.p = k.shrink * x.p - k.rate * delta;
    return x;
}

static size_t adadelta_update(const piece *p, const context *k)
{
    return update_arrays(adadelta_rule, 0, STATES_01, PARAM | STATES_01, ROOTS_2_IN_4, p, *k);
}

static const optimizer adadelta = {.prepare = adadelta_context,
                                   .update = adadelta_update,
                                   .config_size = sizeof(pk_adadelta_config)};

/* ---- Rprop ----------------------------------------------------------------------------------- */

static void rprop_context(const void *config, int64_t step, context *k)
{
    const pk_rprop_config *c = config;
    common_context(&c->common, k);
    k->variant = step == 1 ? IS_FIRST_STEP : 0;
    k->rate = (real)c->common.lr;
    k->direct = (real)c->eta_minus; /* factor of a size that goes down */
    k->gain = (real)c->eta_plus;    /* and of one that goes up */
    k->low = (real)c->min_size;
    k->high = (real)c->max_size;
}

PK_INLINE vectors rprop_rule(vectors x, context k)
{
    vec *const prev = &x.s[0], *const size = &x.s[1];
    const vec zero = broadcast(0), one = broadcast(1);
    if (k.variant & IS_FIRST_STEP) {
        *prev = zero;
        *size = broadcast(k.rate);
    }
    const vec_bits same = ((x.g > 0) & (*prev > 0)) | ((x.g < 0) & (*prev < 0));
    const vec_bits other = ((x.g > 0) & (*prev < 0)) | ((x.g < 0) & (*prev > 0));
    *size *= pick(same, broadcast(k.gain), pick(other, broadcast(k.direct), one));
    *size = smaller_of(broadcast(k.high), larger_of(broadcast(k.low), *size));
    *prev = pick(other, zero, x.g);
    const vec sign =
        pick(*prev > 0, one, pick(*prev < 0, -one, *prev)); /* 0 and NaN are themselves */
    x.p = k.shrink * x.p - *size * sign;
    return x;
}

static size_t rprop_update(const piece *p, const context *k)
{
    enum { CHANGES = PARAM | STATES_01 };
    return k->variant
               ? update_arrays(rprop_rule, IS_FIRST_STEP, STATES_01, CHANGES, NO_ROOTS, p, *k)
               : update_arrays(rprop_rule, 0, STATES_01, CHANGES, NO_ROOTS, p, *k);
}

static const optimizer rprop = {
    .prepare = rprop_context, .update = rprop_update, .config_size = sizeof(pk_rprop_config)};

/* ---- the lower bound of all
 * -------------------------------------------------------------------------------- */

static void memory_roof_context(const void *config, int64_t step, context *k)
{
    (void)config;
    (void)step;
    *k = (context){.rule_only = 1};
}

PK_INLINE vectors memory_roof_rule(vectors x, context k)
{
    (void)k;
    x.s[0] += x.g;
    x.s[1] += x.g;
    x.p += x.g;
    return x;
}

static size_t memory_roof_update(const piece *p, const context *k)
{
    return update_arrays(memory_roof_rule, 0, STATES_01, PARAM | STATES_01, NO_ROOTS, p, *k);
}

static const optimizer memory_roof = {
    .prepare = memory_roof_context, .update = memory_roof_update, .config_size = sizeof(pk_common)};

#endif
