/* Table of contents of the optimizer kernels.  Compiled once per instruction set and dtype, without
 * contraction to FMA; everything is static except the table, so that no two objects share a symbol. */
#include "adam.h"
#include "norm.h"
#include "optim.h"
#include "rows.h"

extern const pk_optim_kernels PK_TABLE;

const pk_optim_kernels PK_TABLE = {
    .sgd = sgd,
    .adagrad = adagrad,
    .rmsprop = rmsprop,
    .adadelta = adadelta,
    .adam = adam,
    .nadam = nadam,
    .radam = radam,
    .adamax = adamax,
    .lion = lion,
    .lamb = lamb,
    .lamb_scratch_size = lamb_scratch_size,
    .touched_rows = touched_rows,
    .touched_scratch_size = touched_scratch_size,
    .global_norm = global_norm,
    .norm_scratch_size = norm_scratch_size,
    .memory_roof = memory_roof,
};
