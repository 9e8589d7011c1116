/* The backward pass of a layer-normalized layer, for normed.c: first the recurrence, which replaces
 * products and gates by their gradients, then dx and the gradients of the weights, which are
 * products over all steps.  If forward did not keep the rows of all steps, this is done window by
 * window, and forward runs again in each. */
#ifndef PK_NORMED_BACKWARD_H
#define PK_NORMED_BACKWARD_H

#include "normed_forward.h"

/* ---- backward: the recurrence ---------------------------------------------------------------- */

/* pack_row, compiled once. */
__attribute__((noinline)) static void normed_pack_row(real *to, const real *from, size_t width)
{
    pack_row(to, from, width);
}

/* Packs a panel of both weights without transposition; task = panel * count + job. */
static void normed_pack_rows(void *arg, size_t task)
{
    const normed_run *run = arg;
    const normed_job *job = run->jobs + task % run->count;
    const size_t n = task / run->count * WIDTH, I = job->s.I, H = job->s.H;
    for (size_t k = 0; k < job->N; k++) {
        if (n < I && job->dx.data)
            normed_pack_row(job->rows_ih + n * job->N + k * WIDTH,
                            (const real *)job->w.w_ih + k * I + n, smaller(I - n, WIDTH));
        if (n < H)
            normed_pack_row(job->rows_hh + n * job->N + k * WIDTH,
                            (const real *)job->w.w_hh + k * H + n, smaller(H - n, WIDTH));
    }
}

/* Replaces products and gates of step t of a row by their gradients; past its end by 0. */
static void normed_row_backward(const normed_job *job, size_t t, size_t b)
{
    const int active = is_active(&job->s, t, b);
    const normed_row r = row_of(job, t, b);
    real *const dh = job->dh + b * job->P, *const dc = job->dc + b * job->P;
    for (size_t u = 0; u < job->s.H && job->dy.data && (active || job->s.repeat_last); u += LANES) {
        const size_t n = smaller(job->s.H - u, LANES);
        add_n(dh + u, load_n(row_at(job->dy, t, b) + u, n), n);
    }
    if (active) {
        job->cell->backward(job, &r, dh, dc, job->sums + b / ROW_GROUP * sums_of(job));
        return;
    }
    memset(r.x, 0, job->N * sizeof(real));
    memset(r.h, 0, job->N * sizeof(real));
    memset(r.gates, 0, 4 * job->s.H * sizeof(real));
}

/* At a reset no gradient passes on.  With reset_to_initial it adds to that of the initial state. */
static void normed_past_reset(const normed_job *job, real *d, real *sum)
{
    for (size_t u = 0; u < job->P; u += LANES) {
        if (job->s.reset_to_initial)
            store(sum + u, load(sum + u) + load(d + u));
        store(d + u, (vec){0});
    }
}

static void normed_backward_step(const normed_job *job, size_t t, range rows)
{
    const range live = active_rows(job, t, rows);
    const size_t P = job->P;
    for (size_t b = rows.from; b < rows.to; b++)
        normed_row_backward(job, t, b);
    if (t > 0 || job->wants_dh0)
        times_panels(length(live), P, job->N,
                     strided(product_at(job, t, live.from), (ptrdiff_t)job->row, 1), job->rows_hh,
                     job->dh + live.from * P, P, NULL);
    for (size_t b = live.from; b < live.to && job->s.resets; b++)
        if (begins_anew(&job->s, t, b)) {
            normed_past_reset(job, job->dh + b * P, job->dh_resets + b * P);
            normed_past_reset(job, job->dc + b * P, job->dc_resets + b * P);
        }
}

static void normed_backward_share(void *arg, size_t task)
{
    const normed_run *run = arg;
    const normed_job *job = run->jobs + task % run->count;
    const range rows = rows_of_share(run, task / run->count);
    const fp_mode mode = flush_denormals();
    if (job->s.save == PK_SAVE_MINIMAL)
        normed_forward_steps(job, run->steps, rows);
    for (size_t t = run->steps.to; t-- > run->steps.from;)
        normed_backward_step(job, t, rows);
    restore_denormals(mode);
}

/* ---- backward: products over all steps ------------------------------------------------------- */

typedef struct {
    const normed_job *job;
    range steps;
    size_t parts; /* the steps for dx and the rows of dw are divided into so many */
    int adds;     /* whether it adds to dw */
} normed_gradient;

/* dx of some steps; one product if all its rows have the same stride. */
static void normed_dx(void *arg, size_t task)
{
    const normed_gradient *g = arg;
    const normed_job *job = g->job;
    const size_t B = job->s.B, row = (size_t)job->dx.b_stride;
    const size_t from = g->steps.from + pk_chunk_begin(length(g->steps), task, g->parts);
    const size_t to = g->steps.from + pk_chunk_begin(length(g->steps), task + 1, g->parts);
    const size_t together = job->dx.t_stride == (ptrdiff_t)(B * row) ? to - from : 1;
    const fp_mode mode = flush_denormals();
    for (size_t t = from; t < to; t += together)
        times_panels(B * together, job->s.I, job->N,
                     strided(x_at(job, t, 0), (ptrdiff_t)job->row, 1), job->rows_ih,
                     row_at(job->dx, t, 0), row, job->adds_to_dx ? NULL : ZEROS);
    restore_denormals(mode);
}

/* Row k of the right-hand side of a gradient, counted through steps and batch rows: x or h before
 * the step; NULL for 0. */
PK_INLINE const real *normed_right(const normed_gradient *g, size_t k, int is_h)
{
    const normed_job *job = g->job;
    const size_t t = g->steps.from + k / job->s.B, b = k % job->s.B;
    if (!is_active(&job->s, t, b))
        return NULL;
    return is_h ? row_of(job, t, b).h_prev : row_at(job->x, t, b);
}

/* WIDTH columns of dw_ih, then of dw_hh, for a part of their rows. */
static void normed_dw(void *arg, size_t task)
{
    const normed_gradient *g = arg;
    const normed_job *job = g->job;
    const size_t panel = task / g->parts, part = task % g->parts, of_x = panels_of(job->s.I);
    const int is_h = panel >= of_x;
    const size_t N = is_h ? job->s.H : job->s.I, n = (is_h ? panel - of_x : panel) * WIDTH;
    const size_t from = pk_chunk_begin(job->N, part, g->parts);
    const size_t to = pk_chunk_begin(job->N, part + 1, g->parts), width = smaller(N - n, WIDTH);
    const size_t K = length(g->steps) * job->s.B;
    const real *d = is_h ? product_at(job, g->steps.from, 0) : x_at(job, g->steps.from, 0);
    real *const dw = is_h ? job->dw.w_hh : job->dw.w_ih;
    enum { DEPTH = K_BLOCK / 2 }; /* 16 KiB of stack */
    _Alignas(ALIGNMENT) real packed[DEPTH * WIDTH];
    const fp_mode mode = flush_denormals();
    size_t k0 = 0;
    do { /* once even with no terms, to set the result */
        const size_t depth = smaller(K - k0, DEPTH);
        for (size_t k = 0; k < depth && dw; k++) {
            const real *const row = normed_right(g, k0 + k, is_h);
            normed_pack_row(packed + k * WIDTH, row ? row + n : ZEROS, width);
        }
        for (size_t r = from; r < to && dw; r += ROW_BLOCK) {
            const term t = {depth, strided(d + k0 * job->row + r, 1, (ptrdiff_t)job->row),
                            in_panels(packed, depth)};
            product_panel(smaller(to - r, ROW_BLOCK), width, &t, 1, dw + r * N + n, N,
                          k0 || g->adds ? NULL : ZEROS);
        }
    } while ((k0 += DEPTH) < K);
    restore_denormals(mode);
}

/* dx, and the gradients of the weights, summed over the steps of a run. */
static void normed_gradients_of(const normed_run *run, int is_first)
{
    const size_t threads = (size_t)run->nthreads;
    for (size_t i = 0; i < run->count; i++) {
        const normed_job *job = run->jobs + i;
        const size_t steps = length(run->steps), panels = panels_of(job->s.I) + panels_of(job->s.H);
        normed_gradient g = {job, run->steps, 1, !is_first || job->accumulate};
        if (threads > 1)
            g.parts = smaller(steps, 2 * threads);
        if (job->dx.data && steps)
            pk_parallel(normed_dx, &g, g.parts, run->nthreads);
        g.parts = threads > 1 ? smaller(job->N, 1 + 4 * threads / panels) : 1;
        pk_parallel(normed_dw, &g, panels * g.parts, run->nthreads);
    }
}

/* ---- the whole pass -------------------------------------------------------------------------- */

static normed_job normed_backward_job(const pk_rnn_layer *layer, const pk_rnn_gradients *gradients,
                                      const normed_cell *cell)
{
    normed_job job = normed_job_of(layer, cell, 1);
    const size_t B = job.s.B;
    job.dw = gradients->grads;
    job.dy = in_order_of_steps(gradients->dy, &job.s);
    job.dx = in_order_of_steps(gradients->dx, &job.s);
    job.accumulate = gradients->accumulate;
    job.wants_dh0 = gradients->dh0 != NULL;
    copy_in(job.dh, job.P, gradients->dh_last, job.s.H, B);
    copy_in(job.dc, job.P, gradients->dc_last, job.s.H, B);
    copy_in(job.sums, sums_of(&job), NULL, 0, groups_of(B));
    normed_begin_resets(&job);
    if (job.s.resets) {
        copy_in(job.dh_resets, job.P, NULL, 0, B);
        copy_in(job.dc_resets, job.P, NULL, 0, B);
    }
    return job;
}

/* The recurrences of some jobs, then dx and the gradients of the weights. */
static void normed_backward_jobs(normed_job *jobs, size_t count, int nthreads)
{
    const size_t window = jobs->window, widest = jobs->s.I > jobs->s.H ? jobs->s.I : jobs->s.H;
    normed_run run = normed_run_of(jobs, count, nthreads);
    size_t to = jobs->s.T;
    if (jobs->s.save == PK_SAVE_MINIMAL)
        pk_parallel(normed_pack, &run, count * panels_of(jobs->N), run.nthreads);
    pk_parallel(normed_pack_rows, &run, count * panels_of(widest), run.nthreads);
    do {
        run.steps = (range){to > window ? (to - 1) / window * window : 0, to};
        pk_parallel(normed_backward_share, &run, count * run.shares, run.nthreads);
        normed_gradients_of(&run, to == jobs->s.T);
        to = run.steps.from;
    } while (to > 0);
}

static void normed_backward(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients,
                            size_t count, int nthreads, const normed_cell *cell)
{
    normed_job jobs[2];
    for (size_t i = 0; i < count; i++)
        jobs[i] = normed_backward_job(layers + i, gradients + i, cell);
    jobs[0].adds_to_dx = 0;
    if (count > 1)
        jobs[1].adds_to_dx = gradients[0].dx.data == gradients[1].dx.data;
    /* With windows, two jobs at once would add to dx in an order that depends on the windows. */
    const size_t together = jobs->s.save == PK_SAVE_MINIMAL ? 1 : count;
    for (size_t i = 0; i < count; i += together)
        normed_backward_jobs(jobs + i, together, nthreads);
    for (size_t i = 0; i < count; i++) {
        const normed_job *job = jobs + i;
        const size_t B = job->s.B, P = job->P;
        for (size_t k = 0; k < B * P && job->s.resets; k++)
            job->dh[k] += job->dh_resets[k], job->dc[k] += job->dc_resets[k];
        normed_sums(job);
        copy_out(gradients[i].dh0, job->dh, P, job->s.H, B);
        if (job->c)
            copy_out(gradients[i].dc0, job->dc, P, job->s.H, B);
    }
}

#endif
