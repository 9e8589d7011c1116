/* The forward pass of a layer-normalized layer, for normed.c.  A task takes some batch rows through
 * all steps and never waits for another.  In each step it multiplies their h with w_hh, then goes
 * row by row through normalization and cell.  The products with w_ih come first, for a block of
 * steps. */
#ifndef PK_NORMED_FORWARD_H
#define PK_NORMED_FORWARD_H

#include "normed_cells.h"

/* A call of a pass: layers whose recurrences run at the same time, and the steps being computed. */
typedef struct {
    normed_job *jobs;
    size_t count, shares; /* of the groups of batch rows of each job */
    range steps;
    int nthreads;
} normed_run;

static range rows_of_share(const normed_run *run, size_t share)
{
    const size_t B = run->jobs->s.B, groups = groups_of(B);
    return (range){smaller(pk_chunk_begin(groups, share, run->shares) * ROW_GROUP, B),
                   smaller(pk_chunk_begin(groups, share + 1, run->shares) * ROW_GROUP, B)};
}

/* `rows` without the inactive ones at its two ends. */
static range active_rows(const normed_job *job, size_t t, range rows)
{
    while (rows.from < rows.to && !is_active(&job->s, t, rows.from))
        rows.from++;
    while (rows.from < rows.to && !is_active(&job->s, t, rows.to - 1))
        rows.to--;
    return rows;
}

/* A product, compiled once for all callers in this file. */
__attribute__((noinline)) static void times_panels(size_t M, size_t N, size_t K, operand left,
                                                   const real *packed, real *c, size_t ldc,
                                                   const real *begin)
{
    if (M && N)
        product(M, N, K, left, in_panels(packed, K), c, ldc, begin);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* Packs a panel of both weights, transposed; task = panel * count + job. */
static void normed_pack(void *arg, size_t task)
{
    const normed_run *run = arg;
    const normed_job *job = run->jobs + task % run->count;
    const size_t k = task / run->count * WIDTH, n = smaller(job->N - k, WIDTH);
    const size_t I = job->s.I, H = job->s.H, gates[] = {0};
    pack_gate_columns(job->packed_ih + k * I, WIDTH, job->w.w_ih, 0, I, k, n, gates, 1);
    pack_gate_columns(job->packed_hh + k * H, WIDTH, job->w.w_hh, 0, H, k, n, gates, 1);
}

/* The normalized products with w_ih for some steps; one product if rows of x have one stride. */
static void normed_inputs(const normed_job *job, range steps, range rows)
{
    const size_t B = job->s.B, N = round_up(job->N, LANES), n = length(rows);
    const ptrdiff_t row = job->x.b_stride, step = job->x.t_stride;
    const int one_row = n == 1, every_row = n == B && step == (ptrdiff_t)B * row;
    const int together = one_row || (every_row && !job->s.lengths);
    for (size_t t = steps.from; t < steps.to; t += together ? length(steps) : 1) {
        const range live = together ? rows : active_rows(job, t, rows);
        times_panels(length(live) * (together ? length(steps) : 1), N, job->s.I,
                     strided(row_at(job->x, t, live.from), one_row ? step : row, 1), job->packed_ih,
                     x_at(job, t, live.from), one_row ? B * job->row : job->row, ZEROS);
    }
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = rows.from; b < rows.to; b++)
            if (is_active(&job->s, t, b))
                normalize(job, x_at(job, t, b), scales_at(job, t, b) + SCALE_X);
}

/* The products of h_{t-1} with w_hh. */
static void normed_products(const normed_job *job, size_t t, range rows)
{
    const real *h = state_at(job, job->h, t, rows.from);
    if (t == 0 && job->from_zeros) {
        memset(product_at(job, t, rows.from), 0, length(rows) * job->row * sizeof *h);
        return;
    }
    for (size_t b = rows.from; b < rows.to && job->before; b++)
        memcpy(job->before + b * job->P, row_of(job, t, b).h_prev, job->P * sizeof *h);
    if (job->before)
        h = job->before + rows.from * job->P;
    times_panels(length(rows), round_up(job->N, LANES), job->s.H, strided(h, (ptrdiff_t)job->P, 1),
                 job->packed_hh, product_at(job, t, rows.from), job->row, ZEROS);
}

/* Past the end of its sequence a row keeps its states. */
static void normed_keep(const normed_job *job, size_t t, size_t b)
{
    real *const states[] = {job->h, job->c};
    for (size_t i = 0; i < job->cell->states; i++)
        memcpy(state_at(job, states[i], t + 1, b), state_at(job, states[i], t, b),
               job->P * sizeof(real));
}

static void normed_forward_step(const normed_job *job, size_t t, range rows)
{
    const size_t H = job->s.H;
    normed_products(job, t, active_rows(job, t, rows));
    for (size_t b = rows.from; b < rows.to; b++) {
        const int active = is_active(&job->s, t, b);
        const normed_row r = row_of(job, t, b);
        if (active) {
            normalize(job, r.h, r.scales + SCALE_H);
            job->cell->forward(job, &r);
        } else {
            normed_keep(job, t, b);
        }
        if (job->y.data && (active || job->s.repeat_last))
            memcpy(row_at(job->y, t, b), r.h_next, H * sizeof(real));
        else if (job->y.data)
            memset(row_at(job->y, t, b), 0, H * sizeof(real));
    }
}

static void normed_forward_steps(const normed_job *job, range steps, range rows)
{
    for (size_t t = steps.from; t < steps.to; t++) {
        if ((t - steps.from) % job->block == 0)
            normed_inputs(job, (range){t, smaller(t + job->block, steps.to)}, rows);
        normed_forward_step(job, t, rows);
    }
}

/* task = share * count + job */
static void normed_forward_share(void *arg, size_t task)
{
    const normed_run *run = arg;
    const fp_mode mode = flush_denormals();
    normed_forward_steps(run->jobs + task % run->count, run->steps,
                         rows_of_share(run, task / run->count));
    restore_denormals(mode);
}

/* ---- the whole passes ------------------------------------------------------------------------ */

PK_COLD static pk_rnn_partition normed_partition(const pk_rnn_shape *s, size_t count, int nthreads)
{
    enum { SERIAL_BELOW = 1 << 20 }; /* multiply-adds: some 10 microseconds */
    const size_t groups = groups_of(s->B), least = (s->B + ROW_BLOCK - 1) / ROW_BLOCK;
    const size_t all = times(times(times(count, s->T), s->B), times(3 * s->H, plus(s->I, s->H)));
    pk_rnn_partition parts = {least, 1, 1};
    if (nthreads > 1 && all >= SERIAL_BELOW) {
        const size_t share = smaller(((size_t)nthreads + count - 1) / count, groups);
        parts.nthreads = nthreads;
        parts.rows = share > least ? share : least;
    }
    return parts;
}

static normed_run normed_run_of(normed_job *jobs, size_t count, int nthreads)
{
    const pk_rnn_partition parts = normed_partition(&jobs->s, count, nthreads);
    return (normed_run){jobs, count, parts.rows, {0, jobs->s.T}, parts.nthreads};
}

PK_COLD static normed_job normed_job_of(const pk_rnn_layer *layer, const normed_cell *cell,
                                        int is_backward)
{
    normed_job job = normed_job_for(&layer->shape, cell);
    job.w = layer->weights;
    job.x = in_order_of_steps(layer->x, &job.s);
    job.h = layer->h;
    job.c = cell->states == 2 ? layer->c : NULL;
    job.from_zeros = !layer->h0;
    place_pass(&job, align(layer->scratch), is_backward);
    if (job.s.save == PK_SAVE_FULL) {
        size_t end = 0;
        place_rows(&job, layer->gates, &end, job.x_window, job.window);
    }
    normed_biases(&job);
    return job;
}

/* The states after a reset, from the initial ones. */
PK_COLD static void normed_begin_resets(normed_job *job)
{
    const size_t P = job->P, B = job->s.resets ? job->s.B : 0;
    const int initial = job->s.reset_to_initial;
    copy_in(job->reset_h, P, initial ? job->h : NULL, P, B);
    copy_in(job->reset_c, P, initial && job->c ? job->c : NULL, P, B);
}

static void normed_forward(const pk_rnn_layer *layers, size_t count, int nthreads,
                           const normed_cell *cell)
{
    normed_job jobs[2];
    for (size_t i = 0; i < count; i++) {
        normed_job *job = jobs + i;
        *job = normed_job_of(layers + i, cell, 0);
        job->y = in_order_of_steps(layers[i].y, &job->s);
        copy_in(job->h, job->P, layers[i].h0, job->s.H, job->s.B);
        if (job->c)
            copy_in(job->c, job->P, layers[i].c0, job->s.H, job->s.B);
        normed_begin_resets(job);
    }
    normed_run run = normed_run_of(jobs, count, nthreads);
    pk_parallel(normed_pack, &run, count * panels_of(jobs->N), run.nthreads);
    pk_parallel(normed_forward_share, &run, count * run.shares, run.nthreads);
    for (size_t i = 0; i < count; i++) {
        const normed_job *job = jobs + i;
        const size_t T = job->s.T, B = job->s.B;
        copy_out(layers[i].h_last, state_at(job, job->h, T, 0), job->P, job->s.H, B);
        if (job->c)
            copy_out(layers[i].c_last, state_at(job, job->c, T, 0), job->P, job->s.H, B);
    }
}

#endif
