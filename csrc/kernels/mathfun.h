/* exp, sigmoid and tanh of a vector, and over arrays.  Included by rnn.h, once per object.  The
 * constants are fitted by docs/fit_mathfun.py and stand here as it prints them.  Nothing branches:
 * every lane computes all cases and masks pick, so garbage, even NaN, in a lane that is not picked is
 * right.  Results that would be denormal may be 0. */
#ifndef PK_MATHFUN_H
#define PK_MATHFUN_H

#include "vec.h"

#if PK_DTYPE_BITS == 32
enum { MANTISSA_BITS = 23 };
static const real EXP_MIN = -87.3365402f;
static const real EXP_MAX = 88.7228317f;
static const real LOG2_E = 1.44269502f;
static const real LN2_HIGH = 6.93145752e-1f;
static const real LN2_LOW = 1.42860677e-6f;
static const real TO_EXPONENT = 12583039.0f;
static const real EXP_P[] = {
    4.99999881e-1f, 1.66665182e-1f, 4.16696556e-2f, 8.36896058e-3f, 1.37448008e-3f,
};
static const real TANH_SPLIT = 6.25e-1f;
static const real TANH_ONE = 9.5f;
static const real TANH_P[] = {
    -3.33332807e-1f, 1.33314118e-1f, -5.3737402e-2f, 2.06321161e-2f, -5.69772255e-3f,
};
#else
enum { MANTISSA_BITS = 52 };
static const real EXP_MIN = -708.39641853226408;
static const real EXP_MAX = 709.78271289338397;
static const real LOG2_E = 1.4426950408889634;
static const real LN2_HIGH = 6.9314718055989033e-1;
static const real LN2_LOW = 5.4979230187083712e-14;
static const real TO_EXPONENT = 6755399441056767.0;
static const real EXP_P[] = {
    5.0000000000000133e-1, 1.6666666666666488e-1, 4.1666666666511983e-2, 8.333333333447256e-3,
    1.3888888947724172e-3, 1.98412696071822e-4, 2.4801489323177479e-5, 2.7557497476723263e-6,
    2.7631476452398632e-7, 2.502799064142608e-8,
};
static const real TANH_SPLIT = 6.25e-1;
static const real TANH_ONE = 20.0;
static const real TANH_P[] = {
    -3.3333333333332821e-1, 1.3333333333258404e-1, -5.3968253929823837e-2, 2.1869487547273025e-2,
    -8.8632206663508458e-3, 3.5919867202641449e-3, -1.4549473486377979e-3, 5.8628165384983508e-4,
    -2.2849853254458088e-4, 7.7074376229156066e-5, -1.6040317874331135e-5,
};
#endif

/* x where mask, else 0. */
PK_INLINE vec keep(vec_bits mask, vec x) { return (vec)(mask & (vec_bits)x); }

/* c[0] + c[1] x + ... + c[n-1] x^(n-1).  Horner, not Estrin: the loops around have enough independent
 * work to hide its latency, and it has the fewest operations. */
PK_INLINE vec polynomial(const real *c, int n, vec x)
{
    vec y = broadcast(c[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        y = y * x + c[i];
    return y;
}
#define POLYNOMIAL(table, x) polynomial(table, sizeof table / sizeof *table, x)

/* exp(x) = p * 2^k with p in about [0.7, 1.42], if EXP_MIN <= x <= EXP_MAX; returns p. */
PK_INLINE vec exp_split(vec x, vec *two_to_k)
{
    /* The sum has no bits left for a fraction: it rounds, and its last bits are k + the exponent's bias.
     * ln2 in two parts, of which k * LN2_HIGH is exact, so r is right without fused operations too. */
    const vec sum = x * LOG2_E + TO_EXPONENT;
    const vec k = sum - TO_EXPONENT;
    const vec r = x - k * LN2_HIGH - k * LN2_LOW;
    *two_to_k = (vec)((vec_bits)sum << MANTISSA_BITS);
    return 1 + r * (1 + r * POLYNOMIAL(EXP_P, r));
}

PK_INLINE vec vec_exp(vec x)
{
    /* k may be one too large for 2^k, never for exp(x): added to the exponent of p, it fits. */
    vec two_to_k;
    const vec p = exp_split(x, &two_to_k);
    const vec y = (vec)((vec_bits)p + ((vec_bits)two_to_k - (vec_bits)broadcast(1)));
    return select(x <= EXP_MAX, keep(x >= EXP_MIN, y), x + (real)INFINITY); /* NaN: NaN + inf */
}

/* 1 / (1 + exp(-x)) */
PK_INLINE vec vec_sigmoid(vec x)
{
    const vec_bits counts = ~(x > -EXP_MIN); /* above, exp(-x) is nothing beside 1; true for NaN */
    vec two_to_k;
    const vec p = keep(counts, exp_split(-x, &two_to_k));
    return keep(~(x < -EXP_MAX), 1 / (1 + p * keep(counts, two_to_k)));
}

/* a polynomial near 0, else 1 - 2 / (1 + exp(2a)); a = abs(x) */
PK_INLINE vec vec_tanh(vec x)
{
    const vec_bits sign = (vec_bits)broadcast((real)-0.0);
    const vec a = (vec)((vec_bits)x & ~sign), a2 = a * a;
    const vec near = a + a * a2 * POLYNOMIAL(TANH_P, a2);
    vec two_to_k;
    const vec p = exp_split(a + a, &two_to_k);
    const vec far = 1 - keep(a < TANH_ONE, 2 / (1 + p * two_to_k));
    return (vec)((vec_bits)select(a > TANH_SPLIT, far, near) | ((vec_bits)x & sign)); /* NaN: near */
}

/* y[i] = f(x[i]), i < n; y may be x. */
PK_INLINE void map(vec (*f)(vec), const real *x, real *y, size_t n)
{
    const fp_mode mode = flush_denormals();
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        store(y + i, f(load(x + i)));
    if (i < n)
        store_part(y + i, f(load_part(x + i, n - i)), n - i);
    restore_denormals(mode);
}

static void exp_array(const void *x, void *y, size_t n) { map(vec_exp, x, y, n); }
static void sigmoid_array(const void *x, void *y, size_t n) { map(vec_sigmoid, x, y, n); }
static void tanh_array(const void *x, void *y, size_t n) { map(vec_tanh, x, y, n); }

#endif
