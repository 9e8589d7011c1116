/* The square root of a vector in two ways that give the same bits, those of IEEE 754.  loop.h uses
 * both at once, because they keep different units of a core busy. */
#ifndef PK_ROOT_H
#define PK_ROOT_H

#include "vec.h"

/* By the instruction, which shares an execution unit with division. */
PK_INLINE vec root(vec x)
{
    for (int i = 0; i < LANES; i++)
        x[i] = real_sqrt(x[i]);
    return x;
}

#if defined(__AVX512F__) && PK_DTYPE_BITS == 32 && PK_VECTOR_BYTES == 64
#include <immintrin.h>

enum { RANGE_BEGIN = 0x18800000, RANGE_END = 0x7e800000 }; /* 2^-78 and 2^126, as bits */

/* By multiplications, from a 14-bit estimate: a Newton step for the root and half its inverse, then
 * a last step, after which the root is correctly rounded for every x (docs/prove_root.py).  If an x
 * is outside the range in which nothing underflows, the whole vector takes the instruction. */
PK_INLINE vec root_by_products(vec x)
{
    const __m512i from_begin = _mm512_sub_epi32((__m512i)x, _mm512_set1_epi32(RANGE_BEGIN));
    const __m512i length = _mm512_set1_epi32(RANGE_END - RANGE_BEGIN);
    if (__builtin_expect(_mm512_cmpge_epu32_mask(from_begin, length), 0))
        return root(x);
    const __m512 half = _mm512_set1_ps(0.5f);
    const __m512i x4 = _mm512_add_epi32((__m512i)x, _mm512_set1_epi32(2 << 23)); /* 4 x */
    __m512 h = _mm512_rsqrt14_ps((__m512)x4);                                    /* 1 / (2 root) */
    __m512 s = (__m512)(x + x) * h;
    const __m512 error = _mm512_fnmadd_ps(s, h, half);
    s = _mm512_fmadd_ps(s, error, s);
    h = _mm512_fmadd_ps(h, error, h);
    return (vec)_mm512_fmadd_ps(_mm512_fnmadd_ps(s, s, (__m512)x), h, s);
}
#else
PK_INLINE vec root_by_products(vec x) { return root(x); }
#endif

#endif
