/* The backward pass of a recurrent layer: goes back step by step, replaces the gates by dA and
 * carries dh and dc.  From dA, rnn_gradients.h then computes dx and the gradients of the weights.
 * This is done for a run of steps at a time: a window, if forward did not keep the gates of all
 * steps.  rnn_backward is a kernel of the table (rnn_passes.h). */
#ifndef PK_RNN_BACKWARD_H
#define PK_RNN_BACKWARD_H

#include "rnn_gradients.h"

/* Whether products read w [G * H, N] in place.  Packing takes as long as reading w twice, and makes
 * each product a few per cent faster: it does not pay if there are few steps of few rows. */
static int is_read_in_place(const pk_rnn_shape *s, columns of, size_t N)
{
    enum { ROWS_WORTH_PACKING = 32 };
    for (size_t j = 0; j < of.count; j++)
        if (of.gate[j] != j)
            return 0;
    return !rounded(s->products) && N % LANES == 0 && times(s->T, s->B) < ROWS_WORTH_PACKING;
}

/* Packs one panel's rows of w [G * H, N], WIDTH columns from n * WIDTH on. */
static void rnn_pack_rows(const rnn_job *job, columns of, real *to, const real *w, size_t N,
                          size_t n, size_t panel)
{
    const size_t H = job->s.H, unit = panel * UNITS, units = units_of(panel, H);
    to += (n * elements_in(job, of) + elements_of(job->products, of.count * unit)) * WIDTH;
    packing_of(job->products)->gate_rows(to, w, H, N, n, unit, units, of.gate, of.count);
}

/* A task packs WIDTH columns for one panel of units; all of w_hh come first, then w_ih. */
static void rnn_pack_backward(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t panels = panels_in(job->s.H), of_w_hh = job->Q / WIDTH;
    const size_t panel = task / run->count % panels, n = task / run->count / panels;
    if (CELL_HAS_S && n < of_w_hh)
        rnn_pack_rows(job, OF_S, job->packed_w_s, job->w.w_hh, job->R, n, panel);
    if (n < of_w_hh && job->packed_w_hh)
        rnn_pack_rows(job, OF_H, job->packed_w_hh, job->w.w_hh, job->R, n, panel);
    else if (n >= of_w_hh && job->packed_w_ih)
        rnn_pack_rows(job, OF_X, job->packed_w_ih, job->w.w_ih, job->s.I, n - of_w_hh, panel);
}

/* ---- what forward did not keep --------------------------------------------------------------- */

/* If the products do not read the states themselves: copies h before each step of a run; task =
 * step * count + job. */
static void rnn_before_again(void *arg, size_t task)
{
    const rnn_run *run = arg;
    rnn_copy_before(run->jobs + task % run->count, run->steps.from + task / run->count);
}

/* Computes gates and c of all steps of a run again, by the same operations as forward. */
static void rnn_again(const rnn_job *job, range steps, size_t i, int phase, range rows,
                      range columns)
{
    const range panels = panels_of(job, columns), with_h = steps_with_h(job, steps);
    const pk_sequence h = {h_before(job, with_h.from, 0), (ptrdiff_t)(job->s.B * job->P_before),
                           (ptrdiff_t)job->P_before};
    (void)i; /* always 0: one call for all steps */
    if (phase == 0) {
        rnn_inputs(job, steps, rows, panels);
        for (size_t panel = panels.from; panel < panels.to; panel++)
            rnn_products(job, OF_H, h, job->K_h, packed_w_hh(job, panel), panel, with_h, rows,
                         NULL);
        for (size_t t = steps.from; t < steps.to && CELL_HAS_S; t++)
            for (size_t panel = panels.from; panel < panels.to; panel++)
                rnn_s(job, t, rows, panel, gates_at(job, panel, t, rows.from));
    }
    if (phase != PHASES - 1) /* h is known, so that there is nothing to project */
        return;
    for (size_t panel = panels.from; panel < panels.to && CELL_HAS_S; panel++)
        rnn_products_of_s(job, with_h, rows, panel);
    const range units = {panels.from * UNITS, smaller(panels.to * UNITS, job->P_c)};
    for (size_t b = rows.from; b < rows.to && CELL_HAS_C; b++)
        memcpy(c_before(job, steps.from, b) + units.from, c_at(job, steps.from, b) + units.from,
               length(units) * sizeof(real));
    for (size_t t = steps.from; t < steps.to; t++) {
        if (job->rare)
            rnn_draw(job, steps, t, 0, rows, columns);
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            real *a = gates_at(job, panel, t, rows.from);
            rnn_rare_cells(job, t, rows, panel, a, a, c_before(job, t, rows.from),
                           c_behind(job, t, rows.from), 1);
        }
    }
}

/* ---- the recurrence -------------------------------------------------------------------------- */

/* d is the gradient of a state before a step; `anew`: whether a reset is there.  Returns what
 * passes to the step before: 0 at a reset.  There, with reset_to_initial, d is added to `sum`. */
PK_INLINE vec past_reset(const rnn_job *job, int anew, vec d, real *sum)
{
    if (!anew)
        return d;
    if (job->s.reset_to_initial)
        store(sum, load(sum) + d);
    return broadcast(0);
}

/* With dropout of h: the gradient of the product of h and its mask, times the mask. */
__attribute__((noinline)) static vec past_dropout(const rnn_job *job, size_t b, size_t at)
{
    if (!job->h_mask)
        return (vec){0};
    real *const d = job->dh_masked + b * job->Q + at;
    const vec dh = dropped_h(job, b, at, load(d));
    store(d, (vec){0});
    return dh;
}

/* The gradient of some features of h after step t: dy plus dh; `anew`: whether a reset follows. */
PK_INLINE vec rnn_dh(const rnn_job *job, size_t t, size_t b, size_t at, size_t lanes,
                     const int rare, int anew)
{
    vec dh = load(job->dh + b * job->Q + at);
    if (rare && job->h_mask)
        dh += past_dropout(job, b, at);
    if (rare)
        dh = past_reset(job, anew, dh, job->dh_resets + b * job->Q + at);
    if (job->dy.data && (active(job, t, b) || job->s.repeat_last))
        dh += load_n(row_at(job->dy, t, b) + at, lanes);
    return dh;
}

/* For some units of a row: replaces the gates by dA, and dc by the gradient of c_prev.  Leaves in
 * dh the part of the gradient of h_prev that does not pass through w_hh; the product is added
 * later.  `rare`: whether there are options of job->rare; `anew`, `next_anew`: whether there are
 * resets before and after the step.  With a projection the gradient of m is known, and m is
 * computed again. */
PK_INLINE void rnn_cell_backward(const rnn_job *job, size_t t, size_t b, place p, const int rare,
                                 int anew, int next_anew)
{
    real *gates = gates_at(job, p.panel, t, b) + p.vector * LANES;
    const int projected = rare && projects(&job->s);
    real *dh_b = projected ? job->ds + b * job->Q_c + p.unit : job->dh + b * job->Q + p.unit;
    real *dc_b = CELL_HAS_C ? job->dc + b * job->P_c + p.unit : NULL;
    vec dh = projected ? load(dh_b) : rnn_dh(job, t, b, p.unit, p.lanes, rare, next_anew);
    vec dc = dc_b ? load(dc_b) : (vec){0};
    if (rare && dc_b)
        dc = past_reset(job, next_anew, dc, job->dc_resets + b * job->P_c + p.unit);
    if (!active(job, t, b)) {
        memset(gates, 0, (VECTORS == 1 ? WIDTH : LANES) * sizeof *gates);
        store(dh_b, dh);
        return;
    }
    const real *h_prev = anew ? job->reset_h + b * job->P_h : h_at(job, t, b);
    const real *c_prev = anew ? job->reset_c + b * job->P_c : c_before(job, t, b);
    cell_states states = {
        .h_prev = projected ? dh : load(h_prev + p.unit),
        .h = projected ? dh : load(h_at(job, t + 1, b) + p.unit),
        .c_prev = CELL_HAS_C ? load(c_prev + p.unit) : (vec){0},
        .c = CELL_HAS_C && (rare || job->s.cell_clip > 0) ? load(c_behind(job, t, b) + p.unit)
                                                          : (vec){0},
        .own_h = !rare || !(projected || noise_p(&job->s, ZONEOUT_H) > 0),
    };
    const cell_context context = rare ? noisy_context(job, t, b, p.unit) : context_of(job, p.unit);
    vec past_h = {0}, past_c = {0};
    if (rare && !projected && draws(&job->s, ZONEOUT_H))
        past_h = past_zoneout(job, ZONEOUT_H, t, b, p.unit, &dh);
    if (rare && job->c_new) {
        past_c = past_zoneout(job, ZONEOUT_C, t, b, p.unit, &dc);
        states.c = cell_new_c(&context, gates, p.n, states.c_prev);
    }
    if (projected)
        store(s_at(job, t, b) + p.unit, cell_before_projection(gates, p.n, states.c));
    cell_gradient(&context, gates, p.n, p.lanes, states, &dh, &dc);
    if (rare)
        dh += past_h, dc += past_c;
    if (dc_b)
        store(dc_b, dc);
    store(dh_b, dh);
}

PK_INLINE void rnn_cells_backward(const rnn_job *job, size_t t, range rows, range panels,
                                  const int rare)
{
    for (size_t panel = panels.from; panel < panels.to; panel++)
        for (size_t b = rows.from; b < rows.to; b++) {
            const int anew = rare && is_reset(job, t, b), next = rare && is_reset(job, t + 1, b);
            for (size_t v = 0; v < vectors_of(job, panel); v++)
                rnn_cell_backward(job, t, b, place_of(job, panel, v), rare, anew, next);
        }
}

/* With a projection: the gradient of h after step t, which passes to m, is now known. */
static void rnn_h_backward(const rnn_job *job, size_t t, range rows, range features)
{
    for (size_t b = rows.from; b < rows.to; b++)
        for (size_t at = features.from; at < features.to; at += LANES) {
            const int anew = is_reset(job, t + 1, b);
            vec dh = rnn_dh(job, t, b, at, smaller(job->R - at, LANES), 1, anew), past = dh;
            if (active(job, t, b))
                past = past_zoneout(job, ZONEOUT_H, t, b, at, &dh);
            else
                dh = broadcast(0);
            store(dh_row(job, t, b) + at, dh);
            store(job->dh + b * job->Q + at, past);
        }
    if (rounded(job->products))
        job->products->round_left(job->dh_rounded + rows.from * job->K_Q +
                                      elements_of(job->products, features.from),
                                  job->K_Q, dh_row(job, t, rows.from) + features.from,
                                  (ptrdiff_t)job->Q, length(rows), length(features));
}

/* The gradient of m of step t for some columns of units. */
static void rnn_m_backward(const rnn_job *job, size_t t, range rows, range columns)
{
    const range live = active_rows(job, t, rows);
    const size_t n = columns.from * WIDTH, N = smaller(columns.to * WIDTH, job->P_c) - n;
    const real *dh =
        rounded(job->products) ? job->dh_rounded + live.from * job->K_Q : dh_row(job, t, live.from);
    if (length(live))
        product(length(live), N, job->K_h, strided(dh, (ptrdiff_t)job->K_Q, 1),
                rounded_panels(job->products, job->packed_w_hr + n * job->R, job->R),
                job->ds + live.from * job->Q_c + n, job->Q_c, ZEROS);
}

/* For cells with s, for some columns of units: the gradient of s of step t, which needs dA of all
 * units; then its part of dA and dh. */
static void rnn_s_backward(const rnn_job *job, size_t t, range rows, range columns)
{
    const range live = active_rows(job, t, rows), panels = panels_of(job, columns);
    const size_t n = columns.from * WIDTH;
    right_operand w = weight_rows(job, OF_S, job->packed_w_s, NULL, job->R);
    w.b += columns.from * w.panel;
    rnn_da_product(job, OF_S, t, live, smaller(columns.to * WIDTH, job->P_h) - n, w,
                   job->ds + live.from * job->Q_c + n, job->Q_c, ZEROS);
    for (size_t panel = panels.from; panel < panels.to; panel++)
        for (size_t b = live.from; b < live.to; b++)
            for (size_t v = 0; v < vectors_of(job, panel) && active(job, t, b); v++) {
                const place p = place_of(job, panel, v);
                const vec h = dropped_h(job, b, p.unit,
                                        load(h_or_reset(job, t, b, h_at(job, t, b)) + p.unit));
                real *dh_b = (job->h_mask ? job->dh_masked : job->dh) + b * job->Q + p.unit;
                vec dh = load(dh_b);
                store(s_at(job, t, b) + p.unit,
                      cell_s_gradient(gates_at(job, panel, t, b) + v * LANES, p.n, p.lanes, h,
                                      load(job->ds + b * job->Q_c + p.unit), &dh));
                store(dh_b, dh);
            }
}

/* The i-th step from the end: first dh += dA w_hh with dA of the step after it, which needs all
 * units, then the cell. */
static void rnn_backward_step(const rnn_job *job, range steps, size_t i, int phase, range rows,
                              range columns)
{
    const size_t t = steps.to - i;
    const range panels = panels_of(job, columns), features = features_of(job, columns);
    real *const dh = job->h_mask ? job->dh_masked : job->dh;
    if (job->rare && i < length(steps) && phase == 0)
        rnn_draw(job, steps, t - 1, 1, rows, columns);
    if (i > 0 && phase == 0) { /* dh of the state before step t */
        const range live = rows_that(gives_dh, job, t, rows);
        right_operand w = weight_rows(job, OF_H, job->packed_w_hh, job->w.w_hh, job->R);
        w.b += features.from / WIDTH * w.panel;
        if (length(live) && length(features))
            rnn_da_product(job, OF_H, t, live, length(features), w,
                           dh + live.from * job->Q + features.from, job->Q, NULL);
    }
    if (i == length(steps))
        return;
    if (CELL_HAS_S && phase == 1)
        rnn_s_backward(job, t - 1, rows, columns);
    if (projects(&job->s) && phase == 0)
        rnn_h_backward(job, t - 1, rows, features);
    if (phase != (CELL_HAS_S ? 0 : phases_of(job) - 1))
        return;
    if (projects(&job->s))
        rnn_m_backward(job, t - 1, rows, columns);
    if (job->rare)
        rnn_cells_backward(job, t - 1, rows, panels, 1);
    else
        rnn_cells_backward(job, t - 1, rows, panels, 0);
}

/* ---- the whole pass -------------------------------------------------------------------------- */

static rnn_job rnn_backward_job(const pk_rnn_layer *layer, const pk_rnn_gradients *gradients)
{
    rnn_job job = rnn_job_of(layer, backward_scratch);
    job.dw = gradients->grads;
    job.dy = in_order_of_steps(gradients->dy, &job.s);
    job.dx = in_order_of_steps(gradients->dx, &job.s);
    job.accumulate = gradients->accumulate;
    job.wants_dh0 = gradients->dh0 != NULL;
    if (is_read_in_place(&job.s, OF_H, job.R))
        job.packed_w_hh = NULL;
    if (is_read_in_place(&job.s, OF_X, job.s.I))
        job.packed_w_ih = NULL;
    if (!keeps_gates(&job.s))
        job.window = steps_of_window(&job.s);
    copy_in(job.dh, job.Q, gradients->dh_last, job.R, job.s.B);
    if (CELL_HAS_C)
        copy_in(job.dc, job.P_c, gradients->dc_last, job.s.H, job.s.B);
    rnn_begin_resets(&job);
    noise_begin(&job);
    if (job.h_mask)
        copy_in(job.dh_masked, job.Q, NULL, job.R, job.s.B);
    if (job.s.resets)
        copy_in(job.dh_resets, job.Q, NULL, job.R, job.s.B);
    if (job.s.resets && CELL_HAS_C)
        copy_in(job.dc_resets, job.P_c, NULL, job.s.H, job.s.B);
    return job;
}

/* The gradient of the initial state: that of the state before the first step, also through dropout.
 * At a reset in step 0 that is 0; what later resets passed to the initial state is added. */
static void rnn_finish_dh0(const rnn_job *job)
{
    for (size_t b = 0; b < job->s.B && job->h_mask; b++)
        for (size_t at = 0; at < job->P_h; at += LANES) {
            real *const dh = job->dh + b * job->Q + at;
            store(dh, load(dh) + past_dropout(job, b, at));
        }
    for (size_t b = 0; b < job->s.B && job->s.resets; b++) {
        real *const d[] = {job->dh + b * job->Q, CELL_HAS_C ? job->dc + b * job->P_c : NULL};
        real *const sums[] = {job->dh_resets + b * job->Q, job->dc_resets + b * job->P_c};
        const size_t widths[] = {job->P_h, job->P_c};
        for (size_t i = 0; i < 1 + CELL_HAS_C; i++)
            for (size_t at = 0; at < widths[i]; at += LANES) {
                const int anew = is_reset(job, 0, b);
                const vec past = past_reset(job, anew, load(d[i] + at), sums[i] + at);
                store(d[i] + at, past + load(sums[i] + at));
            }
    }
}

/* The steps of a run if the gates of all steps are kept: so many that dA is still in the L2 cache
 * when products read it.  All steps, if a block of a product is too much for that. */
static size_t steps_of_run(const rnn_job *job, size_t count)
{
    const size_t row = times(count * WIDTH * sizeof(real), panels_in(job->s.H));
    const size_t fit = L2_SHARE / 2 / row;
    const size_t block = MOST_K * (rounded(job->products) ? job->products->per : 1);
    const size_t runs = 2 * fit < block ? 0 : job->s.T * job->s.B / (fit > block ? fit : block);
    return runs > 1 ? (job->s.T + runs - 1) / runs : job->window; /* which is T, or 1 */
}

static void rnn_backward(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients,
                         size_t count, int nthreads)
{
    rnn_job jobs[2];
    for (size_t i = 0; i < count; i++)
        jobs[i] = rnn_backward_job(layers + i, gradients + i);
    const int again = computes_again(&jobs->s);
    const size_t panels = panels_in(jobs->s.H);
    const size_t steps = keeps_gates(&jobs->s) ? steps_of_run(jobs, count) : jobs->window;
    const size_t of_w_ih = jobs->dx.data ? round_up(jobs->s.I, WIDTH) / WIDTH : 0;
    size_t to = jobs->s.T;
    rnn_run run = rnn_run_of(jobs, count, nthreads);
    run.is_backward = 1;
    pk_parallel(rnn_pack_backward, &run, count * (jobs->Q / WIDTH + of_w_ih) * panels,
                run.nthreads);
    if (projects(&jobs->s))
        pk_parallel(rnn_pack_projection, &run, count * jobs->Q_c / WIDTH, run.nthreads);
    if (again)
        pk_parallel(rnn_pack_forward, &run, count * panels, run.nthreads);
    do {
        run.steps = (range){to > steps ? (to - 1) / steps * steps : 0, to};
        if (again && rounded(jobs->products))
            pk_parallel(rnn_round_x, &run, count * length(run.steps), run.nthreads);
        if (again && jobs->before)
            pk_parallel(rnn_before_again, &run, count * length(run.steps), run.nthreads);
        if (again)
            rnn_walk_steps(&run, rnn_again, 1);
        rnn_walk_steps(&run, rnn_backward_step, length(run.steps) + 1);
        rnn_gradients_of(&run);
        for (size_t i = 0; i < count; i++)
            jobs[i].accumulate = 1;
        to = run.steps.from;
    } while (to > 0);
    for (size_t i = 0; i < count; i++) {
        const rnn_job *job = jobs + i;
        rnn_finish_dh0(job);
        copy_out(gradients[i].dh0, job->dh, job->Q, job->R, job->s.B);
        if (CELL_HAS_C)
            copy_out(gradients[i].dc0, job->dc, job->P_c, job->s.H, job->s.B);
    }
}

#endif
