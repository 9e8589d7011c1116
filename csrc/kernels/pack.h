/* Packs the weights of layers into panels for matmul.h: transposed for the forward pass, as they
 * are for the backward pass.  products.c and rounded.c have these functions in their tables. */
#ifndef PK_PACK_H
#define PK_PACK_H

#include "matmul.h"

/* The low (or high) halves of two vectors, interleaved. */
#if PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 16
#define PK_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define PK_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 8
#define PK_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define PK_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 4
#define PK_LOW 0, 4, 1, 5
#define PK_HIGH 2, 6, 3, 7
#else
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
