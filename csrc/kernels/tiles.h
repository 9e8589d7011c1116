/* Products of pairs of bfloat16 in tiles: registers of 16 rows of 16 elements each; one instruction
 * multiplies two and adds the products to a third.  For rounded.c, where PK_TILE_REGISTERS is
 * defined.
 *
 * Tiles 0 to 3 are 32 rows and 32 columns of c, 4 and 5 rows of the left-hand side, 6 and 7 columns
 * of the right-hand side.  An element of c is the sum over blocks of 16 elements of k, beginning
 * with the first of a term; no other row changes its bits. */
#ifndef PK_TILES_H
#define PK_TILES_H

#include "pack.h"

enum {
    SIDE = 16,           /* rows of a tile, and elements of its rows */
    GROUP = 2 * SIDE,    /* rows and columns of c at a time */
    TURNED = 1 << 13,    /* elements of a transposed left-hand side at a time: 32 KiB */
    STEP = GROUP * SIDE, /* elements between blocks of k where a left-hand side is laid in groups */
    TOGETHER = 4 * WIDTH, /* columns of c that share a piece of a left-hand side */
    PIECE = 16 * SIDE,    /* elements of k in one: 32 KiB, and so in L1 */
    MOST_STRETCHES = 4,   /* of two terms */
};

/* Whole blocks of k of a term, for a group of rows. */
typedef struct {
    const real *a, *b;
    ptrdiff_t a_row, a_step; /* bytes between two rows, and between two blocks */
    size_t b_row;
    size_t blocks;
} stretch;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_shapes;

/* What the compiler has not written to memory yet, it writes now. */
PK_INLINE void before_tiles(void) { __asm__ volatile("" : : : "memory"); }

/* Gives the tiles the sizes for a group of `rows` rows. */
static void shape_tiles(size_t rows)
{
    enum { BYTES = SIDE * sizeof(real) };
    static const tile_shapes whole = {
        .palette = 1,
        .row_bytes = {BYTES, BYTES, BYTES, BYTES, BYTES, BYTES, BYTES, BYTES},
        .rows = {SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE, SIDE}};
    tile_shapes shapes = whole;
    if (rows == GROUP) { /* read from memory: what has just been written there takes longer */
        _tile_loadconfig(&whole);
        return;
    }
    shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = (uint8_t)smaller(rows, SIDE);
    shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = (uint8_t)(rows > SIDE ? rows - SIDE : SIDE);
    __asm__ volatile("" : : "r"(&shapes) : "memory");
    _tile_loadconfig(&shapes);
}

/* Tiles += the stretches, from column n of the right-hand sides on; rows and cols, of tiles, are
 * literals.  The right-hand side passes through L1; the left-hand side, which all columns need,
 * stays there. */
PK_INLINE void multiply_tiles(const int rows, const int cols, const stretch *s, size_t count,
                              size_t n)
{
    for (const stretch *end = s + count; s < end; s++) {
        const ptrdiff_t b_row = (ptrdiff_t)(s->b_row * sizeof(real));
        const char *a = (const char *)s->a;
        const char *b = (const char *)(s->b + n);
        for (size_t k = 0; k < s->blocks; k++, a += s->a_step, b += SIDE * b_row) {
            _tile_stream_loadd(6, b, b_row);
            _tile_loadd(4, a, s->a_row);
            _tile_dpbf16ps(0, 4, 6);
            if (rows > 1) {
                _tile_loadd(5, a + SIDE * s->a_row, s->a_row);
                _tile_dpbf16ps(2, 5, 6);
            }
            if (cols > 1) {
                _tile_stream_loadd(7, b + SIDE * sizeof(real), b_row);
                _tile_dpbf16ps(1, 4, 7);
            }
            if (rows > 1 && cols > 1)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
}

/* c[rows, cols], in tiles, = begin[., rows `ldb` apart] + the stretches. */
PK_INLINE void group_of(const int rows, const int cols, const stretch *s, size_t count, size_t n,
                        real *c, size_t ldc, const real *begin, size_t ldb)
{
    const ptrdiff_t c_row = (ptrdiff_t)(ldc * sizeof *c), row = (ptrdiff_t)(ldb * sizeof *c);
    real *const c_2 = c + SIDE * ldc;
    const real *const begin_2 = begin + SIDE * ldb;
    /* Large products, whose left-hand side is laid in groups, leave L2 no time for a prefetch. */
    const int is_laid = s->a_row == (ptrdiff_t)(SIDE * sizeof *c);
    for (size_t r = 0; !is_laid && begin != c && r < (size_t)rows * SIDE; r++)
        for (size_t j = 0; j < (size_t)cols * SIDE; j += SIDE)
            __builtin_prefetch(c + r * ldc + j, 1);
    _tile_loadd(0, begin, row);
    if (cols > 1)
        _tile_loadd(1, begin + SIDE, row);
    if (rows > 1)
        _tile_loadd(2, begin_2, row);
    if (rows > 1 && cols > 1)
        _tile_loadd(3, begin_2 + SIDE, row);
    multiply_tiles(rows, cols, s, count, n);
    _tile_stored(0, c, c_row);
    if (cols > 1)
        _tile_stored(1, c + SIDE, c_row);
    if (rows > 1)
        _tile_stored(2, c_2, c_row);
    if (rows > 1 && cols > 1)
        _tile_stored(3, c_2 + SIDE, c_row);
}

/* All columns of a group of rows, as product_panel of matmul.h. */
static void columns_of_group(size_t rows, size_t width, const stretch *s, size_t count, real *c,
                             size_t ldc, const real *begin)
{
    _Alignas(ALIGNMENT) real whole[GROUP * GROUP];
    for (size_t n = 0; n < width; n += GROUP, c += GROUP) {
        const size_t rest = smaller(width - n, GROUP);
        const int partial = rest % SIDE != 0; /* c ends inside a tile: use a copy */
        for (size_t r = 0; r < rows && partial && !begin; r++)
            memcpy(whole + r * GROUP, c + r * ldc, rest * sizeof *c);
        real *const to = partial ? whole : c;
        const size_t ldt = partial ? GROUP : ldc;
        const real *const from = begin ? begin + n : to;
        before_tiles();
        if (rows > SIDE && rest > SIDE)
            group_of(2, 2, s, count, n, to, ldt, from, begin ? 0 : ldt);
        else if (rows > SIDE)
            group_of(2, 1, s, count, n, to, ldt, from, begin ? 0 : ldt);
        else if (rest > SIDE)
            group_of(1, 2, s, count, n, to, ldt, from, begin ? 0 : ldt);
        else
            group_of(1, 1, s, count, n, to, ldt, from, begin ? 0 : ldt);
        for (size_t r = 0; r < rows && partial; r++)
            memcpy(c + r * ldc, whole + r * GROUP, rest * sizeof *c);
    }
}

/* Rows of a panel, from row r on.  Where a term ends inside a block, copies of both operands end
 * with zeros. */
static void terms_of_group(size_t r, size_t rows, size_t panel, size_t width, const term *terms,
                           size_t count, real *c, size_t ldc, const real *begin)
{
    _Alignas(ALIGNMENT) real ends_a[2][GROUP * SIDE], ends_b[2][SIDE * WIDTH];
    stretch s[MOST_STRETCHES];
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const term *t = terms + i;
        const size_t whole = t->K / SIDE * SIDE, rest = t->K - whole;
        const real *a = t->left.a + (ptrdiff_t)r * t->left.row;
        const real *b = t->right.b + panel * t->right.panel;
        const int is_laid = t->left.depth == SIDE;
        const ptrdiff_t row = is_laid ? SIDE : t->left.row, step = is_laid ? t->left.segment : SIDE;
        if (whole)
            s[n++] = (stretch){a,
                               b,
                               row * (ptrdiff_t)sizeof *a,
                               step * (ptrdiff_t)sizeof *a,
                               t->right.row,
                               whole / SIDE};
        if (!rest)
            continue;
        for (size_t j = 0; j < rows; j++)
            store(ends_a[i] + j * SIDE,
                  load_part(a + (ptrdiff_t)j * row + (ptrdiff_t)(whole / SIDE) * step, rest));
        memset(ends_b[i], 0, sizeof ends_b[i]);
        for (size_t k = 0; k < rest; k++)
            memcpy(ends_b[i] + k * WIDTH, b + (whole + k) * t->right.row,
                   round_up(width, LANES) * sizeof *b);
        s[n++] = (stretch){ends_a[i], ends_b[i], SIDE * sizeof(real), 0, WIDTH, 1};
    }
    columns_of_group(rows, width, s, n, c, ldc, begin);
}

/* A left-hand side of K elements that is laid in groups, from row r on. */
static operand laid(const real *a, size_t K, size_t r)
{
    const size_t row = round_up(K, SIDE);
    return (operand){a + r * row, (ptrdiff_t)row, 1, SIDE, STEP};
}

static void panels_of_group(size_t r, size_t rows, size_t width, const term *terms, size_t count,
                            real *c, size_t ldc, const real *begin)
{
    for (size_t n = 0; n < width; n += WIDTH)
        terms_of_group(r, rows, n / WIDTH, smaller(width - n, WIDTH), terms, count, c + n, ldc,
                       begin);
}

/* The same with a left-hand side that is laid in groups. */
static void pieces_of_group(size_t r, size_t rows, size_t width, const term *t, real *c, size_t ldc,
                            const real *begin)
{
    for (size_t n = 0; n < width; n += TOGETHER) {
        term part = *t;
        size_t k = 0;
        part.right.b += n / WIDTH * t->right.panel;
        do {
            part.K = smaller(t->K - k, PIECE);
            panels_of_group(r, rows, smaller(width - n, TOGETHER), &part, 1, c + n, ldc,
                            k ? NULL : begin);
            part.left.a += PIECE / SIDE * t->left.segment;
            part.right = rows_from(part.right, PIECE);
        } while ((k += PIECE) < t->K);
    }
}

/* A left-hand side of many rows is laid in groups of GROUP rows: blocks of k, in order, and in a
 * block all rows, so that a tile is 1 KiB that the processor reads ahead.  The next two functions
 * lay rows, which are multiples of GROUP from the first one on, and columns: at most SIDE
 * elements of each, from `k` on, a multiple of SIDE. */
static void lay_rows(real *to, size_t K, const real *from, ptrdiff_t ldf, size_t rows, size_t n)
{
    for (size_t r = 0; r < rows; r++, from += ldf) {
        real *row = to + r / GROUP * GROUP * round_up(K, SIDE) + r % GROUP * SIDE;
        for (size_t k = 0; k < n; k += PER * SIDE, row += STEP)
            round_row(row, from + k, smaller(n - k, PER * SIDE));
    }
}

/* to [columns, SIDE], the transposed of n <= SIDE rows */
__attribute__((noinline)) static void turn_rows(real *to, const real *from, ptrdiff_t ldf, size_t n,
                                                size_t columns)
{
    for (size_t r = 0; r < columns; r += SIDE) {
        const size_t lanes = smaller(columns - r, SIDE);
        vec block[LANES];
        for (size_t i = 0; i < SIDE; i++) {
            __builtin_prefetch(from + ((ptrdiff_t)i + SIDE) * ldf + r);
            block[i] = i < n ? load_n(from + (ptrdiff_t)i * ldf + r, lanes) : (vec){0};
        }
        transpose(block);
        for (size_t i = 0; i < lanes; i++)
            store(to + (r + i) * SIDE, block[i]);
    }
}

static void lay_columns(real *to, size_t K, size_t k, const real *from, size_t ldf, size_t n,
                        size_t columns)
{
    for (size_t r = 0; r < columns; r += GROUP)
        turn_rows(to + k * GROUP + r * round_up(K, SIDE), from + r, (ptrdiff_t)ldf, n,
                  smaller(columns - r, GROUP));
}

/* The same where the left-hand side is transposed: its rows are adjacent.  Not inline, so that only
 * these products need the stack. */
__attribute__((noinline)) static void turned_group(size_t r, size_t rows, size_t width,
                                                   const term *t, real *c, size_t ldc,
                                                   const real *begin)
{
    _Alignas(ALIGNMENT) real turned[TURNED];
    const size_t height = round_up(rows, SIDE), most = TURNED / height;
    size_t k = 0;
    do {
        const size_t n = smaller(t->K - k, most);
        for (size_t at = 0; at < n; at += SIDE)
            turn_rows(turned + at * height, t->left.a + (ptrdiff_t)(k + at) * t->left.col + r,
                      t->left.col, smaller(n - at, SIDE), rows);
        const operand left = {turned, SIDE, 1, SIDE, (ptrdiff_t)(height * SIDE)};
        const term part = {n, left, rows_from(t->right, k)};
        panels_of_group(0, rows, width, &part, 1, c, ldc, k ? NULL : begin);
    } while ((k += most) < t->K);
}

/* Takes any M, and a width of several panels. */
static void panel_of_tiles(size_t M, size_t width, const term *terms, size_t count, real *c,
                           size_t ldc, const real *begin)
{
    size_t shaped = 0;
    for (size_t r = 0, rows; r < M; r += rows, c += rows * ldc) {
        rows = smaller(M - r, GROUP);
        const size_t shape =
            rows % SIDE ? rows : GROUP; /* with whole tiles they are all the same */
        if (shape != shaped)
            shape_tiles(shape);
        shaped = shape;
        if (terms->left.depth == SIDE)
            pieces_of_group(r, rows, width, terms, c, ldc, begin);
        else if (terms->left.col == 1)
            panels_of_group(r, rows, width, terms, count, c, ldc, begin);
        else
            turned_group(r, rows, width, terms, c, ldc, begin);
    }
    _tile_release();
}

#endif
