/* The optimizers other than Adam's relatives (adam.h).  Each has three parts:
 *     a context function   turns a config into numbers, in double, after common_context (sweep.h)
 *     a rule               the formula, for one vector of each array
 *     LOOPS (loop.h)       the update: a loop for each variant of the rule
 * optim.c puts them together.  A switch that only changes numbers (eps_hat, eps_inside_sqrt,
 * lr_in_momentum) is handled in the context and needs no loop of its own.
 *
 * Compiled without contraction to FMA, so that every instruction set and the twins in
 * pyoptk/reference give the same bits. */
#ifndef PK_OPTIM_H
#define PK_OPTIM_H

#include "narrow.h"

/* ---- SGD ------------------------------------------------------------------------------------- */

enum { HAS_MOMENTUM = 1, IS_FIRST_STEP = 2, NESTEROV = 4, CENTERED = 8 }; /* variants */

static void sgd_context(const void *config, int64_t step, context *k)
{
    const pk_sgd_config *c = config;
    const double lr = c->common.lr, damped = step == 1 ? 1 : 1 - c->dampening;
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

LOOPS(sgd, LOOP(0, 0, NO_ROOTS); LOOP(HAS_MOMENTUM, STATE_0, NO_ROOTS);
      LOOP(HAS_MOMENTUM | NESTEROV, STATE_0, NO_ROOTS);
      LOOP(HAS_MOMENTUM | IS_FIRST_STEP, STATE_0, NO_ROOTS);
      LOOP(HAS_MOMENTUM | IS_FIRST_STEP | NESTEROV, STATE_0, NO_ROOTS))
/* No literal: its branches cost less than three more loops. */
NARROW(sgd, blocks, k->variant, STATE_0, NO_ROOTS, 0)

/* ---- AdaGrad --------------------------------------------------------------------------------- */

static void adagrad_context(const void *config, int64_t step, context *k)
{
    const pk_adagrad_config *c = config;
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

LOOPS(adagrad, LOOP(0, STATE_0, ROOTS_2_IN_4))
NARROW(adagrad, blocks, 0, STATE_0, ROOTS_2_IN_4, 0)

/* ---- RMSprop --------------------------------------------------------------------------------- */

static void rmsprop_context(const void *config, int64_t step, context *k)
{
    const pk_rmsprop_config *c = config;
    (void)step;
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

LOOPS(rmsprop, LOOP(0, STATE_0, ROOTS_2_IN_4); LOOP(HAS_MOMENTUM, STATES_02, ROOTS_2_IN_4);
      LOOP(CENTERED, STATES_01, ROOTS_2_IN_4);
      LOOP(CENTERED | HAS_MOMENTUM, STATES_012, ROOTS_2_IN_4))
NARROW(rmsprop, blocks, 0, STATE_0, ROOTS_2_IN_4, 0)
NARROW(rmsprop, pushed, HAS_MOMENTUM, STATES_02, ROOTS_2_IN_4, 0)

/* ---- Adadelta -------------------------------------------------------------------------------- */

static void adadelta_context(const void *config, int64_t step, context *k)
{
    const pk_adadelta_config *c = config;
    (void)step;
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

LOOPS(adadelta, LOOP(0, STATES_01, ROOTS_2_IN_4))

/* ---- Rprop ----------------------------------------------------------------------------------- */

static void rprop_context(const void *config, int64_t step, context *k)
{
    const pk_rprop_config *c = config;
    k->variant = step == 1 ? IS_FIRST_STEP : 0;
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
    x.p = k.shrink * x.p - *size * sign_of(*prev);
    return x;
}

LOOPS(rprop, LOOP(0, STATES_01, NO_ROOTS); LOOP(IS_FIRST_STEP, STATES_01, NO_ROOTS))

/* ---- the lower bound of all ------------------------------------------------------------------ */

static void memory_roof_context(const void *config, int64_t step, context *k)
{
    (void)config, (void)step;
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

LOOPS(memory_roof, LOOP(0, STATES_01, NO_ROOTS))

#endif
