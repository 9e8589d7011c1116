/* A step that also sums up what it does: norms of gradient, parameter and update, for each tensor.
 * The loop (loop.h) adds each pair before it stores it; the sweep here, for optim.c, makes the sums
 * of blocks and then of tensors.  A step that is not watched does not run any of this.
 *
 * A block is always one piece, so the numbers have the same bits for any number of threads.  Their
 * last digits depend on the length of vectors and on where in a cache line a parameter begins. */
#ifndef PK_WATCH_H
#define PK_WATCH_H

#include "norm.h"

enum { WATCHED_BLOCK = 4 * NORM_BLOCK };

/* The sums over a block.  Squares are in `real`, because conversions would take longer than the
 * step.  A gradient or parameter whose squares leave the range of `real` is read again. */
typedef struct watched_sums {
    vec grad, param, update; /* of squares */
    vec largest, smallest;   /* squares of the gradient */
} watched_sums;

/* What one block contributes: sums of squares, the largest |g|, numbers of elements. */
struct watched_part {
    double grad, param, update, largest, zeros, clipped, nonfinite;
};

PK_INLINE void add_vector(watched_sums *w, vec before, vec g, vec after)
{
    const vec moved = after - before, square = g * g;
    w->grad += square;
    w->param = fused(after, after, w->param);
    w->update = fused(moved, moved, w->update);
    w->largest = larger_of(square, w->largest);
    w->smallest = smaller_of(square, w->smallest);
}

/* even, odd: the parameter after the step; p and g are still those before it. */
PK_INLINE void add_pair(watched_sums *w, const real *p, const real *g, vec even, vec odd)
{
    add_vector(w, load(p), load(g), even);
    add_vector(w, load(p + LANES), load(g + LANES), odd);
}

/* The same, compiled once, where the size of the code matters more than time. */
static __attribute__((noinline)) void watch_pair(watched_sums *w, const real *p, const real *g,
                                                 vec even, vec odd)
{
    add_pair(w, p, g, even, odd);
}

/* The same for elements from..to-1 of a pair. */
static __attribute__((noinline)) void watch_part(watched_sums *w, const real *p, const real *g,
                                                 vec even, vec odd, size_t from, size_t to)
{
    vec before[2] = {{0}}, grad[2] = {{0}}, after[2] = {{0}};
    const vec both[2] = {even, odd}, smallest = w->smallest;
    const size_t size = (to - from) * sizeof(real);
    memcpy(before, p + from, size);
    memcpy(grad, g + from, size);
    memcpy(after, (const real *)both + from, size);
    add_pair(w, (const real *)before, (const real *)grad, after[0], after[1]);
    w->smallest = smallest; /* the padding is not an element */
    for (size_t j = from; j < to; j++)
        w->smallest[0] = g[j] * g[j] < w->smallest[0] ? g[j] * g[j] : w->smallest[0];
}

PK_INLINE double sum_of_lanes(vec x)
{
    double parts[4] = {0}; /* independent sums, so that no addition waits for another */
    for (int j = 0; j < LANES; j++)
        parts[j % 4] += (double)x[j];
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

static int in_range(double sum) { return sum > 1e-30 && sum < 1e36; }

static double squares_again(const void *array, int kind, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i += NORM_BLOCK)
        sum += sum_of_squares(element(array, i, kind), kind, smaller(n - i, NORM_BLOCK), 1);
    return sum;
}

static double param_squares_again(const pk_tensor *block)
{
    double sum = 0;
    for (size_t i = 0; i < block->n; i += STAGE) {
        real copy[STAGE];
        const pk_tensor part = part_of(block, i, i + smaller(block->n - i, STAGE));
        sum += sum_of_squares(param_as_real(&part, copy), PK_NATIVE, part.n, 1);
    }
    return sum;
}

/* Reads the gradient of a block again, one element after the other. */
static void count_elements(const pk_tensor *block, const context *k, struct watched_part *part)
{
    const int kind = block->stored.grad;
    part->largest = 0;
    for (size_t at = 0; at < block->n; at += STAGE) {
        real copy[STAGE];
        const size_t n = smaller(block->n - at, STAGE);
        const real *const g = as_real(element(block->grad, at, kind), n, kind, copy);
        for (size_t i = 0; i < n; i++) {
            const real size = g[i] < 0 ? -g[i] : g[i];
            part->zeros += size == 0;
            part->clipped += k->scale * size > k->clip;
            part->nonfinite += !(size < (real)INFINITY);
            part->largest = (double)size > part->largest ? (double)size : part->largest;
        }
    }
}

static struct watched_part part_with(const watched_sums *w, const pk_tensor *block,
                                     const context *k)
{
    real largest = 0, smallest = (real)INFINITY;
    for (int j = 0; j < LANES; j++) {
        largest = w->largest[j] > largest ? w->largest[j] : largest;
        smallest = w->smallest[j] < smallest ? w->smallest[j] : smallest;
    }
    largest = real_sqrt(largest); /* exactly the element, if its square is in range */
    struct watched_part part = {.grad = sum_of_lanes(w->grad),
                                .param = sum_of_lanes(w->param),
                                .update = sum_of_lanes(w->update),
                                .largest = (double)largest};
    const int is_normal = in_range(part.grad);
    if (!is_normal)
        part.grad = squares_again(block->grad, block->stored.grad, block->n);
    if (!in_range(part.param))
        part.param = param_squares_again(block);
    if (!is_normal || smallest == 0 || k->scale * largest > k->clip)
        count_elements(block, k, &part);
    return part;
}

PK_INLINE double param_at(const pk_tensor *t, size_t i)
{
    real copy;
    const pk_tensor one = part_of(t, i, i + 1);
    return (double)*param_as_real(&one, &copy);
}

PK_INLINE double grad_at(const pk_tensor *t, size_t i)
{
    real copy;
    const int kind = t->stored.grad;
    return (double)*as_real(element(t->grad, i, kind), 1, kind, &copy);
}

/* Before the step of elements begin..end-1 each rate holds the parameter. */
static void watch_rates(double *rates, const pk_tensor *t, size_t begin, size_t end, double scale,
                        int before)
{
    const size_t apart = t->n < PK_WATCHED_RATES ? 1 : t->n / PK_WATCHED_RATES;
    for (size_t r = (begin + apart - 1) / apart; r < PK_WATCHED_RATES && r * apart < end; r++) {
        const double p = param_at(t, r * apart);
        const double g = before ? 0 : grad_at(t, r * apart);
        rates[r] = before ? p : fabs((rates[r] - p) / (scale * g));
    }
}

/* One step of a block. */
static void watch_block(const sweep *s, const pk_tensor *t, size_t begin, size_t end, context k,
                        struct watched_part *part)
{
    watched_sums sums = {.smallest = broadcast((real)INFINITY)};
    double *const rates = s->watched[t - s->tensors].rates;
    piece p = piece_of(s, t);
    const int zero_grad = k.zero_grad;
    const pk_tensor block = part_of(t, begin, end);
    k.zero_grad = 0; /* the gradient is read once more */
    p.sums = &sums;
    watch_rates(rates, t, begin, end, (double)k.scale, 1);
    update_elements(s, t, begin, end, &p, &k);
    watch_rates(rates, t, begin, end, (double)k.scale, 0);
    *part = part_with(&sums, &block, &k);
    if (zero_grad)
        memset((void *)(uintptr_t)block.grad, 0, block.n * size_as(block.stored.grad));
}

static size_t watched_blocks_of(const pk_tensor *t)
{
    return t->grad ? (t->n + WATCHED_BLOCK - 1) / WATCHED_BLOCK : 0;
}

PK_INLINE void watched_visit(const sweep *s, share of, const pk_tensor **prepared, context *k)
{
    const pk_tensor *const t = of.t;
    if (of.from >= watched_blocks_of(t))
        return;
    prepare(s, t, prepared, k);
    for (size_t b = of.from; b < of.to && b < watched_blocks_of(t); b++) {
        const size_t begin = b * WATCHED_BLOCK, end = begin + WATCHED_BLOCK;
        watch_block(s, t, b ? next_grain(t, begin) : 0, end < t->n ? next_grain(t, end) : t->n, *k,
                    &s->parts[of.before + b]);
    }
}

static void watched_chunk(void *arg, size_t c)
{
    visit_chunk(arg, c, watched_blocks_of, watched_visit);
}

/* Adds up the parts of a tensor, in the order of its blocks. */
static void watched_of(const pk_tensor *t, const struct watched_part *parts, pk_watched *watched)
{
    struct watched_part sum = {0};
    const double n = (double)t->n;
    for (size_t b = 0; b < watched_blocks_of(t); b++) {
        sum.grad += parts[b].grad;
        sum.param += parts[b].param;
        sum.update += parts[b].update;
        sum.zeros += parts[b].zeros;
        sum.clipped += parts[b].clipped;
        sum.nonfinite += parts[b].nonfinite;
        sum.largest = parts[b].largest > sum.largest ? parts[b].largest : sum.largest;
    }
    watched->grad_norm = sqrt(sum.grad);
    watched->param_norm = sqrt(sum.param);
    watched->update_norm = sqrt(sum.update);
    watched->largest_grad = sum.largest;
    watched->zeros = sum.zeros / n;
    watched->clipped = sum.clipped / n;
    watched->nonfinite = sum.nonfinite / n;
}

/* The last sweep of a step, watched.  Its parts follow those of the tensors before. */
static void watched_sweep(sweep *s, int nthreads)
{
    const struct watched_part *part = s->parts;
    run_sweep(s, watched_blocks_of, WATCHED_BLOCK, watched_chunk, nthreads);
    for (size_t i = 0; i < s->count; part += watched_blocks_of(&s->tensors[i++]))
        if (s->tensors[i].grad && s->tensors[i].n)
            watched_of(&s->tensors[i], part, &s->watched[i]);
    s->parts += s->total;
    s->watched += s->count;
}

static size_t watched_scratch_size(const pk_tensor *tensors, size_t count)
{
    return total_of(tensors, count, watched_blocks_of) * sizeof(struct watched_part);
}

#endif
