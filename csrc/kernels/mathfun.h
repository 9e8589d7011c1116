/* Functions of a vector, for math.c, the cells, activations and losses.  docs/fit_mathfun.py fits
 * the constants and prints them in this form.  There are no branches: every lane computes every
 * case, and masks select the result, so a value that is not selected may be anything, even NaN.
 * Denormal results may be 0. */
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
static const real HALF_LN2 = 3.46573591e-1f;
static const real EXP_2R_P[] = {
    1.99999952f, 1.33332145f, 6.66714489e-1f, 2.67806739e-1f, 8.79667252e-2f,
};
static const real TANH_SPLIT = 6.25e-1f;
static const real TANH_ONE = 9.5f;
static const real TANH_P[] = {
    -3.33332807e-1f, 1.33314118e-1f, -5.37374020e-2f, 2.06321161e-2f, -5.69772255e-3f,
};
static const real LOG1P_P[] = {
    6.66666746e-1f, 3.99989545e-1f, 2.86149651e-1f, 2.14470968e-1f, 2.42320001e-1f,
};
static const real TAIL_END = 14.0f;
static const real TAIL_P[] = {
    6.37053967e-1f,  -5.10147363e-2f, -7.42801577e-2f, 8.30150768e-2f,
    -3.46818492e-2f, 4.26538289e-4f,  4.64143837e-3f,  -3.28110124e-4f,
    -7.12136331e-4f, -1.87586484e-5f, 5.87516915e-5f,
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
    5.0000000000000133e-1, 1.6666666666666488e-1, 4.1666666666511983e-2, 8.3333333334472560e-3,
    1.3888888947724172e-3, 1.9841269607182200e-4, 2.4801489323177479e-5, 2.7557497476723263e-6,
    2.7631476452398632e-7, 2.5027990641426080e-8,
};
static const real HALF_LN2 = 3.4657359027997264e-1;
static const real EXP_2R_P[] = {
    2.0000000000000053,    1.3333333333333190,    6.6666666666419172e-1, 2.6666666667031219e-1,
    8.8888889265434701e-2, 2.5396825097193217e-2, 6.3491812667334346e-3, 1.4109438708082311e-3,
    2.8294631887256199e-4, 5.1257324833640611e-5,
};
static const real TANH_SPLIT = 6.25e-1;
static const real TANH_ONE = 20.0;
static const real TANH_P[] = {
    -3.3333333333332821e-1, 1.3333333333258404e-1, -5.3968253929823837e-2, 2.1869487547273025e-2,
    -8.8632206663508458e-3, 3.5919867202641449e-3, -1.4549473486377979e-3, 5.8628165384983508e-4,
    -2.2849853254458088e-4, 7.7074376229156066e-5, -1.6040317874331135e-5,
};
static const real LOG1P_P[] = {
    6.6666666666666308e-1, 4.0000000000155028e-1, 2.8571428548184780e-1, 2.2222223947410172e-1,
    1.8181744745886835e-1, 1.5386542044581678e-1, 1.3301210587630305e-1, 1.2104207982978112e-1,
    8.3482822566576825e-2, 1.7003511642435862e-1,
};
static const real TAIL_END = 39.0;
static const real TAIL_P[] = {
    6.3705396970138173e-1,  -5.1014688951699985e-2, -7.4280058386573936e-2, 8.3013626489717510e-2,
    -3.4685010114546562e-2, 4.3793824336256276e-4,  4.6661670588394408e-3,  -3.5846510802786051e-4,
    -7.8939651461747780e-4, -3.7586472694102021e-6, 1.5230556834027121e-4,  3.1023870532148338e-5,
    -2.5236385573168706e-5, -1.4270041766296783e-5, 1.2773358413358815e-6,  3.9734317622499397e-6,
    1.2355536172051752e-6,  -5.6570912412957931e-7, -5.7789999345187724e-7, -6.1169803298634129e-8,
    1.2789364686563380e-7,  4.6069724918810499e-8,  -1.2031122915848562e-8, -6.6981691254481321e-9,
};
#endif

/* mask ? x : 0.  Cheaper than pick(): one operation, which may be fused with the one that makes
 * x. */
PK_INLINE vec masked(vec_bits mask, vec x) { return (vec)(mask & (vec_bits)x); }

/* c[0] + c[1] x + ... + c[n-1] x^(n-1).  Horner's rule has the fewest operations; its latency is
 * hidden, because neighbouring vectors are independent. */
PK_INLINE vec polynomial(const real *c, int n, vec x)
{
    vec y = broadcast(c[n - 1]);
    for (int i = n - 2; i >= 0; i--)
        y = y * x + c[i];
    return y;
}
#define POLYNOMIAL(table, x) polynomial(table, sizeof table / sizeof *table, x)

/* exp(x) = (1 + r + r^2 q) 2^k with r = high - low, abs(r) <= ln2/2, if EXP_MIN <= x <= EXP_MAX. */
typedef struct {
    vec high, low, r, q, two_to_k;
} exp_parts;

PK_INLINE exp_parts exp_split(vec x)
{
    /* The sum is so large that it has no fraction: it is rounded to an integer, and its last bits
     * are k + the bias of the exponent.  k * LN2_HIGH is exact, so r needs no fused operations. */
    const vec sum = x * LOG2_E + TO_EXPONENT;
    const vec k = sum - TO_EXPONENT;
    exp_parts e = {.high = x - k * LN2_HIGH, .low = k * LN2_LOW};
    e.r = e.high - e.low;
    e.q = POLYNOMIAL(EXP_P, e.r);
    e.two_to_k = (vec)((vec_bits)sum << MANTISSA_BITS);
    return e;
}

/* 1 + r + r^2 q with the fewest operations; error 0.88 ulp, or 1.13 without fused operations. */
PK_INLINE vec exp_of_r(exp_parts e) { return 1 + e.r * (1 + e.r * e.q); }

PK_INLINE vec vec_exp(vec x)
{
    /* The error is 0.89 ulp everywhere, because the rounded r enters only squared. */
    const exp_parts e = exp_split(x);
    const vec p = 1 + (e.high + (e.r * e.r * e.q - e.low));
    /* 2^k may overflow where exp(x) does not.  Then p < 1, and k fits if it is added to the
     * exponent of p.  Unsigned, because outside the range the sum may wrap. */
    const vec_unsigned one = (vec_unsigned)broadcast(1);
    const vec y = (vec)((vec_unsigned)p + ((vec_unsigned)e.two_to_k - one));
    return pick(x <= EXP_MAX, masked(x >= EXP_MIN, y), x + (real)INFINITY); /* NaN + inf is NaN */
}

/* 1 / (1 + exp(-x)).  The error is largest, 2.5 ulp, where adding 1 to a large exp(-x) is a tie. */
PK_INLINE vec vec_sigmoid(vec x)
{
    const vec_bits counts = ~(x > -EXP_MIN); /* else 1 + exp(-x) is 1; of a NaN it counts */
    const exp_parts e = exp_split(-x);
    const vec sum = 1 + masked(counts, exp_of_r(e)) * masked(counts, e.two_to_k);
    return masked(~(x < -EXP_MAX), 1 / sum);
}

/* With a = abs(x): 1 - 2 / (1 + exp(2a)) or, near 0, where that would cancel, a + a^3 P(a^2).
 * 2a = 2r + k ln2, of which one constant is enough: k is small, and so is the derivative of tanh
 * where it is not. */
PK_INLINE vec vec_tanh(vec x)
{
    const vec_bits sign = (vec_bits)broadcast((real)-0.0);
    const vec a = (vec)((vec_bits)x & ~sign), a2 = a * a;
    const vec near = a + a * a2 * POLYNOMIAL(TANH_P, a2);
    const vec sum = a * (2 * LOG2_E) + TO_EXPONENT, r = a - (sum - TO_EXPONENT) * HALF_LN2;
    const vec two_to_k = (vec)((vec_bits)sum << MANTISSA_BITS);
    const vec exp_2a = (1 + r * (2 + r * POLYNOMIAL(EXP_2R_P, r))) * two_to_k;
    const vec far = 1 - masked(a < TANH_ONE, 2 / (1 + exp_2a));
    return (vec)((vec_bits)pick(a > TANH_SPLIT, far, near) | ((vec_bits)x & sign)); /* NaN: near */
}

/* log(1 + u) = 2 atanh(s), s = u / (2 + u), for 0 <= u <= 1. */
PK_INLINE vec vec_log1p(vec u)
{
    const vec s = u / (2 + u), s2 = s * s;
    return 2 * s + s * s2 * POLYNOMIAL(LOG1P_P, s2);
}

/* z, limited to +-limit; a NaN stays a NaN. */
PK_INLINE vec limited(vec z, real limit)
{
    return larger_of(broadcast(-limit), smaller_of(broadcast(limit), z));
}

/* The distribution function of the normal distribution, and its density. */
PK_INLINE vec normal_cdf(vec z, vec *density)
{
    const vec a = vec_abs(limited(z, TAIL_END)), bell = vec_exp(a * a * (real)-0.5);
    const vec p = POLYNOMIAL(TAIL_P, (a - 3) / (a + 3));
    const vec tail = bell * p / (1 + (real)1.4142135623730951 * a); /* sqrt(2) */
    *density = bell * (real)0.39894228040143268;                    /* 1 / sqrt(2 pi) */
    return pick(z < (vec){0}, tail, 1 - tail);
}

#endif
