/* The memory of a layer-normalized layer, and the normalization of its rows.  normed_cells.h and
 * normed.c are built on it.
 *
 * The statistics of a row are over many units at once, so here a row holds all of them, unlike in
 * rnn_layout.h: the products with w_ih [N], those with w_hh [N] and the gates [4H] of each step and
 * sequence, N = gates * H.  The products are normalized in place.  Backward replaces all three by
 * their gradients.  The gradient of a weight reads a column of these rows.  If they began at the
 * same few sets of the L1 cache, it would miss there, so they are an odd number of cache lines
 * apart.
 *
 * Sums over rows (the gradients of gains and biases) are made for ROW_GROUP batch rows, then over
 * such groups in their order.  A thread gets whole groups: bits do not depend on threads. */
#ifndef PK_NORMED_LAYOUT_H
#define PK_NORMED_LAYOUT_H

#include "mathfun.h"
#include "pack.h"
#include "rnn_shared.h"
#include "sums.h"

/* Code that takes no part of the time of a pass, compiled for size. */
#define PK_COLD __attribute__((noinline, cold))

#define NORMED_EPS 1e-5 /* added to a variance */

enum {
    ROW_GROUP = 8, /* batch rows whose sums are made together */
    SCALES = 6     /* statistics of a row: 1 / standard deviation of each part; those of c */
};
enum { SCALE_X = 0, SCALE_H = 2, MEAN_C = 4, SCALE_C = 5 }; /* their indices */

struct normed_cell;
typedef struct {
    pk_rnn_shape s;
    const struct normed_cell *cell;
    size_t N, P;           /* see above; H rounded up to LANES */
    size_t row, gates_row; /* elements between two rows of products and of gates */
    size_t window;         /* steps whose rows are in memory; those of step t at t % window */
    size_t x_window;       /* the same for the products with w_ih */
    size_t block;          /* steps whose products with w_ih are computed together */
    pk_rnn_weights w, dw;
    pk_sequence x, y, dy, dx;    /* in the order in which steps are taken */
    real *h, *c;                 /* [., B, P]: the state before the first step and after each */
    real *of_x, *of_h, *gates;   /* [x_window or window, B, row or gates_row] */
    real *scales;                /* [x_window, B, SCALES] */
    real *packed_ih, *packed_hh; /* weights in panels, for forward: columns are rows of w */
    real *rows_ih, *rows_hh;     /* the same for backward: rows are rows of w */
    real *bias, *bias_n;         /* [N], [H]: of a pre-activation; of the product with h in n */
    real *zeros;                 /* [H], only for a single step */
    real *before;                /* [B, P], only with resets: h as it enters the products */
    real *reset_h, *reset_c;     /* [B, P], only with resets: the states after one */
    real *dh, *dc;               /* [B, P]: gradients of the states */
    real *dh_resets, *dc_resets; /* [B, P], only with resets: gradients of h0, c0 from the resets */
    real *sums;                  /* [groups, sums_of(job)]: see normed_cells.h */
    int from_zeros;              /* h before the first step is 0 */
    int wants_dh0, accumulate, adds_to_dx;
} normed_job;

/* The arrays of one step of one sequence. */
typedef struct {
    real *x, *h, *gates, *scales;
    const real *h_prev, *c_prev;
    real *h_next, *c_next;
} normed_row;

/* A cell: its shape, and its equations for one row. */
typedef struct normed_cell {
    size_t gates, states;
    range parts[2]; /* of a row of products, in units of H, with statistics of their own */
    size_t n_parts;
    void (*forward)(const normed_job *job, const normed_row *r);
    /* dh and dc [H]: the gradients of the new states; afterwards the part of the gradients of the
     * old states that does not pass through w_hh.  Replaces the products by their gradients, the
     * gates by those of pre-activations. */
    void (*backward)(const normed_job *job, const normed_row *r, real *dh, real *dc, real *sums);
} normed_cell;

PK_INLINE size_t groups_of(size_t B) { return (B + ROW_GROUP - 1) / ROW_GROUP; }
PK_INLINE size_t panels_of(size_t columns) { return round_up(columns, WIDTH) / WIDTH; }
PK_INLINE size_t odd_lines(size_t elements)
{
    enum { LINE = ALIGNMENT / sizeof(real) };
    return (round_up(elements, LINE) / LINE | 1) * LINE;
}

/* ---- normalization --------------------------------------------------------------------------- */

PK_INLINE void add_n(real *to, vec v, size_t n) { store_n(to, load_n(to, n) + v, n); }

/* mean_of_row, compiled once for both powers. */
__attribute__((noinline)) static double normed_mean(const real *a, size_t N, real shift, int power)
{
    return mean_of_row(a, N, shift, power);
}

/* 1 / sqrt(variance + eps) of a [N], and its mean. */
static real scale_of(const real *a, size_t N, real *mean)
{
    *mean = (real)normed_mean(a, N, 0, 1);
    return (real)(1 / sqrt(normed_mean(a, N, *mean, 2) + NORMED_EPS));
}

/* Each part of a row of products: (a - mean) * scale. */
__attribute__((noinline)) static void normalize(const normed_job *job, real *a, real *scales)
{
    for (size_t i = 0; i < job->cell->n_parts; i++) {
        const range units = job->cell->parts[i];
        real *const from = a + units.from * job->s.H;
        const size_t N = length(units) * job->s.H;
        real mean;
        const real scale = scales[i] = scale_of(from, N, &mean);
        for (size_t k = 0; k < N; k += LANES) {
            const size_t n = smaller(N - k, LANES);
            store_n(from + k, (load_n(from + k, n) - mean) * scale, n);
        }
    }
}

/* Replaces normalized products a [N] by their gradients: d are those of a * gain + bias.  Adds to
 * dgain and dbias, which may be NULL. */
__attribute__((noinline)) static void normalize_backward(real *a, const real *d, size_t N,
                                                         const real *gain, real scale, real *dgain,
                                                         real *dbias)
{
    long_sum sum = {0}, product = {0};
    for (size_t k = 0; k < N; k += LANES) {
        const size_t n = smaller(N - k, LANES);
        const vec normed = load_n(a + k, n), d_k = load_n(d + k, n);
        const vec scaled = d_k * load_n(gain + k, n);
        add_to(&sum, scaled);
        add_to(&product, scaled * normed);
        add_n(dgain + k, d_k * normed, n);
        if (dbias)
            add_n(dbias + k, d_k, n);
    }
    const real shift = (real)(sum_of(&sum) / (double)N),
               slope = (real)(sum_of(&product) / (double)N);
    for (size_t k = 0; k < N; k += LANES) {
        const size_t n = smaller(N - k, LANES);
        const vec scaled = load_n(d + k, n) * load_n(gain + k, n);
        store_n(a + k, (scaled - shift - load_n(a + k, n) * slope) * scale, n);
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

PK_INLINE real *x_at(const normed_job *job, size_t t, size_t b)
{
    return job->of_x + (t % job->x_window * job->s.B + b) * job->row;
}
PK_INLINE real *scales_at(const normed_job *job, size_t t, size_t b)
{
    return job->scales + (t % job->x_window * job->s.B + b) * SCALES;
}
PK_INLINE real *product_at(const normed_job *job, size_t t, size_t b)
{
    return job->of_h + (t % job->window * job->s.B + b) * job->row;
}

/* The state before step t; `states` is job->h or job->c. */
PK_INLINE real *state_at(const normed_job *job, real *states, size_t t, size_t b)
{
    const size_t slot = job->s.save == PK_SAVE_NOTHING ? t % 2 : t;
    return states ? states + (slot * job->s.B + b) * job->P : NULL;
}

static normed_row row_of(const normed_job *job, size_t t, size_t b)
{
    const size_t at = t % job->window * job->s.B + b;
    const int anew = begins_anew(&job->s, t, b);
    return (normed_row){
        .x = x_at(job, t, b),
        .h = product_at(job, t, b),
        .gates = job->gates + at * job->gates_row,
        .scales = scales_at(job, t, b),
        .h_prev = anew ? job->reset_h + b * job->P : state_at(job, job->h, t, b),
        .c_prev = anew ? job->reset_c + b * job->P : state_at(job, job->c, t, b),
        .h_next = state_at(job, job->h, t + 1, b),
        .c_next = state_at(job, job->c, t + 1, b),
    };
}

/* ---- sizes ----------------------------------------------------------------------------------- */

/* Elements of the sums of a group: gradients of gain_ih, gain_hh and of the bias of both, [N] each;
 * then two of [H]: of an LSTM gain_c and b_c, of a GRU the bias of h in n. */
PK_INLINE size_t sums_of(const normed_job *job) { return plus(times(3, job->N), 2 * job->s.H); }

/* Memory for the rows of `steps` steps; for the products with w_ih, of `x_steps`. */
PK_COLD static void place_rows(normed_job *job, real *memory, size_t *end, size_t x_steps,
                               size_t steps)
{
    const size_t rows = times(steps, job->s.B), x_rows = times(x_steps, job->s.B);
    job->x_window = x_steps, job->window = steps;
    job->gates = part(memory, end, times(rows, job->gates_row)); /* first: Layer.stats reads it */
    job->of_x = part(memory, end, times(x_rows, job->row));
    job->of_h = part(memory, end, times(rows, job->row));
    job->scales = part(memory, end, times(x_rows, SCALES));
}

PK_COLD static void place_resets(normed_job *job, real *memory, size_t *end)
{
    const size_t states = times(job->s.B, job->P);
    if (!job->s.resets)
        return;
    job->before = part(memory, end, states);
    job->reset_h = part(memory, end, states);
    job->reset_c = part(memory, end, states);
    job->dh_resets = part(memory, end, states);
    job->dc_resets = part(memory, end, states);
}

/* The memory of forward, which backward needs as well if it computes rows again. */
static void place_forward(normed_job *job, real *memory, size_t *end)
{
    job->packed_ih = part(memory, end, packed_size(job->s.I, job->N));
    job->packed_hh = part(memory, end, packed_size(job->s.H, job->N));
}

/* Divides the scratch memory of a pass.  Returns how many elements it needs. */
PK_COLD static size_t place_pass(normed_job *job, real *memory, int is_backward)
{
    const size_t states = times(job->s.B, job->P), T = job->s.T ? job->s.T : 1;
    const int full = job->s.save == PK_SAVE_FULL;
    size_t end = 0, window = is_backward ? steps_of_window(&job->s) : 1;
    job->bias = part(memory, &end, job->N);
    job->bias_n = part(memory, &end, job->s.H);
    place_resets(job, memory, &end);
    if (!is_backward || !full)
        place_forward(job, memory, &end);
    if (full)
        job->window = job->x_window = T;
    else
        place_rows(job, memory, &end, is_backward ? window : job->block, window);
    if (!is_backward)
        return end;
    job->rows_ih = part(memory, &end, packed_size(job->N, job->s.I));
    job->rows_hh = part(memory, &end, packed_size(job->N, job->s.H));
    job->dh = part(memory, &end, states);
    job->dc = part(memory, &end, states);
    job->sums = part(memory, &end, times(groups_of(job->s.B), sums_of(job)));
    return end;
}

/* Enough steps for a product with w_ih to fill tiles and, if the weights exceed L2, to read w_ih
 * once for some 512 rows. */
static size_t steps_of_block(const normed_job *job)
{
    const size_t weights = times(times(job->N, plus(job->s.I, job->s.H)), sizeof(real));
    const size_t rows = weights < L2_SHARE ? ROW_BLOCK : 512;
    return smaller(1 + rows / (job->s.B + 1), job->s.T ? job->s.T : 1);
}

/* The sizes of a job.  With B = 0 there is nothing to do, so T is 0. */
PK_COLD static normed_job normed_job_for(const pk_rnn_shape *shape, const normed_cell *cell)
{
    normed_job job = {.s = *shape, .cell = cell, .P = padded(shape->H)};
    if (job.s.B == 0)
        job.s.T = 0;
    job.N = times(cell->gates, shape->H);
    job.row = odd_lines(job.N);
    job.gates_row = odd_lines(times(4, shape->H));
    job.block = steps_of_block(&job);
    return job;
}

PK_COLD static pk_rnn_sizes normed_sizes(const pk_rnn_shape *shape, const normed_cell *cell)
{
    normed_job job = normed_job_for(shape, cell);
    const size_t T = job.s.T, B = job.s.B, forward = place_pass(&job, NULL, 0);
    const size_t backward = place_pass(&job, NULL, 1);
    const int nothing = job.s.save == PK_SAVE_NOTHING;
    pk_rnn_sizes size = {.h = times(nothing ? 2 : T + 1, times(B, job.P))};
    if (cell->states == 2)
        size.c = size.h;
    if (job.s.save == PK_SAVE_FULL)
        place_rows(&job, NULL, &size.gates, T, T);
    size.scratch = PK_SCRATCH_BYTES(nothing || forward > backward ? forward : backward);
    return size;
}

#endif
