/* LSTM backward: dA step by step over the gates, dh with it; then what rnn_gradients.h makes of dA.
 * Where forward kept less, the steps are done in stretches, whose gates are computed again first. */
#ifndef PK_RNN_BACKWARD_H
#define PK_RNN_BACKWARD_H

#include "rnn_gradients.h"

/* Whether products read w [4H, N] as it lies.  To pack it takes as long as two walks over it and makes
 * every walk some per cent faster, so it does not pay for few rows of few steps. */
static int is_read_as_it_lies(const pk_rnn_shape *s, size_t N)
{
    enum { ROWS_WORTH_PACKING = 32 };
    return N % LANES == 0 && s->T * s->B < ROWS_WORTH_PACKING;
}

/* Task: the rows of a panel of units in WIDTH columns of w_hh, then of w_ih, of a job. */
static void rnn_prepare_backward(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t panels = job->P / LANES, of_w_hh = job->Q / WIDTH;
    const size_t panel = task / run->count % panels, n = task / run->count / panels;
    const size_t H = job->s.H, I = job->s.I, size = GATES * H * WIDTH;
    if (n < of_w_hh && job->packed_w_hh)
        pack_gate_rows(job->packed_w_hh + n * size, job->w.w_hh, H, H, n, panel);
    else if (n >= of_w_hh && job->packed_w_ih)
        pack_gate_rows(job->packed_w_ih + (n - of_w_hh) * size, job->w.w_ih, H, I, n - of_w_hh,
                       panel);
}

/* ---- what forward did not keep --------------------------------------------------------------- */

/* Gates and c of all steps of a run, by the operations of forward, as one product. */
static void rnn_again(const rnn_job *job, range steps, size_t i, range rows, range columns)
{
    const size_t B = job->s.B, P = job->P;
    const pk_sequence h = {job->h, (ptrdiff_t)(B * P), (ptrdiff_t)P};
    const range panels = panels_of(job, columns), with_h = steps_with_h(job, steps);
    (void)i; /* there is but one */
    rnn_inputs(job, steps, rows, panels);
    for (size_t panel = panels.from; panel < panels.to; panel++)
        rnn_products(job, h, job->s.H, packed_panel(job, panel) + (1 + job->s.I) * WIDTH, panel,
                     with_h, rows, NULL);
    for (size_t b = rows.from; b < rows.to; b++)
        for (size_t unit = panels.from * LANES; unit < panels.to * LANES; unit += LANES)
            store(c_around(job, steps.from, b) + unit, load(c_at(job, steps.from, b) + unit));
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t panel = panels.from; panel < panels.to; panel++)
            for (size_t b = rows.from; b < rows.to; b++)
                cell_again(job, t, b, panel);
}

/* ---- the recurrence -------------------------------------------------------------------------- */

/* The i-th step from the end: dh += dA w_hh of the step after it, for which all units are needed, then
 * the cell. */
static void rnn_backward_step(const rnn_job *job, range steps, size_t i, range rows, range columns)
{
    const size_t H = job->s.H, t = steps.to - i;
    const range panels = panels_of(job, columns);
    right_operand w = gate_rows(job, job->packed_w_hh, job->w.w_hh, H);
    w.b += columns.from * w.panel;
    if (i > 0 && (t > 0 || job->wants_dh0)) { /* the state before it */
        const range live = active_rows(job, t, rows);
        product(length(live), length(panels) * LANES, GATES * H, da_at(job, t, live.from), w,
                job->dh + live.from * job->Q + columns.from * WIDTH, job->Q, NULL);
    }
    if (i < length(steps))
        for (size_t panel = panels.from; panel < panels.to; panel++)
            for (size_t b = rows.from; b < rows.to; b++)
                cell_backward(job, t - 1, b, panel);
}

/* ---- the whole pass -------------------------------------------------------------------------- */

/* A job with the scratch memory cut up for backward. */
static rnn_job rnn_backward_job(const pk_lstm *layer)
{
    rnn_job job = rnn_job_for(layer);
    const size_t B = job.s.B, K = GATES * job.s.H;
    job.packed_w_hh = align(layer->scratch);
    job.packed_w_ih = job.packed_w_hh + packed_size(K, job.s.H);
    job.dh = job.packed_w_ih + packed_size(K, job.s.I);
    job.dc = job.dh + B * job.Q;
    if (is_read_as_it_lies(&job.s, job.s.H))
        job.packed_w_hh = NULL;
    if (is_read_as_it_lies(&job.s, job.s.I))
        job.packed_w_ih = NULL;
    job.wants_dh0 = layer->dh0 != NULL;
    copy_in(job.dh, job.Q, layer->dh_last, job.s.H, B);
    copy_in(job.dc, job.P, layer->dc_last, job.s.H, B);
    if (job.s.save == PK_SAVE_MINIMAL) {
        job.kept = steps_of_stretch(&job.s);
        job.packed_w = job.dc + B * job.P;
        job.gates = job.packed_w + size_of_forward_pack(&job.s);
        job.c_again = job.gates + job.kept * B * GATES * job.P;
    }
    return job;
}

static void lstm_backward(const pk_lstm *layers, size_t count, int nthreads)
{
    rnn_job jobs[2];
    for (size_t i = 0; i < count; i++)
        jobs[i] = rnn_backward_job(layers + i);
    const int again = jobs->s.save == PK_SAVE_MINIMAL;
    const size_t of_w_ih = round_up(jobs->s.I, WIDTH) / WIDTH;
    size_t to = jobs->s.T;
    rnn_run run = rnn_cut(jobs, count, nthreads);
    pk_parallel(rnn_prepare_backward, &run,
                count * (jobs->Q / WIDTH + (jobs->dx.data ? of_w_ih : 0)) * (jobs->P / LANES),
                run.nthreads);
    if (again)
        pk_parallel(rnn_pack_forward, &run, count * jobs->P / LANES, run.nthreads);
    do {
        run.steps = (range){to > jobs->kept ? (to - 1) / jobs->kept * jobs->kept : 0, to};
        if (again)
            rnn_walk_all(&run, rnn_again, 1);
        rnn_walk_all(&run, rnn_backward_step, length(run.steps) + 1);
        rnn_gradients_of(&run);
        for (size_t i = 0; i < count; i++)
            jobs[i].accumulate = 1;
        to = run.steps.from;
    } while (to > 0);
    for (size_t i = 0; i < count; i++) {
        const rnn_job *job = jobs + i;
        copy_out(layers[i].dh0, job->dh, job->Q, job->s.H, job->s.B);
        copy_out(layers[i].dc0, job->dc, job->P, job->s.H, job->s.B);
    }
}

#endif
