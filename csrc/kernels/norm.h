/* The global norm of a list of gradients: a sweep of its own over the gradients alone. */
#ifndef PK_NORM_H
#define PK_NORM_H

#include "sweep.h"

/* Sums are taken in double over blocks of a fixed size, in a fixed number of lanes, and added up in
 * the order of the list: the bits depend neither on threads nor on the instruction set. */
enum { NORM_BLOCK = 4096, NORM_LANES = 16 };

typedef struct {
    const pk_tensor *tensors;
    size_t count, blocks, chunks;
    double *sums; /* [blocks] */
    double scale; /* multiplies every element before it is squared */
} norm_job;

static size_t blocks_of(const pk_tensor *t)
{
    return t->grad ? (t->n + NORM_BLOCK - 1) / NORM_BLOCK : 0;
}

static double sum_of_squares(const real *restrict g, size_t n, double scale)
{
    double lane[NORM_LANES] = {0}, sum = 0;
    const size_t whole = n - n % NORM_LANES;
    for (size_t i = 0; i < whole; i += NORM_LANES) {
        PK_SIMD
        for (size_t j = 0; j < NORM_LANES; j++) {
            const double x = scale * (double)g[i + j];
            lane[j] += x * x;
        }
    }
    for (size_t i = whole; i < n; i++) {
        const double x = scale * (double)g[i];
        lane[i - whole] += x * x;
    }
    for (size_t j = 0; j < NORM_LANES; j++)
        sum += lane[j];
    return sum;
}

static void norm_chunk(void *arg, size_t c)
{
    const norm_job *job = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_cut(job->blocks, c, job->chunks),
                 to = pk_cut(job->blocks, c + 1, job->chunks);
    size_t start = 0;
    for (const pk_tensor *t = job->tensors; t < job->tensors + job->count && start < to;
         start += blocks_of(t++)) {
        const size_t mine = blocks_of(t);
        size_t b = from > start ? from - start : 0;
        for (; b < mine && start + b < to; b++) {
            const size_t left = t->n - b * NORM_BLOCK;
            job->sums[start + b] =
                sum_of_squares((const real *)t->grad + b * NORM_BLOCK,
                               left < NORM_BLOCK ? left : NORM_BLOCK, job->scale);
        }
    }
    restore_denormals(mode);
}

static double norm_with(norm_job *job, double scale, int nthreads)
{
    double sum = 0;
    job->scale = scale;
    if (job->chunks == 1)
        norm_chunk(job, 0);
    else
        pk_parallel(norm_chunk, job, job->chunks, nthreads);
    for (size_t b = 0; b < job->blocks; b++)
        sum += job->sums[b];
    return sqrt(sum) / scale;
}

static size_t count_blocks(const pk_tensor *tensors, size_t count)
{
    size_t blocks = 0;
    for (size_t i = 0; i < count; i++)
        blocks += blocks_of(&tensors[i]);
    return blocks;
}

static size_t norm_scratch_size(const pk_tensor *tensors, size_t count)
{
    return count_blocks(tensors, count) * sizeof(double);
}

static double global_norm(const pk_tensor *tensors, size_t count, void *scratch, int nthreads)
{
    norm_job job = {.tensors = tensors, .count = count, .sums = scratch};
    job.blocks = count_blocks(tensors, count);
    job.chunks = chunks_for(job.blocks * NORM_BLOCK, nthreads);
    const double norm = norm_with(&job, 1, nthreads);
    const int in_range = norm > 1e-140 && norm < (double)INFINITY;
    if (sizeof(real) == sizeof(float) || in_range || isnan(norm))
        return norm;
    /* Squares of doubles may have left the range: once more, scaled towards its middle. */
    return norm_with(&job, norm > 1 ? 0x1p-540 : 0x1p540, nthreads);
}

#endif
