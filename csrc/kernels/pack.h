/* Packs the weights of layers into panels for matmul.h: transposed for the forward pass, as they
 * are for the backward pass.  products.c and rounded.c have these functions in their tables. */
#ifndef PK_PACK_H
#define PK_PACK_H

#include "matmul.h"

/* The low (or high) halves of two vectors, interleaved; their even (or odd) elements. */
#if PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 16
#define PK_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define PK_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define PK_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define PK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 8
#define PK_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define PK_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define PK_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define PK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 4
#define PK_EVEN 0, 2, 4, 6
#define PK_ODD 1, 3, 5, 7
#define PK_LOW 0, 4, 1, 5
#define PK_HIGH 2, 6, 3, 7
#else
#define PK_EVEN 0, 2
#define PK_ODD 1, 3
#define PK_LOW 0, 2
#define PK_HIGH 1, 3
#endif

/* Transposes in registers: rows[i][k] becomes rows[k][i].  Each round of interleaving rotates
 * the bits of the index (i, k) by one. */
PK_INLINE void transpose(vec rows[LANES])
{
    for (int moved = 1; moved < LANES; moved *= 2) {
        vec next[LANES];
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = __builtin_shufflevector(rows[i], rows[i + LANES / 2], PK_LOW);
            next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + LANES / 2], PK_HIGH);
        }
        for (int i = 0; i < LANES; i++)
            rows[i] = next[i];
    }
}

/* LANES reductions at once: lane j of the result is the sum of the lanes of v[j]; destroys v.  Each
 * round interleaves two vectors, as a transposition does, and adds the two results. */
PK_INLINE vec sums_of_lanes(vec v[LANES])
{
    _Pragma("GCC unroll 4") /* the vectors then stay in registers */
        for (int half = LANES / 2; half > 0; half /= 2)
            _Pragma("GCC unroll 8") for (int i = 0; i < half; i++) v[i] =
                __builtin_shufflevector(v[i], v[i + half], PK_LOW) +
                __builtin_shufflevector(v[i], v[i + half], PK_HIGH);
    return v[0];
}

/* LANES vectors become half as many: v[r][j] = the sum of elements 2 r and 2 r + 1 of v[j].  Each
 * round separates even and odd elements of pairs of vectors. */
PK_INLINE void sums_of_pairs(vec v[LANES])
{
    const int n = LANES / 2;
    for (int i = 0; i < n; i++)
        v[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_EVEN) +
               __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_ODD);
    for (int moved = 1; moved < n; moved *= 2) {
        vec next[LANES];
        for (int i = 0; i < n / 2; i++) {
            next[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_EVEN);
            next[i + n / 2] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_ODD);
        }
        for (int i = 0; i < n; i++)
            v[i] = next[i];
    }
}

/* to[k * ldt + r] = from[r * ldf + k] for k < depth and r < rows, 0 for the rows up to LANES. */
static inline void pack_columns(real *to, size_t ldt, const real *from, size_t ldf, size_t rows,
                                size_t depth)
{
    for (size_t k = 0; k < depth; k += LANES) {
        const size_t n = smaller(depth - k, LANES);
        vec tile[LANES];
        for (size_t r = 0; r < LANES; r++)
            tile[r] = r < rows ? load_n(from + r * ldf + k, n) : (vec){0};
        transpose(tile);
        for (size_t i = 0; i < n; i++)
            store(to + (k + i) * ldt, tile[i]);
    }
}

/* to [N, count * `units`], rows ldt apart, filled up with 0: the columns are `units` rows, from row
 * `unit` on, of each of `count` gates of w [G * H, N]. */
static inline void pack_gate_columns(real *to, size_t ldt, const real *w, size_t H, size_t N,
                                     size_t unit, size_t units, const size_t *gates, size_t count)
{
    enum { DEPTH = 64 }; /* columns of w at a time, so that the written cache lines stay in L1 */
    if (count * units < ldt)
        memset(to, 0, N * ldt * sizeof *to);
    for (size_t k = 0; k < N; k += DEPTH)
        for (size_t j = 0; j < count; j++)
            for (size_t u = 0; u < units; u += LANES)
                pack_columns(to + k * ldt + j * units + u, ldt,
                             w + (gates[j] * H + unit + u) * N + k, N, smaller(units - u, LANES),
                             smaller(N - k, DEPTH));
}

/* to [count * units, WIDTH]: columns column * WIDTH.. of the same rows of w. */
static inline void pack_gate_rows(real *to, const real *w, size_t H, size_t N, size_t column,
                                  size_t unit, size_t units, const size_t *gates, size_t count)
{
    for (size_t j = 0; j < count; j++)
        pack_rows(to + j * units * WIDTH, units, w + (gates[j] * H + unit) * N, N, column * WIDTH,
                  N);
}

#endif
