/* LSTM backward: dA step by step over the gates, dh and dx with it; then the gradients of the weights. */
#ifndef PK_RNN_BACKWARD_H
#define PK_RNN_BACKWARD_H

#include "rnn.h"

/* A panel of columns of w [4H, N], its rows in the order of the gates' layout, 0 for units beyond H. */
static void lstm_pack_backward_of(const lstm_job *job, real *packed, const real *w, size_t N,
                                  size_t column)
{
    const size_t H = job->s.H, P = job->P;
    real *to = packed + column * GATES * P * WIDTH;
    for (size_t unit = 0; unit < P; unit += LANES)
        for (size_t gate = 0; gate < GATES; gate++, to += LANES * WIDTH) {
            const size_t rows = smaller(H - unit, LANES);
            pack_rows(to, rows, w + (gate * H + unit) * N, N, column * WIDTH, N);
            memset(to + rows * WIDTH, 0, (LANES - rows) * WIDTH * sizeof *to);
        }
}

static void lstm_pack_backward(void *arg, size_t panel)
{
    const lstm_job *job = arg;
    const size_t of_w_hh = job->Q / WIDTH;
    if (panel < of_w_hh)
        lstm_pack_backward_of(job, job->packed_w_hh, job->w->w_hh, job->s.H, panel);
    else
        lstm_pack_backward_of(job, job->packed_w_ih, job->w->w_ih, job->s.I, panel - of_w_hh);
}

/* The gradient of the pre-activations of a panel at step t for one batch row, over the gates; dc goes
 * back a step.  What it consumes of dh it leaves 0, so that the product with w_hh can be added. */
PK_INLINE void lstm_cell_backward(const lstm_job *job, size_t t, size_t b, size_t panel)
{
    const size_t B = job->s.B, P = job->P, H = job->s.H, unit = panel * LANES;
    real *gates = gates_at(job, panel, t, b);
    if (!active(job, t, b)) {
        memset(gates, 0, GATES * LANES * sizeof *gates);
        return;
    }
    const real *c_prev = job->c + (t * B + b) * P + unit, *c_t = c_prev + B * P;
    real *dh_b = job->dh + b * job->Q + unit, *dc_b = job->dc + b * P + unit;
    const vec i = load(gates + I_GATE * LANES), f = load(gates + F_GATE * LANES);
    const vec g = load(gates + G_GATE * LANES), o = load(gates + O_GATE * LANES);
    const vec tanh_c = vec_tanh(load(c_t));
    const size_t n = smaller(H - unit, LANES); /* behind them dA is 0, even where a NaN came */
    vec dh = load(dh_b), dc = load(dc_b);
    if (job->dy.data) {
        const real *dy = row_at(job->dy, t, b) + unit;
        dh += unit + LANES <= H ? load(dy) : load_part(dy, H - unit);
    }
    dc += dh * o * (1 - tanh_c * tanh_c);
    store(gates + I_GATE * LANES, first(dc * g * i * (1 - i), n));
    store(gates + F_GATE * LANES, first(dc * load(c_prev) * f * (1 - f), n));
    store(gates + G_GATE * LANES, first(dc * i * (1 - g * g), n));
    store(gates + O_GATE * LANES, first(dh * tanh_c * o * (1 - o), n));
    store(dc_b, dc * f);
    store(dh_b, broadcast(0));
}

/* Copies [rows, H] between the caller's rows of H and ours of `stride`, padding ours with 0. */
static void copy_in(real *to, size_t stride, const real *from, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows; b++) {
        memcpy(to + b * stride, from + b * H, H * sizeof *to);
        memset(to + b * stride + H, 0, (stride - H) * sizeof *to);
    }
}

static void copy_out(real *to, const real *from, size_t stride, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows; b++)
        memcpy(to + b * H, from + b * stride, H * sizeof *to);
}

/* dA of step t as the left-hand side of a product: rows b.., columns in the order of the gates. */
PK_INLINE operand da_at(const lstm_job *job, size_t t, size_t b)
{
    return (operand){gates_at(job, 0, t, b), WIDTH, 1, WIDTH,
                     (ptrdiff_t)(job->s.T * job->s.B * WIDTH)};
}

/* dx = dA w_ih for a block of steps; in the order that reads w_ih once. */
static void lstm_dx(const lstm_job *job, size_t t0, size_t t1, size_t from, size_t rows)
{
    const size_t I = job->s.I, K = GATES * job->P, ldx = (size_t)job->dx.row;
    for (size_t t = t0; t < t1; t++)
        clear(row_at(job->dx, t, from), ldx, rows, I);
    for (size_t k = 0; k < K; k += K_BLOCK)
        for (size_t t = t0; t < t1; t++)
            product_block(rows, I, K, k, da_at(job, t, from), job->packed_w_ih,
                          row_at(job->dx, t, from), ldx);
}

static void lstm_backward_rows(void *arg, size_t chunk)
{
    const lstm_job *job = arg;
    const size_t B = job->s.B, H = job->s.H, P = job->P, Q = job->Q, K = GATES * P;
    const size_t from = pk_cut(B, chunk, job->chunks);
    const size_t rows = pk_cut(B, chunk + 1, job->chunks) - from;
    const fp_mode mode = flush_denormals();
    copy_in(job->dh + from * Q, Q, job->dh_out + from * H, H, rows);
    copy_in(job->dc + from * P, P, job->dc_out + from * H, H, rows);
    for (size_t t = job->s.T; t-- > 0;) {
        for (size_t panel = 0; panel < P / LANES; panel++)
            for (size_t b = from; b < from + rows; b++)
                lstm_cell_backward(job, t, b, panel);
        product(rows, Q, K, da_at(job, t, from), job->packed_w_hh, job->dh + from * Q, Q);
        if (job->dx.data && t % job->block == 0)
            lstm_dx(job, t, smaller(t + job->block, job->s.T), from, rows);
    }
    copy_out(job->dh_out + from * H, job->dh + from * Q, Q, H, rows);
    copy_out(job->dc_out + from * H, job->dc + from * P, P, H, rows);
    restore_denormals(mode);
}

/* The part of dw [4H, N] += dA^T [4H, T*B] right [T*B, N] with the columns from `column` on, at most
 * PANELS panels of them, and the units of the panels first..last; right is x or h. */
static void lstm_weight_gradient(const lstm_job *job, size_t column, size_t columns, size_t first,
                                 size_t last, real *dw, size_t N, pk_sequence right)
{
    _Alignas(ALIGNMENT) real packed[PANELS][K_BLOCK * WIDTH]; /* 64 KiB */
    const size_t B = job->s.B, H = job->s.H, total = job->s.T * B, end = column + columns;
    if (!job->accumulate)
        for (size_t gate = 0; gate < GATES; gate++)
            clear(dw + (gate * H + first * LANES) * N + column, N,
                  smaller(last * LANES, H) - first * LANES, columns);
    for (size_t k0 = 0; k0 < total; k0 += K_BLOCK) {
        const size_t depth = smaller(total - k0, K_BLOCK);
        for (size_t k = 0; k < depth; k++) {
            const size_t t = (k0 + k) / B, b = (k0 + k) % B;
            if (!active(job, t, b)) { /* what x holds there must not count, not even times 0 */
                for (size_t p = 0; p * WIDTH < columns; p++)
                    memset(packed[p] + k * WIDTH, 0, WIDTH * sizeof(real));
                continue;
            }
            const real *row = row_at(right, t, b);
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                pack_row(packed[p] + k * WIDTH, row + n, smaller(end - n, WIDTH));
        }
        for (size_t panel = first; panel < last; panel++)
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                for (size_t gate = 0; gate < GATES; gate++) {
                    const size_t unit = panel * LANES;
                    const operand da = plain(gates_at(job, panel, 0, k0) + gate * LANES, 1, WIDTH);
                    product_panel(smaller(H - unit, LANES), depth, da, packed[p],
                                  dw + (gate * H + unit) * N + n, N, smaller(end - n, WIDTH));
                }
    }
}

/* db_ih = db_hh (+)= the sum of dA over steps and rows, for one panel of units. */
static void lstm_bias_gradient(const lstm_job *job, size_t panel)
{
    const size_t unit = panel * LANES, H = job->s.H, n = smaller(H - unit, LANES);
    vec sum[GATES] = {{0}};
    const real *da = gates_at(job, panel, 0, 0);
    for (size_t k = 0; k < job->s.T * job->s.B; k++)
        for (size_t gate = 0; gate < GATES; gate++, da += LANES)
            sum[gate] += load(da);
    real *outs[] = {job->dw->b_ih, job->dw->b_hh};
    for (size_t i = 0; i < 2; i++)
        for (size_t gate = 0; gate < GATES && outs[i]; gate++) {
            real *out = outs[i] + gate * H + unit;
            store_part(out, job->accumulate ? sum[gate] + load_part(out, n) : sum[gate], n);
        }
}

/* Task: a group of unit panels of some columns of dw_ih, then of dw_hh, then of the biases. */
static void lstm_gradient_task(void *arg, size_t task)
{
    const lstm_job *job = arg;
    const size_t I = job->s.I, H = job->s.H, P = job->P, width = job->columns;
    const size_t of_w_ih = round_up(I, width) / width, of_w_hh = round_up(H, width) / width;
    const size_t part = task / job->groups, group = task % job->groups;
    const size_t first = pk_cut(P / LANES, group, job->groups);
    const size_t last = pk_cut(P / LANES, group + 1, job->groups);
    const fp_mode mode = flush_denormals();
    if (part < of_w_ih) {
        const size_t n = part * width;
        if (job->dw->w_ih)
            lstm_weight_gradient(job, n, smaller(I - n, width), first, last, job->dw->w_ih, I,
                                 job->x);
    } else if (part < of_w_ih + of_w_hh) {
        const size_t n = (part - of_w_ih) * width;
        const pk_sequence h = {job->h, (ptrdiff_t)(job->s.B * P), (ptrdiff_t)P};
        if (job->dw->w_hh)
            lstm_weight_gradient(job, n, smaller(H - n, width), first, last, job->dw->w_hh, H, h);
    } else {
        for (size_t panel = first; panel < last; panel++)
            lstm_bias_gradient(job, panel);
    }
    restore_denormals(mode);
}

/* dA is read once for each part of the columns, the part of dw that it goes to once for each K_BLOCK
 * rows of dA: as many columns as keep that part in the L2 cache. */
static size_t columns_at_a_time(const lstm_job *job)
{
    const size_t in_cache = L2_SHARE / (GATES * job->P * WIDTH * sizeof(real));
    return WIDTH * (in_cache < 1 ? 1 : smaller(in_cache, PANELS));
}

static void lstm_backward(const pk_rnn_shape *shape, const pk_lstm_weights *weights, pk_sequence x,
                          const pk_lstm_saved *saved, pk_sequence dy, void *dh, void *dc,
                          pk_sequence dx, const pk_lstm_weights *grads, int accumulate,
                          void *scratch, int nthreads)
{
    lstm_job job = lstm_job_for(shape, weights, x, saved, nthreads);
    const size_t I = shape->I, K = GATES * job.P, of_w_ih = round_up(I, WIDTH) / WIDTH;
    job.dw = grads;
    job.dy = dy;
    job.dx = dx;
    job.dh_out = dh;
    job.dc_out = dc;
    job.accumulate = accumulate;
    job.packed_w_hh = align(scratch);
    job.packed_w_ih = job.packed_w_hh + packed_size(K, shape->H);
    job.dh = job.packed_w_ih + packed_size(K, I);
    job.dc = job.dh + shape->B * job.Q;
    const int threads = job.chunks > 1 ? nthreads : 1;
    pk_parallel(lstm_pack_backward, &job, job.Q / WIDTH + (dx.data ? of_w_ih : 0), threads);
    pk_parallel(lstm_backward_rows, &job, job.chunks, nthreads);
    job.columns = columns_at_a_time(&job);
    const size_t parts =
        (round_up(I, job.columns) + round_up(shape->H, job.columns)) / job.columns + 1;
    job.groups = threads == 1 ? 1 : smaller(job.P / LANES, 1 + 4 * (size_t)threads / parts);
    pk_parallel(lstm_gradient_task, &job, parts * job.groups, threads);
}

static size_t lstm_scratch_size(const pk_rnn_shape *s)
{
    const size_t P = padded(s->H), Q = round_up(s->H, WIDTH), K = GATES * P;
    const size_t forward = P * GATES * (1 + s->I + s->H);
    const size_t backward = packed_size(K, s->H) + packed_size(K, s->I) + s->B * (Q + P);
    return (forward > backward ? forward : backward) * sizeof(real) + ALIGNMENT;
}

#endif
