/* Products of matrices, for recurrent layers: the packed micro-kernel and what is built on it.
 *
 * The right-hand side is packed into panels of COLS vectors, so that the innermost loop reads it
 * front to back, aligned.  The left-hand side is read in place, element by element, with a stride from
 * row to row and one from column to column: one kernel serves a matrix and its transpose.  An element
 * of the result is summed in the order of k whatever tile it falls in: neither the number of threads
 * nor the other rows change its bits. */
#ifndef PK_MATMUL_H
#define PK_MATMUL_H

#include "vec.h"

/* Rows of a tile: 24 accumulators in 32 registers, or 12 in 16. */
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
#define PK_ROWS 6
#else
#define PK_ROWS 3
#endif

enum {
    COLS = 4,             /* vectors in a row of a panel: for an LSTM, its four gates */
    WIDTH = COLS * LANES, /* elements in a row of a panel */
    ROWS = PK_ROWS,
    K_BLOCK = 128,  /* rows of a panel in use at a time: 32 KiB, most of the L1 cache */
    ROW_BLOCK = 48, /* rows of the left-hand side that pass over such a block before the next one */
};

/* The left-hand side: element (r, k) is at a[r * row + k * col].  It may be in segments along k, each
 * of `depth` (a divisor of K_BLOCK) columns and `segment` elements behind the one before. */
typedef struct {
    const real *a;
    ptrdiff_t row, col;
    size_t depth;
    ptrdiff_t segment;
} operand;

PK_INLINE operand plain(const real *a, ptrdiff_t row, ptrdiff_t col)
{
    return (operand){a, row, col, K_BLOCK, K_BLOCK * col};
}

/* The right-hand side: rows `row` elements apart, panels of WIDTH columns `panel` elements.  Packed, or
 * a matrix as it lies, whose columns must then be whole vectors.  It may be in `parts` of as many rows,
 * `part` elements apart, which take turns: each gives its share of a segment of the left-hand side. */
typedef struct {
    const real *b;
    size_t row, panel, parts, part;
} right_operand;

PK_INLINE right_operand in_panels(const real *b, size_t K)
{
    return (right_operand){b, WIDTH, K * WIDTH, 1, 0};
}

/* acc[r][j] += sum over k < depth of a[r * row + k * col] * b[k * b_row + j]; rows and cols are
 * literals. */
PK_INLINE void multiply(vec acc[ROWS][COLS], const int rows, const int cols, size_t depth,
                        const real *a, ptrdiff_t row, ptrdiff_t col, const real *b, size_t b_row)
{
    for (size_t k = 0; k < depth; k++, b += b_row) {
        const real *a_k = a + (ptrdiff_t)k * col;
        __builtin_prefetch(a_k + 8 * col); /* far from the one before, where a is transposed */
        for (int j = 0; j < cols; j++) {
            const vec b_j = load(b + j * LANES);
            for (int r = 0; r < rows; r++)
                acc[r][j] += broadcast(a_k[r * row]) * b_j;
        }
    }
}

/* What the rows of c begin at, in every panel the same WIDTH elements; NULL: at what is there. */
static const real ZEROS[WIDTH] __attribute__((aligned(ALIGNMENT))) = {0};

/* left[rows, K] right[K, columns] */
typedef struct {
    size_t K;
    operand left;
    right_operand right;
} term;

/* A tile of c: rows by cols vectors += the sum of the terms.  It begins at `row` of their left-hand sides.
 * Where many rows pass over the same right-hand sides, these had better fit the L1 cache: K_BLOCK. */
typedef struct {
    const term *terms;
    size_t count, row;
    real *c;
    size_t ldc;
    const real *begin;
} tile;

PK_INLINE void add_term(vec acc[ROWS][COLS], const int rows, const int cols, const term *t,
                        size_t row)
{
    const size_t depth = t->left.depth, parts = t->right.parts;
    const real *a = t->left.a + (ptrdiff_t)row * t->left.row, *b = t->right.b;
    for (size_t k = 0; k < t->K; k += depth, a += t->left.segment)
        for (size_t part = 0, n = smaller(depth, t->K - k) / parts; part < parts; part++)
            multiply(acc, rows, cols, n, a + (ptrdiff_t)(part * n) * t->left.col, t->left.row,
                     t->left.col, b + k / parts * t->right.row + part * t->right.part,
                     t->right.row);
}

PK_INLINE void product_of(const int rows, const int cols, const tile *t)
{
    vec acc[ROWS][COLS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < cols; j++)
            acc[r][j] = load((t->begin ? t->begin : t->c + (size_t)r * t->ldc) + j * LANES);
    for (size_t i = 0; i < t->count; i++)
        add_term(acc, rows, cols, t->terms + i, t->row);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < cols; j++)
            store(t->c + (size_t)r * t->ldc + j * LANES, acc[r][j]);
}

/* Each size of tile is code of its own, with its accumulators in registers. */
#define PK_TILE(rows, cols)                                                                        \
    case (rows) * COLS + (cols) - 1:                                                               \
        product_of(rows, cols, t);                                                                 \
        break;
#define PK_TILES(rows) PK_TILE(rows, 1) PK_TILE(rows, 2) PK_TILE(rows, 3) PK_TILE(rows, 4)

PK_INLINE void product_tile(size_t rows, size_t cols, const tile *t)
{
    switch (rows * COLS + cols - 1) {
        PK_TILES(1)
        PK_TILES(2)
        PK_TILES(3)
#if PK_ROWS == 6
        PK_TILES(4)
        PK_TILES(5)
        PK_TILES(6)
#endif
    }
}

/* c[M, width] += the sum of the terms, tile by tile.  Inline for many small products, where it gains some
 * per cent that the strides are known. */
PK_INLINE void product_panel_of(size_t M, size_t width, const term *terms, size_t count, real *c,
                                size_t ldc, const real *begin)
{
    const size_t cols = round_up(width, LANES) / LANES;
    const int partial = width < cols * LANES; /* a vector that c ends in: tiles on a copy */
    real whole[ROWS * WIDTH];
    tile t = {terms, count, 0, partial ? whole : c, partial ? WIDTH : ldc, begin};
    for (; t.row < M; t.row += ROWS, c += ROWS * ldc) {
        const size_t rows = smaller(M - t.row, ROWS);
        for (size_t i = 0; i < rows && partial; i++)
            memcpy(whole + i * WIDTH, c + i * ldc, width * sizeof *c);
        product_tile(rows, cols, &t);
        for (size_t i = 0; i < rows && partial; i++)
            memcpy(c + i * ldc, whole + i * WIDTH, width * sizeof *c);
        if (!partial)
            t.c += ROWS * ldc;
    }
}

static void product_panel(size_t M, size_t width, const term *terms, size_t count, real *c,
                          size_t ldc, const real *begin)
{
    product_panel_of(M, width, terms, count, c, ldc, begin);
}

/* The part of c[M, N] += left[M, K] right that the K_BLOCK rows from k on give. */
static void product_block(size_t M, size_t N, size_t K, size_t k, operand left, right_operand right,
                          real *c, size_t ldc, const real *begin)
{
    right.b += k / right.parts * right.row;
    left.a += (ptrdiff_t)(k / left.depth) * left.segment;
    for (size_t r = 0; r < M;
         r += ROW_BLOCK, left.a += ROW_BLOCK * left.row, c += ROW_BLOCK * ldc) {
        term t = {smaller(K - k, K_BLOCK), left, right};
        for (size_t n = 0; n < N; n += WIDTH, t.right.b += right.panel)
            product_panel(smaller(M - r, ROW_BLOCK), smaller(N - n, WIDTH), &t, 1, c + n, ldc,
                          begin);
    }
}

/* c[M, N] += left[M, K] right */
static void product(size_t M, size_t N, size_t K, operand left, right_operand right, real *c,
                    size_t ldc, const real *begin)
{
    size_t k = 0;
    do
        product_block(M, N, K, k, left, right, c, ldc, k == 0 ? begin : NULL);
    while ((k += K_BLOCK) < K);
}

/* Row k of a panel from `width` elements; zeros behind them. */
PK_INLINE void pack_row(real *panel_k, const real *from, size_t width)
{
    if (width == WIDTH) { /* vectors; to copy a size that is not known is a call */
        memcpy(panel_k, from, WIDTH * sizeof *from);
        return;
    }
    memcpy(panel_k, from, width * sizeof *from);
    memset(panel_k + width, 0, (WIDTH - width) * sizeof *from);
}

/* One panel: rows k < K of b, columns n < n + WIDTH of N. */
static void pack_rows(real *panel, size_t K, const real *b, size_t ldb, size_t n, size_t N)
{
    for (size_t k = 0; k < K; k++)
        pack_row(panel + k * WIDTH, b + k * ldb + n, smaller(N - n, WIDTH));
}

PK_INLINE size_t packed_size(size_t K, size_t N) { return round_up(N, WIDTH) * K; }

/* ---- the product alone ----------------------------------------------------------------------- */

typedef struct {
    size_t M, N, K, lda, ldb, ldc, chunks;
    const real *a, *b;
    real *c, *packed;
    int accumulate;
} matmul_job;

static void matmul_pack(void *arg, size_t panel)
{
    const matmul_job *j = arg;
    pack_rows(j->packed + panel * WIDTH * j->K, j->K, j->b, j->ldb, panel * WIDTH, j->N);
}

static void matmul_rows(void *arg, size_t chunk)
{
    const matmul_job *j = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_cut(j->M, chunk, j->chunks), to = pk_cut(j->M, chunk + 1, j->chunks);
    product(to - from, j->N, j->K, plain(j->a + from * j->lda, (ptrdiff_t)j->lda, 1),
            in_panels(j->packed, j->K), j->c + from * j->ldc, j->ldc, j->accumulate ? NULL : ZEROS);
    restore_denormals(mode);
}

static void matmul(size_t M, size_t N, size_t K, const void *a, size_t lda, const void *b,
                   size_t ldb, void *c, size_t ldc, int accumulate, void *scratch, int nthreads)
{
    const size_t serial_below = (size_t)1 << 20; /* multiply-adds: some 10 microseconds */
    const int threads = M * N * K < serial_below ? 1 : nthreads;
    matmul_job job = {M, N, K, lda, ldb, ldc, 1, a, b, c, align(scratch), accumulate};
    if (threads > 1 && M >= 2 * ROWS)
        job.chunks = smaller((size_t)threads * 2, M / ROWS);
    pk_parallel(matmul_pack, &job, round_up(N, WIDTH) / WIDTH, threads);
    pk_parallel(matmul_rows, &job, job.chunks, threads);
}

static size_t matmul_scratch_size(size_t N, size_t K)
{
    return packed_size(K, N) * sizeof(real) + ALIGNMENT;
}

/* ---- the roof -------------------------------------------------------------------------------- */

static double fma_roof(size_t rounds, double *out)
{
    enum { SUMS = 12 }; /* independent: more than latency times units, fewer than the registers */
    vec sum[SUMS], x = broadcast((real)0.999), y = broadcast((real)1e-3);
    __asm__("" : "+m"(x), "+m"(y)); /* not constants, as far as the compiler knows */
    for (int i = 0; i < SUMS; i++)
        sum[i] = broadcast((real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = sum[i] * x + y;
    *out = 0;
    for (int i = 0; i < SUMS; i++)
        for (int j = 0; j < LANES; j++)
            *out += (double)sum[i][j];
    return 2.0 * SUMS * LANES * (double)rounds;
}

#endif
