/* Regularization of a recurrent layer in training: dropout of the h that enters products, or of the
 * candidate, and zoneout.  Each pass draws the same random numbers again, for the rows and units
 * that it is about to compute; none are stored between passes.  The passes call this only with rare
 * options; the formulas are in pyoptk_rnn.h. */
#ifndef PK_RNN_NOISE_H
#define PK_RNN_NOISE_H

#include "rnn_threads.h"

PK_INLINE size_t noise_width(const rnn_job *job, noise_kind kind)
{
    return kind == ZONEOUT_H ? job->R : job->s.H;
}

PK_INLINE uint16_t *noise_at(const rnn_job *job, noise_kind kind, size_t t, size_t b)
{
    const size_t row = t % job->noise_steps * job->s.B + b;
    return job->numbers[kind] + row * noise_width(job, kind);
}

/* Draws the numbers of features from..to-1 of some rows and steps, as in an array [T, B, width]. */
static void noise_draw(const rnn_job *job, noise_kind kind, range steps, range rows, range at)
{
    uint16_t block[NUMBERS_BLOCK];
    const size_t B = job->s.B, width = noise_width(job, kind);
    const uint64_t stream = job->s.stream + ((uint64_t)kind + 1) * PK_NOISE_STREAMS;
    size_t known = SIZE_MAX; /* the block that is in memory */
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = rows.from; b < rows.to; b++) {
            const size_t time = job->s.reverse ? job->s.T - 1 - t : t;
            uint16_t *to = noise_at(job, kind, t, b);
            for (size_t i = at.from, count; i < at.to; i += count) {
                const size_t n = (time * B + b) * width + i, k = n / NUMBERS_BLOCK;
                if (k != known)
                    random_numbers(job->s.seed, stream, (uint64_t)k * COUNTERS, block);
                known = k;
                count = smaller(at.to - i, NUMBERS_BLOCK - n % NUMBERS_BLOCK);
                memcpy(to + i, block + n % NUMBERS_BLOCK, count * sizeof *to);
            }
        }
}

/* Before step t, for some rows and columns of units: draws the numbers of a block of steps, unless
 * the step before it in the pass has drawn them. */
__attribute__((noinline)) static void rnn_draw(const rnn_job *job, range steps, size_t t,
                                               int backward, range rows, range columns)
{
    const size_t n = job->noise_steps, first = t / n * n;
    const range together = {first, smaller(first + n, job->s.T)};
    if (t != (backward ? smaller(together.to, steps.to) - 1 : first) && t != steps.from)
        return;
    for (int kind = 0; kind < NOISE_KINDS; kind++) {
        range at = {columns.from * WIDTH, columns.to * WIDTH};
        if (kind == ZONEOUT_H)
            at = features_of(job, columns);
        at.to = smaller(at.to, noise_width(job, (noise_kind)kind));
        if (draws(&job->s, (noise_kind)kind))
            noise_draw(job, (noise_kind)kind, together, rows, at);
    }
}

/* Mask: the features, of LANES, that are dropped or zoned out. */
__attribute__((noinline)) static vec_bits drawn(const rnn_job *job, noise_kind kind, size_t t,
                                                size_t b, size_t at)
{
    const uint16_t *numbers = noise_at(job, kind, t, b) + at;
    const uint32_t below = below_for(noise_p(&job->s, kind));
    real_bits found[LANES];
    PK_SIMD
    for (size_t j = 0; j < LANES; j++)
        found[j] = numbers[j] < below ? -1 : 0;
    return (vec_bits)load((const real *)found);
}

/* ---- zoneout --------------------------------------------------------------------------------- */

/* The mean of both outcomes, for inference. */
PK_INLINE vec zoneout_mean(double p, vec before, vec after)
{
    if (!(p > 0))
        return after;
    return after + (real)(below_for(p) / (UINT16_MAX + 1.0)) * (before - after);
}

/* A state after a step, or, for elements that are zoned out, that before it. */
__attribute__((noinline)) static vec zoned(const rnn_job *job, noise_kind kind, size_t t, size_t b,
                                           size_t at, vec before, vec after)
{
    if (!trains(&job->s))
        return zoneout_mean(noise_p(&job->s, kind), before, after);
    return draws(&job->s, kind) ? pick(drawn(job, kind, t, b, at), before, after) : after;
}

/* *d is the gradient of such a state.  Returns the part that passes to the state before the step;
 * *d becomes the rest. */
__attribute__((noinline)) static vec past_zoneout(const rnn_job *job, noise_kind kind, size_t t,
                                                  size_t b, size_t at, vec *d)
{
    if (!draws(&job->s, kind))
        return (vec){0};
    const vec_bits zoned_out = drawn(job, kind, t, b, at);
    const vec past = masked(zoned_out, *d);
    *d = masked(~zoned_out, *d);
    return past;
}

/* ---- dropout --------------------------------------------------------------------------------- */

PK_INLINE real dropout_scale(const pk_rnn_shape *s)
{
    const uint32_t below = below_for(s->recurrent_dropout);
    return (real)((UINT16_MAX + 1.0) / (UINT16_MAX + 1 - below));
}

/* The context of a cell where the candidate may be dropped. */
PK_INLINE cell_context noisy_context(const rnn_job *job, size_t t, size_t b, size_t unit)
{
    cell_context context = context_of(job, unit);
    context.drops = 1;
    context.mask = ~(vec_bits){0};
    context.factor = broadcast(1);
    if (draws(&job->s, DROPOUT)) {
        context.mask = ~drawn(job, DROPOUT, t, b, unit);
        context.factor = broadcast(dropout_scale(&job->s));
    }
    return context;
}

/* Computes the factors of h for dropout, the same for all steps. */
__attribute__((noinline)) static void noise_begin(const rnn_job *job)
{
    uint16_t block[NUMBERS_BLOCK];
    const uint32_t below = below_for(job->s.recurrent_dropout);
    const uint64_t stream = job->s.stream + (DROPOUT + 1) * PK_NOISE_STREAMS;
    for (size_t b = 0, n = 0; b < job->s.B && job->h_mask; b++) {
        memset(job->h_mask + b * job->P_h, 0, job->P_h * sizeof(real));
        for (size_t i = 0; i < job->R; i++, n++) {
            if (n % NUMBERS_BLOCK == 0)
                random_numbers(job->s.seed, stream, n / NUMBERS_BLOCK * COUNTERS, block);
            if (block[n % NUMBERS_BLOCK] >= below)
                job->h_mask[b * job->P_h + i] = dropout_scale(&job->s);
        }
    }
}

/* Some features of h as they enter products. */
PK_INLINE vec dropped_h(const rnn_job *job, size_t b, size_t at, vec h)
{
    return job->h_mask ? h * load(job->h_mask + b * job->P_h + at) : h;
}

#endif
