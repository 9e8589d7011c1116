/* The equations of the layer-normalized cells for one row, and their gradients: Ba et al. 2016,
 * appendix; pyoptk_rnn.h has them as formulas.  normed.c includes this file and calls the functions
 * of a cell through normed_cell.  An array of H elements may be the caller's, so that nothing
 * beyond H is read. */
#ifndef PK_NORMED_CELLS_H
#define PK_NORMED_CELLS_H

#include "normed_layout.h"

/* The part of x in the pre-activations of n units, from column k on. */
PK_INLINE vec from_x(const normed_job *job, const normed_row *r, size_t k, size_t n)
{
    return load_n(r->x + k, n) * load_n((const real *)job->w.gain_ih + k, n) +
           load_n(job->bias + k, n);
}
PK_INLINE vec from_h(const normed_job *job, const normed_row *r, size_t k, size_t n)
{
    return load_n(r->h + k, n) * load_n((const real *)job->w.gain_hh + k, n);
}
PK_INLINE vec from_both(const normed_job *job, const normed_row *r, size_t k, size_t n)
{
    return from_x(job, r, k, n) + from_h(job, r, k, n);
}

/* ---- LSTM: gates i, f, g, o ------------------------------------------------------------------ */

/* n units of c: normalized, then also with gain and bias. */
typedef struct {
    vec normed, n;
} normed_c;

PK_INLINE normed_c of_c(const normed_job *job, const normed_row *r, size_t u, size_t n)
{
    const real mean = r->scales[MEAN_C], scale = r->scales[SCALE_C];
    const real *const bias = job->w.b_c;
    const vec normed = zero_tail((load_n(r->c_next + u, n) - mean) * scale, n);
    const vec scaled = normed * load_n((const real *)job->w.gain_c + u, n);
    return (normed_c){normed, bias ? scaled + load_n(bias + u, n) : scaled};
}

static void lstm_forward(const normed_job *job, const normed_row *r)
{
    const size_t H = job->s.H;
    for (size_t u = 0; u < H; u += LANES) {
        const size_t n = smaller(H - u, LANES);
        const vec i = vec_sigmoid(from_both(job, r, u, n));
        const vec f = vec_sigmoid(from_both(job, r, H + u, n));
        const vec g = vec_tanh(from_both(job, r, 2 * H + u, n));
        store_n(r->gates + u, i, n);
        store_n(r->gates + H + u, f, n);
        store_n(r->gates + 2 * H + u, g, n);
        store_n(r->c_next + u, f * load_n(r->c_prev + u, n) + i * g, n);
    }
    r->scales[SCALE_C] = scale_of(r->c_next, H, r->scales + MEAN_C);
    for (size_t u = 0; u < H; u += LANES) {
        const size_t n = smaller(H - u, LANES);
        const vec o = vec_sigmoid(from_both(job, r, 3 * H + u, n));
        store_n(r->gates + 3 * H + u, o, n);
        store_n(r->h_next + u, o * vec_tanh(of_c(job, r, u, n).n), n);
    }
}

static void lstm_backward(const normed_job *job, const normed_row *r, real *dh, real *dc,
                          real *sums)
{
    const size_t H = job->s.H, N = job->N;
    const real *const gain_c = job->w.gain_c;
    long_sum sum = {0}, product = {0};
    for (size_t u = 0; u < H; u += LANES) { /* dh becomes the gradient of the normalized c */
        const size_t n = smaller(H - u, LANES);
        const normed_c c = of_c(job, r, u, n);
        const vec o = load_n(r->gates + 3 * H + u, n), tanh_c = vec_tanh(c.n);
        const vec dh_u = load_n(dh + u, n), dn = dh_u * o * (1 - tanh_c * tanh_c);
        const vec scaled = dn * load_n(gain_c + u, n);
        add_to(&sum, scaled);
        add_to(&product, scaled * c.normed);
        add_n(sums + 3 * N + u, dn * c.normed, n);
        add_n(sums + 3 * N + H + u, dn, n);
        store_n(r->gates + 3 * H + u, dh_u * tanh_c * o * (1 - o), n);
        store_n(dh + u, scaled, n);
    }
    const real shift = (real)(sum_of(&sum) / (double)H),
               slope = (real)(sum_of(&product) / (double)H);
    for (size_t u = 0; u < H; u += LANES) {
        const size_t n = smaller(H - u, LANES);
        const vec i = load_n(r->gates + u, n), f = load_n(r->gates + H + u, n);
        const vec g = load_n(r->gates + 2 * H + u, n), normed = of_c(job, r, u, n).normed;
        const vec of_h = (load_n(dh + u, n) - shift - normed * slope) * r->scales[SCALE_C];
        const vec dc_u = load_n(dc + u, n) + of_h;
        store_n(r->gates + u, dc_u * g * i * (1 - i), n);
        store_n(r->gates + H + u, dc_u * load_n(r->c_prev + u, n) * f * (1 - f), n);
        store_n(r->gates + 2 * H + u, dc_u * i * (1 - g * g), n);
        store_n(dc + u, dc_u * f, n);
        store_n(dh + u, (vec){0}, n); /* h_prev enters only the products */
    }
    normalize_backward(r->x, r->gates, N, job->w.gain_ih, r->scales[SCALE_X], sums, sums + 2 * N);
    normalize_backward(r->h, r->gates, N, job->w.gain_hh, r->scales[SCALE_H], sums + N, NULL);
}

/* ---- GRU: gates r, z, n; after them the part of h in n --------------------------------------- */

static void gru_forward(const normed_job *job, const normed_row *row)
{
    const size_t H = job->s.H;
    for (size_t u = 0; u < H; u += LANES) {
        const size_t n = smaller(H - u, LANES);
        const vec r = vec_sigmoid(from_both(job, row, u, n));
        const vec z = vec_sigmoid(from_both(job, row, H + u, n));
        const vec n_h = from_h(job, row, 2 * H + u, n) + load_n(job->bias_n + u, n);
        const vec candidate = vec_tanh(from_x(job, row, 2 * H + u, n) + r * n_h);
        store_n(row->gates + u, r, n);
        store_n(row->gates + H + u, z, n);
        store_n(row->gates + 2 * H + u, candidate, n);
        store_n(row->gates + 3 * H + u, n_h, n);
        store_n(row->h_next + u, candidate + z * (load_n(row->h_prev + u, n) - candidate), n);
    }
}

static void gru_backward(const normed_job *job, const normed_row *row, real *dh, real *dc,
                         real *sums)
{
    const size_t H = job->s.H, N = job->N;
    const real *const gain_ih = job->w.gain_ih, *const gain_hh = job->w.gain_hh;
    real *const d = row->gates;
    (void)dc;
    for (size_t u = 0; u < H; u += LANES) {
        const size_t n = smaller(H - u, LANES);
        const vec r = load_n(d + u, n), z = load_n(d + H + u, n);
        const vec candidate = load_n(d + 2 * H + u, n), n_h = load_n(d + 3 * H + u, n);
        const vec dh_u = load_n(dh + u, n), dn = dh_u * (1 - z) * (1 - candidate * candidate);
        store_n(d + u, dn * n_h * r * (1 - r), n);
        store_n(d + H + u, dh_u * (load_n(row->h_prev + u, n) - candidate) * z * (1 - z), n);
        store_n(d + 2 * H + u, dn, n);
        store_n(d + 3 * H + u, dn * r, n);
        store_n(dh + u, dh_u * z, n);
    }
    normalize_backward(row->x, d, 2 * H, gain_ih, row->scales[SCALE_X], sums, sums + 2 * N);
    normalize_backward(row->x + 2 * H, d + 2 * H, H, gain_ih + 2 * H, row->scales[SCALE_X + 1],
                       sums + 2 * H, sums + 2 * N + 2 * H);
    normalize_backward(row->h, d, 2 * H, gain_hh, row->scales[SCALE_H], sums + N, NULL);
    normalize_backward(row->h + 2 * H, d + 3 * H, H, gain_hh + 2 * H, row->scales[SCALE_H + 1],
                       sums + N + 2 * H, sums + 3 * N);
}

/* ---- both ------------------------------------------------------------------------------------ */

static const normed_cell LSTM = {4, 2, {{0, 4}}, 1, lstm_forward, lstm_backward};
static const normed_cell GRU = {3, 1, {{0, 2}, {2, 3}}, 2, gru_forward, gru_backward};

/* Adds b_ih and b_hh, of which the pre-activations need the sum. */
static void normed_biases(const normed_job *job)
{
    const real *const b_ih = job->w.b_ih, *const b_hh = job->w.b_hh;
    /* the n of a GRU needs both separately */
    const size_t apart = job->cell->states == 2 ? job->N : 2 * job->s.H;
    for (size_t k = 0; k < job->N; k++) {
        job->bias[k] = (b_ih ? b_ih[k] : 0) + (b_hh && k < apart ? b_hh[k] : 0);
        if (k >= apart)
            job->bias_n[k - apart] = b_hh ? b_hh[k] : 0;
    }
}

/* The gradients of gains and biases: the sums of all groups. */
static void normed_sums(const normed_job *job)
{
    const size_t H = job->s.H, N = job->N, all = sums_of(job), rest = 3 * N;
    const int is_lstm = job->cell->states == 2;
    const struct {
        real *to;
        size_t from, n;
    } results[] = {
        {job->dw.gain_ih, 0, N},
        {job->dw.gain_hh, N, N},
        {job->dw.b_ih, 2 * N, N},
        {job->dw.b_hh, 2 * N, is_lstm ? N : 2 * H},
        {job->dw.b_hh && !is_lstm ? (real *)job->dw.b_hh + 2 * H : NULL, rest, H},
        {is_lstm ? job->dw.gain_c : NULL, rest, H},
        {is_lstm ? job->dw.b_c : NULL, rest + H, H},
    };
    for (size_t i = 0; i < sizeof results / sizeof *results; i++)
        for (size_t k = 0; results[i].to && k < results[i].n; k++) {
            real sum = job->accumulate ? results[i].to[k] : 0;
            for (size_t group = 0; group < groups_of(job->s.B); group++)
                sum += job->sums[group * all + results[i].from + k];
            results[i].to[k] = sum;
        }
}

#endif
