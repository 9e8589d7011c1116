/* Dot products of the rows of a weight, read in place: a single time step of a recurrent layer is
 * made of them (rnn_step.h). */
#ifndef PK_DOTS_H
#define PK_DOTS_H

#include "matmul.h"

enum {
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    STEP_ROWS = 4, /* batch rows at a time: 16 sums in 32 registers */
#else
    STEP_ROWS = 2, /* 8 in 16 */
#endif
};

/* Rows of weights w_j and rows of x, all [K].  The next lane's row of w_j is K elements further. */
typedef struct dot_term {
    const real *w[COLS], *x;
    size_t K;
    ptrdiff_t x_row;
} dot_term;

/* sums[r][j] += w_j[k..k+n-1] * x_r[k..k+n-1], element by element, n <= LANES. */
PK_INLINE void dots_at(vec sums[STEP_ROWS][COLS], const int rows, const int count, size_t n,
                       const real *const *w, const real *x, ptrdiff_t x_row, size_t k)
{
    vec x_r[STEP_ROWS];
    for (int r = 0; r < rows; r++)
        x_r[r] = load_n(x + r * x_row + k, n);
    for (int j = 0; j < count; j++) {
        const vec w_j = load_n(w[j] + k, n);
        for (int r = 0; r < rows; r++)
            sums[r][j] += w_j * x_r[r];
    }
}

PK_INLINE void dots_of(vec dots[][COLS][LANES], const int rows, const int count, size_t lanes,
                       const dot_term *terms, size_t n_terms)
{
    for (size_t lane = 0; lane < lanes; lane++) {
        vec sums[STEP_ROWS][COLS];
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < count; j++)
                sums[r][j] = dots[r][j][lane];
        for (const dot_term *t = terms; t < terms + n_terms; t++) {
            const real *w[COLS];
            size_t k = 0;
            for (int j = 0; j < count; j++)
                w[j] = t->w[j] + lane * t->K;
            for (; k + LANES <= t->K; k += LANES)
                dots_at(sums, rows, count, LANES, w, t->x, t->x_row, k);
            if (k < t->K)
                dots_at(sums, rows, count, t->K - k, w, t->x, t->x_row, k);
        }
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < count; j++)
                dots[r][j][lane] = sums[r][j];
    }
}

/* dots[r][j][lane] += the sum over the terms of the dot products of x_r and w_j, as a vector of
 * LANES partial sums.  rows: 1 or STEP_ROWS; count: of w_j. */
static inline void add_dots(vec dots[][COLS][LANES], size_t rows, size_t count, size_t lanes,
                            const dot_term *terms, size_t n_terms)
{
#define PK_DOTS(rows, count)                                                                       \
    case (rows) * (COLS + 1) + (count):                                                            \
        dots_of(dots, rows, count, lanes, terms, n_terms);                                         \
        break;
    switch (rows * (COLS + 1) + count) {
        PK_DOTS(1, 1)
        PK_DOTS(1, 2)
        PK_DOTS(1, 3)
        PK_DOTS(1, 4)
        PK_DOTS(STEP_ROWS, 1)
        PK_DOTS(STEP_ROWS, 2)
        PK_DOTS(STEP_ROWS, 3)
        PK_DOTS(STEP_ROWS, 4)
    }
#undef PK_DOTS
}

#endif
