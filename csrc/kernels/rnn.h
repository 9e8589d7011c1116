/* Recurrent layers, as the equations in pyoptk.h say: what both passes share, and LSTM forward.  The
 * backward pass is in rnn_backward.h.
 *
 * The recurrence is done by batch rows, which never meet: a thread walks through all steps of its
 * rows without waiting for another.  Only the gradients of the weights sum over rows; they come after
 * it, cut by output elements, so that each is summed by one thread in one order.
 *
 * P is H rounded up to whole vectors.  Arrays of our own have rows of P, so that only the caller's
 * arrays need partial loads and stores; the units beyond H have weights and gradients 0.
 *
 * The LANES units of a vector are a panel.  Gates (and dA, which takes their place) are stored panel
 * by panel, [P / LANES, T, B, GATES, LANES]: what one panel needs of all steps lies together, which
 * the gradients of the weights, summed over steps, could not do without: rows of 4P elements would
 * cost a memory page for each. */
#ifndef PK_RNN_H
#define PK_RNN_H

#include "mathfun.h"
#include "matmul.h"

enum { I_GATE, F_GATE, G_GATE, O_GATE, GATES };
enum { PANELS = 2 };         /* of columns of a weight gradient that are worked on at a time */
enum { L2_SHARE = 1 << 20 }; /* bytes that may be hoped to stay in the L2 cache */

typedef struct {
    pk_rnn_shape s;
    size_t P, Q; /* H rounded up to LANES, and to WIDTH */
    const pk_lstm_weights *w;
    const pk_lstm_weights *dw;
    pk_sequence x, y, dy, dx;
    real *h, *c, *gates;   /* saved: see pk_lstm_saved; gates become dA in backward */
    real *packed_w;        /* forward: [P / LANES] panels of 1 + I + H rows: bias, w_ih, w_hh */
    real *packed_w_hh;     /* backward: w_hh as [P / LANES, GATES, LANES; H] */
    real *packed_w_ih;     /* backward: w_ih as [P / LANES, GATES, LANES; I] */
    real *dh, *dc;         /* [B, Q], [B, P] */
    real *dh_out, *dc_out; /* [B, H], the caller's */
    size_t chunks;         /* of batch rows */
    size_t block;          /* steps whose products with w_ih are done together; 1: step by step */
    size_t groups;         /* of unit panels, and */
    size_t columns;        /* how many at a time, for the gradients of the weights */
    int accumulate;
} lstm_job;

static size_t padded(size_t H) { return round_up(H, LANES); }

PK_INLINE int active(const lstm_job *job, size_t t, size_t b)
{
    return !job->s.lengths || (int64_t)t < job->s.lengths[b];
}

PK_INLINE real *gates_at(const lstm_job *job, size_t panel, size_t t, size_t b)
{
    return job->gates + ((panel * job->s.T + t) * job->s.B + b) * GATES * LANES;
}

PK_INLINE real *row_at(pk_sequence s, size_t t, size_t b)
{
    return (real *)s.data + (ptrdiff_t)t * s.step + (ptrdiff_t)b * s.row;
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

/* to [N, WIDTH] = the rows of w [4H, N] that belong to the units of a panel, as columns. */
static void lstm_pack_columns(const lstm_job *job, real *to, const real *w, size_t N, size_t panel)
{
    enum {
        DEPTH = 64
    }; /* columns of w at a time, so that the lines written stay in the L1 cache */
    const size_t H = job->s.H;
    for (size_t k0 = 0; k0 < N; k0 += DEPTH, to += DEPTH * WIDTH) {
        const size_t depth = smaller(N - k0, DEPTH);
        for (size_t gate = 0; gate < GATES; gate++)
            for (size_t lane = 0; lane < LANES; lane++) {
                const size_t unit = panel * LANES + lane;
                const real *row = w + (gate * H + unit) * N + k0;
                for (size_t k = 0; k < depth; k++)
                    to[k * WIDTH + gate * LANES + lane] = unit < H ? row[k] : 0;
            }
    }
}

/* A packed panel holds the four gates of the same LANES units, so that the product gives a row of all
 * that its cell needs. */
static void lstm_pack_forward(void *arg, size_t panel)
{
    const lstm_job *job = arg;
    const size_t I = job->s.I, H = job->s.H;
    const real *b_ih = job->w->b_ih, *b_hh = job->w->b_hh;
    real *bias = job->packed_w + panel * (1 + I + H) * WIDTH;
    for (size_t gate = 0; gate < GATES; gate++)
        for (size_t lane = 0; lane < LANES; lane++) {
            const size_t unit = panel * LANES + lane, row = gate * H + unit;
            real sum = 0;
            if (unit < H)
                sum = (b_ih ? b_ih[row] : 0) + (b_hh ? b_hh[row] : 0);
            bias[gate * LANES + lane] = sum;
        }
    lstm_pack_columns(job, bias + WIDTH, job->w->w_ih, I, panel);
    lstm_pack_columns(job, bias + (1 + I) * WIDTH, job->w->w_hh, H, panel);
}

/* The units of one panel at step t for one batch row, from their pre-activations. */
PK_INLINE void lstm_cell(const lstm_job *job, size_t t, size_t b, size_t panel, const real *a)
{
    const size_t B = job->s.B, P = job->P, H = job->s.H, unit = panel * LANES;
    const size_t state = (t * B + b) * P + unit, next = state + B * P;
    real *gates = gates_at(job, panel, t, b);
    vec h = load(job->h + state), c = load(job->c + state), y = broadcast(0);
    if (active(job, t, b)) {
        const vec i = vec_sigmoid(load_aligned(a + I_GATE * LANES));
        const vec f = vec_sigmoid(load_aligned(a + F_GATE * LANES));
        const vec g = vec_tanh(load_aligned(a + G_GATE * LANES));
        const vec o = vec_sigmoid(load_aligned(a + O_GATE * LANES));
        c = f * c + i * g;
        y = h = o * vec_tanh(c);
        store(gates + I_GATE * LANES, i);
        store(gates + F_GATE * LANES, f);
        store(gates + G_GATE * LANES, g);
        store(gates + O_GATE * LANES, o);
    }
    store(job->h + next, h);
    store(job->c + next, c);
    if (job->y.data) {
        real *out = row_at(job->y, t, b) + unit;
        if (unit + LANES <= H)
            store(out, y);
        else
            store_part(out, y, H - unit);
    }
}

/* Pre-activations so far, in the place of the gates: bias + w_ih x, for a block of steps. */
static void lstm_inputs(const lstm_job *job, size_t t0, size_t t1, size_t from, size_t rows)
{
    const size_t I = job->s.I, H = job->s.H;
    for (size_t panel = 0; panel < job->P / LANES; panel++)
        for (size_t t = t0; t < t1; t++) {
            const real *w = job->packed_w + panel * (1 + I + H) * WIDTH;
            real *a = gates_at(job, panel, t, from);
            for (size_t r = 0; r < rows; r++)
                memcpy(a + r * WIDTH, w, WIDTH * sizeof *a);
            product(rows, WIDTH, I, plain(row_at(job->x, t, from), job->x.row, 1), w + WIDTH, a,
                    WIDTH);
        }
}

/* One step of one panel for rows b .. b + rows, at most ROW_BLOCK. */
static void lstm_step(const lstm_job *job, size_t t, size_t b, size_t rows, size_t panel)
{
    _Alignas(ALIGNMENT) real a[ROW_BLOCK * WIDTH]; /* pre-activations: never leave the L1 cache */
    const size_t I = job->s.I, H = job->s.H, P = job->P;
    const real *w = job->packed_w + panel * (1 + I + H) * WIDTH;
    if (job->block > 1) {
        memcpy(a, gates_at(job, panel, t, b), rows * WIDTH * sizeof *a);
    } else {
        for (size_t r = 0; r < rows; r++)
            memcpy(a + r * WIDTH, w, WIDTH * sizeof *a);
        product(rows, WIDTH, I, plain(row_at(job->x, t, b), job->x.row, 1), w + WIDTH, a, WIDTH);
    }
    product(rows, WIDTH, H, plain(job->h + (t * job->s.B + b) * P, (ptrdiff_t)P, 1),
            w + (1 + I) * WIDTH, a, WIDTH);
    for (size_t r = 0; r < rows; r++)
        lstm_cell(job, t, b + r, panel, a + r * WIDTH);
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
    for (size_t t = 0; t < job->s.T; t++) {
        if (job->block > 1 && t % job->block == 0)
            lstm_inputs(job, t, smaller(t + job->block, job->s.T), from, to - from);
        for (size_t b = from; b < to; b += ROW_BLOCK)
            for (size_t panel = 0; panel < P / LANES; panel++)
                lstm_step(job, t, b, smaller(to - b, ROW_BLOCK), panel);
    }
    restore_denormals(mode);
}

/* Weights that fit the L2 cache are best used for input and state together, step by step.  Larger ones
 * would come from memory at every step: then w_ih is used for a block of steps of some 512 rows. */
static size_t steps_at_a_time(const lstm_job *job)
{
    const size_t weights = GATES * job->P * (job->s.I + job->s.H) * sizeof(real);
    const size_t rows = job->s.B / job->chunks;
    return weights < L2_SHARE || rows >= 512 ? 1 : smaller(1 + 512 / (rows + 1), job->s.T);
}

static lstm_job lstm_job_for(const pk_rnn_shape *s, const pk_lstm_weights *w, pk_sequence x,
                             const pk_lstm_saved *saved, int nthreads)
{
    lstm_job job = {.s = *s, .w = w, .x = x, .h = saved->h, .c = saved->c, .gates = saved->gates};
    job.P = padded(s->H);
    job.Q = round_up(s->H, WIDTH);
    job.chunks = row_chunks(s, nthreads);
    job.block = steps_at_a_time(&job);
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

#endif
