/* Reductions over whole tensors: the global norm of a list of gradients, which is a kernel of
 * optim.c, and the blocks in which LAMB (adam.h) sums its norms. */
#ifndef PK_NORM_H
#define PK_NORM_H

#include "sweep.h"
#include "vec.h"

/* Each block of a fixed size is summed in double, in a fixed number of lanes; the sums of blocks
 * are added in the order of the list.  So the bits depend neither on threads nor on the instruction
 * set. */
enum { NORM_BLOCK = 4096, NORM_LANES = 16 };

static size_t blocks_of(const pk_tensor *t)
{
    return t->grad ? (t->n + NORM_BLOCK - 1) / NORM_BLOCK : 0;
}

/* n: at most NORM_BLOCK */
static double sum_of_squares(const void *array, int kind, size_t n, double scale)
{
    real copy[STAGE]; /* a multiple of NORM_LANES, so that sums do not depend on it */
    double lane[NORM_LANES] = {0}, sum = 0;
    for (size_t at = 0; at < n; at += STAGE) {
        const size_t end = smaller(n - at, STAGE), whole = end - end % NORM_LANES;
        const real *restrict const g = as_real(element(array, at, kind), end, kind, copy);
        for (size_t i = 0; i < whole; i += NORM_LANES) {
            PK_SIMD
            for (size_t j = 0; j < NORM_LANES; j++) {
                const double x = scale * (double)g[i + j];
                lane[j] += x * x;
            }
        }
        for (size_t i = whole; i < end; i++) {
            const double x = scale * (double)g[i];
            lane[i - whole] += x * x;
        }
    }
    for (size_t j = 0; j < NORM_LANES; j++)
        sum += lane[j];
    return sum;
}

PK_INLINE void norm_visit(const sweep *s, share of, const pk_tensor **prepared, context *k)
{
    const pk_tensor *const t = of.t;
    (void)prepared, (void)k;
    for (size_t b = of.from; b < of.to && b < blocks_of(t); b++) {
        const size_t left = t->n - b * NORM_BLOCK;
        s->sums[of.before + b] =
            sum_of_squares(element(t->grad, b * NORM_BLOCK, t->stored.grad), t->stored.grad,
                           left < NORM_BLOCK ? left : NORM_BLOCK, s->scale);
    }
}

static void norm_chunk(void *arg, size_t c) { visit_chunk(arg, c, blocks_of, norm_visit); }

static double norm_with(const pk_tensor *tensors, size_t count, double *sums, double scale,
                        int nthreads)
{
    sweep s = {.tensors = tensors, .count = count, .sums = sums, .scale = scale};
    double sum = 0;
    run_sweep(&s, blocks_of, NORM_BLOCK, norm_chunk, nthreads);
    for (size_t b = 0; b < s.total; b++)
        sum += sums[b];
    return sqrt(sum) / scale;
}

static size_t norm_scratch_size(const pk_tensor *tensors, size_t count)
{
    return total_of(tensors, count, blocks_of) * sizeof(double);
}

static double global_norm(const pk_tensor *tensors, size_t count, void *scratch, int nthreads)
{
    const double norm = norm_with(tensors, count, scratch, 1, nthreads);
    const int in_range = norm > 1e-140 && norm < (double)INFINITY;
    if (sizeof(real) == sizeof(float) || in_range || isnan(norm))
        return norm;
    /* Squares of doubles may have overflowed or underflowed: sum again, scaled. */
    return norm_with(tensors, count, scratch, norm > 1 ? 0x1p-540 : 0x1p540, nthreads);
}

#endif
