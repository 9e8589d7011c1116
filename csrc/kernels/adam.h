/* Adam and its relatives, in the form of optim.h: each a context, a rule and its loops. */
#ifndef PK_ADAM_H
#define PK_ADAM_H

#include "norm.h"
#include "optim.h"

static void moment_context(double beta1, double beta2, context *k)
{
    k->beta1 = (real)beta1;
    k->rest1 = (real)(1 - beta1);
    k->beta2 = (real)beta2;
    k->rest2 = (real)(1 - beta2);
}

enum { M, V, V_MAX }; /* states of most; U and S take the place of V */
enum { U = V, S = V };

/* m and v as Adam's. */
PK_INLINE vectors with_moments(vectors x, context k)
{
    x.s[M] = k.beta1 * x.s[M] + k.rest1 * x.g;
    x.s[V] = k.beta2 * x.s[V] + k.rest2 * x.g * x.g;
    return x;
}

/* sqrt(v) / r + eps = (sqrt(v) + eps * r) / r.  The rate contains the factor r.  If eps is not 0,
 * eps * r must not round to 0, or gradients of zeros would give 0 / 0. */
static real scaled_eps(double eps, double r)
{
    return (real)(eps > 0 && eps * r < REAL_MIN ? REAL_MIN : eps * r);
}

/* ---- Adam ------------------------------------------------------------------------------------ */

enum { AMSGRAD = 1, RECTIFIED = 1 }; /* variants */

static void adam_context(const void *config, int64_t step, context *k)
{
    const pk_adam_config *c = config;
    const double unbias1 = 1 - pow(c->beta1, (double)step);
    const double unbias2 = 1 - pow(c->beta2, (double)step), root_unbias2 = sqrt(unbias2);
    const int corrected = c->amsgrad_on_corrected;
    moment_context(c->beta1, c->beta2, k);
    k->variant = c->amsgrad ? AMSGRAD : 0;
    k->correct2 = (real)(corrected ? 1 / unbias2 : 1);
    k->rate = (real)(c->common.lr * (corrected && !c->eps_hat ? 1 : root_unbias2) / unbias1);
    k->eps = scaled_eps(c->eps, corrected || c->eps_hat ? 1 : root_unbias2);
}

PK_INLINE vectors adam_rule(vectors x, context k)
{
    x = with_moments(x, k);
    vec second = x.s[V];
    if (k.variant & AMSGRAD)
        second = x.s[V_MAX] = maximum(x.s[V_MAX], k.correct2 * second);
    x.p = k.shrink * x.p - k.rate * x.s[M] / (root_of(second, k) + k.eps);
    return x;
}

LOOPS(adam, LOOP(AMSGRAD, STATES_012, ROOTS_1_IN_4); LOOP(0, STATES_01, ROOTS_1_IN_4))
NARROW(adam, blocks, 0, STATES_01, ROOTS_1_IN_4, LANES == 16)
NARROW(adam, amsgrad, AMSGRAD, STATES_012, ROOTS_1_IN_4, 0)

/* ---- NAdam ----------------------------------------------------------------------------------- */

/* The product of mu_1 .. mu_t, where mu_i = beta1 * (1 - q^i / 2) and q = 0.96^momentum_decay, from
 * t alone: log(1 - x) = -sum x^n / n, and the powers of q add up to geometric series,
 *     log(product) = t * log(beta1) - sum over n of  2^-n / n * q^n * (1 - q^(n t)) / (1 - q^n) */
static double nadam_product(double beta1, double log_q, int64_t step)
{
    const double without_q = pow(beta1, (double)step);
    if (without_q < 0x1p-60)
        return 0; /* 1 - product is 1 in double; with beta1 0.9 from step 395 on */
    const double short1 = -expm1(log_q), short_t = -expm1((double)step * log_q);
    double above = 0, below = 0, weight = 1, sum = 0; /* 1 - q^(n t), 1 - q^n, 2^-n */
    for (int n = 1; n <= 60; n++) {
        above += short_t * (1 - above);
        below += short1 * (1 - below);
        weight *= 0.5;
        sum += weight / n * (1 - below) * (below > 0 ? above / below : (double)step);
    }
    return without_q * exp(-sum);
}

static void nadam_context(const void *config, int64_t step, context *k)
{
    const pk_nadam_config *c = config;
    const double t = (double)step, lr = c->common.lr;
    const double mu = c->beta1 * (1 - 0.5 * pow(0.96, t * c->momentum_decay));
    const double mu_next = c->beta1 * (1 - 0.5 * pow(0.96, (t + 1) * c->momentum_decay));
    const double root_unbias2 = sqrt(1 - pow(c->beta2, t));
    const double product = nadam_product(c->beta1, c->momentum_decay * log(0.96), step);
    moment_context(c->beta1, c->beta2, k);
    k->gain = (real)(root_unbias2 * lr * (1 - mu) / (1 - product));
    k->rate = (real)(root_unbias2 * lr * mu_next / (1 - product * mu_next));
    k->eps = scaled_eps(c->eps, root_unbias2);
}

PK_INLINE vectors nadam_rule(vectors x, context k)
{
    x = with_moments(x, k);
    const vec ahead = k.rate * x.s[M] + k.gain * x.g;
    x.p = k.shrink * x.p - ahead / (root_of(x.s[V], k) + k.eps);
    return x;
}

LOOPS(nadam, LOOP(0, STATES_01, ROOTS_1_IN_4))
NARROW(nadam, blocks, 0, STATES_01, ROOTS_1_IN_4, 0)

/* ---- RAdam ----------------------------------------------------------------------------------- */

static void radam_context(const void *config, int64_t step, context *k)
{
    const pk_radam_config *c = config;
    const double power2 = pow(c->beta2, (double)step), unbias2 = 1 - power2;
    const double last = 2 / (1 - c->beta2) - 1; /* the limit of rho */
    const double rho = last - 2 * (double)step * power2 / unbias2;
    moment_context(c->beta1, c->beta2, k);
    k->variant = rho > 5 ? RECTIFIED : 0;
    double rate = c->common.lr / (1 - pow(c->beta1, (double)step));
    if (k->variant & RECTIFIED) {
        rate *= sqrt((rho - 4) * (rho - 2) * last / ((last - 4) * (last - 2) * rho));
        rate *= sqrt(unbias2);
    }
    k->rate = (real)rate;
    k->eps = scaled_eps(c->eps, c->eps_hat ? 1 : sqrt(unbias2));
}

PK_INLINE vectors radam_rule(vectors x, context k)
{
    x = with_moments(x, k);
    vec update = k.rate * x.s[M];
    if (k.variant & RECTIFIED)
        update /= root_of(x.s[V], k) + k.eps;
    x.p = k.shrink * x.p - update;
    return x;
}

LOOPS(radam, LOOP(0, STATES_01, NO_ROOTS); LOOP(RECTIFIED, STATES_01, ROOTS_1_IN_4))

/* ---- Adamax ---------------------------------------------------------------------------------- */

static void adamax_context(const void *config, int64_t step, context *k)
{
    const pk_adamax_config *c = config;
    moment_context(c->beta1, c->beta2, k);
    k->rate = (real)(c->common.lr / (1 - pow(c->beta1, (double)step)));
    k->eps = (real)(c->eps_outside_max ? c->eps : 0);
    k->eps_inside = (real)(c->eps_outside_max ? 0 : c->eps);
}

PK_INLINE vectors adamax_rule(vectors x, context k)
{
    x.s[M] = k.beta1 * x.s[M] + k.rest1 * x.g;
    x.s[U] = maximum(k.beta2 * x.s[U], vec_abs(x.g) + k.eps_inside);
    x.p = k.shrink * x.p - k.rate * x.s[M] / (x.s[U] + k.eps);
    return x;
}

LOOPS(adamax, LOOP(0, STATES_01, NO_ROOTS))

/* ---- Lion ------------------------------------------------------------------------------------ */

static void lion_context(const void *config, int64_t step, context *k)
{
    const pk_lion_config *c = config;
    (void)step;
    moment_context(c->beta1, c->beta2, k);
}

PK_INLINE vectors lion_rule(vectors x, context k)
{
    x.p = k.shrink * x.p - k.rate * sign_of(k.beta1 * x.s[M] + k.rest1 * x.g);
    x.s[M] = k.beta2 * x.s[M] + k.rest2 * x.g;
    return x;
}

LOOPS(lion, LOOP(0, STATE_0, NO_ROOTS))
NARROW(lion, blocks, 0, STATE_0, NO_ROOTS, 0)

/* ---- AdaBelief ------------------------------------------------------------------------------- */

static void adabelief_context(const void *config, int64_t step, context *k)
{
    const pk_adabelief_config *c = config;
    const double root_unbias2 = sqrt(1 - pow(c->beta2, (double)step));
    moment_context(c->beta1, c->beta2, k);
    k->rate = (real)(c->common.lr * root_unbias2 / (1 - pow(c->beta1, (double)step)));
    k->eps = scaled_eps(c->eps, root_unbias2);
    k->eps_inside = (real)c->eps;
}

PK_INLINE vectors adabelief_rule(vectors x, context k)
{
    x.s[M] = k.beta1 * x.s[M] + k.rest1 * x.g;
    const vec surprise = x.g - x.s[M];
    x.s[S] = k.beta2 * x.s[S] + k.rest2 * surprise * surprise + k.eps_inside;
    x.p = k.shrink * x.p - k.rate * x.s[M] / (root_of(x.s[S], k) + k.eps);
    return x;
}

LOOPS(adabelief, LOOP(0, STATES_01, ROOTS_1_IN_4))

/* ---- LAMB ------------------------------------------------------------------------------------ */

/* Two sweeps.  The first updates the moments, computes the direction into an L1 buffer, and sums
 * squares.  The second knows the norms, computes the direction again with the same bits, and moves
 * the parameter. */

/* What the parameter is multiplied by first; its norm is taken afterwards. */
static double lamb_shrink(const pk_lamb_config *c)
{
    const int outside = c->common.decoupled && c->decay_outside_norm;
    return outside ? 1 - c->common.lr * c->common.weight_decay : 1;
}

static void lamb_context(const void *config, int64_t step, context *k)
{
    const pk_lamb_config *c = config;
    const double root_unbias2 = sqrt(1 - pow(c->beta2, (double)step));
    moment_context(c->beta1, c->beta2, k);
    k->gain = (real)(root_unbias2 / (1 - pow(c->beta1, (double)step)));
    k->eps = scaled_eps(c->eps, root_unbias2);
    k->direct = (real)(c->common.decoupled && !c->decay_outside_norm ? c->common.weight_decay : 0);
    k->shrink = (real)lamb_shrink(c);
}

PK_INLINE vec lamb_direction(vectors x, context k)
{
    return k.gain * x.s[M] / (root_of(x.s[V], k) + k.eps) + k.direct * x.p;
}

PK_INLINE vectors lamb_moments_rule(vectors x, context k)
{
    x = with_moments(x, k);
    x.s[2] = lamb_direction(x, k);
    return x;
}

EDGE(lamb_moments)

static size_t lamb_moments_update(const piece *p, const context *k)
{
    return update_arrays(lamb_moments_rule, lamb_moments_edge, 0, STATES_01, STATES_01 | STATE_2,
                         ROOTS_1_IN_4, p, *k);
}

/* sums: of param^2 and of direction^2 in each block */
PK_INLINE void lamb_visit(const sweep *s, share of, const pk_tensor **prepared, context *k)
{
    const pk_tensor *const t = of.t;
    if (!t->grad)
        return;
    prepare(s, t, prepared, k);
    k->zero_grad = 0; /* zeroing and the moving average are part of the second sweep */
    for (size_t b = of.from; b < of.to && b < blocks_of(t); b++) {
        const size_t end = t->n - b * NORM_BLOCK < NORM_BLOCK ? t->n : (b + 1) * NORM_BLOCK;
        double *const sums = s->sums + 2 * (of.before + b);
        sums[0] = sums[1] = 0;
        for (size_t begin = b * NORM_BLOCK; begin < end; begin += STAGE) {
            _Alignas(CACHE_LINE) real direction[STAGE];
            pk_tensor part = part_of(t, begin, end - begin < STAGE ? end : begin + STAGE);
            part.state[2] = direction;
            part.ema = NULL;
            stage copies;
            piece p = {.counting = 0};
            open_copies(&p, &part, 0, part.n, &copies); /* not closed: only states change */
            lamb_moments_update(&p, k);
            sums[0] += sum_of_squares(p.param, PK_NATIVE, part.n, 1);
            sums[1] += sum_of_squares(direction, PK_NATIVE, part.n, 1);
        }
    }
}

static void lamb_chunk(void *arg, size_t c) { visit_chunk(arg, c, blocks_of, lamb_visit); }

PK_INLINE vectors lamb_rule(vectors x, context k)
{
    x.p = k.shrink * x.p - k.rate * lamb_direction(x, k);
    return x;
}

EDGE(lamb)

static size_t lamb_update(const piece *p, const context *k)
{
    context own = *k;
    own.rate = p->rate;
    return update_arrays(lamb_rule, lamb_edge, 0, STATES_01, PARAM, ROOTS_1_IN_4, p, own);
}

static size_t lamb_scratch_size(const pk_tensor *tensors, size_t count)
{
    return (2 * total_of(tensors, count, blocks_of) + count) * sizeof(double);
}

/* The first sweep.  Returns the rate of each tensor, [count] in scratch. */
static const double *lamb_rates(sweep s, const pk_tensor *tensors, size_t count, void *scratch,
                                int nthreads)
{
    double *const rates = scratch, *sums = rates + count;
    s.tensors = tensors;
    s.count = count;
    s.sums = sums;
    run_sweep(&s, blocks_of, NORM_BLOCK, lamb_chunk, nthreads);
    for (size_t i = 0; i < count; i++) {
        double param_sum = 0, direction_sum = 0;
        for (size_t b = blocks_of(&tensors[i]); b > 0; b--, sums += 2) {
            param_sum += sums[0];
            direction_sum += sums[1];
        }
        const pk_lamb_config *const c = (const void *)common_of(&s, &tensors[i]);
        param_sum *= lamb_shrink(c) * lamb_shrink(c);
        const int either_is_0 = param_sum == 0 || direction_sum == 0;
        rates[i] = c->common.lr * (either_is_0 ? 1 : sqrt(param_sum) / sqrt(direction_sum));
    }
    return rates;
}

#endif
