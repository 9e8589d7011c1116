/* Dropout, a kernel of math.c.  The mask is a function of the index of an element, so it is not
 * stored: the backward pass computes it again. */
#ifndef PK_DROPOUT_H
#define PK_DROPOUT_H

#include "numbers.h"
#include "sizes.h"
#include "vec.h"

enum { DROPOUT_SERIAL_BELOW = 1 << 15 }; /* elements: some 10 microseconds */

typedef struct {
    size_t B, H, total, chunks; /* total: T * B * H */
    pk_sequence x, y;
    uint64_t seed, stream;
    uint32_t least; /* elements whose number is less than this are dropped */
    real scale;
} dropout_job;

static void dropout_block(const dropout_job *job, size_t block)
{
    uint16_t numbers[NUMBERS_BLOCK], *number = numbers;
    size_t n = block * NUMBERS_BLOCK;
    const size_t B = job->B, H = job->H, end = smaller(n + NUMBERS_BLOCK, job->total);
    const uint32_t least = job->least;
    const real scale = job->scale;
    random_numbers(job->seed, job->stream, (uint64_t)block * COUNTERS, numbers);
    while (n < end) { /* the elements of this block in one row */
        const size_t i = n % H, b = n / H % B, t = n / H / B, length = smaller(H - i, end - n);
        const real *x = row_at(job->x, t, b) + i;
        real *y = row_at(job->y, t, b) + i;
        PK_SIMD
        for (size_t j = 0; j < length; j++) {
            const real scaled = x[j] * scale;
            y[j] = number[j] >= least ? scaled : 0;
        }
        number += length;
        n += length;
    }
}

static void dropout_chunk(void *arg, size_t chunk)
{
    const dropout_job *job = arg;
    const size_t blocks = round_up(job->total, NUMBERS_BLOCK) / NUMBERS_BLOCK;
    const fp_mode mode = flush_denormals();
    const size_t end = pk_chunk_begin(blocks, chunk + 1, job->chunks);
    for (size_t k = pk_chunk_begin(blocks, chunk, job->chunks); k < end; k++)
        dropout_block(job, k);
    restore_denormals(mode);
}

static void dropout(size_t T, size_t B, size_t H, pk_sequence x, pk_sequence y,
                    const pk_dropout_config *config, int nthreads)
{
    dropout_job job = {.B = B, .H = H, .total = T * B * H, .chunks = 1, .x = x, .y = y};
    job.seed = config->seed;
    job.stream = config->stream;
    job.least = below_for(config->p);
    job.scale = (real)((UINT16_MAX + 1.0) / (UINT16_MAX + 1 - job.least));
    if (nthreads > 1 && job.total >= DROPOUT_SERIAL_BELOW)
        job.chunks = smaller((size_t)nthreads * 4, job.total / NUMBERS_BLOCK);
    if (job.total > 0)
        pk_parallel(dropout_chunk, &job, job.chunks, nthreads);
}

#endif
