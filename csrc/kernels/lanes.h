/* A few rows of a linear layer in the lanes of vectors, forward: for linear.h.  A lane has a row
 * and every fourth k.  So w is read in place, four elements of a row at a time, and only x and the
 * sums are rearranged. */
#ifndef PK_LANES_H
#define PK_LANES_H

#include "pack.h"

/* Elsewhere it is no faster, or would only be more code. */
#if PK_DTYPE_BITS == 32 && PK_VECTOR_BYTES >= 32
#include <immintrin.h>

enum {
    IN_LANES = 1,
    FOURS = LANES / 4,        /* in a vector */
    LANE_ROWS = 2 * FOURS,    /* two vectors, of the first rows and of the others */
    LANE_OUTPUTS = LANES / 2, /* at a time: twice as many sums */
    LINE = 16                 /* elements of a cache line */
};

#if PK_VECTOR_BYTES == 64
#define PK_BROADCAST_FOUR _mm512_broadcast_f32x4
#define PK_EACH_FOUR(a, b, c, d)                                                                   \
    a, b, c, d, 4 + (a), 4 + (b), 4 + (c), 4 + (d), 8 + (a), 8 + (b), 8 + (c), 8 + (d), 12 + (a),  \
        12 + (b), 12 + (c), 12 + (d)
#define PK_FOUR(i) 4 * (i), 4 * (i) + 1, 4 * (i) + 2, 4 * (i) + 3
#define PK_PICK(a, b, i, j)                                                                        \
    __builtin_shufflevector(a, b, PK_FOUR(i), PK_FOUR(j), PK_FOUR(4 + (i)), PK_FOUR(4 + (j)))
#else
#define PK_BROADCAST_FOUR(four) _mm256_broadcast_ps(&(four))
#define PK_EACH_FOUR(a, b, c, d) a, b, c, d, 4 + (a), 4 + (b), 4 + (c), 4 + (d)
#endif

PK_INLINE vec broadcast_four(const real *p)
{
    __m128 four;
    memcpy(&four, p, sizeof four);
    return (vec)PK_BROADCAST_FOUR(four);
}

/* rows[i], four k of them, becomes rows[k], four of i.  Vectors keep their order within fours. */
PK_INLINE void transpose_fours(vec rows[FOURS])
{
#if PK_VECTOR_BYTES == 64
    const vec low = PK_PICK(rows[0], rows[1], 0, 1), high = PK_PICK(rows[0], rows[1], 2, 3);
    const vec low2 = PK_PICK(rows[2], rows[3], 0, 1), high2 = PK_PICK(rows[2], rows[3], 2, 3);
    rows[0] = PK_PICK(low, low2, 0, 2);
    rows[1] = PK_PICK(low, low2, 1, 3);
    rows[2] = PK_PICK(high, high2, 0, 2);
    rows[3] = PK_PICK(high, high2, 1, 3);
#else
    const vec first = rows[0];
    rows[0] = __builtin_shufflevector(first, rows[1], 0, 1, 2, 3, 8, 9, 10, 11);
    rows[1] = __builtin_shufflevector(first, rows[1], 4, 5, 6, 7, 12, 13, 14, 15);
#endif
}

/* In each four: the sums of the fours of v[0] to v[3]. */
PK_INLINE vec sums_of_fours(const vec v[4])
{
    enum { N = LANES };
    vec half[2];
    for (int i = 0; i < 2; i++)
        half[i] = __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_EACH_FOUR(0, N, 1, N + 1)) +
                  __builtin_shufflevector(v[2 * i], v[2 * i + 1], PK_EACH_FOUR(2, N + 2, 3, N + 3));
    return __builtin_shufflevector(half[0], half[1], PK_EACH_FOUR(0, 1, N, N + 1)) +
           __builtin_shufflevector(half[0], half[1], PK_EACH_FOUR(2, 3, N + 2, N + 3));
}

/* Lays LANE_ROWS rows of x, the last one repeated: the same four k of all together, with 0 after
 * the last k, up to whole vectors. */
static void lanes_lay(const pk_linear *l, real *to)
{
    for (size_t v = 0; v < 2; v++)
        for (size_t k = 0; k < l->I; k += LANES) {
            vec rows[FOURS];
            for (size_t r = 0; r < FOURS; r++)
                rows[r] = load_n((const real *)l->x + smaller(v * FOURS + r, l->M - 1) * l->ldx + k,
                                 smaller(l->I - k, LANES));
            transpose_fours(rows);
            for (size_t r = 0; r < FOURS; r++)
                store(to + k * LANE_ROWS + (2 * r + v) * LANES, rows[r]);
        }
}

/* sums[v][j] += four k of row j of w, times those of half v of the rows of x */
PK_INLINE void lanes_multiply(vec sums[2][LANE_OUTPUTS], const real *x, const real *w, size_t ldw)
{
    const vec first = load(x), second = load(x + LANES);
    for (size_t j = 0; j < LANE_OUTPUTS; j++) {
        const vec w_j = broadcast_four(w + j * ldw);
        sums[0][j] += w_j * first;
        sums[1][j] += w_j * second;
    }
}

/* x w^T + b for LANES outputs from o on; rows[r] is row r. */
PK_INLINE void lanes_product(const pk_linear *l, const real *x, size_t o, vec rows[LANE_ROWS])
{
    const size_t I = l->I;
    for (size_t part = 0; part < 2; part++, o += LANE_OUTPUTS) {
        const real *const w = (const real *)l->w + o * I, *const b = l->b;
        vec sums[2][LANE_OUTPUTS] = {{{0}}};
        size_t k = 0;
        for (; k + 4 <= I; k += 4) {
            for (size_t i = 0; i < LANE_OUTPUTS / 4; i++) /* of the next rows */
                __builtin_prefetch(w + (LANE_OUTPUTS + k / 4 % 4 * (LANE_OUTPUTS / 4) + i) * I + k,
                                   0, 2);
            lanes_multiply(sums, x + k * LANE_ROWS, w + k, I);
        }
        if (k < I) {
            real rest[4 * LANE_OUTPUTS] = {0};
            _Pragma("GCC unroll 1") for (size_t j = 0; j < LANE_OUTPUTS; j++)
                memcpy(rest + 4 * j, w + j * I + k, (I - k) * sizeof *w);
            lanes_multiply(sums, x + k * LANE_ROWS, rest, 4);
        }
        for (size_t v = 0; v < 2; v++)
            for (size_t j = 0; j < LANE_OUTPUTS; j += 4)
                rows[v * FOURS + part * FOURS / 2 + j / 4] =
                    sums_of_fours(sums[v] + j) + (b ? broadcast_four(b + o + j) : (vec){0});
    }
    for (size_t v = 0; v < 2; v++)
        transpose_fours(rows + v * FOURS);
}
#else
enum { IN_LANES = 0, LANE_ROWS = 1 };
static void lanes_lay(const pk_linear *l, real *to) { (void)l, (void)to; }
PK_INLINE void lanes_product(const pk_linear *l, const real *x, size_t o, vec rows[LANE_ROWS])
{
    (void)l, (void)x, (void)o, (void)rows;
}
#endif

#endif
