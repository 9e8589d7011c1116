/* Numbers of 16 bits, and float32 in two halves of 16, as `real` and back; the random bits by which
 * others are rounded.  A new format of parameters or gradients needs two cases in
 * convert_some, and a size in storage.h. */
#ifndef PK_FORMATS_H
#define PK_FORMATS_H

#include "real.h"

#include <string.h>

PK_INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

PK_INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* ---- one number ------------------------------------------------------------------------------ */

PK_INLINE float from_bf16(uint16_t half) { return float_of((uint32_t)half << 16); }

/* Rounds to the nearest, ties to even; a NaN stays a NaN. */
PK_INLINE uint16_t to_bf16(float x)
{
    const uint32_t bits = bits_of(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
    return (uint16_t)((x == x ? rounded : bits | 0x400000) >> 16);
}

/* In integer arithmetic, which has the same bits everywhere.  A denormal, m * 2^-24, is computed as
 * the difference of two numbers near 2^-14, because denormal floats are flushed to zero here. */
PK_INLINE float from_f16(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t exponent = rest & 0x1fu << 23, bias = (127 - 15) << 23;
    const float denormal = float_of(rest + bias + (1 << 23)) - float_of(bias + (1 << 23));
    const uint32_t normal = rest + (exponent == 0x1fu << 23 ? 2 * bias : bias);
    return float_of(sign | (exponent ? normal : bits_of(denormal)));
}

/* Rounds as to_bf16 does.  What becomes a denormal is rounded by adding 1/2, whose last bit is the
 * smallest float16. */
PK_INLINE uint16_t to_f16(float x)
{
    const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    const uint32_t normal = (size - ((127u - 15) << 23) + 0xfff + (size >> 13 & 1)) >> 13;
    const uint32_t denormal = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
    const uint32_t finite = size < (127u - 14) << 23 ? denormal : normal;
    const uint32_t beyond = 0x7c00 | (0x7f800000 - size) >> 31 << 9; /* infinity; a NaN: 0x7e00 */
    return (uint16_t)(sign | (size < (127u + 16) << 23 ? finite : beyond));
}

/* A float32 from its upper half, rounded to the nearest (ties away from 0), and its lower one: read
 * as a signed number, that is the distance from the upper half.  If the upper half is 0, the caller
 * has set the parameter to 0, and a negative distance is ignored. */
PK_INLINE float joined(uint32_t high, int32_t low)
{
    const int32_t rest = (high & 0x7fff) == 0 && low < 0 ? 0 : low;
    return float_of((high << 16) + (uint32_t)rest);
}

/* Exact, but for the payload of a NaN: rounded up it might be a number. */
PK_INLINE uint32_t upper_half(float x)
{
    return (x == x ? bits_of(x) + 0x8000 : bits_of(x) | 0x400000) >> 16;
}

PK_INLINE uint32_t lower_half(float x) { return x == x ? bits_of(x) & 0xffff : 0; }

/* As bfloat16, up or down by chance. */
PK_INLINE uint32_t by_chance(float x, uint32_t random)
{
    return (x == x ? bits_of(x) + (random >> 16) : bits_of(x) | 0x400000) >> 16;
}

/* ---- rounding by chance ---------------------------------------------------------------------- */

/* The random numbers for one block of one array: element i has start + i * stride, modulo 2^32.
 * Start and stride are new in each step.  So each number is uniform, and those of two elements of a
 * block, which differ by their distance times the odd stride, are as good as independent. */
typedef struct {
    uint32_t start, stride;
} numbers;

PK_INLINE uint64_t mixed(uint64_t x) /* the output of SplitMix64 (Steele, Lea & Flood 2014) */
{
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

#define PK_GOLDEN 0x9E3779B97F4A7C15u /* 2^64 divided by the golden ratio */

PK_INLINE uint64_t stream_of(uint64_t seed, int64_t step)
{
    return mixed(seed + (uint64_t)step * PK_GOLDEN);
}

PK_INLINE numbers numbers_in(uint64_t stream, size_t block, int state)
{
    const uint64_t both = mixed(stream + (4 * (uint64_t)block + (uint64_t)state + 1) * PK_GOLDEN);
    return (numbers){(uint32_t)both, (uint32_t)(both >> 32) | 1};
}

/* ---- arrays ---------------------------------------------------------------------------------- */

typedef enum { LOAD, LOAD_BOTH, STORE, STORE_BOTH, STORE_BY_CHANCE } conversion;

/* Assigns for i < AT_ONCE, a constant: with a variable count, compilers add loops for the remainder
 * that are longer than the loop itself. */
#define EACH(assignment)                                                                           \
    PK_SIMD                                                                                        \
    for (uint32_t i = 0; i < AT_ONCE; i++)                                                         \
    assignment

enum { AT_ONCE = 32 };

PK_INLINE void convert_some(conversion how, int kind, uint16_t *half, uint16_t *low, real *wide,
                            numbers of)
{
    if (how == LOAD_BOTH)
        EACH(wide[i] = (real)joined(half[i], (int16_t)low[i]);)
    else if (how == LOAD && kind == PK_BF16)
        EACH(wide[i] = (real)from_bf16(half[i]);)
    else if (how == LOAD)
        EACH(wide[i] = (real)from_f16(half[i]);)
    else if (how == STORE_BOTH)
        EACH((half[i] = (uint16_t)upper_half((float)wide[i]),
              low[i] = (uint16_t)lower_half((float)wide[i]));)
    else if (how == STORE_BY_CHANCE)
        EACH(half[i] = (uint16_t)by_chance((float)wide[i], of.start + i * of.stride);)
    else if (kind == PK_BF16)
        EACH(half[i] = to_bf16((float)wide[i]);)
    else
        EACH(half[i] = to_f16((float)wide[i]);)
}

/* Between n numbers of 16 bits, of `kind`, with lower halves if `how` says so, and `wide`; by
 * chance at most one block, whose numbers these are.  The last ones are converted in copies. */
static __attribute__((noinline)) void convert(conversion how, int kind, void *half, uint16_t *low,
                                              real *wide, size_t n, numbers of)
{
    struct {
        uint16_t half[AT_ONCE], low[AT_ONCE];
        real wide[AT_ONCE];
    } copy;
    const int loads = how <= LOAD_BOTH, both = how == LOAD_BOTH || how == STORE_BOTH;
    uint16_t *h = half, *l = low;
    for (; n >= AT_ONCE; n -= AT_ONCE, h += AT_ONCE, l += both ? AT_ONCE : 0, wide += AT_ONCE) {
        convert_some(how, kind, h, l, wide, of);
        of.start += AT_ONCE * of.stride;
    }
    if (!n)
        return;
    memset(&copy, 0, sizeof copy);
    if (loads)
        memcpy(copy.half, h, n * sizeof *h);
    if (loads && both)
        memcpy(copy.low, l, n * sizeof *l);
    if (!loads)
        memcpy(copy.wide, wide, n * sizeof *wide);
    convert_some(how, kind, copy.half, copy.low, copy.wide, of);
    if (loads)
        memcpy(wide, copy.wide, n * sizeof *wide);
    if (!loads)
        memcpy(h, copy.half, n * sizeof *h);
    if (!loads && both)
        memcpy(l, copy.low, n * sizeof *l);
}

#endif
