/* LSTM: what dA gives, of many steps at once: dx and the gradients of the weights. */
#ifndef PK_RNN_GRADIENTS_H
#define PK_RNN_GRADIENTS_H

#include "rnn_forward.h"

enum {
    PANELS = 4, /* of columns of a weight gradient that are worked on at a time: */
    GRADIENT_WIDTH = PANELS * WIDTH /* dA is read once for all of them */
};

/* Those of some steps that h enters in products. */
static range steps_with_h(const rnn_job *job, range steps)
{
    const int none = job->from_zeros && steps.from == 0 && steps.to > 0;
    return (range){steps.from + (size_t)none, steps.to};
}

/* dA of step t as the left-hand side of a product: rows b.., columns in the order of the gates. */
PK_INLINE operand da_at(const rnn_job *job, size_t t, size_t b)
{
    return (operand){gates_at(job, 0, t, b), WIDTH, 1, WIDTH,
                     (ptrdiff_t)(job->kept * job->s.B * WIDTH)};
}

/* The right-hand side that goes with it: w [4H, N], packed or as it lies. */
PK_INLINE right_operand gate_rows(const rnn_job *job, const real *packed_w, const real *w, size_t N)
{
    const size_t H = job->s.H;
    return packed_w ? in_panels(packed_w, GATES * H) : (right_operand){w, N, WIDTH, GATES, H * N};
}

typedef struct {
    const rnn_run *run;
    const rnn_job *job;
    range steps;   /* of dx, */
    size_t tasks;  /* and how many tasks share them */
    size_t groups; /* of unit panels: a task of a weight gradient does PANELS columns for one */
} rnn_gradients;

/* Whether nothing has been added yet to dx of step t, which two directions may share: each does the
 * later half of its steps before the other comes to them as the earlier half of its own. */
static int is_new_dx(const rnn_gradients *of, size_t t)
{
    const rnn_job *job = of->job, *jobs = of->run->jobs;
    if (of->run->count == 1)
        return 1;
    const rnn_job *other = jobs + (job == jobs);
    const size_t of_other = job->s.reverse == other->s.reverse ? t : job->s.T - 1 - t;
    const int shared = other->dx.data && row_at(job->dx, t, 0) == row_at(other->dx, of_other, 0);
    return !shared || t > of_other || (t == of_other && job == jobs);
}

/* Task: dx (+)= dA w_ih for a block of steps; in the order that reads w_ih once. */
static void rnn_dx(void *arg, size_t task)
{
    const rnn_gradients *of = arg;
    const rnn_job *job = of->job;
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
                          row_at(job->dx, t, live.from), row, is_new ? ZEROS : NULL);
            for (size_t b = 0; b < B && is_new; b++)
                if (b < live.from || b >= live.to)
                    memset(row_at(job->dx, t, b), 0, I * sizeof(real));
        }
    restore_denormals(mode);
}

/* dx of some steps, the jobs one after the other, because they may share it. */
static void rnn_dx_of(const rnn_run *run, range steps)
{
    for (size_t i = 0; i < run->count && steps.from < steps.to; i++) {
        const rnn_job *job = run->jobs + i;
        const size_t rows = 1 + smaller(512, (1 << 17) / job->s.I), threads = (size_t)run->nthreads;
        rnn_gradients of = {run, job, steps, 1 + length(steps) * (job->s.B + 1) / rows, 1};
        if (threads > 1)
            of.tasks = round_up(of.tasks, 2 * threads);
        of.tasks = smaller(of.tasks, length(steps));
        if (job->dx.data)
            pk_parallel(rnn_dx, &of, of.tasks, run->nthreads);
    }
}

/* Task: a panel.  Its dA of the rows that are active, of all steps of the run, without gaps. */
static void rnn_close_gaps(void *arg, size_t panel)
{
    const rnn_gradients *of = arg;
    const rnn_job *job = of->job;
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
static size_t active_in(const rnn_job *job, range steps)
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

/* The active row after the last one, which was before row b of step t. */
PK_INLINE const real *next_row(const rnn_job *job, pk_sequence s, size_t *t, size_t *b)
{
    for (;;) {
        const size_t step = *t, row = *b;
        if (++*b == job->s.B)
            *b = 0, ++*t;
        if (active(job, step, row))
            return row_at(s, step, row);
    }
}

/* w_t [N, WIDTH], its columns [GATES, n], from n rows of each gate of w [4H, N]; or `back`. */
static void turn(real *w_t, real *w, size_t H, size_t N, size_t n, int back)
{
    for (size_t gate = 0; gate < GATES; gate++)
        for (size_t unit = 0; unit < n; unit++)
            for (size_t i = 0; i < N; i++) {
                real *a = w_t + i * WIDTH + gate * n + unit, *b = w + (gate * H + unit) * N + i;
                *(back ? b : a) = *(back ? a : b);
            }
}

/* As rnn_wide_gradient, for all of N < LANES columns: dw^T, with dA on the right, because that has whole
 * vectors.  A function of its own, as is the other: their arrays together would be too much stack. */
__attribute__((noinline)) static void rnn_narrow_gradient(const rnn_gradients *of, range units,
                                                          real *dw, size_t N, pk_sequence right,
                                                          range steps)
{
    enum { DEPTH = 2 * K_BLOCK };
    _Alignas(ALIGNMENT) real packed[DEPTH * LANES], dw_t[LANES * WIDTH];
    const rnn_job *job = of->job;
    const size_t H = job->s.H, total = active_in(job, steps);
    const size_t before = active_in(job, (range){of->run->steps.from, steps.from});
    size_t k0 = 0, t = steps.from, b = 0;
    do { /* once even if there is nothing to add */
        const size_t depth = smaller(total - k0, DEPTH);
        for (size_t k = 0; k < depth; k++)
            store(packed + k * LANES, load_part(next_row(job, right, &t, &b), N));
        for (size_t panel = units.from; panel < units.to; panel++) {
            const size_t n = units_of(panel, H);
            const real *da = gates_at(job, panel, of->run->steps.from, 0) + (before + k0) * WIDTH;
            const int is_new = k0 == 0 && !job->accumulate;
            turn(dw_t, dw + panel * LANES * N, H, N, n, 0);
            product_panel(N, width_of(job, panel),
                          &(term){depth, plain(packed, 1, LANES), in_panels(da, depth)}, 1, dw_t,
                          WIDTH, is_new ? ZEROS : NULL);
            turn(dw_t, dw + panel * LANES * N, H, N, n, 1);
        }
    } while ((k0 += DEPTH) < total);
}

/* The part of dw [4H, N] += dA^T [4H, rows] right [rows, N] with the columns from `column` on, at most
 * PANELS panels of them, and some unit panels; right is x or h, and rows those active at `steps`. */
__attribute__((noinline)) static void rnn_wide_gradient(const rnn_gradients *of, size_t column,
                                                        size_t columns, range units, real *dw,
                                                        size_t N, pk_sequence right, range steps)
{
    _Alignas(ALIGNMENT) real packed[PANELS][K_BLOCK * WIDTH]; /* 128 KiB */
    const rnn_job *job = of->job;
    const size_t H = job->s.H, end = column + columns;
    const size_t total = active_in(job, steps);
    const size_t before = active_in(job, (range){of->run->steps.from, steps.from});
    size_t k0 = 0, t = steps.from, b = 0;
    do { /* once even if there is nothing to add */
        const size_t depth = smaller(total - k0, K_BLOCK);
        for (size_t k = 0; k < depth; k++) {
            const real *row = next_row(job, right, &t, &b);
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                pack_row(packed[p] + k * WIDTH, row + n, smaller(end - n, WIDTH));
        }
        for (size_t panel = units.from; panel < units.to; panel++)
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                for (size_t gate = 0; gate < GATES; gate++) {
                    const size_t unit = panel * LANES, rows = units_of(panel, H);
                    const real *da = gates_at(job, panel, of->run->steps.from, 0);
                    da += (before + k0) * WIDTH + gate * rows;
                    product_panel_of(
                        rows, smaller(end - n, WIDTH),
                        &(term){depth, plain(da, 1, WIDTH), in_panels(packed[p], depth)}, 1,
                        dw + (gate * H + unit) * N + n, N,
                        k0 == 0 && !job->accumulate ? ZEROS : NULL);
                }
    } while ((k0 += K_BLOCK) < total);
}

static void rnn_weight_gradient(const rnn_gradients *of, size_t column, size_t columns, range units,
                                real *dw, size_t N, pk_sequence right, range steps)
{
    if (N < LANES)
        rnn_narrow_gradient(of, units, dw, N, right, steps);
    else
        rnn_wide_gradient(of, column, columns, units, dw, N, right, steps);
}

/* db_ih = db_hh (+)= the sum of dA over steps and rows, for one panel of units. */
static void rnn_bias_gradient(const rnn_gradients *of, size_t panel)
{
    const rnn_job *job = of->job;
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
static void rnn_gradient_task(void *arg, size_t task)
{
    const rnn_gradients *of = arg;
    const rnn_job *job = of->job;
    const size_t I = job->s.I, H = job->s.H, P = job->P, width = GRADIENT_WIDTH;
    const size_t of_w_ih = round_up(I, width) / width, of_w_hh = round_up(H, width) / width;
    const size_t part = task / of->groups, group = task % of->groups;
    const range units = {pk_cut(P / LANES, group, of->groups),
                         pk_cut(P / LANES, group + 1, of->groups)};
    const fp_mode mode = flush_denormals();
    if (part < of_w_ih) {
        const size_t n = part * width;
        if (job->dw.w_ih)
            rnn_weight_gradient(of, n, smaller(I - n, width), units, job->dw.w_ih, I, job->x,
                                of->run->steps);
    } else if (part < of_w_ih + of_w_hh) {
        const size_t n = (part - of_w_ih) * width;
        const pk_sequence h = {job->h, (ptrdiff_t)(job->s.B * P), (ptrdiff_t)P};
        if (job->dw.w_hh)
            rnn_weight_gradient(of, n, smaller(H - n, width), units, job->dw.w_hh, H, h,
                                steps_with_h(job, of->run->steps));
    } else {
        for (size_t panel = units.from; panel < units.to; panel++)
            rnn_bias_gradient(of, panel);
    }
    restore_denormals(mode);
}

/* What the dA of some steps give, cut by elements of the result, so that each is summed by one thread
 * in one order, however many rows there are and so steps at a time. */
static void rnn_gradients_of(const rnn_run *run)
{
    const size_t threads = (size_t)run->nthreads, width = GRADIENT_WIDTH;
    const size_t half = run->count > 1 ? run->jobs->s.T / 2 : 0; /* see is_new_dx */
    rnn_dx_of(run, (range){run->steps.from > half ? run->steps.from : half, run->steps.to});
    rnn_dx_of(run, (range){run->steps.from, smaller(run->steps.to, half)});
    for (size_t i = 0; i < run->count; i++) {
        const rnn_job *job = run->jobs + i;
        rnn_gradients of = {run, job, run->steps, 1, 1};
        const size_t parts = (round_up(job->s.I, width) + round_up(job->s.H, width)) / width + 1;
        if (threads > 1)
            of.groups = smaller(job->P / LANES, 1 + 4 * threads / parts);
        if (job->s.lengths)
            pk_parallel(rnn_close_gaps, &of, job->P / LANES, run->nthreads);
        pk_parallel(rnn_gradient_task, &of, parts * of.groups, run->nthreads);
    }
}

#endif
