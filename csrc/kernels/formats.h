/* Numbers of 16 bits, and float32 in two halves of 16, as `real` and back; the random bits by which
 * others are rounded.  A new format of parameters or gradients needs a case in load_as, one in
 * store_as, and a size in storage.h. */
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

/* ---- arrays ---------------------------------------------------------------------------------- */

static void load_as(real *restrict to, const void *from, size_t n, int kind)
{
    const uint16_t *halves = from;
    if (kind == PK_BF16) {
        PK_SIMD
        for (size_t i = 0; i < n; i++)
            to[i] = (real)from_bf16(halves[i]);
    } else {
        PK_SIMD
        for (size_t i = 0; i < n; i++)
            to[i] = (real)from_f16(halves[i]);
    }
}

static void store_as(void *to, const real *restrict from, size_t n, int kind)
{
    uint16_t *halves = to;
    if (kind == PK_BF16) {
        PK_SIMD
        for (size_t i = 0; i < n; i++)
            halves[i] = to_bf16((float)from[i]);
    } else {
        PK_SIMD
        for (size_t i = 0; i < n; i++)
            halves[i] = to_f16((float)from[i]);
    }
}

/* A float32 from its upper half, rounded to the nearest (ties away from 0), and its lower one: read
 * as a signed number, that is the distance from the upper half.  If the upper half is 0, the caller
 * has set the parameter to 0, and the lower one is ignored. */
static void load_both(real *restrict to, const uint16_t *high, const uint16_t *low, size_t n)
{
    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        const uint32_t size = high[i] & 0x7fff, below = low[i] >= 0x8000 ? 0x10000 : 0;
        const uint32_t rest = size == 0 && below ? 0 : low[i] - below;
        to[i] = (real)float_of(((uint32_t)high[i] << 16) + rest);
    }
}

/* Exact, but for the payload of a NaN: rounded up it might be a number. */
static void store_both(uint16_t *restrict high, uint16_t *restrict low, const real *restrict from,
                       size_t n)
{
    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        const float x = (float)from[i];
        const uint32_t bits = bits_of(x);
        high[i] = (uint16_t)((x == x ? bits + 0x8000 : bits | 0x400000) >> 16);
        low[i] = (uint16_t)(x == x ? bits : 0);
    }
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

PK_INLINE numbers numbers_of(uint64_t seed, int64_t step, size_t block, int state)
{
    const uint64_t golden = 0x9E3779B97F4A7C15;
    const uint64_t stream = mixed(seed + (uint64_t)step * golden);
    const uint64_t both = mixed(stream + (4 * (uint64_t)block + (uint64_t)state + 1) * golden);
    return (numbers){(uint32_t)both, (uint32_t)(both >> 32) | 1};
}

/* Stores at most one block as bfloat16, rounded with its random numbers. */
static void store_by_chance(uint16_t *restrict to, const real *restrict from, size_t n, numbers of)
{
    PK_SIMD
    for (uint32_t i = 0; i < (uint32_t)n; i++) {
        const float x = (float)from[i];
        const uint32_t bits = bits_of(x), up = bits + ((of.start + i * of.stride) >> 16);
        to[i] = (uint16_t)((x == x ? up : bits | 0x400000) >> 16);
    }
}

#endif
