/* Packing of the weights of recurrent layers into the panels that matmul.h multiplies with.  The gates
 * of the same LANES units stand side by side in a panel, so that a product gives a cell what it needs. */
#ifndef PK_PACK_H
#define PK_PACK_H

#include "matmul.h"

enum { GATES = COLS };

/* low and high: the elements of two vectors by turns, of their first halves and of their second. */
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

/* rows[i][k] becomes rows[k][i]: each round of low and high moves one bit of the index. */
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

/* to[k * WIDTH + r] = from[r * ldf + k] for k < depth and r < rows, 0 for the rows up to LANES. */
static void pack_columns(real *to, const real *from, size_t ldf, size_t rows, size_t depth)
{
    for (size_t k = 0; k < depth; k += LANES) {
        const size_t n = smaller(depth - k, LANES);
        vec tile[LANES];
        for (size_t r = 0; r < LANES; r++)
            tile[r] = r >= rows    ? (vec){0}
                      : n == LANES ? load(from + r * ldf + k)
                                   : load_part(from + r * ldf + k, n);
        transpose(tile);
        for (size_t i = 0; i < n; i++)
            store(to + (k + i) * WIDTH, tile[i]);
    }
}

/* How many units of H a panel holds: LANES, but the last may hold fewer. */
PK_INLINE size_t units_of(size_t panel, size_t H) { return smaller(H - panel * LANES, LANES); }

/* to [N, WIDTH] = the rows of w [4H, N] that belong to the units of a panel, as columns [GATES, units],
 * 0 behind them. */
static void pack_gate_columns(real *to, const real *w, size_t H, size_t N, size_t panel)
{
    enum { DEPTH = 64 }; /* columns at a time, so that the lines written stay in the L1 cache */
    const size_t units = units_of(panel, H);
    if (units < LANES)
        memset(to, 0, N * WIDTH * sizeof *to);
    for (size_t k = 0; k < N; k += DEPTH)
        for (size_t gate = 0; gate < GATES; gate++)
            pack_columns(to + k * WIDTH + gate * units, w + (gate * H + panel * LANES) * N + k, N,
                         units, smaller(N - k, DEPTH));
}

/* Of to [4H, WIDTH] = columns column * WIDTH.. of w [4H, N], the rows in the order of dA, which is panel,
 * gate: those of one panel. */
static void pack_gate_rows(real *to, const real *w, size_t H, size_t N, size_t column, size_t panel)
{
    const size_t units = units_of(panel, H);
    to += panel * LANES * GATES * WIDTH;
    for (size_t gate = 0; gate < GATES; gate++)
        pack_rows(to + gate * units * WIDTH, units, w + (gate * H + panel * LANES) * N, N,
                  column * WIDTH, N);
}

#endif
