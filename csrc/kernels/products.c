/* The product of one panel, product_panel of matmul.h, for all families.  It has code of its own
 * for each size of tile: compiled into each family, it would make each a third larger.  CMake
 * compiles this file once for each instruction set and dtype; PK_TABLE is the function's name. */
#include "matmul.h"

void PK_TABLE(size_t M, size_t width, const term *terms, size_t count, real *c, size_t ldc,
              const real *begin)
{
    product_panel_of(M, width, terms, count, c, ldc, begin);
}
