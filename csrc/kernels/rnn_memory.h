/* How much memory a recurrent layer needs, and for how many steps it holds gates and states.  Both
 * passes make their jobs here; rnn_sizes is a kernel of the table.  You may change how many steps a
 * block or a window has. */
#ifndef PK_RNN_MEMORY_H
#define PK_RNN_MEMORY_H

#include "rnn_layout.h"

/* A task of a weight gradient computes PANELS panels of its columns, for which it reads dA once. */
enum { PANELS = 4, GRADIENT_WIDTH = PANELS * WIDTH };

/* If the weights fit L2 and a step has rows for two tiles, each step computes the products with x
 * and h together.  Otherwise the products with x are computed for a block of steps of some 512
 * rows, so that w_ih is read once for all of them.  Products that take all rows at once are an
 * exception: reading weights from L3 costs them less than writing and reading the gates once
 * more. */
static size_t steps_of_block(const pk_rnn_shape *s)
{
    const size_t H = padded(s->H), R = width_of_h(s);
    const size_t columns = OF_X.count * s->I + (OF_H.count + OF_S.count) * R;
    const size_t weights = times(times(H, elements_of(s->products, columns)), sizeof(real));
    const size_t cached =
        takes_all(rounding_of(s->products)) ? 8 * (size_t)L2_SHARE : pk_l2_share();
    if ((weights <= cached && s->B >= 2 * TILE_ROWS) || s->B >= 512)
        return 1;
    return smaller(1 + 512 / (s->B + 1), s->T ? s->T : 1);
}

/* Forward, before the i-th of n panels of step t: asks for the memory that the next step writes its
 * states and outputs to, that of a share of the rows.  A panel stores a cache line of every row: if
 * these come from beyond L2, the stores delay the next product.  Only for float, to save code. */
PK_INLINE void ask_for_next(const rnn_job *job, size_t t, range rows, size_t i, size_t n)
{
    const size_t bytes = job->R * sizeof(real), row = job->P_h * sizeof(real);
    if (sizeof(real) != 4 || t + 1 >= job->s.T || job->s.T * job->s.B * row <= L2_SHARE)
        return;
    pk_ask_for(h_at(job, t + 2, rows.from), (ptrdiff_t)row, length(rows), bytes, i, n);
    pk_ask_for(job->y.data ? row_at(job->y, t + 1, rows.from) : NULL,
               job->y.b_stride * (ptrdiff_t)sizeof(real), length(rows), bytes, i, n);
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
    rnn_job job = {.s = *shape, .R = width_of_h(shape)};
    if (job.s.B == 0)
        job.s.T = 0;
    job.P_h = padded(job.R);
    job.P_c = padded(job.s.H);
    job.Q = round_up(job.R, WIDTH);
    job.Q_c = round_up(job.s.H, WIDTH);
    job.window = job.s.T ? job.s.T : 1;
    job.c_interval = steps_of_c(&job.s);
    job.block = steps_of_block(&job.s);
    job.products = rounding_of(job.s.products);
    job.K_x = elements_of(job.products, job.s.I);
    job.K_h = elements_of(job.products, job.R);
    job.K_Q = elements_of(job.products, job.Q);
    job.P_before = elements_of(job.products, job.P_h);
    job.P_s = elements_of(job.products, job.P_c);
    job.rare = is_rare(&job.s);
    return job;
}

static void s_scratch(rnn_job *job, real *memory, size_t *end, size_t steps)
{
    if (!CELL_HAS_S && !projects(&job->s))
        return;
    job->s_rows = part(memory, end, times(steps, times(job->s.B, job->P_c)));
    if (rounded(job->products))
        job->s_rounded = part(memory, end, times(steps, times(job->s.B, job->P_s)));
    job->s_steps = steps;
}

__attribute__((noinline)) static void rare_scratch(rnn_job *job, real *memory, size_t *end,
                                                   size_t before_steps)
{
    const size_t B = job->s.B;
    if (job->s.resets) {
        job->reset_h = part(memory, end, times(B, job->P_h));
        job->reset_c = part(memory, end, CELL_HAS_C ? times(B, job->P_c) : 0);
    }
    if ((job->s.resets || drops_h(&job->s) || rounded(job->products)) && before_steps)
        job->before = part(memory, end, times(before_steps, times(B, job->P_before)));
    if (rounded(job->products) && before_steps)
        job->x_memory = part(memory, end, times(job->s.T, times(B, job->K_x)));
    job->before_steps = before_steps;
    if (drops_h(&job->s))
        job->h_mask = part(memory, end, times(B, job->P_h));
    if (noise_p(&job->s, ZONEOUT_C) > 0)
        job->c_new = part(memory, end, times(B, job->P_c));
    /* Random numbers come in blocks, so those of some steps are drawn at once. */
    enum { DRAWN = 4096 };
    job->noise_steps = 1 + DRAWN / (1 + smaller(DRAWN, times(B, job->s.H)));
    const size_t rows = times(smaller(job->noise_steps, job->s.T), B);
    const size_t elements = times(rows, job->s.H) / (sizeof(real) / sizeof(uint16_t)) + LANES;
    for (int kind = 0; kind < NOISE_KINDS; kind++)
        if (draws(&job->s, (noise_kind)kind))
            job->numbers[kind] = (uint16_t *)part(memory, end, elements);
}

/* Divides the scratch memory of a pass.  Returns how many elements it needs. */
__attribute__((noinline)) static size_t forward_scratch(rnn_job *job, real *memory)
{
    const size_t panels = panels_in(job->s.H), step = times(job->s.B, panels * WIDTH);
    size_t end = 0;
    job->packed_w = part(memory, &end, times(panels, size_of_packed_panel(job)));
    if (!keeps_gates(&job->s))
        job->gates = part(memory, &end, times(job->block, step));
    job->peepholes = part(memory, &end, times(CELL_N_PEEPHOLES, job->P_c));
    s_scratch(job, memory, &end, 1);
    if (projects(&job->s))
        job->packed_w_hr = part(memory, &end, packed_size(job->s.H, job->R));
    rare_scratch(job, memory, &end, 2);
    return end;
}

__attribute__((noinline)) static size_t backward_scratch(rnn_job *job, real *memory)
{
    const size_t B = job->s.B, H = job->s.H, c = CELL_HAS_C ? times(B, job->P_c) : 0;
    const size_t panels = panels_in(H), step = times(B, panels * WIDTH);
    const size_t of_w = job->s.I > job->R ? job->s.I : job->R;
    const size_t widest = round_up(projects(&job->s) && H > of_w ? H : of_w, WIDTH);
    const size_t window = steps_of_window(&job->s);
    size_t end = 0;
    job->packed_rows =
        part(memory, &end, smaller(widest, GRADIENT_WIDTH) * k_block_of(job->products));
    job->packed_w_hh = part(memory, &end, packed_size(OF_H.count * H, job->R));
    job->packed_w_ih = part(memory, &end, packed_size(OF_X.count * H, job->s.I));
    job->dh = part(memory, &end, times(B, job->Q));
    job->dc = part(memory, &end, c);
    if (computes_again(&job->s))
        job->packed_w = part(memory, &end, times(panels, size_of_packed_panel(job)));
    if (!keeps_gates(&job->s))
        job->gates = part(memory, &end, times(window, step));
    if (computes_again(&job->s))
        job->c_again = part(memory, &end, times(window + 1, c));
    job->peepholes = part(memory, &end, times(CELL_N_PEEPHOLES, job->P_c));
    if (CELL_HAS_S || projects(&job->s)) {
        job->ds = part(memory, &end, times(B, job->Q_c));
        job->packed_w_s = part(memory, &end, packed_size(OF_S.count * H, job->R));
    }
    if (projects(&job->s)) {
        job->packed_w_hr = part(memory, &end, packed_size(job->R, H));
        job->dh_rows = part(memory, &end,
                            times(keeps_gates(&job->s) ? job->window : window, times(B, job->Q)));
        job->dh_rounded = part(memory, &end, rounded(job->products) ? times(B, job->K_Q) : 0);
    }
    s_scratch(job, memory, &end, keeps_gates(&job->s) ? job->window : window);
    rare_scratch(job, memory, &end, computes_again(&job->s) ? window : 0);
    if (drops_h(&job->s))
        job->dh_masked = part(memory, &end, times(B, job->Q));
    if (job->s.resets) {
        job->dh_resets = part(memory, &end, times(B, job->Q));
        job->dc_resets = part(memory, &end, c);
    }
    return end;
}

static pk_rnn_sizes rnn_sizes(const pk_rnn_shape *shape)
{
    rnn_job job = rnn_job_for(shape);
    const size_t T = job.s.T, B = job.s.B, intervals = (T + job.c_interval - 1) / job.c_interval;
    const size_t forward = forward_scratch(&job, NULL), backward = backward_scratch(&job, NULL);
    const int nothing = job.s.save == PK_SAVE_NOTHING;
    pk_rnn_sizes size = {.h = times(nothing ? 2 : T + 1, times(B, job.P_h))};
    if (CELL_HAS_C)
        size.c = times(intervals + 1, times(B, job.P_c));
    if (keeps_gates(&job.s))
        size.gates = times(times(T, B), panels_in(job.s.H) * WIDTH);
    size.scratch = PK_SCRATCH_BYTES(nothing || forward > backward ? forward : backward);
    return size;
}

/* The job of a pass over a layer. */
static rnn_job rnn_job_of(const pk_rnn_layer *layer, size_t (*scratch)(rnn_job *, real *))
{
    rnn_job job = rnn_job_for(&layer->shape);
    job.w = layer->weights;
    job.x = in_order_of_steps(layer->x, &job.s);
    job.y = in_order_of_steps(layer->y, &job.s);
    job.h = layer->h;
    job.c = job.c_again = layer->c;
    job.gates = layer->gates;
    job.from_zeros = !layer->h0;
    scratch(&job, align(layer->scratch));
    job.x_rounded = job.x;
    if (rounded(job.products))
        job.x_rounded =
            (pk_sequence){job.x_memory, (ptrdiff_t)(job.s.B * job.K_x), (ptrdiff_t)job.K_x};
    copy_in(job.peepholes, job.P_c, job.w.peepholes, job.s.H, CELL_N_PEEPHOLES);
    return job;
}

#endif
