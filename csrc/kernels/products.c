/* Products, packing and random numbers for all families.  A product has separate code for each size
 * of tile.  If each family had it all, each would be half as large again.  CMake compiles this file
 * once for each instruction set and dtype; everything is static except the table. */
#include "dots.h"
#include "numbers.h"
#include "pack.h"

__attribute__((noinline)) static void panel(size_t M, size_t width, const term *terms, size_t count,
                                            real *c, size_t ldc, const real *begin)
{
    product_panel_of(M, width, terms, count, c, ldc, begin);
}

/* Not inline, or compilers would make copies of the product for constants that they know here. */
static panel_product *panel_for(const void *products)
{
    const rounding *how = rounded(products);
    panel_product *found = how && how->panel ? how->panel : panel;
    __asm__("" : "+r"(found));
    return found;
}

static void product_of_panels(size_t M, size_t N, const term *whole, real *c, size_t ldc,
                              const real *begin)
{
    panel_product *const multiply_panel = panel_for(whole->right.products);
    const void *how = whole->right.products;
    const size_t rows = takes_all(how) ? M : row_block_of(how);
    const size_t width = takes_all(how) ? N : WIDTH, depth = k_block_of(how);
    if (M <= rows && N <= width && whole->K <= depth) { /* as in most steps of a layer */
        multiply_panel(M, N, whole, 1, c, ldc, begin);
        return;
    }
    operand left = whole->left;
    size_t k = 0;
    do { /* once even with no terms, to set the result */
        for (size_t r = 0; r < M; r += rows) {
            term t = {smaller(whole->K - k, depth), left, rows_from(whole->right, k)};
            t.left.a += (ptrdiff_t)r * left.row;
            for (size_t n = 0; n < N; n += width, t.right.b += t.right.panel)
                multiply_panel(smaller(M - r, rows), smaller(N - n, width), &t, 1, c + r * ldc + n,
                               ldc, k == 0 ? begin : NULL);
        }
        left.a += left.segment * (ptrdiff_t)(depth / left.depth);
    } while ((k += depth) < whole->K);
}

const product_kernels PK_TABLE = {
    .packing = {pack_gate_columns, pack_gate_rows},
    .panel = panel,
    .product = product_of_panels,
    .add_dots = add_dots,
    .numbers = random_numbers_of,
};
