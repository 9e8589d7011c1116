/* Layer normalization and root-mean-square normalization of rows, forward and backward; kernels of
 * dense.c.  Rows are independent but for the gradients of gain and bias.  These are summed over
 * blocks of rows, then over the blocks in their order, so that bits do not depend on the number of
 * threads. */
#ifndef PK_LAYER_NORM_H
#define PK_LAYER_NORM_H

#include "sizes.h"
#include "sums.h"

enum {
    NORM_ROWS = 32,   /* rows of a block */
    NORM_VECTORS = 4, /* vectors of columns whose gradients stay in registers over a group */
    NORM_GROUP = 8 /* rows whose sums are computed before any is used: sums have a long latency */
};

typedef struct {
    const pk_layer_norm *norm;
    const pk_layer_norm_gradients *gradients;
} layer_norm_job;

static size_t norm_blocks(const pk_layer_norm *l) { return (l->M + NORM_ROWS - 1) / NORM_ROWS; }

static int norm_threads(const pk_layer_norm *l, int nthreads)
{
    const size_t serial_below = 1 << 15; /* elements: some 10 microseconds */
    return times(l->M, l->N) < serial_below ? 1 : nthreads;
}

/* y of rows r..end-1, at most NORM_GROUP. */
static void norm_group(const pk_layer_norm *l, size_t r, size_t end)
{
    const size_t N = l->N, count = end - r;
    const real *const rows = (const real *)l->x + r * N, *const gain = l->gain,
                      *const bias = l->bias;
    real *const y = (real *)l->y + r * N, *const scale = (real *)l->scale + r;
    real mean[NORM_GROUP] = {0};
    for (size_t k = 0; k < count && !l->rms; k++)
        ((real *)l->mean)[r + k] = mean[k] = (real)mean_of_row(rows + k * N, N, 0, 1);
    for (size_t k = 0; k < count; k++)
        scale[k] = (real)(1 / sqrt(mean_of_row(rows + k * N, N, mean[k], 2) + l->eps));
    for (size_t k = 0; k < count; k++)
        for (size_t i = 0; i < N; i += LANES) {
            const size_t n = smaller(N - i, LANES);
            vec v = (load_n(rows + k * N + i, n) - mean[k]) * scale[k];
            if (gain)
                v *= load_n(gain + i, n);
            if (bias)
                v += load_n(bias + i, n);
            store_n(y + k * N + i, v, n);
        }
}

static void norm_rows(void *arg, size_t block)
{
    const pk_layer_norm *l = ((const layer_norm_job *)arg)->norm;
    const size_t end = smaller((block + 1) * NORM_ROWS, l->M);
    const fp_mode mode = flush_denormals();
    for (size_t r = block * NORM_ROWS; r < end; r += NORM_GROUP)
        norm_group(l, r, smaller(r + NORM_GROUP, end));
    restore_denormals(mode);
}

static void layer_norm_forward(const pk_layer_norm *l, int nthreads)
{
    layer_norm_job job = {l, NULL};
    pk_parallel(norm_rows, &job, norm_blocks(l), norm_threads(l, nthreads));
}

static size_t layer_norm_scratch_size(const pk_layer_norm *l)
{
    return times(times(norm_blocks(l), 2 * sizeof(real)), l->N);
}

/* What a group of rows needs. */
typedef struct {
    const real *x, *dy, *gain;
    real *dx;
    size_t N, count;
    real mean[NORM_GROUP], scale[NORM_GROUP];
    real shift[NORM_GROUP], slope[NORM_GROUP]; /* means of gain dy, of that times normed x */
} norm_group_gradient;

PK_INLINE void norm_sums(norm_group_gradient *g, size_t k)
{
    const real *const x = g->x + k * g->N, *const dy = g->dy + k * g->N;
    const real mean = g->mean[k], scale = g->scale[k];
    long_sum sum = {0}, product = {0};
    for (size_t i = 0; i < g->N; i += LANES) {
        const size_t n = smaller(g->N - i, LANES);
        const vec d = load_n(dy + i, n), scaled = g->gain ? d * load_n(g->gain + i, n) : d;
        add_to(&sum, scaled);
        add_to(&product, scaled * ((load_n(x + i, n) - mean) * scale));
    }
    g->shift[k] = (real)(sum_of(&sum) / (double)g->N);
    g->slope[k] = (real)(sum_of(&product) / (double)g->N);
}

/* dx for some vectors of columns from column i on, and their part of the sums of dgain and dbias.
 * A single vector may have n < LANES columns. */
PK_INLINE void norm_columns(const norm_group_gradient *g, size_t i, size_t n, const int vectors,
                            real *dgain, real *dbias)
{
    vec gain[NORM_VECTORS], gains[NORM_VECTORS], biases[NORM_VECTORS];
    for (int v = 0; v < vectors; v++) {
        gain[v] = g->gain ? load_n(g->gain + i + v * LANES, n) : broadcast(1);
        gains[v] = load_n(dgain + i + v * LANES, n);
        biases[v] = load_n(dbias + i + v * LANES, n);
    }
    for (size_t k = 0; k < g->count; k++) {
        const size_t at = k * g->N + i;
        const real mean = g->mean[k], scale = g->scale[k], shift = g->shift[k], slope = g->slope[k];
        for (int v = 0; v < vectors; v++) {
            const vec normed = (load_n(g->x + at + v * LANES, n) - mean) * scale;
            const vec d = load_n(g->dy + at + v * LANES, n);
            gains[v] += d * normed;
            biases[v] += d;
            if (g->dx)
                store_n(g->dx + at + v * LANES, (d * gain[v] - shift - normed * slope) * scale, n);
        }
    }
    for (int v = 0; v < vectors; v++) {
        store_n(dgain + i + v * LANES, gains[v], n);
        store_n(dbias + i + v * LANES, biases[v], n);
    }
}

/* The gradients of rows r..end-1, at most NORM_GROUP. */
static void norm_gradient(const pk_layer_norm *l, const pk_layer_norm_gradients *of, size_t r,
                          size_t end, real *dgain, real *dbias)
{
    const size_t N = l->N;
    norm_group_gradient g = {.gain = l->gain, .N = N, .count = end - r};
    g.x = (const real *)l->x + r * N;
    g.dy = (const real *)of->dy + r * N;
    g.dx = of->dx ? (real *)of->dx + r * N : NULL;
    for (size_t k = 0; k < g.count; k++) {
        g.mean[k] = l->rms ? 0 : ((const real *)l->mean)[r + k];
        g.scale[k] = ((const real *)l->scale)[r + k];
        if (g.dx)
            norm_sums(&g, k);
        if (l->rms)
            g.shift[k] = 0;
    }
    size_t i = 0;
    for (; i + NORM_VECTORS * LANES <= N; i += NORM_VECTORS * LANES)
        norm_columns(&g, i, LANES, NORM_VECTORS, dgain, dbias);
    for (; i < N; i += LANES)
        norm_columns(&g, i, smaller(N - i, LANES), 1, dgain, dbias);
}

static void norm_gradient_rows(void *arg, size_t block)
{
    const layer_norm_job *job = arg;
    const pk_layer_norm *l = job->norm;
    real *const sums = (real *)job->gradients->scratch + block * 2 * l->N;
    const size_t end = smaller((block + 1) * NORM_ROWS, l->M);
    const fp_mode mode = flush_denormals();
    memset(sums, 0, 2 * l->N * sizeof(real));
    for (size_t r = block * NORM_ROWS; r < end; r += NORM_GROUP)
        norm_gradient(l, job->gradients, r, smaller(r + NORM_GROUP, end), sums, sums + l->N);
    restore_denormals(mode);
}

static void layer_norm_backward(const pk_layer_norm *l, const pk_layer_norm_gradients *g,
                                int nthreads)
{
    layer_norm_job job = {l, g};
    real *const grads[] = {g->dgain, g->dbias};
    pk_parallel(norm_gradient_rows, &job, norm_blocks(l), norm_threads(l, nthreads));
    for (size_t which = 0; which < 2; which++) {
        real *const to = grads[which];
        if (to && !g->accumulate)
            memset(to, 0, l->N * sizeof(real));
        for (size_t block = 0; to && block < norm_blocks(l); block++) {
            const real *const part = (const real *)g->scratch + (2 * block + which) * l->N;
            PK_SIMD
            for (size_t i = 0; i < l->N; i++)
                to[i] += part[i];
        }
    }
}

#endif
