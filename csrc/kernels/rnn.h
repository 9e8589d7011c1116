/* Recurrent layers: LSTM forward and backward, as the equations in pyoptk.h say.
 *
 * The recurrence is done by batch rows, which never meet: a thread walks through all steps of its
 * rows without waiting for another.  Only the gradients of the weights sum over rows; they come after
 * it, cut by output elements, so that each is summed by one thread in one order.
 *
 * P is H rounded up to whole vectors.  Arrays of our own have rows of P, so that only the caller's
 * arrays need partial loads and stores; the units beyond H have weights 0 and stay finite. */
#ifndef PK_RNN_H
#define PK_RNN_H

#include "mathfun.h"
#include "matmul.h"

enum { I_GATE, F_GATE, G_GATE, O_GATE, GATES };

typedef struct {
    pk_rnn_shape s;
    size_t P, Q; /* H rounded up to LANES, and to WIDTH */
    const pk_lstm_weights *w;
    const pk_lstm_weights *dw;
    pk_sequence x, y, dy, dx;
    real *h, *c, *gates;   /* saved: see pk_lstm_saved; gates become dA in backward */
    real *packed_w;        /* forward: [P / LANES] panels of 1 + I + H rows: bias, w_ih, w_hh */
    real *packed_w_hh;     /* backward: w_hh as [4P, H] */
    real *packed_w_ih;     /* backward: w_ih as [4P, I] */
    real *dh, *dc;         /* [B, Q], [B, P] */
    real *dh_out, *dc_out; /* [B, H], the caller's */
    size_t chunks;         /* of batch rows */
    int accumulate;
} lstm_job;

static size_t padded(size_t H) { return round_up(H, LANES); }

PK_INLINE int active(const lstm_job *job, size_t t, size_t b)
{
    return !job->s.lengths || (int64_t)t < job->s.lengths[b];
}

PK_INLINE const real *x_at(const lstm_job *job, size_t t, size_t b)
{
    return (const real *)job->x.data + (ptrdiff_t)t * job->x.step + (ptrdiff_t)b * job->x.row;
}

/* Into how many chunks of batch rows the recurrence is cut: a row tile or more each, and one for a
 * problem so small that waking a thread costs more than it gives. */
static size_t row_chunks(const pk_rnn_shape *s, int nthreads)
{
    const size_t multiply_adds = s->T * s->B * GATES * s->H * (s->I + s->H);
    if (nthreads <= 1 || multiply_adds < (size_t)1 << 20 || s->B < 2 * ROWS)
        return 1;
    return smaller((size_t)nthreads, s->B / ROWS);
}

/* ---- forward --------------------------------------------------------------------------------- */

/* A panel holds the four gates of the same LANES units, so that after the product all that a unit
 * needs is in registers, and pre-activations are never stored. */
static void lstm_pack_forward(void *arg, size_t panel)
{
    const lstm_job *job = arg;
    const size_t I = job->s.I, H = job->s.H, depth = 1 + I + H;
    const real *b_ih = job->w->b_ih, *b_hh = job->w->b_hh;
    real *to = job->packed_w + panel * depth * WIDTH;
    for (size_t gate = 0; gate < GATES; gate++)
        for (size_t lane = 0; lane < LANES; lane++) {
            const size_t unit = panel * LANES + lane, row = gate * H + unit;
            real *column = to + gate * LANES + lane;
            if (unit >= H) {
                for (size_t k = 0; k < depth; k++)
                    column[k * WIDTH] = 0;
                continue;
            }
            column[0] = (b_ih ? b_ih[row] : 0) + (b_hh ? b_hh[row] : 0);
            for (size_t k = 0; k < I; k++)
                column[(1 + k) * WIDTH] = ((const real *)job->w->w_ih)[row * I + k];
            for (size_t k = 0; k < H; k++)
                column[(1 + I + k) * WIDTH] = ((const real *)job->w->w_hh)[row * H + k];
        }
}

/* The units of one panel at step t for one batch row, from their pre-activations. */
PK_INLINE void lstm_cell(const lstm_job *job, size_t t, size_t b, size_t panel, const vec a[GATES])
{
    const size_t B = job->s.B, P = job->P, H = job->s.H, unit = panel * LANES;
    const size_t state = (t * B + b) * P + unit, next = state + B * P;
    real *gates = job->gates + (t * B + b) * GATES * P + unit;
    vec h = load(job->h + state), c = load(job->c + state), y = broadcast(0);
    if (active(job, t, b)) {
        const vec i = vec_sigmoid(a[I_GATE]), f = vec_sigmoid(a[F_GATE]);
        const vec g = vec_tanh(a[G_GATE]), o = vec_sigmoid(a[O_GATE]);
        c = f * c + i * g;
        y = h = o * vec_tanh(c);
        store(gates + I_GATE * P, i);
        store(gates + F_GATE * P, f);
        store(gates + G_GATE * P, g);
        store(gates + O_GATE * P, o);
    }
    store(job->h + next, h);
    store(job->c + next, c);
    if (job->y.data) {
        real *out = (real *)job->y.data + (ptrdiff_t)t * job->y.step + (ptrdiff_t)b * job->y.row + unit;
        if (unit + LANES <= H)
            store(out, y);
        else
            store_part(out, y, H - unit);
    }
}

PK_INLINE void lstm_tile(const int rows, const lstm_job *job, size_t t, size_t b, size_t panel)
{
    const size_t I = job->s.I, H = job->s.H, P = job->P;
    const real *w = job->packed_w + panel * (1 + I + H) * WIDTH;
    const operand x = {x_at(job, t, b), job->x.row, 1};
    const operand h = {job->h + (t * job->s.B + b) * P, (ptrdiff_t)P, 1};
    vec acc[ROWS][COLS];
    for (int r = 0; r < rows; r++)
        for (int gate = 0; gate < GATES; gate++)
            acc[r][gate] = load_aligned(w + gate * LANES);
    multiply(acc, rows, I, x, w + WIDTH);
    multiply(acc, rows, H, h, w + (1 + I) * WIDTH);
    for (int r = 0; r < rows; r++)
        lstm_cell(job, t, b + (size_t)r, panel, acc[r]);
}

static void lstm_forward_rows(void *arg, size_t chunk)
{
    const lstm_job *job = arg;
    const size_t B = job->s.B, H = job->s.H, P = job->P;
    const size_t from = pk_cut(B, chunk, job->chunks), to = pk_cut(B, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t b = from; b < to; b++) {
        memset(job->h + b * P + H, 0, (P - H) * sizeof(real));
        memset(job->c + b * P + H, 0, (P - H) * sizeof(real));
    }
    for (size_t t = 0; t < job->s.T; t++)
        for (size_t panel = 0; panel < P / LANES; panel++)
            for (size_t b = from; b < to; b += ROWS)
                PK_FOR_ROWS(smaller(to - b, ROWS), lstm_tile, job, t, b, panel)
    restore_denormals(mode);
}

static lstm_job lstm_job_for(const pk_rnn_shape *s, const pk_lstm_weights *w, pk_sequence x,
                             const pk_lstm_saved *saved, int nthreads)
{
    lstm_job job = {.s = *s, .w = w, .x = x, .h = saved->h, .c = saved->c, .gates = saved->gates};
    job.P = padded(s->H);
    job.Q = round_up(s->H, WIDTH);
    job.chunks = row_chunks(s, nthreads);
    return job;
}

static void lstm_forward(const pk_rnn_shape *shape, const pk_lstm_weights *weights, pk_sequence x,
                         pk_sequence y, const pk_lstm_saved *saved, void *scratch, int nthreads)
{
    lstm_job job = lstm_job_for(shape, weights, x, saved, nthreads);
    job.y = y;
    job.packed_w = align(scratch);
    pk_parallel(lstm_pack_forward, &job, job.P / LANES, job.chunks > 1 ? nthreads : 1);
    pk_parallel(lstm_forward_rows, &job, job.chunks, nthreads);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* packed = w [4H, N] as panels of 4P rows, those of the units beyond H being 0. */
static void lstm_pack_backward_of(const lstm_job *job, real *packed, const real *w, size_t N, size_t panel)
{
    const size_t H = job->s.H, P = job->P;
    real *to = packed + panel * GATES * P * WIDTH;
    for (size_t gate = 0; gate < GATES; gate++) {
        pack_rows(to + gate * P * WIDTH, H, w + gate * H * N, N, panel * WIDTH, N);
        memset(to + (gate * P + H) * WIDTH, 0, (P - H) * WIDTH * sizeof *to);
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

/* The gradient of the pre-activations of batch row b at step t, over the gates; dc goes back a step.
 * What it consumes of dh it leaves 0, so that the product with w_hh can be added. */
PK_INLINE void lstm_cell_backward(const lstm_job *job, size_t t, size_t b)
{
    const size_t B = job->s.B, P = job->P, H = job->s.H;
    real *gates = job->gates + (t * B + b) * GATES * P;
    if (!active(job, t, b)) {
        memset(gates, 0, GATES * P * sizeof *gates);
        return;
    }
    const real *c_prev = job->c + (t * B + b) * P, *c_t = c_prev + B * P;
    const real *dy = job->dy.data;
    if (dy)
        dy += (ptrdiff_t)t * job->dy.step + (ptrdiff_t)b * job->dy.row;
    for (size_t unit = 0; unit < P; unit += LANES) {
        real *da = gates + unit, *dh_b = job->dh + b * job->Q + unit, *dc_b = job->dc + b * P + unit;
        const vec i = load(da + I_GATE * P), f = load(da + F_GATE * P);
        const vec g = load(da + G_GATE * P), o = load(da + O_GATE * P);
        const vec tanh_c = vec_tanh(load(c_t + unit));
        vec dh = load(dh_b), dc = load(dc_b);
        if (dy)
            dh += unit + LANES <= H ? load(dy + unit) : load_part(dy + unit, H - unit);
        dc += dh * o * (1 - tanh_c * tanh_c);
        store(da + I_GATE * P, dc * g * i * (1 - i));
        store(da + F_GATE * P, dc * load(c_prev + unit) * f * (1 - f));
        store(da + G_GATE * P, dc * i * (1 - g * g));
        store(da + O_GATE * P, dh * tanh_c * o * (1 - o));
        store(dc_b, dc * f);
        store(dh_b, broadcast(0));
    }
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

static void lstm_backward_rows(void *arg, size_t chunk)
{
    const lstm_job *job = arg;
    const size_t B = job->s.B, H = job->s.H, P = job->P, Q = job->Q, K = GATES * P;
    const size_t from = pk_cut(B, chunk, job->chunks), rows = pk_cut(B, chunk + 1, job->chunks) - from;
    const fp_mode mode = flush_denormals();
    copy_in(job->dh + from * Q, Q, job->dh_out + from * H, H, rows);
    copy_in(job->dc + from * P, P, job->dc_out + from * H, H, rows);
    for (size_t t = job->s.T; t-- > 0;) {
        for (size_t b = from; b < from + rows; b++)
            lstm_cell_backward(job, t, b);
        const operand da = {job->gates + (t * B + from) * K, (ptrdiff_t)K, 1};
        product(rows, Q, K, da, job->packed_w_hh, job->dh + from * Q, Q, 1);
        if (job->dx.data) {
            real *dx = (real *)job->dx.data + (ptrdiff_t)t * job->dx.step + (ptrdiff_t)from * job->dx.row;
            product(rows, job->s.I, K, da, job->packed_w_ih, dx, (size_t)job->dx.row, 0);
        }
    }
    copy_out(job->dh_out + from * H, job->dh + from * Q, Q, H, rows);
    copy_out(job->dc_out + from * H, job->dc + from * P, P, H, rows);
    restore_denormals(mode);
}

/* dw[gate rows, a panel of columns] (+)= dA^T [H, T*B] right [T*B, N]; right is x or h. */
static void lstm_weight_gradient(const lstm_job *job, size_t gate, size_t column, real *dw, size_t N,
                                 const real *right, ptrdiff_t step, ptrdiff_t row)
{
    enum { K = 128 }; /* rows packed at a time, on the stack */
    _Alignas(ALIGNMENT) real panel[K * WIDTH];
    const size_t B = job->s.B, H = job->s.H, P = job->P, total = job->s.T * B;
    const size_t width = smaller(N - column, WIDTH);
    real *out = dw + gate * H * N + column;
    if (total == 0)
        product_panel(H, 0, (operand){job->gates, 0, 0}, panel, out, N, width, job->accumulate);
    for (size_t k0 = 0; k0 < total; k0 += K) {
        const size_t depth = smaller(total - k0, K);
        size_t t = k0 / B, b = k0 % B;
        for (size_t k = 0; k < depth; k++) {
            pack_row(panel + k * WIDTH, right + (ptrdiff_t)t * step + (ptrdiff_t)b * row + column, width);
            if (++b == B)
                b = 0, t++;
        }
        const operand da = {job->gates + k0 * GATES * P + gate * P, 1, (ptrdiff_t)(GATES * P)};
        product_panel(H, depth, da, panel, out, N, width, job->accumulate || k0 > 0);
    }
}

static void lstm_bias_gradient(const lstm_job *job, size_t gate)
{
    const size_t H = job->s.H, P = job->P, total = job->s.T * job->s.B;
    real *outs[] = {job->dw->b_ih, job->dw->b_hh};
    for (size_t unit = 0; unit < H; unit += LANES) {
        vec sum = broadcast(0);
        for (size_t k = 0; k < total; k++)
            sum += load(job->gates + (k * GATES + gate) * P + unit);
        const size_t n = smaller(H - unit, LANES);
        for (int i = 0; i < 2; i++) {
            real *out = outs[i] ? outs[i] + gate * H + unit : NULL;
            if (out)
                store_part(out, job->accumulate ? sum + load_part(out, n) : sum, n);
        }
    }
}

/* Task: one gate of the biases, or of one panel of columns of dw_ih, or of dw_hh. */
static void lstm_gradient_task(void *arg, size_t task)
{
    const lstm_job *job = arg;
    const size_t I = job->s.I, H = job->s.H, P = job->P, B = job->s.B;
    const size_t of_w_ih = round_up(I, WIDTH) / WIDTH;
    const size_t gate = task % GATES, column = task / GATES;
    const fp_mode mode = flush_denormals();
    if (column < of_w_ih) {
        if (job->dw->w_ih)
            lstm_weight_gradient(job, gate, column * WIDTH, job->dw->w_ih, I, job->x.data, job->x.step,
                                 job->x.row);
    } else if (column < of_w_ih + job->Q / WIDTH) {
        if (job->dw->w_hh)
            lstm_weight_gradient(job, gate, (column - of_w_ih) * WIDTH, job->dw->w_hh, H, job->h,
                                 (ptrdiff_t)(B * P), (ptrdiff_t)P);
    } else {
        lstm_bias_gradient(job, gate);
    }
    restore_denormals(mode);
}

static void lstm_backward(const pk_rnn_shape *shape, const pk_lstm_weights *weights, pk_sequence x,
                          const pk_lstm_saved *saved, pk_sequence dy, void *dh, void *dc, pk_sequence dx,
                          const pk_lstm_weights *grads, int accumulate, void *scratch, int nthreads)
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
    pk_parallel(lstm_gradient_task, &job, (of_w_ih + job.Q / WIDTH + 1) * GATES, threads);
}

static size_t lstm_scratch_size(const pk_rnn_shape *s)
{
    const size_t P = padded(s->H), Q = round_up(s->H, WIDTH), K = GATES * P;
    const size_t forward = P * GATES * (1 + s->I + s->H);
    const size_t backward = packed_size(K, s->H) + packed_size(K, s->I) + s->B * (Q + P);
    return (forward > backward ? forward : backward) * sizeof(real) + ALIGNMENT;
}

#endif
