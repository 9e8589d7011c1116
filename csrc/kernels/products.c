/* Products, packing and random numbers for all families.  Products have code of their own for each
 * size of tile: compiled into each family, all this would make each half as large again.  CMake
 * compiles this file once for each instruction set and dtype; everything is static except the
 * table. */
#include "dots.h"
#include "numbers.h"
#include "pack.h"

const product_kernels PK_TABLE = {
    .panel = product_panel_of,
    .gate_columns = pack_gate_columns_of,
    .add_dots = add_dots,
    .numbers = random_numbers_of,
};
