/* The table of linear layers, normalization and losses.  Compiled once per instruction set and
 * dtype.  Everything is static except the table, which users get from pk_dense (dispatch.c). */
#include "layer_norm.h"
#include "linear_backward.h"
#include "losses.h"

extern const pk_dense_kernels PK_TABLE;

const pk_dense_kernels PK_TABLE = {
    .linear_scratch_size = linear_scratch_size,
    .linear_forward = linear_forward,
    .linear_backward = linear_backward,
    .layer_norm_scratch_size = layer_norm_scratch_size,
    .layer_norm_forward = layer_norm_forward,
    .layer_norm_backward = layer_norm_backward,
    .cross_entropy = cross_entropy,
    .elementwise_loss = elementwise_loss,
};
