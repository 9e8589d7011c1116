/* One step of an LSTM layer, for inference on a stream.  Included by rnn.c.
 *
 * Weights are used as they lie, in dot products along their rows.  To pack them would be to read and
 * write them all before the product reads them again, at every step, for a packed copy that is kept
 * would not notice when somebody changes a weight.  So a step costs one walk over the weights, and with
 * few rows that is all it costs. */
#ifndef PK_RNN_STEP_H
#define PK_RNN_STEP_H

#include "lstm.h"
#include "rnn.h"

enum {
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    STEP_ROWS = 4, /* of the batch at a time: 16 sums in 32 registers */
#else
    STEP_ROWS = 2, /* 8 in 16 */
#endif
};

typedef struct {
    const pk_lstm *layer;
    size_t chunks; /* of panels */
} lstm_step_job;

/* sums[r][gate] += the products of n <= LANES columns of a row of w for each gate, and of rows of x. */
PK_INLINE void lstm_step_columns(vec sums[STEP_ROWS][GATES], const int rows, size_t n,
                                 const real *w, size_t gate_stride, const real *x, ptrdiff_t x_row)
{
    vec x_r[STEP_ROWS];
    for (int r = 0; r < rows; r++)
        x_r[r] = load_first(x + r * x_row, n);
    for (size_t gate = 0; gate < GATES; gate++) {
        const vec w_gate = load_first(w + gate * gate_stride, n);
        for (int r = 0; r < rows; r++)
            sums[r][gate] += w_gate * x_r[r];
    }
}

PK_INLINE void lstm_step_dots(vec sums[STEP_ROWS][GATES], const int rows, size_t K, const real *w,
                              size_t gate_stride, const real *x, ptrdiff_t x_row)
{
    size_t k = 0;
    for (; k + LANES <= K; k += LANES)
        lstm_step_columns(sums, rows, LANES, w + k, gate_stride, x + k, x_row);
    if (k < K)
        lstm_step_columns(sums, rows, K - k, w + k, gate_stride, x + k, x_row);
}

/* Lane j of the result is the sum of the lanes of v[j], j < LANES; destroys v.  As in a transposition,
 * each round moves one bit of the index, and adds the halves that it brings together. */
PK_INLINE vec sums_of_lanes(vec v[LANES])
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v[i] = __builtin_shufflevector(v[i], v[i + half], PK_LOW) +
                   __builtin_shufflevector(v[i], v[i + half], PK_HIGH);
    return v[0];
}

/* The new state of n <= LANES units from `unit` on for one batch row; dots[gate][lane] are theirs. */
PK_INLINE void lstm_step_cell(const pk_lstm *layer, size_t b, size_t unit, size_t n,
                              vec dots[GATES][LANES])
{
    const size_t H = layer->shape.H, at = b * H + unit;
    const real *biases[] = {layer->weights.b_ih, layer->weights.b_hh};
    const real *c0 = layer->c0;
    _Alignas(ALIGNMENT) real a[GATES * LANES];
    for (size_t gate = 0; gate < GATES; gate++) {
        vec bias = {0};
        for (int i = 0; i < 2; i++)
            if (biases[i])
                bias += load_first(biases[i] + gate * H + unit, n);
        store(a + gate * LANES, sums_of_lanes(dots[gate]) + bias);
    }
    const lstm_gates gates = lstm_activate(lstm_load(a, LANES));
    const vec c = lstm_c(gates, c0 ? load_first(c0 + at, n) : (vec){0});
    store_first((real *)layer->c_last + at, c, n);
    store_first((real *)layer->h_last + at, lstm_h(gates.o, c), n);
}

/* The units from `unit` on, a panel at most, for batch rows b .. b + rows, a literal. */
PK_INLINE void lstm_step_tile(const pk_lstm *layer, const int rows, size_t b, size_t unit)
{
    const size_t I = layer->shape.I, H = layer->shape.H, n = smaller(H - unit, LANES);
    const real *w_ih = layer->weights.w_ih, *w_hh = layer->weights.w_hh, *h0 = layer->h0;
    vec dots[STEP_ROWS][GATES][LANES]; /* at most 16 KiB */
    for (size_t lane = 0; lane < LANES; lane++) {
        vec sums[STEP_ROWS][GATES] = {{{0}}};
        const size_t row = unit + lane;
        if (lane < n)
            lstm_step_dots(sums, rows, I, w_ih + row * I, H * I, row_at(layer->x, 0, b),
                           layer->x.row);
        if (lane < n && h0)
            lstm_step_dots(sums, rows, H, w_hh + row * H, H * H, h0 + b * H, (ptrdiff_t)H);
        for (int r = 0; r < rows; r++)
            for (size_t gate = 0; gate < GATES; gate++)
                dots[r][gate][lane] = sums[r][gate];
    }
    for (int r = 0; r < rows; r++)
        lstm_step_cell(layer, b + (size_t)r, unit, n, dots[r]);
}

static void lstm_step_panels(void *arg, size_t chunk)
{
    const lstm_step_job *job = arg;
    const size_t B = job->layer->shape.B, panels = padded(job->layer->shape.H) / LANES;
    const size_t from = pk_cut(panels, chunk, job->chunks);
    const size_t to = pk_cut(panels, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t panel = from; panel < to; panel++) {
        size_t b = 0;
        for (; b + STEP_ROWS <= B; b += STEP_ROWS)
            lstm_step_tile(job->layer, STEP_ROWS, b, panel * LANES);
        for (; b < B; b++)
            lstm_step_tile(job->layer, 1, b, panel * LANES);
    }
    restore_denormals(mode);
}

static void lstm_step_once(const pk_lstm *layer, int nthreads)
{
    enum { SERIAL_BELOW = 1 << 18 }; /* multiply-adds: some 10 microseconds */
    const pk_rnn_shape *s = &layer->shape;
    lstm_step_job job = {layer, 1};
    if (nthreads > 1 && s->B * GATES * s->H * (s->I + s->H) >= SERIAL_BELOW)
        job.chunks = smaller((size_t)nthreads, padded(s->H) / LANES);
    pk_parallel(lstm_step_panels, &job, job.chunks, nthreads);
}

#endif
