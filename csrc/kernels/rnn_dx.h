/* dA, the gradient of the pre-activations, as the left-hand side of products, and dx, its product
 * with w_ih for many steps at once.  For rnn_backward.h and rnn_gradients.h. */
#ifndef PK_RNN_DX_H
#define PK_RNN_DX_H

#include "rnn_forward.h"

/* `steps` without step 0, if h is 0 before it and enters no product. */
static range steps_with_h(const rnn_job *job, range steps)
{
    const range rows = {0, job->s.B};
    if (length(steps) && length(rows_that(takes_h, job, steps.from, rows)) == 0)
        steps.from++;
    return steps;
}

/* ---- dA as the left-hand side of products ---------------------------------------------------- */

/* How many elements of a product dA has in the columns `of`. */
PK_INLINE size_t elements_in(const rnn_job *job, columns of)
{
    return elements_of(job->products, of.count * job->s.H);
}

/* dA with the columns `of`, those of x or of h, is a left-hand side whose k runs over panel, column
 * and unit; panels are its segments.  Returns the number of k, from `k` on, in one block of a
 * product.  The last panel may have its columns closer together: it is a block of its own if `of`
 * does not begin with the first column. */
PK_INLINE size_t da_block(const rnn_job *job, columns of, size_t k)
{
    const size_t depth = elements_of(job->products, of.count * UNITS);
    const size_t whole = job->s.H / UNITS * depth;
    const size_t most = rounded(job->products) ? K_BLOCK : PRODUCT_K;
    const size_t end = smaller(k + most / depth * depth, elements_in(job, of));
    return (of.first > 0 && k < whole ? smaller(end, whole) : end) - k;
}

PK_INLINE operand da_at(const rnn_job *job, columns of, size_t k, size_t t, size_t b)
{
    const size_t depth = elements_of(job->products, of.count * UNITS), panel = k / depth;
    const real *da = gates_at(job, panel, t, b) + of.first * units_of(panel, job->s.H);
    return (operand){da, WIDTH, 1, depth, (ptrdiff_t)(job->window * job->s.B * WIDTH)};
}

/* The right-hand side that goes with dA: w [G * H, N], packed or in place. */
PK_INLINE right_operand weight_rows(const rnn_job *job, columns of, const real *packed,
                                    const real *w, size_t N)
{
    const size_t H = job->s.H;
    if (!packed)
        return (right_operand){w, N, WIDTH, of.count, H * N, NULL};
    return rounded_panels(job->products, packed, elements_in(job, of));
}

/* Whether dA is rounded in place before dx, which then reads it as it is.  Elements must be values,
 * and rows without gaps, because the gradients of biases are summed first. */
PK_INLINE int is_rounded_before_dx(const rnn_job *job)
{
    const rounding *how = rounded(job->products);
    return how && how->per == 1 && !job->s.lengths;
}

/* c[rows, N] = begin + dA times w, over `depth` elements of k from k on, for N columns and for
 * `rows` rows from row b of step t on.  `as_it_is`: dA needs no rounding. */
__attribute__((noinline)) static void rnn_da_block(const rnn_job *job, columns of, size_t k,
                                                   size_t depth, size_t t, size_t b, size_t rows,
                                                   size_t N, right_operand w, real *c, size_t ldc,
                                                   const real *begin, int as_it_is)
{
    const operand da = da_at(job, of, k, t, b);
    w = rows_from(w, k);
    if (as_it_is) {
        product(rows, N, depth, da, w, c, ldc, begin);
        return;
    }
    _Alignas(ALIGNMENT) real local[MOST_ROWS * K_BLOCK];
    for (size_t r = 0, n; r < rows; r += n) {
        n = smaller(rows - r, job->products->row_block);
        for (size_t i = 0; i < depth; i += da.depth) {
            const size_t units = units_of((k + i) / da.depth, job->s.H);
            job->products->round_left(local + i, K_BLOCK,
                                      da.a + (ptrdiff_t)(i / da.depth) * da.segment +
                                          (ptrdiff_t)(r * WIDTH),
                                      WIDTH, n, of.count * units);
        }
        product(n, N, depth, strided(local, K_BLOCK, 1), w, c + r * ldc, ldc, begin);
    }
}

/* c[rows, N] = begin + dA of step t times w */
static void rnn_da_product(const rnn_job *job, columns of, size_t t, range rows, size_t N,
                           right_operand w, real *c, size_t ldc, const real *begin)
{
    for (size_t k = 0, depth; k < elements_in(job, of); k += depth) {
        depth = da_block(job, of, k);
        rnn_da_block(job, of, k, depth, t, rows.from, length(rows), N, w, c, ldc, k ? NULL : begin,
                     !rounded(job->products));
    }
}

/* ---- dx -------------------------------------------------------------------------------------- */

typedef struct {
    const rnn_run *run;
    const rnn_job *job;
    range steps;   /* the steps of dx */
    size_t tasks;  /* that divide these steps */
    size_t groups; /* of panels; a task computes GRADIENT_WIDTH columns of a weight for one group */
    /* Whether the gradient of w_ih, at least LANES wide, sums the biases as well: it reads dA of
     * all steps, block by block, so that it is still in a cache. */
    int biases_with_w_ih;
} rnn_sums;

/* Whether this is the first contribution to dx[t].  Two directions may share one dx: each first
 * adds to the half that the other reaches last. */
static int is_new_dx(const rnn_sums *of, size_t t)
{
    const rnn_job *job = of->job, *jobs = of->run->jobs;
    if (of->run->count == 1)
        return 1;
    const rnn_job *other = jobs + (job == jobs);
    const size_t of_other = job->s.reverse == other->s.reverse ? t : job->s.T - 1 - t;
    const int shared = other->dx.data && row_at(job->dx, t, 0) == row_at(other->dx, of_other, 0);
    return !shared || t > of_other || (t == of_other && job == jobs);
}

/* dx = dA w_ih, or dx += dA w_ih, for a share of the steps, in blocks of k, so that w_ih is read
 * once. */
static void rnn_dx(void *arg, size_t task)
{
    const rnn_sums *of = arg;
    const rnn_job *job = of->job;
    const size_t B = job->s.B, I = job->s.I, row = (size_t)job->dx.b_stride;
    const size_t from = of->steps.from + pk_chunk_begin(length(of->steps), task, of->tasks);
    const size_t to = of->steps.from + pk_chunk_begin(length(of->steps), task + 1, of->tasks);
    const range rows = {0, B};
    const int equally_far = of->run->count == 1 && job->dx.t_stride == (ptrdiff_t)(B * row);
    const right_operand w = weight_rows(job, OF_X, job->packed_w_ih, job->w.w_ih, I);
    const int as_it_is = !rounded(job->products) || is_rounded_before_dx(job);
    const fp_mode mode = flush_denormals();
    for (size_t k = 0, depth; k < elements_in(job, OF_X); k += depth) {
        depth = da_block(job, OF_X, k);
        for (size_t t = from, together; t < to; t += together) {
            const range live = active_rows(job, t, rows);
            const int is_new = k == 0 && is_new_dx(of, t);
            together = equally_far ? steps_together(job, t, to, rows) : 1;
            rnn_da_block(job, OF_X, k, depth, t, live.from, length(live) * together, I, w,
                         row_at(job->dx, t, live.from), row, is_new ? ZEROS : NULL, as_it_is);
            for (size_t b = 0; b < B && is_new; b++)
                if (b < live.from || b >= live.to)
                    memset(row_at(job->dx, t, b), 0, I * sizeof(real));
        }
    }
    restore_denormals(mode);
}

/* dx of some steps; one job after the other, because both may add to one dx. */
static void rnn_dx_of(const rnn_run *run, range steps)
{
    for (size_t i = 0; i < run->count && steps.from < steps.to; i++) {
        const rnn_job *job = run->jobs + i;
        if (!job->dx.data || !job->s.I)
            continue;
        const size_t rows = 1 + smaller(512, (1 << 17) / job->s.I), threads = (size_t)run->nthreads;
        rnn_sums of = {run, job, steps, 1 + length(steps) * (job->s.B + 1) / rows, 1, 0};
        if (threads > 1)
            of.tasks = round_up(of.tasks, 2 * threads);
        of.tasks = smaller(of.tasks, length(steps));
        pk_parallel(rnn_dx, &of, of.tasks, run->nthreads);
    }
}

#endif
