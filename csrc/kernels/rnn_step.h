/* A single time step of a recurrent layer, for inference on a stream: a kernel of the table
 * (rnn_passes.h).
 *
 * Weights are read in place, in dot products along their rows.  Packing would read and write all of
 * them in every step, because a packed copy would be stale once somebody changes a weight.  A step
 * reads each weight once, and with few rows that takes most of its time. */
#ifndef PK_RNN_STEP_H
#define PK_RNN_STEP_H

#include "dots.h"
#include "rnn_noise.h"

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

/* The new state of one batch row for the units of a panel, from `unit` on, from their dot products;
 * in the first phase of a cell with s, its s. */
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
        const cell_context context = {
            .shape = &layer->shape, .peepholes = own ? peepholes : NULL, .row = LANES};
        const vec c_prev = c;
        c = cell_c(&context, a + unit_v, NULL, UNITS, c);
        if (CELL_HAS_C)
            store_n((real *)layer->c_last + at + unit_v,
                    zoneout_mean(layer->shape.zoneout_c, c_prev, c), n);
        const vec h_new = cell_h(&context, a + unit_v, NULL, UNITS, c, h);
        const double p_h = to_project ? 0 : layer->shape.zoneout_h;
        store_n(out + at + unit_v, zoneout_mean(p_h, h, h_new), n);
    }
}

/* The weight of an input of the columns `of`, and rows of that input. */
typedef struct {
    const real *w, *x;
    size_t K;
    ptrdiff_t x_row;
} step_input;

/* dots += the products of the inputs with their weights, for the columns `of` of the panel from
 * `unit` on. */
PK_INLINE void rnn_step_dots(vec dots[STEP_ROWS][COLS][LANES], size_t rows, columns of, size_t H,
                             size_t unit, const step_input *inputs, size_t n_inputs)
{
    for (size_t v = 0, count; v < VECTORS && unit < H; v += count, unit += count * LANES) {
        const size_t lanes = smaller(H - unit, LANES);
        dot_term terms[2];
        if (VECTORS == 1)
            count = of.count;
        else /* whole vectors in one call, then the last one */
            count = lanes == LANES ? smaller((H - unit) / LANES, VECTORS - v) : 1;
        for (size_t i = 0; i < n_inputs; i++) {
            const size_t K = inputs[i].K;
            terms[i] = (dot_term){.x = inputs[i].x, .K = K, .x_row = inputs[i].x_row};
            for (size_t j = 0; j < count; j++)
                terms[i].w[j] =
                    inputs[i].w + (VECTORS == 1 ? of.gate[j] * H + unit : unit + j * LANES) * K;
        }
        PK_PRODUCTS.add_dots((vec(*)[COLS][LANES])dots[0][of.first + v], rows, count, lanes, terms,
                             n_inputs);
        if (VECTORS == 1)
            break;
    }
}

/* The units of a panel, from `unit` on, for batch rows b..b+rows-1. */
static void rnn_step_tile(const rnn_step_job *job, size_t rows, size_t b, size_t unit)
{
    const pk_rnn_layer *layer = job->layer;
    const size_t I = layer->shape.I, H = layer->shape.H, n_inputs = layer->h0 ? 2 : 1;
    const size_t R = width_of_h(&layer->shape);
    const real *w_ih = layer->weights.w_ih, *w_hh = layer->weights.w_hh, *h0 = layer->h0;
    const step_input inputs[] = {{w_ih, row_at(layer->x, 0, b), I, layer->x.b_stride},
                                 {w_hh, h0 ? h0 + b * R : NULL, R, (ptrdiff_t)R},
                                 {w_hh, CELL_HAS_S ? job->s + b * H : NULL, H, (ptrdiff_t)H}};
    vec dots[STEP_ROWS][COLS][LANES]; /* at most 16 KiB */
    memset(dots, 0, rows * sizeof dots[0]);
    if (CELL_HAS_S && job->phase) {
        if (h0)
            rnn_step_dots(dots, rows, OF_S, H, unit, inputs + 2, 1);
    } else if (OF_X.count == CELL_COLUMNS && OF_H.count == CELL_COLUMNS) {
        rnn_step_dots(dots, rows, OF_X, H, unit, inputs, n_inputs);
    } else {
        rnn_step_dots(dots, rows, OF_X, H, unit, inputs, 1);
        rnn_step_dots(dots, rows, OF_H, H, unit, inputs + 1, n_inputs - 1);
    }
    for (size_t r = 0; r < rows; r++)
        rnn_step_cell(job, b + r, unit, dots[r]);
}

/* WIDTH features of h, from `at` on, for batch row b: h = w_hr m. */
static void rnn_step_project(const rnn_step_job *job, size_t b, size_t at)
{
    const pk_rnn_layer *layer = job->layer;
    const size_t H = layer->shape.H, R = layer->shape.R;
    const real *m = job->s + b * H, *w = (const real *)layer->weights.w_hr + at * H;
    const real *h0 = layer->h0;
    for (size_t end = smaller(at + WIDTH, R); at < end; at++, w += H) {
        vec sums = {0};
        real sum = 0;
        for (size_t k = 0; k < H; k += LANES)
            sums += load_n(w + k, smaller(H - k, LANES)) * load_n(m + k, smaller(H - k, LANES));
        for (size_t lane = 0; lane < LANES; lane++)
            sum += sums[lane];
        const real before = h0 ? h0[b * R + at] : 0;
        ((real *)layer->h_last)[b * R + at] =
            zoneout_mean(layer->shape.zoneout_h, broadcast(before), broadcast(sum))[0];
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
