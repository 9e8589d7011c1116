/* States of 8 and 16 bits, in vectors, for narrow.h: what codes stand for, and how a step rounds
 * its results.  Rounding is stochastic: random bits are added below the last stored bit, and then
 * all below it are dropped, so that the mean over many steps follows float32.
 *
 * A state of 8 bits has a power of two, its scale, for each block of PK_BLOCK elements.  A state
 * that cannot be negative has codes of 5 exponent and 3 mantissa bits, c > 0 for
 *     scale * 2^(c / 8 - 31) * (1 + c % 8 / 8)
 * and 0 for exactly 0: what is smaller than code 1 becomes code 1, because a small second moment
 * that turned to 0 would let its element jump.  Other states have a sign, 4 exponent and 3 mantissa
 * bits, and as many codes near 0 as one binade has, c standing for
 *     scale * 2^-15 * (2^(c / 8) * (1 + c % 8 / 8) - 1)
 * Four codes share a word: word w of 64 elements has elements w, w + 16, w + 32 and w + 48, the
 * first in its lowest bits, so that codes are taken apart and put together by shifts alone. */
#ifndef PK_CODES_H
#define PK_CODES_H

#include "storage.h"
#include "vec.h"

#if PK_DTYPE_BITS == 32

enum {
    GROUP = 64, /* elements whose codes share WORDS words */
    WORDS = 16,
    MANTISSA = 23,       /* bits of a float's */
    DROPPED = 20,        /* of them are dropped */
    LEAST_SCALE = 32,    /* smallest biased exponent of a scale, so that no code is denormal */
    BELOW_POSITIVE = 31, /* exponent of code 0, relative to the scale's */
    BELOW_SIGNED = 15
};

typedef uint8_t vec_bytes __attribute__((vector_size(PK_VECTOR_BYTES)));
typedef vec_unsigned vec_unsigned_unaligned __attribute__((aligned(4), may_alias));

PK_INLINE vec_unsigned broadcast_bits(uint32_t x) { return x + (vec_unsigned){0}; }
PK_INLINE vec_unsigned load_words(const uint32_t *p) { return *(const vec_unsigned_unaligned *)p; }
PK_INLINE void store_words(uint32_t *p, vec_unsigned x) { *(vec_unsigned_unaligned *)p = x; }

/* mask ? a : b, where a and b are cheap: compilers compute a under the mask. */
PK_INLINE vec chosen(vec_bits mask, vec a, vec b)
{
    real either[LANES];
    PK_SIMD
    for (int l = 0; l < LANES; l++)
        either[l] = mask[l] ? a[l] : b[l];
    return load(either);
}

/* The bits of `a` where the mask has ones, else those of b. */
PK_INLINE vec_unsigned merged(vec_unsigned mask, vec_unsigned a, vec_unsigned b)
{
    return ((a ^ b) & mask) ^ b;
}

/* The random numbers of elements 0..LANES-1. */
PK_INLINE vec_unsigned first_numbers(numbers of)
{
    vec_unsigned lane;
    for (uint32_t l = 0; l < LANES; l++)
        lane[l] = l;
    return of.start + of.stride * lane;
}

/* ---- 16 bits --------------------------------------------------------------------------------- */

/* Element j % 2 of each word. */
PK_INLINE vec decoded_half(vec_unsigned words, int j)
{
    return (vec)(j % 2 ? words & 0xffff0000 : words << 16);
}

/* Rounded to the upper 16 bits; the lower ones are garbage.  A NaN stays a NaN. */
PK_INLINE vec_unsigned rounded_half(vec x, vec_unsigned random)
{
    const vec_unsigned up = (vec_unsigned)x + (random >> 16);
    return (vec_unsigned)chosen((vec_bits)(x == x), (vec)up, x);
}

/* ---- 8 bits ---------------------------------------------------------------------------------- */

/* The bits of the number that code 0 stands for by the formula, without the exception. */
PK_INLINE uint32_t base_of(float scale, int positive)
{
    const uint32_t least = LEAST_SCALE << MANTISSA, bits = bits_of(scale);
    const uint32_t below = positive ? BELOW_POSITIVE : BELOW_SIGNED;
    if (bits >= 0x7f800000) /* then all codes of the block are 1, and stand for a NaN */
        return 0x7f800000;
    return (bits < least ? least : bits) - (below << MANTISSA);
}

/* What is subtracted from a decoded magnitude; a NaN where the block is one. */
PK_INLINE float offset_of(uint32_t base)
{
    return float_of(base == 0x7f800000 ? 0x7fc00000 : base);
}

PK_INLINE vec_unsigned shifted_left(vec_unsigned x, int by) { return by < 0 ? x >> -by : x << by; }

/* Code j of each word. */
PK_INLINE vec decoded_positive(vec_unsigned words, int j, vec_unsigned base)
{
    const vec_unsigned field = shifted_left(words, DROPPED - 8 * j) & 0xffu << DROPPED;
    return chosen((vec_bits)(field != 0), (vec)(field + base), (vec){0});
}

PK_INLINE vec decoded_signed(vec_unsigned words, int j, vec_unsigned base, vec offset)
{
    const vec_unsigned field = shifted_left(words, DROPPED - 8 * j) & 0x7fu << DROPPED;
    const vec_unsigned sign = shifted_left(words, 24 - 8 * j) & 0x80000000;
    return (vec)((vec_unsigned)((vec)(field + base) - offset) | sign);
}

/* The scale of a block: the smallest power of two that lets the largest magnitude round up. */
PK_INLINE float scale_for(uint32_t largest, int positive)
{
    const uint32_t exponent = (largest + (positive ? 0 : 1 << 8) + (1 << DROPPED) - 1) >> MANTISSA;
    if (exponent > 254)
        return float_of(0x7fc00000);
    return float_of((exponent < LEAST_SCALE ? LEAST_SCALE : exponent) << MANTISSA);
}

PK_INLINE vec_unsigned larger_bits(vec_unsigned a, vec_unsigned b)
{
    uint32_t larger[LANES];
    PK_SIMD
    for (int l = 0; l < LANES; l++)
        larger[l] = a[l] > b[l] ? a[l] : b[l];
    return load_words(larger);
}

PK_INLINE uint32_t largest_lane(vec_unsigned x)
{
    uint32_t lanes[LANES], most = 0;
    store_words(lanes, x);
    for (int l = 0; l < LANES; l++)
        most = lanes[l] > most ? lanes[l] : most;
    return most;
}

/* The largest magnitude of a block, as bits, so that a NaN is the largest. */
PK_INLINE uint32_t largest_of(const real *x)
{
    const vec_unsigned magnitude = broadcast_bits(0x7fffffff);
    vec_unsigned even = {0}, odd = {0};
    for (size_t i = 0; i < PK_BLOCK; i += 2 * LANES) {
        even = larger_bits(even, (vec_unsigned)load(x + i) & magnitude);
        odd = larger_bits(odd, (vec_unsigned)load(x + i + LANES) & magnitude);
    }
    return largest_lane(larger_bits(even, odd));
}

/* How a block of a state is encoded. */
typedef struct {
    vec edge;            /* of a positive state the least number, else the offset */
    vec_bits none;       /* what becomes code 0 */
    vec_unsigned bases;  /* what is subtracted from four codes at once */
    vec_unsigned random; /* of the next elements */
    vec_unsigned stride, group_stride;
    uint32_t lane_stride;
} encoder;

PK_INLINE encoder encoder_of(uint32_t base, numbers of, int positive)
{
    return (encoder){.edge = broadcast(float_of(base + (positive ? 1 << DROPPED : 0))),
                     .none = (vec_bits)broadcast_bits(base),
                     .bases = broadcast_bits((base >> DROPPED & 0xff) * 0x01010101),
                     .random = first_numbers(of),
                     .stride = broadcast_bits(WORDS * of.stride),
                     .group_stride = broadcast_bits(GROUP * of.stride),
                     .lane_stride = of.stride};
}

/* x rounded by chance, as a float: its code begins at bit DROPPED, but is too large by that of the
 * base.  One of a signed state has the sign of x. */
PK_INLINE vec_unsigned rounded_code(const encoder *e, vec x, vec_unsigned random, int positive)
{
    const vec_unsigned signs = broadcast_bits(0x80000000);
    const vec_unsigned chance = random >> (32 - DROPPED);
    if (!positive)
        return (vec_unsigned)(x + (vec)merged(signs, (vec_unsigned)x, (vec_unsigned)e->edge)) +
               chance;
    const vec_unsigned sum = (vec_unsigned)larger_of(x, e->edge) + chance;
    return (vec_unsigned)chosen((vec_bits)(x != 0), (vec)sum, (vec)e->none);
}

/* The codes of four vectors that are WORDS elements apart. */
PK_INLINE vec_unsigned encoded(const encoder *e, const real *x, vec_unsigned random, int positive)
{
    const vec_unsigned upper = broadcast_bits(0xffff0000), signs = broadcast_bits(0x80808080);
    vec_unsigned at[4];
    for (size_t j = 0; j < 4; j++, random += e->stride)
        at[j] = rounded_code(e, load(x + j * WORDS), random, positive);
    const vec_unsigned even = merged(upper, at[2], at[0] >> 16), /* upper halves of 0 and 2 */
        odd = merged(upper, at[3], at[1] >> 16);
    const vec_unsigned bytes = merged(broadcast_bits(0xff00ff00), odd << 4, even >> 4);
    const vec_unsigned codes = (vec_unsigned)((vec_bytes)bytes - (vec_bytes)e->bases);
    if (positive)
        return codes;
    return merged(signs, merged(broadcast_bits(0x80008000), odd, even >> 8), codes);
}

/* The words of GROUP elements; the random numbers go on to those of the next. */
PK_INLINE void encode_group(encoder *e, const real *x, uint32_t *words, int positive)
{
    for (uint32_t w = 0; w < WORDS; w += LANES)
        store_words(words + w, encoded(e, x + w, e->random + w * e->lane_stride, positive));
    e->random += e->group_stride;
}

/* The words of one block. */
PK_INLINE void encode_block(const real *x, uint32_t *words, uint32_t base, numbers of, int positive)
{
    encoder e = encoder_of(base, of, positive);
    for (size_t at = 0; at < PK_BLOCK; at += GROUP)
        encode_group(&e, x + at, words + at / 4, positive);
}

static __attribute__((noinline)) void encode_positive(const real *x, uint32_t *words, uint32_t base,
                                                      numbers of)
{
    encode_block(x, words, base, of, 1);
}

static __attribute__((noinline)) void encode_signed(const real *x, uint32_t *words, uint32_t base,
                                                    numbers of)
{
    encode_block(x, words, base, of, 0);
}

/* The words of one block, and its scale. */
static __attribute__((noinline)) void encode_values(const real *x, uint32_t *words, float *scale,
                                                    numbers of, int positive)
{
    *scale = scale_for(largest_of(x), positive);
    if (bits_of(*scale) >= 0x7f800000) /* all codes are 1 */
        memset(words, 1, PK_BLOCK);
    else
        (positive ? encode_positive : encode_signed)(x, words, base_of(*scale, positive), of);
}

#endif
#endif
