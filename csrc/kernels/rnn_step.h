/* One step of an LSTM layer for inference on a stream.  Included by rnn.c.
 *
 * Weights are used as they lie, in dot products along their rows.  Packing them would mean to read and
 * write them all before the product reads them again, in every call, as a packed copy that is kept
 * would not notice when somebody changes a weight.  So a step costs one walk over the weights, and with
 * few rows that is all it costs. */
#ifndef PK_RNN_STEP_H
#define PK_RNN_STEP_H

#include "rnn.h"

enum {
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    STEP_ROWS = 4, /* of the batch at a time: 16 sums in 32 registers */
#else
    STEP_ROWS = 2, /* 8 in 16 */
#endif
    STEP_SERIAL_BELOW = 1 << 18 /* multiply-adds: some 10 microseconds */
};

typedef struct {
    size_t B, I, H, chunks; /* chunks: of panels of units */
    const pk_lstm_weights *w;
    const real *x, *h, *c;
    ptrdiff_t x_row;
    real *h_out, *c_out;
} lstm_step_job;

/* ---- sums over the lanes of many vectors at once ------------------------------------------------ */

#if PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 16
#define PK_EACH_LANE(f, n)                                                                         \
    f(0, n), f(1, n), f(2, n), f(3, n), f(4, n), f(5, n), f(6, n), f(7, n), f(8, n), f(9, n),      \
        f(10, n), f(11, n), f(12, n), f(13, n), f(14, n), f(15, n)
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 8
#define PK_EACH_LANE(f, n) f(0, n), f(1, n), f(2, n), f(3, n), f(4, n), f(5, n), f(6, n), f(7, n)
#elif PK_VECTOR_BYTES * 8 / PK_DTYPE_BITS == 4
#define PK_EACH_LANE(f, n) f(0, n), f(1, n), f(2, n), f(3, n)
#else
#define PK_EACH_LANE(f, n) f(0, n), f(1, n)
#endif
#if defined(__clang__) || __GNUC__ >= 12
#define PK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (vec_bits){__VA_ARGS__})
#endif

/* Lane j of a fold is a[j] + a[j + n] where bit n of j is 0, else b[j - n] + b[j].  (The remainder is
 * for compilers, which look at indices even where n is too large for a fold.) */
#define PK_LOW(j, n) ((j) & (n) ? LANES + (j) - (n) : (j))
#define PK_HIGH(j, n) (((j) & (n) ? LANES + (j) : (j) + (n)) % (2 * LANES))
#define PK_FOLD(v, n)                                                                              \
    for (int i = 0; i < (n) && (n) < LANES; i++)                                                   \
        v[i] = PK_SHUFFLE(v[i], v[i + (n)], PK_EACH_LANE(PK_LOW, n)) +                             \
               PK_SHUFFLE(v[i], v[i + (n)], PK_EACH_LANE(PK_HIGH, n));

/* Lane j of the result is the sum of the lanes of v[j], j < LANES, by halves; destroys v. */
PK_INLINE vec sums(vec v[LANES])
{
    PK_FOLD(v, 8)
    PK_FOLD(v, 4)
    PK_FOLD(v, 2)
    PK_FOLD(v, 1)
    return v[0];
}

/* ---- the step ----------------------------------------------------------------------------------- */

/* acc[r][gate] += the products of K columns of w, one row of it for each gate, and of rows of x. */
PK_INLINE void lstm_step_dots(vec acc[STEP_ROWS][GATES], const int rows, size_t K, const real *w,
                              size_t gate_stride, const real *x, ptrdiff_t row)
{
    vec x_k[STEP_ROWS];
    size_t k = 0;
    for (; k + LANES <= K; k += LANES) {
        for (int r = 0; r < rows; r++)
            x_k[r] = load(x + r * row + k);
        for (size_t gate = 0; gate < GATES; gate++) {
            const vec w_k = load(w + gate * gate_stride + k);
            for (int r = 0; r < rows; r++)
                acc[r][gate] += w_k * x_k[r];
        }
    }
    if (k == K)
        return;
    for (int r = 0; r < rows; r++)
        x_k[r] = load_part(x + r * row + k, K - k);
    for (size_t gate = 0; gate < GATES; gate++) {
        const vec w_k = load_part(w + gate * gate_stride + k, K - k);
        for (int r = 0; r < rows; r++)
            acc[r][gate] += w_k * x_k[r];
    }
}

PK_INLINE vec load_units(const real *p, size_t n) { return n == LANES ? load(p) : load_part(p, n); }
PK_INLINE void store_units(real *p, vec v, size_t n)
{
    if (n == LANES)
        store(p, v);
    else
        store_part(p, v, n);
}

/* The new state of n <= LANES units from `unit` on, for one batch row; dots[gate][lane] are theirs. */
PK_INLINE void lstm_step_cell(const lstm_step_job *job, size_t b, size_t unit, size_t n,
                              vec dots[GATES][LANES])
{
    const size_t H = job->H, at = b * H + unit;
    const real *biases[] = {job->w->b_ih, job->w->b_hh};
    vec a[GATES];
    for (size_t gate = 0; gate < GATES; gate++) {
        vec bias = {0};
        for (int k = 0; k < 2; k++)
            if (biases[k])
                bias += load_units(biases[k] + gate * H + unit, n);
        a[gate] = sums(dots[gate]) + bias;
    }
    const vec i = vec_sigmoid(a[I_GATE]), f = vec_sigmoid(a[F_GATE]);
    const vec g = vec_tanh(a[G_GATE]), o = vec_sigmoid(a[O_GATE]);
    const vec c = f * load_units(job->c + at, n) + i * g;
    store_units(job->c_out + at, c, n);
    store_units(job->h_out + at, o * vec_tanh(c), n);
}

/* A panel of units, `unit` its first, for batch rows b .. b + rows, a literal. */
PK_INLINE void lstm_step_tile(const lstm_step_job *job, const int rows, size_t b, size_t unit)
{
    const size_t I = job->I, H = job->H, n = smaller(H - unit, LANES);
    const real *w_ih = job->w->w_ih, *w_hh = job->w->w_hh;
    vec dots[STEP_ROWS][GATES][LANES]; /* at most 16 KiB */
    for (size_t lane = 0; lane < LANES; lane++) {
        vec acc[STEP_ROWS][GATES] = {{{0}}};
        if (lane < n) {
            const size_t row = unit + lane;
            lstm_step_dots(acc, rows, I, w_ih + row * I, H * I, job->x + (ptrdiff_t)b * job->x_row,
                           job->x_row);
            lstm_step_dots(acc, rows, H, w_hh + row * H, H * H, job->h + b * H, (ptrdiff_t)H);
        }
        for (int r = 0; r < rows; r++)
            for (size_t gate = 0; gate < GATES; gate++)
                dots[r][gate][lane] = acc[r][gate];
    }
    for (int r = 0; r < rows; r++)
        lstm_step_cell(job, b + (size_t)r, unit, n, dots[r]);
}

static void lstm_step_units(void *arg, size_t chunk)
{
    const lstm_step_job *job = arg;
    const size_t panels = round_up(job->H, LANES) / LANES, B = job->B;
    const size_t from = pk_cut(panels, chunk, job->chunks);
    const size_t to = pk_cut(panels, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t panel = from; panel < to; panel++) {
        size_t b = 0;
        for (; b + STEP_ROWS <= B; b += STEP_ROWS)
            lstm_step_tile(job, STEP_ROWS, b, panel * LANES);
        for (; b < B; b++)
            lstm_step_tile(job, 1, b, panel * LANES);
    }
    restore_denormals(mode);
}

static void lstm_single_step(size_t B, size_t I, size_t H, const pk_lstm_weights *weights,
                             const void *x, ptrdiff_t x_row, const void *h, const void *c,
                             void *h_out, void *c_out, int nthreads)
{
    lstm_step_job job = {B, I, H, 1, weights, x, h, c, x_row, h_out, c_out};
    if (nthreads > 1 && B * GATES * H * (I + H) >= STEP_SERIAL_BELOW)
        job.chunks = smaller((size_t)nthreads, round_up(H, LANES) / LANES);
    pk_parallel(lstm_step_units, &job, job.chunks, nthreads);
}

#endif
