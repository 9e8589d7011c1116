/* Losses and their gradients; kernels of dense.c.  Rows are independent: each stores its loss in
 * `scratch`; these are summed in their order, in double. */
#ifndef PK_LOSSES_H
#define PK_LOSSES_H

#include "mathfun.h"
#include "sums.h"

enum { ELEMENTS_PER_TASK = 1 << 14 };

typedef struct {
    const void *loss;
    double denominator, scale; /* sum of the weights; factor of all gradients */
    size_t rows, chunks;
} loss_job;

static void loss_rows(loss_job *job, void (*fn)(void *, size_t), size_t rows, size_t width,
                      int nthreads)
{
    job->rows = rows;
    job->chunks = smaller(rows, 1 + times(rows, width) / ELEMENTS_PER_TASK);
    pk_parallel(fn, job, job->chunks, nthreads);
}

/* ---- cross entropy --------------------------------------------------------------------------- */

/* The weight of a row, and its share of the denominator. */
PK_INLINE double cross_entropy_weight(const pk_cross_entropy *l, size_t r, double *share)
{
    const double weight = l->weights ? (double)((const real *)l->weights)[r] : 1;
    *share = weight;
    if (l->labels) {
        if (l->labels[r] == l->ignore_index)
            return *share = 0;
        if (l->class_weights)
            *share *= (double)((const real *)l->class_weights)[l->labels[r]];
    }
    return weight;
}

/* q of n columns from c on, without the part that belongs to the label alone */
PK_INLINE vec cross_entropy_target(const pk_cross_entropy *l, const real *target, size_t c,
                                   size_t n)
{
    vec q = broadcast((real)(l->smoothing / (double)l->C));
    if (target)
        q += (real)(1 - l->smoothing) * load_n(target + c, n);
    if (l->class_weights)
        q *= load_n((const real *)l->class_weights + c, n);
    return zero_tail(q, n);
}

PK_INLINE real cross_entropy_largest(const real *x, size_t C)
{
    real lanes[LANES], largest;
    if (C >= LANES) {
        vec of_lanes = load(x + C - LANES); /* the last vector overlaps the one before it */
        for (size_t c = 0; c + LANES <= C; c += LANES)
            of_lanes = larger_of(load(x + c), of_lanes);
        store(lanes, of_lanes);
        x = lanes;
        C = LANES;
    }
    largest = x[0];
    for (size_t c = 1; c < C; c++)
        largest = x[c] > largest ? x[c] : largest;
    return largest;
}

/* The loss of a row, times its weight, and the gradient times `weight * scale`.  `soft`, a literal:
 * q of every column is needed. */
PK_INLINE double cross_entropy_row(const pk_cross_entropy *l, size_t r, double weight, double scale,
                                   const int soft)
{
    const size_t C = l->C, label = l->labels ? (size_t)l->labels[r] : 0;
    const real *const x = (const real *)l->x + r * C;
    const real *const target = l->targets ? (const real *)l->targets + r * C : NULL;
    real *const dx = l->dx ? (real *)l->dx + r * C : NULL;
    double at_label = 0; /* the part of q that belongs to the label */
    if (l->labels)
        at_label = (1 - l->smoothing) *
                   (l->class_weights ? (double)((const real *)l->class_weights)[label] : 1);
    const real x_label = x[label]; /* dx may be x */
    const real m = cross_entropy_largest(x, C);
    long_sum exps = {0}, q_sum = {0}, q_x = {0};
    for (size_t c = 0; c < C; c += LANES) {
        const size_t n = smaller(C - c, LANES);
        const vec v = load_n(x + c, n) - m;
        const vec e = zero_tail(vec_exp(v), n);
        add_to(&exps, e);
        if (dx)
            store_n(dx + c, e, n);
        if (soft) {
            const vec q = cross_entropy_target(l, target, c, n);
            add_to(&q_sum, q);
            add_to(&q_x, masked(q != (vec){0}, q * v));
        }
    }
    const double total = sum_of(&exps), log_total = log(total);
    const double all_q = at_label + (soft ? sum_of(&q_sum) : 0);
    double loss = all_q * log_total - (soft ? sum_of(&q_x) : 0);
    if (l->labels)
        loss -= at_label * (double)(x_label - m);
    if (!dx)
        return weight * loss;
    const real factor = (real)(weight * scale * all_q / total), of_q = (real)(weight * scale);
    const double e_label = (double)dx[label]; /* 1 if x_label is much larger than the others */
    for (size_t c = 0; c < C; c += LANES) {
        const size_t n = smaller(C - c, LANES);
        vec v = factor * load_n(dx + c, n);
        if (soft)
            v -= of_q * cross_entropy_target(l, target, c, n);
        store_n(dx + c, v, n);
    }
    if (l->labels) {
        real q = (real)(l->smoothing / (double)l->C); /* without the 1 - smoothing of the label */
        if (l->class_weights)
            q *= ((const real *)l->class_weights)[label];
        dx[label] =
            (real)(weight * scale * (all_q * e_label / total - at_label)) - (soft ? of_q * q : 0);
    }
    return weight * loss;
}

static void cross_entropy_rows(void *arg, size_t chunk)
{
    const loss_job *job = arg;
    const pk_cross_entropy *l = job->loss;
    const size_t to = pk_chunk_begin(job->rows, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t r = pk_chunk_begin(job->rows, chunk, job->chunks); r < to; r++) {
        double share;
        const double weight = cross_entropy_weight(l, r, &share);
        l->scratch[r] = 0;
        if (weight == 0 && l->dx)
            memset((real *)l->dx + r * l->C, 0, l->C * sizeof(real));
        else if (weight != 0)
            l->scratch[r] = l->targets || l->smoothing != 0
                                ? cross_entropy_row(l, r, weight, job->scale, 1)
                                : cross_entropy_row(l, r, weight, job->scale, 0);
    }
    restore_denormals(mode);
}

static double cross_entropy(const pk_cross_entropy *l, int nthreads)
{
    double denominator = 0, sum = 0, share;
    const fp_mode mode = flush_denormals(); /* as in the tasks that read the rows */
    for (size_t r = 0; r < l->M; r++) {
        cross_entropy_weight(l, r, &share);
        denominator += share;
    }
    restore_denormals(mode);
    loss_job job = {.loss = l, .scale = denominator == 0 ? 0 : l->scale / denominator};
    loss_rows(&job, cross_entropy_rows, l->M, l->C, nthreads);
    for (size_t r = 0; r < l->M; r++)
        sum += l->scratch[r];
    return denominator == 0 ? 0 : sum / denominator;
}

/* ---- losses of single elements --------------------------------------------------------------- */

/* The loss of a vector of elements; *gradient is its derivative by x. */
PK_INLINE vec elementwise(const pk_loss loss, vec x, vec target, real delta, vec *gradient)
{
    const vec zero = {0}, r = x - target;
    switch (loss) {
    case PK_ABSOLUTE: {
        const vec_bits sign = (vec_bits)r & (vec_bits)broadcast((real)-0.0);
        const vec one = (vec)((vec_bits)broadcast(1) | sign);
        *gradient = masked((r < zero) | (r > zero), one) + masked(r != r, r); /* NaN stays NaN */
        return vec_abs(r);
    }
    case PK_HUBER:
        *gradient = limited(r, delta);
        return *gradient * (r - *gradient * (real)0.5);
    case PK_LOGISTIC: {
        const vec weight = 1 + (delta - 1) * target;
        const vec log_term = vec_log1p(vec_exp(-vec_abs(x))) + larger_of(zero, -x);
        *gradient = weight * vec_sigmoid(x) - delta * target;
        return (1 - target) * x + weight * log_term;
    }
    default:
        *gradient = 2 * r;
        return r * r;
    }
}

/* The sum of the losses of n elements from element `first` on; the gradients times `factor` */
PK_INLINE double elementwise_sum(const pk_elementwise_loss *l, const pk_loss loss, size_t first,
                                 size_t n, real factor)
{
    const real *const x = (const real *)l->x + first;
    const real *const target = (const real *)l->target + first;
    real *const dx = l->dx ? (real *)l->dx + first : NULL;
    long_sum sum = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const size_t some = smaller(n - i, LANES);
        vec gradient;
        const vec losses = elementwise(loss, load_n(x + i, some), load_n(target + i, some),
                                       (real)l->delta, &gradient);
        add_to(&sum, zero_tail(losses, some));
        if (dx)
            store_n(dx + i, gradient * factor, some);
    }
    return sum_of(&sum);
}

/* Rows with the same weight are joined to blocks of about ELEMENTS_PER_TASK. */
static size_t rows_of_block(const pk_elementwise_loss *l)
{
    return l->weights ? 1 : 1 + ELEMENTS_PER_TASK / (1 + l->N);
}

static void elementwise_blocks(void *arg, size_t chunk)
{
    const loss_job *job = arg;
    const pk_elementwise_loss *l = job->loss;
    const size_t group = rows_of_block(l), to = pk_chunk_begin(job->rows, chunk + 1, job->chunks);
    const fp_mode mode = flush_denormals();
    for (size_t b = pk_chunk_begin(job->rows, chunk, job->chunks); b < to; b++) {
        const double weight = l->weights ? (double)((const real *)l->weights)[b] : 1;
        const real factor = (real)(weight * job->scale);
        const size_t first = b * group * l->N, n = smaller(group, l->M - b * group) * l->N;
        l->scratch[b] = 0;
        if (weight == 0 && l->dx)
            memset((real *)l->dx + first, 0, n * sizeof(real));
        if (weight == 0)
            continue;
        switch (l->loss) {
        case PK_ABSOLUTE:
            l->scratch[b] = weight * elementwise_sum(l, PK_ABSOLUTE, first, n, factor);
            break;
        case PK_HUBER:
            l->scratch[b] = weight * elementwise_sum(l, PK_HUBER, first, n, factor);
            break;
        case PK_LOGISTIC:
            l->scratch[b] = weight * elementwise_sum(l, PK_LOGISTIC, first, n, factor);
            break;
        default:
            l->scratch[b] = weight * elementwise_sum(l, PK_SQUARED, first, n, factor);
        }
    }
    restore_denormals(mode);
}

static double elementwise_loss(const pk_elementwise_loss *l, int nthreads)
{
    const size_t group = rows_of_block(l), blocks = l->M / group + (l->M % group != 0);
    double denominator = l->weights ? 0 : (double)l->M, sum = 0;
    const fp_mode mode = flush_denormals(); /* as in the tasks that read the rows */
    for (size_t r = 0; r < l->M && l->weights; r++)
        denominator += (double)((const real *)l->weights)[r];
    restore_denormals(mode);
    denominator *= (double)l->N;
    loss_job job = {.loss = l, .scale = denominator == 0 ? 0 : l->scale / denominator};
    loss_rows(&job, elementwise_blocks, blocks, times(group, l->N), nthreads);
    for (size_t b = 0; b < blocks; b++)
        sum += l->scratch[b];
    return denominator == 0 ? 0 : sum / denominator;
}

#endif
