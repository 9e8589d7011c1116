/* Rounds the operands of the forward pass of a recurrent layer, where products are of rounded ones
 * (matmul.h): the packed weights, x and h.  For rnn_forward.h. */
#ifndef PK_RNN_ROUNDED_H
#define PK_RNN_ROUNDED_H

#include "rnn_threads.h"

/* Rounds K rows of packed columns, in place. */
static void rnn_round_packed(const rnn_job *job, columns of, real *w, size_t K)
{
    const size_t row = packed_row(of);
    if (rounded(job->products))
        round_rows(job->products, w, row, w, row, K, row);
}

/* Rounds h before step t, or that of a reset, for `n` units of some rows. */
static void rnn_round_h(const rnn_job *job, size_t t, range rows, size_t unit, size_t n)
{
    const size_t each = job->s.resets ? 1 : length(rows), to = elements_of(job->products, unit);
    for (size_t b = rows.from; b < rows.to; b += each)
        job->products->round_left(h_before(job, t, b) + to, job->P_before,
                                  h_or_reset(job, t, b, h_at(job, t, b)) + unit,
                                  (ptrdiff_t)job->P_h, each, n);
}

/* Rounds x of one step; task = step * count + job. */
static void rnn_round_x(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t t = run->steps.from + task / run->count;
    job->products->round_left(row_at(job->x_rounded, t, 0), job->K_x, row_at(job->x, t, 0),
                              job->x.b_stride, job->s.B, job->s.I);
}

#endif
