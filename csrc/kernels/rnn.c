/* Table of contents of the recurrent kernels.  Compiled once per instruction set and dtype, with
 * contraction to FMA; everything is static except the table, so that no two objects share a symbol. */
#include "dropout.h"
#include "rnn_backward.h"
#include "rnn_step.h"

extern const pk_rnn_kernels PK_TABLE;

const pk_rnn_kernels PK_TABLE = {
    .padded = padded,
    .lstm_forward = lstm_forward,
    .lstm_backward = lstm_backward,
    .lstm_sizes = lstm_sizes,
    .lstm_step = lstm_step_once,
    .dropout = dropout,
    .exp = exp_array,
    .sigmoid = sigmoid_array,
    .tanh = tanh_array,
    .matmul = matmul,
    .matmul_scratch_size = matmul_scratch_size,
    .fma_roof = fma_roof,
};
