/* Layer-normalized LSTM and GRU: single steps, and the tables of both cells.  The equations are in
 * normed_cells.h, the passes in normed_forward.h and normed_backward.h.  CMake compiles this file
 * once for each instruction set and dtype; everything is static except the tables. */
#include "dots.h"
#include "normed_backward.h"

/* ---- a single step --------------------------------------------------------------------------- */

/* As in rnn_step.h, weights are read in place, each once. */
typedef struct {
    const pk_rnn_layer *layer;
    normed_job job; /* for T = 1, with its memory */
    size_t chunks;  /* of panels of columns, then of batch rows */
} normed_step_job;

static size_t place_step(normed_job *job, real *memory)
{
    size_t end = 0;
    job->bias = part(memory, &end, job->N);
    job->bias_n = part(memory, &end, job->s.H);
    job->zeros = part(memory, &end, job->s.H);
    place_rows(job, memory, &end, 1, 1);
    return end;
}

static size_t normed_step_scratch_size(const pk_rnn_shape *shape, const normed_cell *cell)
{
    normed_job job = normed_job_for(shape, cell);
    return PK_SCRATCH_BYTES(place_step(&job, NULL));
}

/* The columns from k on, of one panel, of to = x w^T, w [N, K], for batch rows b..b+rows-1. */
static void normed_step_tile(const normed_job *job, size_t rows, size_t b, size_t k, const real *w,
                             size_t K, const real *x, ptrdiff_t x_row, real *to)
{
    vec dots[STEP_ROWS][COLS][LANES]; /* at most 16 KiB */
    const size_t width = smaller(job->N - k, WIDTH), whole = width / LANES;
    memset(dots, 0, rows * sizeof dots[0]);
    for (size_t v = 0; v * LANES < width; v = v < whole ? whole : COLS) { /* then the last one */
        const size_t count = v < whole ? whole : 1, lanes = v < whole ? LANES : width % LANES;
        dot_term t = {.x = x + (ptrdiff_t)b * x_row, .K = K, .x_row = x_row};
        for (size_t j = 0; j < count; j++)
            t.w[j] = w + (k + (v + j) * LANES) * K;
        PK_PRODUCTS.add_dots((vec(*)[COLS][LANES])dots[0][v], rows, count, lanes, &t, 1);
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < width; j += LANES)
            store_n(to + (b + r) * job->row + k + j, sums_of_lanes(dots[r][j / LANES]),
                    smaller(width - j, LANES));
}

static void normed_step_products(void *arg, size_t chunk)
{
    const normed_step_job *step = arg;
    const normed_job *job = &step->job;
    const pk_rnn_layer *layer = step->layer;
    const size_t panels = panels_of(job->N), I = job->s.I, H = job->s.H, B = job->s.B;
    const fp_mode mode = flush_denormals();
    for (size_t panel = pk_chunk_begin(panels, chunk, step->chunks),
                to = pk_chunk_begin(panels, chunk + 1, step->chunks);
         panel < to; panel++)
        for (size_t b = 0, rows; b < B; b += rows) {
            rows = b + STEP_ROWS <= B ? STEP_ROWS : 1;
            normed_step_tile(job, rows, b, panel * WIDTH, layer->weights.w_ih, I, layer->x.data,
                             layer->x.b_stride, job->of_x);
            if (layer->h0)
                normed_step_tile(job, rows, b, panel * WIDTH, layer->weights.w_hh, H, layer->h0,
                                 (ptrdiff_t)H, job->of_h);
        }
    restore_denormals(mode);
}

static void normed_step_rows(void *arg, size_t chunk)
{
    const normed_step_job *step = arg;
    const normed_job *job = &step->job;
    const pk_rnn_layer *layer = step->layer;
    const size_t H = job->s.H, end = pk_chunk_begin(job->s.B, chunk + 1, step->chunks);
    const real *const h0 = layer->h0, *const c0 = layer->c0;
    const fp_mode mode = flush_denormals();
    for (size_t b = pk_chunk_begin(job->s.B, chunk, step->chunks); b < end; b++) {
        const normed_row r = {
            .x = x_at(job, 0, b),
            .h = product_at(job, 0, b),
            .gates = job->gates + b * job->gates_row,
            .scales = scales_at(job, 0, b),
            .h_prev = h0 ? h0 + b * H : job->zeros,
            .c_prev = c0 ? c0 + b * H : job->zeros,
            .h_next = (real *)layer->h_last + b * H,
            .c_next = job->cell->states == 2 ? (real *)layer->c_last + b * H : NULL,
        };
        if (!h0)
            memset(r.h, 0, job->N * sizeof(real));
        normalize(job, r.x, r.scales + SCALE_X);
        normalize(job, r.h, r.scales + SCALE_H);
        job->cell->forward(job, &r);
    }
    restore_denormals(mode);
}

static void normed_step(const pk_rnn_layer *layer, int nthreads, const normed_cell *cell)
{
    enum { SERIAL_BELOW = 1 << 18 }; /* multiply-adds: some 10 microseconds */
    const size_t threads = nthreads > 1 ? (size_t)nthreads : 1;
    normed_step_job step = {layer, normed_job_for(&layer->shape, cell), 1};
    normed_job *job = &step.job;
    const size_t B = job->s.B, all = B * job->N * (job->s.I + job->s.H);
    place_step(job, align(layer->scratch));
    job->w = layer->weights;
    normed_biases(job);
    memset(job->zeros, 0, job->s.H * sizeof(real));
    if (all >= SERIAL_BELOW)
        step.chunks = smaller(threads, panels_of(job->N));
    pk_parallel(normed_step_products, &step, step.chunks, nthreads);
    step.chunks = smaller(step.chunks, B);
    pk_parallel(normed_step_rows, &step, step.chunks, nthreads);
}

/* ---- the tables ------------------------------------------------------------------------------ */

#define NORMED_KERNELS(name, cell)                                                                 \
    static pk_rnn_sizes name##_sizes(const pk_rnn_shape *shape)                                    \
    {                                                                                              \
        return normed_sizes(shape, &(cell));                                                       \
    }                                                                                              \
    static void name##_pass(const pk_rnn_layer *layers, size_t count, int nthreads)                \
    {                                                                                              \
        normed_forward(layers, count, nthreads, &(cell));                                          \
    }                                                                                              \
    static void name##_pass_back(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients,    \
                                 size_t count, int nthreads)                                       \
    {                                                                                              \
        normed_backward(layers, gradients, count, nthreads, &(cell));                              \
    }                                                                                              \
    static void name##_step(const pk_rnn_layer *layer, int nthreads)                               \
    {                                                                                              \
        normed_step(layer, nthreads, &(cell));                                                     \
    }                                                                                              \
    static size_t name##_step_scratch_size(const pk_rnn_shape *shape)                              \
    {                                                                                              \
        return normed_step_scratch_size(shape, &(cell));                                           \
    }
NORMED_KERNELS(lstm, LSTM)
NORMED_KERNELS(gru, GRU)

extern const pk_cell_kernels PK_TABLE[2];

const pk_cell_kernels PK_TABLE[2] = {
    {
        .gates = 4,
        .states = 2,
        .normed = 1,
        .padded = padded,
        .sizes = lstm_sizes,
        .partition = normed_partition,
        .forward = lstm_pass,
        .backward = lstm_pass_back,
        .step = lstm_step,
        .step_scratch_size = lstm_step_scratch_size,
    },
    {
        .gates = 3,
        .states = 1,
        .normed = 1,
        .padded = padded,
        .sizes = gru_sizes,
        .partition = normed_partition,
        .forward = gru_pass,
        .backward = gru_pass_back,
        .step = gru_step,
        .step_scratch_size = gru_step_scratch_size,
    },
};
