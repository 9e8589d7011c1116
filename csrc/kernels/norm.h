/* Reductions over whole tensors: the global norm of a list of gradients, which is a kernel of
 * optim.c, and the walk over blocks, which LAMB (adam.h) uses for its norms. */
#ifndef PK_NORM_H
#define PK_NORM_H

#include "sweep.h"

/* Each block of a fixed size is summed in double, in a fixed number of lanes; the sums of blocks
 * are added in the order of the list.  So the bits depend neither on threads nor on the instruction
 * set. */
enum { NORM_BLOCK = 4096, NORM_LANES = 16 };

/* A walk over the blocks of a list of tensors.  `visit` is called with blocks from..to-1 of one. */
typedef struct block_walk {
    const pk_tensor *tensors;
    size_t count, blocks, chunks;
    const chunk_start *starts;  /* [chunks], in blocks */
    const optimizer *optimizer; /* k is its context; NULL: k is not set */
    const char *configs;        /* as in a sweep */
    void (*visit)(const struct block_walk *walk, const pk_tensor *t, size_t from, size_t to,
                  size_t number, const context *k); /* number: of block `from`, over the list */
    double *sums;                                   /* what visit writes, for each block */
    double scale; /* multiplies every element before it is squared */
} block_walk;

static size_t blocks_of(const pk_tensor *t)
{
    return t->grad ? (t->n + NORM_BLOCK - 1) / NORM_BLOCK : 0;
}

/* n: at most NORM_BLOCK */
static double sum_of_squares(const void *array, int kind, size_t n, double scale)
{
    real copy[NORM_BLOCK];
    const real *restrict const g = as_real(array, n, kind, NULL, copy);
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

static void walk_chunk(void *arg, size_t c)
{
    const block_walk *walk = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_chunk_begin(walk->blocks, c, walk->chunks),
                 to = pk_chunk_begin(walk->blocks, c + 1, walk->chunks);
    const pk_tensor *prepared = NULL; /* k is the context of its group and step count */
    context k;

    size_t start = walk->starts[c].before; /* number of the tensor's first block */
    for (const pk_tensor *t = walk->tensors + walk->starts[c].tensor;
         t < walk->tensors + walk->count && start < to; start += blocks_of(t++)) {
        const size_t mine = blocks_of(t);
        const size_t first = from > start ? from - start : 0;
        const size_t last = start + mine < to ? mine : to - start;
        if (first >= last)
            continue;
        const optimizer *const o = walk->optimizer;
        if (o && (!prepared || t->group != prepared->group || t->step != prepared->step))
            o->prepare(walk->configs + t->group * o->config_size, t->step, &k);
        prepared = t;
        walk->visit(walk, t, first, last, start + first, &k);
    }
    restore_denormals(mode);
}

static size_t count_blocks(const pk_tensor *tensors, size_t count)
{
    size_t blocks = 0;
    for (size_t i = 0; i < count; i++)
        blocks += blocks_of(&tensors[i]);
    return blocks;
}

static void run_walk(block_walk walk, int nthreads)
{
    chunk_start starts[MOST_CHUNKS];
    walk.blocks = count_blocks(walk.tensors, walk.count);
    walk.chunks = chunks_for(walk.blocks * NORM_BLOCK, nthreads);
    walk.starts = starts;
    find_starts(starts, walk.chunks, walk.tensors, walk.blocks, blocks_of);
    pk_parallel(walk_chunk, &walk, walk.chunks, nthreads);
}

static void norm_visit(const block_walk *walk, const pk_tensor *t, size_t from, size_t to,
                       size_t number, const context *k)
{
    (void)k;
    for (size_t b = from; b < to; b++) {
        const size_t left = t->n - b * NORM_BLOCK;
        walk->sums[number++] =
            sum_of_squares(element(t->grad, b * NORM_BLOCK, t->stored.grad), t->stored.grad,
                           left < NORM_BLOCK ? left : NORM_BLOCK, walk->scale);
    }
}

static double norm_with(const pk_tensor *tensors, size_t count, double *sums, double scale,
                        int nthreads)
{
    double sum = 0;
    run_walk(
        (block_walk){
            .tensors = tensors, .count = count, .visit = norm_visit, .sums = sums, .scale = scale},
        nthreads);
    const size_t blocks = count_blocks(tensors, count);
    for (size_t b = 0; b < blocks; b++)
        sum += sums[b];
    return sqrt(sum) / scale;
}

static size_t norm_scratch_size(const pk_tensor *tensors, size_t count)
{
    return count_blocks(tensors, count) * sizeof(double);
}

static double global_norm(const pk_tensor *tensors, size_t count, void *scratch, int nthreads)
{
    const double norm = norm_with(tensors, count, scratch, 1, nthreads);
    const int in_range = norm > 1e-140 && norm < (double)INFINITY;
    if (sizeof(real) == sizeof(float) || in_range || isnan(norm))
        return norm;
    /* Squares of doubles may have overflowed or underflowed: again, with a scale. */
    return norm_with(tensors, count, scratch, norm > 1 ? 0x1p-540 : 0x1p540, nthreads);
}

#endif
