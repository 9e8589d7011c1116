/* LSTM forward: weights packed, then step by step a product and the cell on what it gave. */
#ifndef PK_RNN_FORWARD_H
#define PK_RNN_FORWARD_H

#include "lstm_cell.h"

PK_INLINE real *packed_panel(const rnn_job *job, size_t panel)
{
    return job->packed_w + panel * (1 + job->s.I + job->s.H) * WIDTH;
}

/* Task: a panel of a job, [1 + I + H, WIDTH]. */
static void rnn_pack_forward(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t panel = task / run->count, I = job->s.I, H = job->s.H, n = units_of(panel, H);
    const real *biases[] = {job->w.b_ih, job->w.b_hh};
    real *bias = packed_panel(job, panel);
    memset(bias, 0, WIDTH * sizeof *bias);
    for (size_t i = 0; i < 2; i++)
        for (size_t gate = 0; gate < GATES && biases[i]; gate++)
            for (size_t lane = 0; lane < n; lane++)
                bias[gate * n + lane] += biases[i][gate * H + panel * LANES + lane];
    pack_gate_columns(bias + WIDTH, job->w.w_ih, H, I, panel);
    pack_gate_columns(bias + (1 + I) * WIDTH, job->w.w_hh, H, H, panel);
}

/* The columns of a panel that there is something in: whole vectors. */
PK_INLINE size_t width_of(const rnn_job *job, size_t panel)
{
    return round_up(GATES * units_of(panel, job->s.H), LANES);
}

/* a[rows, WIDTH] = begin + w s_t of a panel, for steps; s is x with w_ih, or h with w_hh.  Where rows of all
 * steps are at one distance, they are rows of one product. */
static void rnn_products(const rnn_job *job, pk_sequence s, size_t N, const real *w, size_t panel,
                         range steps, range rows, const real *begin)
{
    const size_t B = job->s.B;
    const int one_row = length(rows) == 1;
    const int at_one_distance = one_row || (length(rows) == B && s.step == (ptrdiff_t)B * s.row);
    size_t t = steps.from;
    while (t < steps.to) {
        const range live = active_rows(job, t, rows);
        const size_t together = at_one_distance ? steps_together(job, t, steps.to, rows) : 1;
        product(length(live) * together, width_of(job, panel), N,
                plain(row_at(s, t, live.from), one_row ? s.step : s.row, 1), in_panels(w, N),
                gates_at(job, panel, t, live.from), one_row ? B * WIDTH : WIDTH, begin);
        t += together;
    }
}

/* Pre-activations so far, in the place of the gates: bias + w_ih x, for a block of steps. */
static void rnn_inputs(const rnn_job *job, range steps, range rows, range panels)
{
    for (size_t panel = panels.from; panel < panels.to; panel++) {
        const real *w = packed_panel(job, panel);
        rnn_products(job, job->x, job->s.I, w + WIDTH, panel, steps, rows, w);
    }
}

/* One step of one panel for at most ROW_BLOCK rows, of which the `live` ones need products. */
static void rnn_panel(const rnn_job *job, size_t t, range rows, range live, size_t panel)
{
    _Alignas(ALIGNMENT) real a[ROW_BLOCK * WIDTH]; /* pre-activations: never leave the L1 cache */
    const size_t I = job->s.I, H = job->s.H, b = live.from, n = length(live),
                 width = width_of(job, panel);
    const real *w = packed_panel(job, panel);
    real *live_a = a + (b - rows.from) * WIDTH;
    const int with_h = t > 0 || !job->from_zeros;
    const operand x = plain(row_at(job->x, t, b), job->x.row, 1);
    const operand h = plain(h_at(job, t, b), (ptrdiff_t)job->P, 1);
    const right_operand w_ih = in_panels(w + WIDTH, I), w_hh = in_panels(w + (1 + I) * WIDTH, H);
    if (job->block == 1 && I + H <= K_BLOCK) {
        const term terms[] = {{I, x, w_ih}, {H, h, w_hh}};
        product_panel(n, width, terms, with_h ? 2 : 1, live_a, WIDTH, w);
    } else {
        if (job->block > 1)
            memcpy(live_a, gates_at(job, panel, t, b), n * WIDTH * sizeof *a);
        else
            product(n, width, I, x, w_ih, live_a, WIDTH, w);
        if (with_h)
            product(n, width, H, h, w_hh, live_a, WIDTH, NULL);
    }
    /* In two loops: the way from a pre-activation to h is too long to overlap with the next row's. */
    for (size_t r = 0; r < length(rows); r++)
        cell_gates(job, t, rows.from + r, panel, a + r * WIDTH);
    for (size_t r = 0; r < length(rows); r++)
        cell_output(job, t, rows.from + r, panel, a + r * WIDTH);
}

static void rnn_forward_step(const rnn_job *job, range steps, size_t t, range rows, range columns)
{
    const range panels = panels_of(job, columns);
    if (job->block > 1 && t % job->block == 0)
        rnn_inputs(job, (range){t, smaller(t + job->block, steps.to)}, rows, panels);
    for (size_t b = rows.from; b < rows.to; b += ROW_BLOCK) {
        const range block = {b, smaller(b + ROW_BLOCK, rows.to)};
        const range live = active_rows(job, t, block);
        for (size_t i = 0; i < length(panels); i++)
            rnn_panel(job, t, block, live, t % 2 ? panels.to - 1 - i : panels.from + i);
    }
}

/* Copies [rows, H] between the caller's rows of H and ours of `stride`, padding ours with 0. */
static void copy_in(real *to, size_t stride, const real *from, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows; b++) {
        if (from)
            memcpy(to + b * stride, from + b * H, H * sizeof *to);
        memset(to + b * stride + (from ? H : 0), 0, (stride - (from ? H : 0)) * sizeof *to);
    }
}

static void copy_out(real *to, const real *from, size_t stride, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows && to; b++)
        memcpy(to + b * H, from + b * stride, H * sizeof *to);
}

static void lstm_forward(const pk_lstm *layers, size_t count, int nthreads)
{
    rnn_job jobs[2];
    for (size_t i = 0; i < count; i++) {
        rnn_job *job = jobs + i;
        *job = rnn_job_for(layers + i);
        copy_in(h_at(job, 0, 0), job->P, layers[i].h0, job->s.H, job->s.B);
        copy_in(c_at(job, 0, 0), job->P, layers[i].c0, job->s.H, job->s.B);
        if (job->s.save != PK_SAVE_FULL) {
            job->gates = job->packed_w + size_of_forward_pack(&job->s);
            job->kept = job->block;
        }
    }
    const rnn_run run = rnn_cut(jobs, count, nthreads);
    pk_parallel(rnn_pack_forward, (void *)&run, count * jobs->P / LANES, run.nthreads);
    rnn_walk_all(&run, rnn_forward_step, jobs->s.T);
    for (size_t i = 0; i < count; i++) {
        const rnn_job *job = jobs + i;
        copy_out(layers[i].h_last, h_at(job, job->s.T, 0), job->P, job->s.H, job->s.B);
        copy_out(layers[i].c_last, c_at(job, job->s.T, 0), job->P, job->s.H, job->s.B);
    }
}

#endif
