/* Products of matrices: the micro-kernel, and products of packed operands, for math.c and the
 * recurrent layers.
 *
 * The right-hand side is packed into panels of COLS vectors, so that the innermost loop reads it in
 * order, aligned.  The left-hand side is read in place, element by element, with a row stride and a
 * column stride, so that one kernel serves a matrix and its transpose.  Elements of a product are
 * summed in the order of k, so that their bits depend neither on threads nor on other rows. */
#ifndef PK_MATMUL_H
#define PK_MATMUL_H

#include "sizes.h"
#include "vec.h"

#ifdef PK_PAIRS
#include <immintrin.h>
enum { PAIRS = 1 }; /* an element of an operand is a pair of bfloat16: rounded.c */
#else
enum { PAIRS = 0 };
#endif

/* Rows of a tile: 6 x 4 accumulators in 32 registers, or 3 x 4 in 16. */
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
#define PK_TILE_ROWS 6
#else
#define PK_TILE_ROWS 3
#endif

enum {
    COLS = 4,             /* vectors in a row of a panel */
    WIDTH = COLS * LANES, /* elements in a row of a panel */
    TILE_ROWS = PK_TILE_ROWS,
    K_BLOCK = 128,        /* rows of a panel: 32 KiB, most of the L1 cache */
    MOST_K = 4 * K_BLOCK, /* the largest result of k_block_of */
    /* Rows of a panel at a time.  A large tile reads them from L2 as fast as from L1, and reads and
     * writes c less often. */
    PRODUCT_K = PK_TILE_ROWS == 6 ? MOST_K : K_BLOCK,
    ROW_BLOCK = 48, /* rows of the left-hand side that use such a block before it changes */
    MOST_ROWS = 64, /* the largest result of row_block_of */
};

/* A left-hand side: element (r, k) is a[r * row + k * col].  Along k it may consist of segments of
 * `depth` columns, `segment` elements apart. */
typedef struct {
    const real *a;
    ptrdiff_t row, col;
    size_t depth;
    ptrdiff_t segment;
} operand;

PK_INLINE operand strided(const real *a, ptrdiff_t row, ptrdiff_t col)
{
    return (operand){a, row, col, PRODUCT_K, PRODUCT_K * col};
}

/* A right-hand side: rows are `row` elements apart, panels of WIDTH columns `panel` elements.  It
 * is packed, or it is a matrix in place whose rows are whole vectors.  It may consist of `parts`
 * with the same number of rows, `part` elements apart (the gates of a weight).  A segment of the
 * left-hand side is then multiplied with depth / parts rows of each part in turn. */
typedef struct {
    const real *b;
    size_t row, panel, parts, part;
    const void *products; /* how operands are rounded; NULL: they are not */
} right_operand;

PK_INLINE right_operand in_panels(const real *b, size_t K)
{
    return (right_operand){b, WIDTH, K * WIDTH, 1, 0, NULL};
}

PK_INLINE right_operand rounded_panels(const void *products, const real *b, size_t K)
{
    right_operand right = in_panels(b, K);
    right.products = products;
    return right;
}

/* The right-hand side from row k on; k is a multiple of the depth of the left-hand side. */
PK_INLINE right_operand rows_from(right_operand right, size_t k)
{
    right.b += k / right.parts * right.row;
    return right;
}

#ifdef PK_PAIRS
/* acc + the two products of the halves of a and b; that of the upper halves is added first. */
PK_INLINE vec multiplied(vec acc, const real *a, vec b)
{
    real_bits pair;
    memcpy(&pair, a, sizeof pair);
    return (vec)_mm512_dpbf16_ps((__m512)acc, (__m512bh)b, (__m512bh)_mm512_set1_epi32(pair));
}
#else
PK_INLINE vec multiplied(vec acc, const real *a, vec b) { return acc + broadcast(*a) * b; }
#endif

/* acc[r][j] += a[r * row] * b[j]; rows and cols are literals.  The smaller side stays in registers:
 * there are just enough. */
PK_INLINE void multiply_once(vec acc[TILE_ROWS][COLS], const int rows, const int cols,
                             const real *a, ptrdiff_t row, const real *b)
{
    vec held[COLS];
    for (int j = 0; j < cols && cols < rows; j++)
        held[j] = load(b + j * LANES);
    for (int r = 0; r < rows && cols < rows; r++)
        for (int j = 0; j < cols; j++)
            acc[r][j] = multiplied(acc[r][j], a + r * row, held[j]);
    for (int j = 0; j < cols && cols >= rows; j++) {
        const vec b_j = load(b + j * LANES);
        for (int r = 0; r < rows; r++)
            acc[r][j] = multiplied(acc[r][j], a + r * row, b_j);
    }
}

/* acc[r][j] += sum over k < depth of a[r * row + k * col] * b[k * b_row + j] */
PK_INLINE void multiply(vec acc[TILE_ROWS][COLS], const int rows, const int cols, size_t depth,
                        const real *a, ptrdiff_t row, ptrdiff_t col, const real *b, size_t b_row)
{
    enum { UNROLLED = 4 };
    const int is_large = !PAIRS && PK_TILE_ROWS == 6 && rows * cols >= 12;
#if PK_TILE_ROWS == 6 /* hidden from compilers, which would make copies of the loops */
    __asm__("" : "+r"(col));
#endif
    for (; is_large && depth >= UNROLLED; depth -= UNROLLED)
        for (int k = 0; k < UNROLLED; k++, a += col, b += b_row) {
            __asm__("" : "+r"(a), "+r"(b)); /* so that steps of k are not mixed */
            __builtin_prefetch(a + 8 * col);
            multiply_once(acc, rows, cols, a, row, b);
        }
    for (; depth > 0; depth--, a += col, b += b_row) {
        __builtin_prefetch(a + 8 * col); /* each k is another cache line if a is transposed */
        multiply_once(acc, rows, cols, a, row, b);
    }
}

/* The initial value of every row of a panel of c: `begin` [WIDTH], as here, or NULL for c
 * itself. */
static const real ZEROS[WIDTH] __attribute__((aligned(ALIGNMENT))) = {0};

/* left[rows, K] right[K, columns] */
typedef struct {
    size_t K;
    operand left;
    right_operand right;
} term;

/* A tile of c: c = begin + the sum of the terms, with the rows of left-hand sides from `row` on.
 * If many rows use the same right-hand side, K must be <= PRODUCT_K for it to stay in the cache. */
typedef struct {
    const term *terms;
    size_t count, row;
    real *c;
    size_t ldc;
    const real *begin;
} tile;

PK_INLINE void add_term(vec acc[TILE_ROWS][COLS], const int rows, const int cols, const term *t,
                        size_t row)
{
    const size_t depth = t->left.depth, parts = PAIRS ? 1 : t->right.parts;
    const real *a = t->left.a + (ptrdiff_t)row * t->left.row, *b = t->right.b;
    for (size_t k = 0, n; k < t->K; k += depth, a += t->left.segment, b += n * t->right.row) {
        n = smaller(depth, t->K - k);
        if (parts != 1) /* a division would delay the first loads */
            n /= parts;
        for (size_t part = 0; part < parts; part++)
            multiply(acc, rows, cols, n, a + (ptrdiff_t)(part * n) * t->left.col, t->left.row,
                     t->left.col, b + part * t->right.part, t->right.row);
    }
}

PK_INLINE void product_of(const int rows, const int cols, const tile *t)
{
    vec acc[TILE_ROWS][COLS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < cols; j++)
            acc[r][j] = load((t->begin ? t->begin : t->c + (size_t)r * t->ldc) + j * LANES);
    for (size_t i = 0; i < t->count; i++)
        add_term(acc, rows, cols, t->terms + i, t->row);
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < cols; j++)
            store(t->c + (size_t)r * t->ldc + j * LANES, acc[r][j]);
}

/* Each size of tile compiles to code of its own, with all accumulators in registers. */
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
#ifndef PK_PAIRS
        PK_TILES(3)
#endif
#if PK_TILE_ROWS == 6
        PK_TILES(4)
        PK_TILES(6)
#ifndef PK_PAIRS
        PK_TILES(5)
#endif
#endif
    }
}

/* The number of rows of the next tile, of M rows left: tiles have about as many rows each, because
 * small ones wait for their own sums.  With pairs there are no tiles of 3 or 5 rows, which would
 * only be more code. */
PK_INLINE size_t next_rows(size_t M)
{
    const size_t tiles = (M + TILE_ROWS - 1) / TILE_ROWS, rows = (M + tiles - 1) / tiles;
    return PAIRS && rows > 1 ? smaller(M, TILE_ROWS) & ~(size_t)1 : rows;
}

/* c[M, width] = begin + the sum of the terms, tile by tile.  Inline for callers with many small
 * products: known strides make them a few per cent faster. */
PK_INLINE void product_panel_of(size_t M, size_t width, const term *terms, size_t count, real *c,
                                size_t ldc, const real *begin)
{
    const size_t cols = round_up(width, LANES) / LANES;
    const int partial = width < cols * LANES; /* c ends inside a vector: use a copy */
    real whole[TILE_ROWS * WIDTH];
    tile t = {terms, count, 0, partial ? whole : c, partial ? WIDTH : ldc, begin};
    for (size_t rows; t.row < M; t.row += rows, c += rows * ldc) {
        rows = next_rows(M - t.row);
        for (size_t i = 0; i < rows && partial && !begin; i++)
            memcpy(whole + i * WIDTH, c + i * ldc, width * sizeof *c);
        product_tile(rows, cols, &t);
        for (size_t i = 0; i < rows && partial; i++)
            for (size_t j = 0; j < width; j += LANES)
                store_n(c + i * ldc + j, load(whole + i * WIDTH + j), smaller(width - j, LANES));
        if (!partial)
            t.c += rows * ldc;
    }
}

/* Functions that are compiled once for all families: products.c. */
typedef void panel_product(size_t M, size_t width, const term *terms, size_t count, real *c,
                           size_t ldc, const real *begin);
/* Weights as right-hand sides: pack.h. */
typedef struct {
    void (*gate_columns)(real *to, size_t ldt, const real *w, size_t H, size_t N, size_t unit,
                         size_t units, const size_t *gates, size_t count);
    void (*gate_rows)(real *to, const real *w, size_t H, size_t N, size_t column, size_t unit,
                      size_t units, const size_t *gates, size_t count);
} packing;
struct dot_term;
typedef struct {
    packing packing;
    panel_product *panel; /* matmul.h */
    void (*product)(size_t M, size_t N, const term *whole, real *c, size_t ldc, const real *begin);
    void (*add_dots)(vec dots[][COLS][LANES], size_t rows, size_t count, size_t lanes,
                     const struct dot_term *terms, size_t n_terms); /* dots.h */
    void (*numbers)(uint64_t seed, uint64_t stream, uint64_t counter,
                    uint16_t *numbers); /* numbers.h */
} product_kernels;
extern const product_kernels PK_PRODUCTS;

/* Products whose operands are rounded to bfloat16: rounded.c.  Both operands are first copied and
 * rounded.  Where the instruction set multiplies pairs, an element holds two values of neighbouring
 * k, the first one in its upper half.  K, depth and strides then count such elements. */
typedef struct {
    pk_products of_api; /* first, so that a pointer to it is one to this */
    size_t vector_bytes;
    const void *narrow;        /* for kernels with vectors of 32 bytes, if these are wider */
    size_t per;                /* values in an element */
    panel_product *panel;      /* NULL: that of products.c */
    int takes_all;             /* whether `panel` takes any M, and widths of several panels */
    size_t k_block, row_block; /* PRODUCT_K and ROW_BLOCK of that product */
    /* Rounds a left-hand side: `rows` rows of n values, ldf apart, to rows ldt apart. */
    void (*round_left)(real *to, size_t ldt, const real *from, ptrdiff_t ldf, size_t rows,
                       size_t n);
    /* Rounds a row of a right-hand side, from one or two rows (NULL: zeros) of n values; then zeros
     * up to `width`, which is whole vectors.  `to` may be `first`. */
    void (*round_right)(real *to, const real *first, const real *second, size_t n, size_t width);
    /* Rounds all rows of a right-hand side: K rows of n values, to rows of ldt, which is whole
     * vectors; `to` may be `from`. */
    void (*round_rows)(real *to, size_t ldt, const real *from, size_t ldf, size_t K, size_t n);
    /* The left-hand side of a large product from row r on, K elements a row, in the order in which
     * lay_rows and lay_columns store it. */
    operand (*laid)(const real *a, size_t K, size_t r);
    void (*lay_rows)(real *to, size_t K, const real *from, ptrdiff_t ldf, size_t rows, size_t n);
    /* Stores the transpose of n rows of such elements; NULL: it is multiplied as it is. */
    void (*lay_columns)(real *to, size_t K, size_t k, const real *from, size_t ldf, size_t n,
                        size_t columns);
    packing packing;
} rounding;

/* `products` as a rounding, or NULL; only kernels of float have one. */
PK_INLINE const rounding *rounded(const void *products)
{
    return sizeof(real) == 4 ? products : NULL;
}

PK_INLINE const packing *packing_of(const void *products)
{
    const rounding *how = rounded(products);
    return how ? &how->packing : &PK_PRODUCTS.packing;
}

/* The rounding for these kernels' vectors: a set may take cells from a narrower one. */
PK_INLINE const rounding *rounding_of(const pk_products *products)
{
    const rounding *found = rounded(products);
    return found && found->vector_bytes != PK_VECTOR_BYTES ? found->narrow : found;
}

/* PRODUCT_K and ROW_BLOCK of these products. */
PK_INLINE size_t k_block_of(const void *products)
{
    const rounding *how = rounded(products);
    return how ? how->k_block : PRODUCT_K;
}
PK_INLINE size_t row_block_of(const void *products)
{
    const rounding *how = rounded(products);
    return how ? how->row_block : ROW_BLOCK;
}

PK_INLINE int takes_all(const void *products)
{
    const rounding *how = rounded(products);
    return PK_VECTOR_BYTES == 64 && how && how->takes_all; /* rows of tile registers */
}

/* The number of elements that K values take. */
PK_INLINE size_t elements_of(const void *products, size_t K)
{
    const rounding *how = rounded(products);
    return how && how->per == 2 ? (K + 1) / 2 : K;
}

PK_INLINE void product_panel(size_t M, size_t width, const term *terms, size_t count, real *c,
                             size_t ldc, const real *begin)
{
    const rounding *products = rounded(terms->right.products);
    panel_product *const panel = products && products->panel ? products->panel : PK_PRODUCTS.panel;
    panel(M, width, terms, count, c, ldc, begin);
}

/* c[M, N] = begin + left[M, K] right; left is made by strided(), unless K <= K_BLOCK */
PK_INLINE void product(size_t M, size_t N, size_t K, operand left, right_operand right, real *c,
                       size_t ldc, const real *begin)
{
    PK_PRODUCTS.product(M, N, &(term){K, left, right}, c, ldc, begin);
}

/* A row of a panel: `width` elements, then zeros. */
PK_INLINE void pack_row(real *panel_k, const real *from, size_t width)
{
    if (width == WIDTH) { /* a copy of constant size is inline */
        memcpy(panel_k, from, WIDTH * sizeof *from);
        return;
    }
    for (size_t j = 0; j < WIDTH; j += LANES)
        store(panel_k + j, j < width ? load_n(from + j, smaller(width - j, LANES)) : (vec){0});
}

/* One panel: rows k < K of b, columns n < n + WIDTH of N. */
static inline void pack_rows(real *panel, size_t K, const real *b, size_t ldb, size_t n, size_t N)
{
    for (size_t k = 0; k < K; k++)
        pack_row(panel + k * WIDTH, b + k * ldb + n, smaller(N - n, WIDTH));
}

PK_INLINE size_t packed_size(size_t K, size_t N) { return times(round_up(N, WIDTH), K); }

#endif
