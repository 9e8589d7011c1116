/* Vectors of `real`, as wide as the registers of the instruction set, in GCC's and Clang's vector
 * types: the operators + - * / work element by element.  Kernels use vectors where values must stay
 * in registers or the order of operations is fixed, and scalar loops elsewhere. */
#ifndef PK_VEC_H
#define PK_VEC_H

#include "real.h"

#include <string.h>

enum {
    LANES = PK_VECTOR_BYTES / sizeof(real),
    ALIGNMENT = 64 /* of packed arrays: a cache line, and the widest vector */
};

typedef real vec __attribute__((vector_size(PK_VECTOR_BYTES)));
typedef real_bits vec_bits __attribute__((vector_size(PK_VECTOR_BYTES)));
typedef real_unsigned vec_unsigned __attribute__((vector_size(PK_VECTOR_BYTES)));
typedef vec vec_unaligned __attribute__((aligned(sizeof(real)), may_alias));

PK_INLINE vec broadcast(real x) { return x - (vec){0}; } /* x - 0, not x + 0, which loses -0 */
PK_INLINE vec load(const real *p) { return *(const vec_unaligned *)p; }
PK_INLINE void store(real *p, vec v) { *(vec_unaligned *)p = v; }

/* The first n < LANES elements; the others read as 0 and are not written.  Loops, because compilers
 * make masked loads and stores of them, where a memcpy of n bytes is a call. */
PK_INLINE vec load_part(const real *p, size_t n)
{
    real part[LANES];
    PK_SIMD
    for (size_t j = 0; j < LANES; j++)
        part[j] = j < n ? p[j] : 0;
    return load(part);
}
PK_INLINE void store_part(real *p, vec v, size_t n)
{
    real part[LANES];
    store(part, v);
    PK_SIMD
    for (size_t j = 0; j < LANES; j++)
        if (j < n)
            p[j] = part[j];
}

/* The same for n <= LANES; most vectors are whole. */
PK_INLINE vec load_n(const real *p, size_t n) { return n == LANES ? load(p) : load_part(p, n); }
PK_INLINE void store_n(real *p, vec v, size_t n)
{
    if (n == LANES)
        store(p, v);
    else
        store_part(p, v, n);
}

PK_INLINE size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}
PK_INLINE size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The first aligned address in scratch memory, which may begin anywhere: ask for ALIGNMENT bytes
 * more. */
PK_INLINE real *align(void *p)
{
    return (real *)(((uintptr_t)p + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

PK_INLINE real *row_at(pk_sequence s, size_t t, size_t b)
{
    return (real *)s.data + (ptrdiff_t)t * s.t_stride + (ptrdiff_t)b * s.b_stride;
}

/* v with zeros after its first n <= LANES elements. */
PK_INLINE vec zero_tail(vec v, size_t n) { return n == LANES ? v : load_part((const real *)&v, n); }

/* mask ? a : b; a mask is the result of a comparison of two vectors. */
PK_INLINE vec pick(vec_bits mask, vec a, vec b)
{
    return (vec)((mask & (vec_bits)a) | (~mask & (vec_bits)b));
}

/* a * b + c, rounded once where the processor does that as fast. */
PK_INLINE vec fused(vec a, vec b, vec c)
{
#ifdef __FP_FAST_FMA
    real sum[LANES];
    PK_SIMD
    for (int j = 0; j < LANES; j++)
        sum[j] = real_fma(a[j], b[j], c[j]);
    return load(sum);
#else
    return a * b + c;
#endif
}

/* Element-wise maximum; b if either is a NaN.  Compilers turn the loop into one instruction. */
PK_INLINE vec larger_of(vec a, vec b)
{
    real larger[LANES];
    PK_SIMD
    for (int j = 0; j < LANES; j++)
        larger[j] = a[j] > b[j] ? a[j] : b[j];
    return load(larger);
}
PK_INLINE vec smaller_of(vec a, vec b)
{
    real smaller[LANES];
    PK_SIMD
    for (int j = 0; j < LANES; j++)
        smaller[j] = a[j] < b[j] ? a[j] : b[j];
    return load(smaller);
}

/* Element-wise maximum; a NaN if either is a NaN. */
PK_INLINE vec maximum(vec a, vec b)
{
    const vec larger = larger_of(a, b);
    real either[LANES];
    PK_SIMD
    for (int j = 0; j < LANES; j++)
        either[j] = a[j] == a[j] ? larger[j] : a[j];
    return load(either);
}

PK_INLINE vec vec_abs(vec x) { return (vec)((vec_bits)x & ~(vec_bits)broadcast((real)-0.0)); }

#endif
