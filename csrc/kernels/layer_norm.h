/* Layer normalization and root-mean-square normalization of rows, forward and backward; kernels of
 * dense.c.  Rows are independent but for the gradients of gain and bias.  These are summed over
 * blocks of rows, then over the blocks in their order, so that bits do not depend on the number of
 * threads. */
#ifndef PK_LAYER_NORM_H
#define PK_LAYER_NORM_H

#include "sizes.h"
#include "sums.h"

enum { NORM_ROWS = 32 }; /* rows of a block */

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

static void norm_rows(void *arg, size_t block)
{
    const pk_layer_norm *l = ((const layer_norm_job *)arg)->norm;
    const size_t end = smaller((block + 1) * NORM_ROWS, l->M);
    const real *const gain = l->gain, *const bias = l->bias;
    const fp_mode mode = flush_denormals();
    for (size_t r = block * NORM_ROWS; r < end; r++) {
        const real *const x = (const real *)l->x + r * l->N;
        real *const y = (real *)l->y + r * l->N;
        const real mean = l->rms ? 0 : (real)mean_of_row(x, l->N, 0, 1);
        const real scale = (real)(1 / sqrt(mean_of_row(x, l->N, mean, 2) + l->eps));
        if (!l->rms)
            ((real *)l->mean)[r] = mean;
        ((real *)l->scale)[r] = scale;
        for (size_t i = 0; i < l->N; i += LANES) {
            const size_t n = smaller(l->N - i, LANES);
            vec v = (load_n(x + i, n) - mean) * scale;
            if (gain)
                v *= load_n(gain + i, n);
            if (bias)
                v += load_n(bias + i, n);
            store_n(y + i, v, n);
        }
    }
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

/* dx of a row, and its part of the sums of dgain and dbias */
PK_INLINE void norm_gradient(const pk_layer_norm *l, const pk_layer_norm_gradients *g, size_t r,
                             real *dgain, real *dbias)
{
    const real *const x = (const real *)l->x + r * l->N, *const dy = (const real *)g->dy + r * l->N;
    const real *const gain = l->gain;
    const real mean = l->rms ? 0 : ((const real *)l->mean)[r], scale = ((const real *)l->scale)[r];
    long_sum sum = {0}, product = {0};
    for (size_t i = 0; i < l->N; i += LANES) {
        const size_t n = smaller(l->N - i, LANES);
        const vec normed = zero_tail((load_n(x + i, n) - mean) * scale, n), d = load_n(dy + i, n);
        const vec scaled = gain ? d * load_n(gain + i, n) : d;
        add_to(&sum, scaled);
        add_to(&product, scaled * normed);
        store_n(dgain + i, load_n(dgain + i, n) + d * normed, n);
        store_n(dbias + i, load_n(dbias + i, n) + d, n);
    }
    if (!g->dx)
        return;
    const real shift = l->rms ? 0 : (real)(sum_of(&sum) / (double)l->N);
    const real slope = (real)(sum_of(&product) / (double)l->N);
    for (size_t i = 0; i < l->N; i += LANES) {
        const size_t n = smaller(l->N - i, LANES);
        const vec normed = (load_n(x + i, n) - mean) * scale, d = load_n(dy + i, n);
        const vec scaled = gain ? d * load_n(gain + i, n) : d;
        store_n((real *)g->dx + r * l->N + i, (scaled - shift - normed * slope) * scale, n);
    }
}

static void norm_gradient_rows(void *arg, size_t block)
{
    const layer_norm_job *job = arg;
    const pk_layer_norm *l = job->norm;
    real *const sums = (real *)job->gradients->scratch + block * 2 * l->N;
    const size_t end = smaller((block + 1) * NORM_ROWS, l->M);
    const fp_mode mode = flush_denormals();
    memset(sums, 0, 2 * l->N * sizeof(real));
    for (size_t r = block * NORM_ROWS; r < end; r++)
        norm_gradient(l, job->gradients, r, sums, sums + l->N);
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
