/* The table of a cell: the passes, compiled around it.  A cell's file ends with this. */
#ifndef PK_RNN_PASSES_H
#define PK_RNN_PASSES_H

#include "rnn_backward.h"
#include "rnn_step.h"

extern const pk_cell_kernels PK_TABLE;

const pk_cell_kernels PK_TABLE = {
    .gates = CELL_GATES,
    .states = 1 + CELL_HAS_C,
    .peepholes = CELL_N_PEEPHOLES,
    .padded = padded,
    .sizes = rnn_sizes,
    .partition = rnn_partition,
    .forward = rnn_forward,
    .backward = rnn_backward,
    .step = rnn_step,
    .step_scratch_size = step_scratch_size,
};

#endif
