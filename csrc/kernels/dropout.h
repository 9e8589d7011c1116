/* Dropout, a kernel of math.c.  The mask is a function of the index of an element, so it is not
 * stored: the backward pass computes it again.
 *
 * Random numbers come from Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011): ten rounds turn a
 * counter and a key into four words; there is no other state.  They take most of the time of
 * dropout, so an element uses only half a word, and a counter serves eight elements. */
#ifndef PK_DROPOUT_H
#define PK_DROPOUT_H

#include "sizes.h"
#include "vec.h"

enum {
    PHILOX_ROUNDS = 10,
    COUNTERS = 64,                 /* at a time: their words stay in L1 */
    DROPOUT_BLOCK = 8 * COUNTERS,  /* elements for so many counters */
    DROPOUT_SERIAL_BELOW = 1 << 15 /* elements: some 10 microseconds */
};

typedef struct {
    size_t B, H, total, chunks; /* total: T * B * H */
    pk_sequence x, y;
    uint64_t seed, stream;
    uint32_t least; /* elements whose number is at least this are kept */
    real scale;
} dropout_job;

/* The numbers of DROPOUT_BLOCK elements, from this counter on. */
static void dropout_numbers(const dropout_job *job, uint64_t counter, uint16_t *numbers)
{
    uint32_t c0[COUNTERS], c1[COUNTERS], c2[COUNTERS], c3[COUNTERS];
    uint32_t key0 = (uint32_t)job->seed, key1 = (uint32_t)(job->seed >> 32);
    for (uint32_t i = 0; i < COUNTERS; i++) {
        c0[i] = (uint32_t)counter + i; /* no carry: counter is a multiple of COUNTERS */
        c1[i] = (uint32_t)(counter >> 32);
        c2[i] = (uint32_t)job->stream;
        c3[i] = (uint32_t)(job->stream >> 32);
    }
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        PK_SIMD
        for (uint32_t i = 0; i < COUNTERS; i++) {
            const uint64_t p0 = (uint64_t)c0[i] * 0xD2511F53, p1 = (uint64_t)c2[i] * 0xCD9E8D57;
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ key0;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ key1;
            c1[i] = (uint32_t)p1;
            c3[i] = (uint32_t)p0;
        }
        key0 += 0x9E3779B9; /* the golden ratio */
        key1 += 0xBB67AE85; /* sqrt(3) - 1 */
    }
    const uint32_t *words[] = {c0, c1, c2, c3};
    for (int w = 0; w < 4; w++)
        for (uint32_t i = 0; i < COUNTERS; i++) {
            numbers[w * COUNTERS + i] = (uint16_t)words[w][i];
            numbers[(4 + w) * COUNTERS + i] = (uint16_t)(words[w][i] >> 16);
        }
}

static void dropout_block(const dropout_job *job, size_t block)
{
    uint16_t numbers[DROPOUT_BLOCK], *number = numbers;
    size_t n = block * DROPOUT_BLOCK;
    const size_t B = job->B, H = job->H, end = smaller(n + DROPOUT_BLOCK, job->total);
    const uint32_t least = job->least;
    const real scale = job->scale;
    dropout_numbers(job, (uint64_t)block * COUNTERS, numbers);
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
    const size_t blocks = round_up(job->total, DROPOUT_BLOCK) / DROPOUT_BLOCK;
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
    job.least = (uint32_t)(config->p * (UINT16_MAX + 1) + 0.5);
    job.scale = (real)((UINT16_MAX + 1.0) / (UINT16_MAX + 1 - job.least));
    if (nthreads > 1 && job.total >= DROPOUT_SERIAL_BELOW)
        job.chunks = smaller((size_t)nthreads * 4, job.total / DROPOUT_BLOCK);
    if (job.total > 0)
        pk_parallel(dropout_chunk, &job, job.chunks, nthreads);
}

#endif
