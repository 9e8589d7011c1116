/* How much memory a recurrent layer needs, and for how many steps it holds gates and states. */
#ifndef PK_RNN_MEMORY_H
#define PK_RNN_MEMORY_H

#include "rnn_layout.h"

enum { L2_SHARE = 1 << 20 }; /* bytes that probably stay in the L2 cache of a core */

/* A task of a weight gradient computes PANELS panels of its columns, for which it reads dA once. */
enum { PANELS = 4, GRADIENT_WIDTH = PANELS * WIDTH };

/* Backward without the gates of all steps works window by window and computes the gates of each
 * again.  A window has about as many steps as there are windows: then neither the states that are
 * kept between windows nor the scratch memory is large. */
static size_t steps_of_window(const pk_rnn_shape *s)
{
    size_t steps = 1;
    while (steps < s->T && (steps * steps < s->T || steps * s->B < ROW_BLOCK))
        steps++;
    return steps;
}

/* If the weights fit L2 and a step has rows for two tiles, each step computes the products with x
 * and h together.  Otherwise the products with x are computed for a block of steps of some 512
 * rows, so that w_ih is read once for all of them. */
static size_t steps_of_block(const pk_rnn_shape *s)
{
    const size_t H = padded(s->H), columns = OF_X.count * s->I + OF_H.count * s->H;
    const size_t weights = times(times(H, columns), sizeof(real));
    if ((weights < L2_SHARE && s->B >= 2 * TILE_ROWS) || s->B >= 512)
        return 1;
    return smaller(1 + 512 / (s->B + 1), s->T ? s->T : 1);
}

/* Whether forward keeps the gates, and whether backward must compute them again. */
PK_INLINE int keeps_gates(const pk_rnn_shape *s) { return CELL_SAVES && s->save == PK_SAVE_FULL; }
PK_INLINE int computes_again(const pk_rnn_shape *s)
{
    return CELL_SAVES && s->save == PK_SAVE_MINIMAL;
}

static size_t steps_of_c(const pk_rnn_shape *s)
{
    return s->save == PK_SAVE_FULL ? 1 : s->save == PK_SAVE_MINIMAL ? steps_of_window(s) : s->T + 1;
}

/* The sizes of a job.  With B = 0 there is nothing to do, so T is 0. */
static rnn_job rnn_job_for(const pk_rnn_shape *shape)
{
    rnn_job job = {.s = *shape, .R = shape->H};
    if (job.s.B == 0)
        job.s.T = 0;
    job.P_h = padded(job.R);
    job.P_c = padded(job.s.H);
    job.Q = round_up(job.R, WIDTH);
    job.window = job.s.T ? job.s.T : 1;
    job.c_interval = steps_of_c(&job.s);
    job.block = steps_of_block(&job.s);
    return job;
}

/* The parts of the scratch memory in their order, in elements. */
typedef struct {
    size_t packed_rows, packed_w_hh, packed_w_ih, dh, dc, packed_w, gates, c_again;
} rnn_scratch;

static size_t size_of_forward_pack(const rnn_job *job)
{
    const size_t rows = plus(times(job->s.I, packed_row(OF_X)), times(job->R, packed_row(OF_H)));
    return times(panels_in(job->s.H), plus(WIDTH, rows));
}

static rnn_scratch forward_scratch(const rnn_job *job)
{
    const size_t step = times(job->s.B, panels_in(job->s.H) * WIDTH);
    return (rnn_scratch){.packed_w = size_of_forward_pack(job),
                         .gates = keeps_gates(&job->s) ? 0 : times(job->block, step)};
}

static rnn_scratch backward_scratch(const rnn_job *job)
{
    const size_t B = job->s.B, H = job->s.H, step = times(B, panels_in(H) * WIDTH);
    const size_t c = CELL_HAS_C ? job->P_c : 0;
    const size_t widest = job->s.I > job->R ? job->s.I : job->R;
    rnn_scratch size = {.packed_rows = smaller(round_up(widest, WIDTH), GRADIENT_WIDTH) * K_BLOCK,
                        .packed_w_hh = packed_size(OF_H.count * H, job->R),
                        .packed_w_ih = packed_size(OF_X.count * H, job->s.I),
                        .dh = times(B, job->Q),
                        .dc = times(B, c)};
    if (!keeps_gates(&job->s))
        size.gates = times(steps_of_window(&job->s), step);
    if (computes_again(&job->s)) {
        size.packed_w = size_of_forward_pack(job);
        size.c_again = times(steps_of_window(&job->s) + 1, times(B, c));
    }
    return size;
}

static size_t scratch_elements(rnn_scratch s)
{
    return plus(plus(plus(s.packed_w_hh, s.packed_w_ih), plus(s.dh, s.dc)),
                plus(plus(s.packed_w, s.gates), plus(s.c_again, s.packed_rows)));
}

static pk_rnn_sizes rnn_sizes(const pk_rnn_shape *shape)
{
    const rnn_job job = rnn_job_for(shape);
    const size_t T = job.s.T, B = job.s.B, intervals = (T + job.c_interval - 1) / job.c_interval;
    const size_t forward = scratch_elements(forward_scratch(&job));
    const size_t backward = scratch_elements(backward_scratch(&job));
    const int nothing = job.s.save == PK_SAVE_NOTHING;
    pk_rnn_sizes size = {.h = times(nothing ? 2 : T + 1, times(B, job.P_h))};
    if (CELL_HAS_C)
        size.c = times(intervals + 1, times(B, job.P_c));
    if (keeps_gates(&job.s))
        size.gates = times(times(T, B), panels_in(job.s.H) * WIDTH);
    size.scratch = PK_SCRATCH_BYTES(nothing || forward > backward ? forward : backward);
    return size;
}

static pk_sequence in_order_of_steps(pk_sequence s, const rnn_job *job)
{
    if (!s.data || !job->s.reverse || !job->s.T)
        return s;
    return (pk_sequence){row_at(s, job->s.T - 1, 0), -s.t_stride, s.b_stride};
}

/* The job of a layer, with scratch memory divided by these sizes. */
static rnn_job rnn_job_of(const pk_rnn_layer *layer, rnn_scratch (*scratch)(const rnn_job *))
{
    rnn_job job = rnn_job_for(&layer->shape);
    const rnn_scratch size = scratch(&job);
    job.w = layer->weights;
    job.x = in_order_of_steps(layer->x, &job);
    job.y = in_order_of_steps(layer->y, &job);
    job.h = layer->h;
    job.c = job.c_again = layer->c;
    job.from_zeros = !layer->h0;
    job.packed_rows = align(layer->scratch);
    job.packed_w_hh = job.packed_rows + size.packed_rows;
    job.packed_w_ih = job.packed_w_hh + size.packed_w_hh;
    job.dh = job.packed_w_ih + size.packed_w_ih;
    job.dc = job.dh + size.dh;
    job.packed_w = job.dc + size.dc;
    job.gates = keeps_gates(&job.s) ? layer->gates : job.packed_w + size.packed_w;
    if (size.c_again)
        job.c_again = job.packed_w + size.packed_w + size.gates;
    return job;
}

#endif
