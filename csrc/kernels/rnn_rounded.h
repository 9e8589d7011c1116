/* Rounds the operands of the forward pass of a recurrent layer, for rounded products (matmul.h): x,
 * h, s and m.  Weights are rounded where they are packed.  For rnn_forward.h. */
#ifndef PK_RNN_ROUNDED_H
#define PK_RNN_ROUNDED_H

#include "rnn_noise.h"

/* Rounds h before step t, or that of a reset, for `n` units of some rows; after dropout. */
__attribute__((noinline)) static void rnn_round_h(const rnn_job *job, size_t t, range rows,
                                                  size_t unit, size_t n)
{
    const int is_plain = !job->s.resets && !job->h_mask;
    const size_t each = is_plain ? length(rows) : 1, width = job->h_mask ? WIDTH : n;
    real left[WIDTH];
    for (size_t b = rows.from; b < rows.to; b += each)
        for (size_t at = unit; at < unit + n; at += width) {
            const size_t count = smaller(unit + n - at, width);
            const real *h = h_or_reset(job, t, b, h_at(job, t, b)) + at;
            for (size_t i = 0; i < count && job->h_mask; i += LANES)
                store(left + i, dropped_h(job, b, at + i, load(h + i)));
            job->products->round_left(h_before(job, t, b) + elements_of(job->products, at),
                                      job->P_before, job->h_mask ? left : h, (ptrdiff_t)job->P_h,
                                      each, count);
        }
}

/* Rounds s or m of step t, for `n` units of some rows. */
static void rnn_round_s(const rnn_job *job, size_t t, range rows, size_t unit, size_t n)
{
    job->products->round_left(s_before(job, t, rows.from) + elements_of(job->products, unit),
                              job->P_s, s_at(job, t, rows.from) + unit, (ptrdiff_t)job->P_c,
                              length(rows), n);
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
