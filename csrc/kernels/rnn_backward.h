/* LSTM backward: dA step by step over the gates, dh with it; then dx and the gradients of the weights.
 * Where forward kept less, the steps are done in stretches, whose gates are computed again first. */
#ifndef PK_RNN_BACKWARD_H
#define PK_RNN_BACKWARD_H

#include "rnn_forward.h"

enum {
    PANELS = 4, /* of columns of a weight gradient that are worked on at a time: */
    GRADIENT_WIDTH = PANELS * WIDTH /* dA is read once for all of them */
};

/* Whether products read w [4H, N] as it lies.  To pack it takes as long as two walks over it and makes
 * every walk some per cent faster, so it does not pay for few rows of few steps. */
static int is_read_as_it_lies(const pk_rnn_shape *s, size_t N)
{
    enum { ROWS_WORTH_PACKING = 32 };
    return N % LANES == 0 && s->T * s->B < ROWS_WORTH_PACKING;
}

/* Task: the rows of a panel of units in WIDTH columns of w_hh, then of w_ih, of a job. */
static void lstm_prepare_backward(void *arg, size_t task)
{
    const lstm_run *run = arg;
    const lstm_job *job = run->jobs + task % run->count;
    const size_t panels = job->P / LANES, of_w_hh = job->Q / WIDTH;
    const size_t panel = task / run->count % panels, n = task / run->count / panels;
    const size_t H = job->s.H, I = job->s.I, size = GATES * H * WIDTH;
    if (n < of_w_hh && job->packed_w_hh)
        pack_gate_rows(job->packed_w_hh + n * size, job->w.w_hh, H, H, n, panel);
    else if (n >= of_w_hh && job->packed_w_ih)
        pack_gate_rows(job->packed_w_ih + (n - of_w_hh) * size, job->w.w_ih, H, I, n - of_w_hh,
                       panel);
}

/* c before step t; B * P further on, c after it. */
PK_INLINE real *c_around(const lstm_job *job, size_t t, size_t b)
{
    return job->c_again + (t % job->kept * job->s.B + b) * job->P;
}

/* Those of some steps that h enters in products. */
static range steps_with_h(const lstm_job *job, range steps)
{
    const int none = job->from_zeros && steps.from == 0 && steps.to > 0;
    return (range){steps.from + (size_t)none, steps.to};
}

/* ---- what forward did not keep --------------------------------------------------------------- */

/* Gates and c of all steps of a run, by the operations of forward, as one product. */
static void lstm_again(const lstm_job *job, range steps, size_t i, range rows, range columns)
{
    const size_t B = job->s.B, P = job->P;
    const pk_sequence h = {job->h, (ptrdiff_t)(B * P), (ptrdiff_t)P};
    const range panels = panels_of(job, columns), with_h = steps_with_h(job, steps);
    (void)i; /* there is but one */
    lstm_inputs(job, steps, rows, panels);
    for (size_t panel = panels.from; panel < panels.to; panel++)
        lstm_products(job, h, job->s.H, packed_panel(job, panel) + (1 + job->s.I) * WIDTH, panel,
                      with_h, rows);
    for (size_t b = rows.from; b < rows.to; b++)
        for (size_t unit = panels.from * LANES; unit < panels.to * LANES; unit += LANES)
            store(c_around(job, steps.from, b) + unit, load(c_at(job, steps.from, b) + unit));
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t panel = panels.from; panel < panels.to; panel++)
            for (size_t b = rows.from; b < rows.to; b++) {
                real *a = gates_at(job, panel, t, b);
                real *c = c_around(job, t, b) + panel * LANES;
                const vec c_prev = load(c);
                const size_t n = units_of(panel, job->s.H);
                const lstm_gates gates = lstm_activate(lstm_load(a, n));
                lstm_store(a, n, gates);
                store(c + B * P, active(job, t, b) ? lstm_c(gates, c_prev) : c_prev);
            }
}

/* ---- the recurrence -------------------------------------------------------------------------- */

/* The gradient of the pre-activations of a panel at step t for one batch row, over the gates; dc goes
 * back a step.  What it consumes of dh it leaves 0, so that the product with w_hh can be added. */
PK_INLINE void lstm_cell_backward(const lstm_job *job, size_t t, size_t b, size_t panel)
{
    const size_t unit = panel * LANES, n = units_of(panel, job->s.H);
    real *gates = gates_at(job, panel, t, b);
    real *dh_b = job->dh + b * job->Q + unit, *dc_b = job->dc + b * job->P + unit;
    const int is_active = active(job, t, b);
    vec dh = load(dh_b), dc = load(dc_b);
    if (job->dy.data && (is_active || job->s.repeat_last)) {
        const real *dy = row_at(job->dy, t, b) + unit;
        dh += n == LANES ? load(dy) : load_part(dy, n);
    }
    if (!is_active) {
        memset(gates, 0, WIDTH * sizeof *gates);
        store(dh_b, dh);
        return;
    }
    const real *c = c_around(job, t, b) + unit;
    const lstm_gates da =
        lstm_gradient(lstm_load(gates, n), load(c), load(c + job->s.B * job->P), dh, &dc);
    /* behind H dA is 0, even where a NaN came */
    lstm_store(gates, n,
               (lstm_gates){first(da.i, n), first(da.f, n), first(da.g, n), first(da.o, n)});
    store(dc_b, dc);
    store(dh_b, broadcast(0));
}

/* dA of step t as the left-hand side of a product: rows b.., columns in the order of the gates. */
PK_INLINE operand da_at(const lstm_job *job, size_t t, size_t b)
{
    return (operand){gates_at(job, 0, t, b), WIDTH, 1, WIDTH,
                     (ptrdiff_t)(job->kept * job->s.B * WIDTH)};
}

/* The right-hand side that goes with it: w [4H, N], packed or as it lies. */
PK_INLINE right_operand gate_rows(const lstm_job *job, const real *packed_w, const real *w,
                                  size_t N)
{
    const size_t H = job->s.H;
    return packed_w ? in_panels(packed_w, GATES * H) : (right_operand){w, N, WIDTH, GATES, H * N};
}

/* The i-th step from the end: dh += dA w_hh of the step after it, for which all units are needed, then
 * the cell. */
static void lstm_backward_step(const lstm_job *job, range steps, size_t i, range rows,
                               range columns)
{
    const size_t H = job->s.H, t = steps.to - i;
    const range panels = panels_of(job, columns);
    right_operand w = gate_rows(job, job->packed_w_hh, job->w.w_hh, H);
    w.b += columns.from * w.panel;
    if (i > 0 && (t > 0 || job->wants_dh0)) { /* the state before it */
        const range live = active_rows(job, t, rows);
        product(length(live), length(panels) * LANES, GATES * H, da_at(job, t, live.from), w,
                job->dh + live.from * job->Q + columns.from * WIDTH, job->Q, 0);
    }
    if (i < length(steps))
        for (size_t panel = panels.from; panel < panels.to; panel++)
            for (size_t b = rows.from; b < rows.to; b++)
                lstm_cell_backward(job, t - 1, b, panel);
}

/* ---- after it -------------------------------------------------------------------------------- */

typedef struct {
    const lstm_run *run;
    const lstm_job *job;
    range steps;   /* of dx, */
    size_t tasks;  /* and how many tasks share them */
    size_t groups; /* of unit panels: a task of a weight gradient does PANELS columns for one */
} lstm_gradients;

/* Whether nothing has been added yet to dx of step t, which two directions may share: each does the
 * later half of its steps before the other comes to them as the earlier half of its own. */
static int is_new_dx(const lstm_gradients *of, size_t t)
{
    const lstm_job *job = of->job, *jobs = of->run->jobs;
    if (of->run->count == 1)
        return 1;
    const lstm_job *other = jobs + (job == jobs);
    const size_t of_other = job->s.reverse == other->s.reverse ? t : job->s.T - 1 - t;
    const int shared = other->dx.data && row_at(job->dx, t, 0) == row_at(other->dx, of_other, 0);
    return !shared || t > of_other || (t == of_other && job == jobs);
}

/* Task: dx (+)= dA w_ih for a block of steps; in the order that reads w_ih once. */
static void lstm_dx(void *arg, size_t task)
{
    const lstm_gradients *of = arg;
    const lstm_job *job = of->job;
    const size_t B = job->s.B, I = job->s.I, K = GATES * job->s.H, row = (size_t)job->dx.row;
    const size_t from = of->steps.from + pk_cut(length(of->steps), task, of->tasks);
    const size_t to = of->steps.from + pk_cut(length(of->steps), task + 1, of->tasks);
    const range rows = {0, B};
    const int at_one_distance = of->run->count == 1 && job->dx.step == (ptrdiff_t)(B * row);
    const right_operand w = gate_rows(job, job->packed_w_ih, job->w.w_ih, I);
    const fp_mode mode = flush_denormals();
    for (size_t k = 0; k < K; k += K_BLOCK)
        for (size_t t = from, together; t < to; t += together) {
            const range live = active_rows(job, t, rows);
            const int is_new = k == 0 && is_new_dx(of, t);
            together = at_one_distance ? steps_together(job, t, to, rows) : 1;
            product_block(length(live) * together, I, K, k, da_at(job, t, live.from), w,
                          row_at(job->dx, t, live.from), row, is_new);
            for (size_t b = 0; b < B && is_new; b++)
                if (b < live.from || b >= live.to)
                    memset(row_at(job->dx, t, b), 0, I * sizeof(real));
        }
    restore_denormals(mode);
}

/* dx of some steps, the jobs one after the other, because they may share it. */
static void lstm_dx_of(const lstm_run *run, range steps)
{
    for (size_t i = 0; i < run->count && steps.from < steps.to; i++) {
        const lstm_job *job = run->jobs + i;
        const size_t rows = 1 + smaller(512, (1 << 17) / job->s.I), threads = (size_t)run->nthreads;
        lstm_gradients of = {run, job, steps, 1 + length(steps) * (job->s.B + 1) / rows, 1};
        if (threads > 1)
            of.tasks = round_up(of.tasks, 2 * threads);
        of.tasks = smaller(of.tasks, length(steps));
        if (job->dx.data)
            pk_parallel(lstm_dx, &of, of.tasks, run->nthreads);
    }
}

/* Task: a panel.  Its dA of the rows that are active, of all steps of the run, without gaps. */
static void lstm_close_gaps(void *arg, size_t panel)
{
    const lstm_gradients *of = arg;
    const lstm_job *job = of->job;
    const range steps = of->run->steps;
    real *to = gates_at(job, panel, steps.from, 0);
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = 0; b < job->s.B; b++)
            if (active(job, t, b)) {
                const real *da = gates_at(job, panel, t, b);
                if (to != da)
                    memcpy(to, da, WIDTH * sizeof *to);
                to += WIDTH;
            }
}

/* How many rows that makes of these steps. */
static size_t active_in(const lstm_job *job, range steps)
{
    const size_t B = job->s.B;
    size_t n = 0;
    if (!job->s.lengths)
        return steps.to > steps.from ? length(steps) * B : 0;
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = 0; b < B; b++)
            n += (size_t)active(job, t, b);
    return n;
}

/* The part of dw [4H, N] += dA^T [4H, rows] right [rows, N] with the columns from `column` on, at most
 * PANELS panels of them, and some unit panels; right is x or h, and rows those active at `steps`. */
static void lstm_weight_gradient(const lstm_gradients *of, size_t column, size_t columns,
                                 range units, real *dw, size_t N, pk_sequence right, range steps)
{
    _Alignas(ALIGNMENT) real packed[PANELS][K_BLOCK * WIDTH]; /* 128 KiB */
    const lstm_job *job = of->job;
    const size_t H = job->s.H, end = column + columns;
    const size_t total = active_in(job, steps);
    const size_t before = active_in(job, (range){of->run->steps.from, steps.from});
    size_t k0 = 0, t = steps.from, b = 0;
    do { /* once even if there is nothing to add */
        const size_t depth = smaller(total - k0, K_BLOCK);
        for (size_t k = 0; k < depth;) {
            if (active(job, t, b)) {
                const real *row = row_at(right, t, b);
                for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                    pack_row(packed[p] + k * WIDTH, row + n, smaller(end - n, WIDTH));
                k++;
            }
            if (++b == job->s.B)
                b = 0, t++;
        }
        for (size_t panel = units.from; panel < units.to; panel++)
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                for (size_t gate = 0; gate < GATES; gate++) {
                    const size_t unit = panel * LANES, rows = units_of(panel, H);
                    const real *da = gates_at(job, panel, of->run->steps.from, 0);
                    da += (before + k0) * WIDTH + gate * rows;
                    product_panel(rows, depth, plain(da, 1, WIDTH), in_panels(packed[p], depth),
                                  dw + (gate * H + unit) * N + n, N, smaller(end - n, WIDTH),
                                  k0 == 0 && !job->accumulate);
                }
    } while ((k0 += K_BLOCK) < total);
}

/* db_ih = db_hh (+)= the sum of dA over steps and rows, for one panel of units. */
static void lstm_bias_gradient(const lstm_gradients *of, size_t panel)
{
    const lstm_job *job = of->job;
    const size_t unit = panel * LANES, H = job->s.H, n = units_of(panel, H);
    vec sum[GATES] = {{0}};
    const real *da = gates_at(job, panel, of->run->steps.from, 0);
    for (size_t k = active_in(job, of->run->steps); k > 0; k--, da += WIDTH)
        for (size_t gate = 0; gate < GATES; gate++)
            sum[gate] += load(da + gate * n);
    real *outs[] = {job->dw.b_ih, job->dw.b_hh};
    for (size_t i = 0; i < 2; i++)
        for (size_t gate = 0; gate < GATES && outs[i]; gate++) {
            real *out = outs[i] + gate * H + unit;
            store_part(out, job->accumulate ? sum[gate] + load_part(out, n) : sum[gate], n);
        }
}

/* Task: a group of unit panels of some columns of dw_ih, then of dw_hh, then of the biases. */
static void lstm_gradient_task(void *arg, size_t task)
{
    const lstm_gradients *of = arg;
    const lstm_job *job = of->job;
    const size_t I = job->s.I, H = job->s.H, P = job->P, width = GRADIENT_WIDTH;
    const size_t of_w_ih = round_up(I, width) / width, of_w_hh = round_up(H, width) / width;
    const size_t part = task / of->groups, group = task % of->groups;
    const range units = {pk_cut(P / LANES, group, of->groups),
                         pk_cut(P / LANES, group + 1, of->groups)};
    const fp_mode mode = flush_denormals();
    if (part < of_w_ih) {
        const size_t n = part * width;
        if (job->dw.w_ih)
            lstm_weight_gradient(of, n, smaller(I - n, width), units, job->dw.w_ih, I, job->x,
                                 of->run->steps);
    } else if (part < of_w_ih + of_w_hh) {
        const size_t n = (part - of_w_ih) * width;
        const pk_sequence h = {job->h, (ptrdiff_t)(job->s.B * P), (ptrdiff_t)P};
        if (job->dw.w_hh)
            lstm_weight_gradient(of, n, smaller(H - n, width), units, job->dw.w_hh, H, h,
                                 steps_with_h(job, of->run->steps));
    } else {
        for (size_t panel = units.from; panel < units.to; panel++)
            lstm_bias_gradient(of, panel);
    }
    restore_denormals(mode);
}

/* What the dA of some steps give, cut by elements of the result, so that each is summed by one thread
 * in one order, however many rows there are and so steps at a time. */
static void lstm_gradients_of(const lstm_run *run)
{
    const size_t threads = (size_t)run->nthreads, width = GRADIENT_WIDTH;
    const size_t half = run->count > 1 ? run->jobs->s.T / 2 : 0; /* see is_new_dx */
    lstm_dx_of(run, (range){run->steps.from > half ? run->steps.from : half, run->steps.to});
    lstm_dx_of(run, (range){run->steps.from, smaller(run->steps.to, half)});
    for (size_t i = 0; i < run->count; i++) {
        const lstm_job *job = run->jobs + i;
        lstm_gradients of = {run, job, run->steps, 1, 1};
        const size_t parts = (round_up(job->s.I, width) + round_up(job->s.H, width)) / width + 1;
        if (threads > 1)
            of.groups = smaller(job->P / LANES, 1 + 4 * threads / parts);
        if (job->s.lengths)
            pk_parallel(lstm_close_gaps, &of, job->P / LANES, run->nthreads);
        pk_parallel(lstm_gradient_task, &of, parts * of.groups, run->nthreads);
    }
}

/* A job with the scratch memory cut up for backward. */
static lstm_job lstm_backward_job(const pk_lstm *layer)
{
    lstm_job job = lstm_job_for(layer);
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
    lstm_job jobs[2];
    for (size_t i = 0; i < count; i++)
        jobs[i] = lstm_backward_job(layers + i);
    const int again = jobs->s.save == PK_SAVE_MINIMAL;
    const size_t of_w_ih = round_up(jobs->s.I, WIDTH) / WIDTH;
    size_t to = jobs->s.T;
    lstm_run run = lstm_cut(jobs, count, nthreads);
    pk_parallel(lstm_prepare_backward, &run,
                count * (jobs->Q / WIDTH + (jobs->dx.data ? of_w_ih : 0)) * (jobs->P / LANES),
                run.nthreads);
    if (again)
        pk_parallel(lstm_pack_forward, &run, count * jobs->P / LANES, run.nthreads);
    do {
        run.steps = (range){to > jobs->kept ? (to - 1) / jobs->kept * jobs->kept : 0, to};
        if (again)
            lstm_walk_all(&run, lstm_again, 1);
        lstm_walk_all(&run, lstm_backward_step, length(run.steps) + 1);
        lstm_gradients_of(&run);
        for (size_t i = 0; i < count; i++)
            jobs[i].accumulate = 1;
        to = run.steps.from;
    } while (to > 0);
    for (size_t i = 0; i < count; i++) {
        const lstm_job *job = jobs + i;
        copy_out(layers[i].dh0, job->dh, job->Q, job->s.H, job->s.B);
        copy_out(layers[i].dc0, job->dc, job->P, job->s.H, job->s.B);
    }
}

#endif
