/* Products, packing and random numbers for all families.  Products have code of their own for each
 * size of tile: compiled into each family, all this would make each half as large again.  CMake
 * compiles this file once for each instruction set and dtype; everything is static except the
 * table. */
#include "dots.h"
#include "numbers.h"
#include "pack.h"

__attribute__((noinline)) static void panel(size_t M, size_t width, const term *terms, size_t count,
                                            real *c, size_t ldc, const real *begin)
{
    product_panel_of(M, width, terms, count, c, ldc, begin);
}

/* Hidden from the compiler, which would make copies of it all for what it knew here. */
static panel_product *panel_for(const void *products)
{
    const rounding *how = rounded(products);
    panel_product *found = how && how->panel ? how->panel : panel;
    __asm__("" : "+r"(found));
    return found;
}

static void block_of(size_t M, size_t N, size_t K, operand left, right_operand right, real *c,
                     size_t ldc, const real *begin)
{
    panel_product *const multiply_panel = panel_for(right.products);
    for (size_t r = 0; r < M;
         r += ROW_BLOCK, left.a += ROW_BLOCK * left.row, c += ROW_BLOCK * ldc) {
        term t = {K, left, right};
        for (size_t n = 0; n < N; n += WIDTH, t.right.b += right.panel)
            multiply_panel(smaller(M - r, ROW_BLOCK), smaller(N - n, WIDTH), &t, 1, c + n, ldc,
                           begin);
    }
}

static void product_of_blocks(size_t M, size_t N, size_t K, operand left, right_operand right,
                              real *c, size_t ldc, const real *begin)
{
    size_t k = 0;
    do {
        block_of(M, N, smaller(K - k, K_BLOCK), left, rows_from(right, k), c, ldc,
                 k == 0 ? begin : NULL);
        left.a += left.segment;
    } while ((k += K_BLOCK) < K);
}

const product_kernels PK_TABLE = {
    .packing = {pack_gate_columns, pack_gate_rows},
    .panel = panel,
    .product = product_of_blocks,
    .block = block_of,
    .add_dots = add_dots,
    .numbers = random_numbers_of,
};
