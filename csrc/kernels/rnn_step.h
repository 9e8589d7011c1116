/* A single time step of a recurrent layer, for inference on a stream.
 *
 * Weights are read in place, in dot products along their rows.  Packing would read and write all of
 * them in every step, because a packed copy would be stale once somebody changes a weight.  So a
 * step reads each weight once; with few rows, that takes all of its time. */
#ifndef PK_RNN_STEP_H
#define PK_RNN_STEP_H

#include "rnn_memory.h"

enum {
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    STEP_ROWS = 4, /* batch rows at a time: 16 sums in 32 registers */
#else
    STEP_ROWS = 2, /* 8 in 16 */
#endif
};

typedef struct {
    const pk_rnn_layer *layer;
    size_t chunks; /* of panels */
    int phase;     /* 1: the products with s, or the projection of m */
    real *a, *s;   /* between the phases: with s [panels, B, WIDTH]; s or m [B, H] */
} rnn_step_job;

static size_t step_scratch(const pk_rnn_shape *s, rnn_step_job *job, real *memory)
{
    size_t end = 0;
    if (CELL_HAS_S)
        job->a = part(memory, &end, times(times(s->B, panels_in(s->H)), WIDTH));
    if (CELL_HAS_S || projects(s))
        job->s = part(memory, &end, times(s->B, s->H));
    return end;
}

static size_t step_scratch_size(const pk_rnn_shape *shape)
{
    rnn_step_job job;
    const size_t elements = step_scratch(shape, &job, NULL);
    return elements ? PK_SCRATCH_BYTES(elements) : 0;
}

/* Up to COLS rows of a weight for one lane of a panel: one for each column that the input enters,
 * or, if the cell has one column, one for each of its vectors. */
typedef struct {
    size_t first, count;
    const real *w[COLS];
} step_rows;

PK_INLINE step_rows step_rows_of(columns of, const real *w, size_t H, size_t N, size_t unit)
{
    step_rows rows = {of.first, of.count * VECTORS, {NULL}};
    for (size_t j = 0; j < of.count; j++)
        for (size_t v = 0; v < VECTORS; v++) { /* beyond the last unit: that one again */
            const size_t row = VECTORS == 1 ? unit : smaller(unit + v * LANES, H - 1);
            rows.w[j + v] = w + (of.gate[j] * H + row) * N;
        }
    return rows;
}

/* sums[r][j] += w_j[k..k+n-1] * x_r[k..k+n-1], element by element, n <= LANES. */
PK_INLINE void step_columns(vec sums[STEP_ROWS][COLS], const int rows, size_t n, const step_rows *w,
                            size_t k, const real *x, ptrdiff_t x_row)
{
    vec x_r[STEP_ROWS];
    for (int r = 0; r < rows; r++)
        x_r[r] = load_n(x + r * x_row + k, n);
    for (size_t j = 0; j < w->count; j++) {
        const vec w_j = load_n(w->w[j] + k, n);
        for (int r = 0; r < rows; r++)
            sums[r][w->first + j] += w_j * x_r[r];
    }
}

PK_INLINE void step_dots(vec sums[STEP_ROWS][COLS], const int rows, size_t K, step_rows w,
                         const real *x, ptrdiff_t x_row)
{
    size_t k = 0;
    for (; k + LANES <= K; k += LANES)
        step_columns(sums, rows, LANES, &w, k, x, x_row);
    if (k < K)
        step_columns(sums, rows, K - k, &w, k, x, x_row);
}

/* The new state of one batch row for the units of a panel, from `unit` on, from their dot products;
 * in the first phase of a cell with s, that. */
PK_INLINE void rnn_step_cell(const rnn_step_job *job, size_t b, size_t unit, vec dots[COLS][LANES])
{
    const pk_rnn_layer *layer = job->layer;
    const size_t H = layer->shape.H, at = b * H + unit, units = smaller(H - unit, UNITS);
    const int to_project = projects(&layer->shape);
    real *const out = to_project ? job->s : layer->h_last;
    const real *biases[] = {layer->weights.b_ih, layer->weights.b_hh, layer->weights.b_hh};
    const real *h0 = layer->h0, *c0 = layer->c0, *own = layer->weights.peepholes;
    const columns of[] = {OF_X, OF_H, OF_S};
    _Alignas(ALIGNMENT) real local[WIDTH]; /* [COLUMNS, UNITS] */
    real *a = CELL_HAS_S ? job->a + (unit / UNITS * layer->shape.B + b) * WIDTH : local;
    for (size_t v = 0; v * LANES < units; v++) {
        const size_t n = smaller(units - v * LANES, LANES), unit_v = v * LANES;
        for (size_t j = 0; j < CELL_COLUMNS; j++) {
            vec bias = CELL_HAS_S && job->phase ? load(a + j * UNITS + unit_v) : (vec){0};
            for (size_t i = 0; i < 3 && !(CELL_HAS_S && job->phase); i++)
                if (biases[i] && j - of[i].first < of[i].count)
                    bias += load_n(biases[i] + of[i].gate[j - of[i].first] * H + unit + unit_v, n);
            store(a + j * UNITS + unit_v, sums_of_lanes(dots[j + v]) + bias);
        }
        vec c = c0 ? load_n(c0 + at + unit_v, n) : (vec){0};
        const vec h = h0 && !to_project ? load_n(h0 + at + unit_v, n) : (vec){0};
        if (CELL_HAS_S && !job->phase) {
            store_n(job->s + at + unit_v, cell_s(a + unit_v, UNITS, h), n);
            continue;
        }
        real peepholes[CELL_N_PEEPHOLES * LANES + 1];
        for (size_t k = 0; own && k != CELL_N_PEEPHOLES; k++)
            store(peepholes + k * LANES, load_n(own + k * H + unit + unit_v, n));
        const cell_context context = {&layer->shape, own ? peepholes : NULL, LANES};
        c = cell_c(&context, a + unit_v, NULL, UNITS, c);
        if (CELL_HAS_C)
            store_n((real *)layer->c_last + at + unit_v, c, n);
        store_n(out + at + unit_v, cell_h(&context, a + unit_v, NULL, UNITS, c, h), n);
    }
}

/* The units of a panel, from `unit` on, for batch rows b..b+rows-1; rows is a literal. */
PK_INLINE void rnn_step_tile(const rnn_step_job *job, const int rows, size_t b, size_t unit)
{
    const pk_rnn_layer *layer = job->layer;
    const size_t I = layer->shape.I, H = layer->shape.H, n = smaller(H - unit, LANES);
    const size_t R = width_of_h(&layer->shape);
    const real *w_ih = layer->weights.w_ih, *w_hh = layer->weights.w_hh, *h0 = layer->h0;
    vec dots[STEP_ROWS][COLS][LANES]; /* at most 16 KiB */
    for (size_t lane = 0; lane < LANES; lane++) {
        vec sums[STEP_ROWS][COLS] = {{{0}}};
        if (lane < n && !job->phase)
            step_dots(sums, rows, I, step_rows_of(OF_X, w_ih, H, I, unit + lane),
                      row_at(layer->x, 0, b), layer->x.b_stride);
        if (lane < n && h0 && !job->phase)
            step_dots(sums, rows, R, step_rows_of(OF_H, w_hh, H, R, unit + lane), h0 + b * R,
                      (ptrdiff_t)R);
        if (CELL_HAS_S && lane < n && h0 && job->phase)
            step_dots(sums, rows, H, step_rows_of(OF_S, w_hh, H, H, unit + lane), job->s + b * H,
                      (ptrdiff_t)H);
        for (int r = 0; r < rows; r++)
            for (size_t j = 0; j < COLS; j++)
                dots[r][j][lane] = sums[r][j];
    }
    for (int r = 0; r < rows; r++)
        rnn_step_cell(job, b + (size_t)r, unit, dots[r]);
}

/* WIDTH features of h, from `at` on, for batch row b: h = w_hr m. */
static void rnn_step_project(const rnn_step_job *job, size_t b, size_t at)
{
    const pk_rnn_layer *layer = job->layer;
    const size_t H = layer->shape.H, R = layer->shape.R;
    const real *m = job->s + b * H, *w = (const real *)layer->weights.w_hr + at * H;
    for (size_t end = smaller(at + WIDTH, R); at < end; at++, w += H) {
        vec sums = {0};
        real sum = 0;
        for (size_t k = 0; k < H; k += LANES)
            sums += load_n(w + k, smaller(H - k, LANES)) * load_n(m + k, smaller(H - k, LANES));
        for (size_t lane = 0; lane < LANES; lane++)
            sum += sums[lane];
        ((real *)layer->h_last)[b * R + at] = sum;
    }
}

static void rnn_step_panels(void *arg, size_t chunk)
{
    const rnn_step_job *job = arg;
    const pk_rnn_shape *s = &job->layer->shape;
    const int to_project = projects(s) && job->phase;
    const size_t B = s->B, panels = to_project ? round_up(s->R, WIDTH) / WIDTH : panels_in(s->H);
    const size_t from = pk_chunk_begin(panels, chunk, job->chunks);
    const size_t to = pk_chunk_begin(panels, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t panel = from; panel < to; panel++) {
        size_t b = 0;
        for (; b < B && to_project; b++)
            rnn_step_project(job, b, panel * WIDTH);
        for (; b + STEP_ROWS <= B; b += STEP_ROWS)
            rnn_step_tile(job, STEP_ROWS, b, panel * UNITS);
        for (; b < B; b++)
            rnn_step_tile(job, 1, b, panel * UNITS);
    }
    restore_denormals(mode);
}

static void rnn_step(const pk_rnn_layer *layer, int nthreads)
{
    enum { SERIAL_BELOW = 1 << 18 }; /* multiply-adds: some 10 microseconds */
    const pk_rnn_shape *s = &layer->shape;
    rnn_step_job job = {.layer = layer, .chunks = 1};
    const int phases = CELL_HAS_S || projects(s) ? 2 : 1;
    step_scratch(s, &job, phases > 1 ? align(layer->scratch) : NULL);
    if (nthreads > 1 && s->B * CELL_GATES * s->H * (s->I + s->H) >= SERIAL_BELOW)
        job.chunks = smaller((size_t)nthreads, panels_in(s->H));
    for (; job.phase < phases; job.phase++)
        pk_parallel(rnn_step_panels, &job, job.chunks, nthreads);
}

#endif
