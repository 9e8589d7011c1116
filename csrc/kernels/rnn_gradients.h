/* Computes dx and the gradients of the weights from dA, the gradient of the pre-activations, in
 * products over many steps at once.  rnn_backward.h calls rnn_gradients_of. */
#ifndef PK_RNN_GRADIENTS_H
#define PK_RNN_GRADIENTS_H

#include "rnn_forward.h"

/* `steps` without the first one, if h is 0 there and enters no product. */
static range steps_with_h(const rnn_job *job, range steps)
{
    const range rows = {0, job->s.B};
    if (length(steps) && length(rows_that(takes_h, job, steps.from, rows)) == 0)
        steps.from++;
    return steps;
}

/* ---- dA as the left-hand side of products ---------------------------------------------------- */

/* dA with the columns `of`, those of x or of h; k runs over panel, column, unit.  Returns how many
 * k from `k` on are one block of a product.  Panels are segments of one operand.  The last panel,
 * whose columns may be closer together, is a block of its own if the columns do not begin with the
 * first. */
PK_INLINE size_t da_block(const rnn_job *job, columns of, size_t k)
{
    const size_t H = job->s.H, depth = of.count * UNITS, whole = H / UNITS * depth;
    const size_t end = smaller(k + K_BLOCK / depth * depth, of.count * H);
    return (of.first > 0 && k < whole ? smaller(end, whole) : end) - k;
}

PK_INLINE operand da_at(const rnn_job *job, columns of, size_t k, size_t t, size_t b)
{
    const size_t depth = of.count * UNITS, panel = k / depth;
    const real *da = gates_at(job, panel, t, b) + of.first * units_of(panel, job->s.H);
    return (operand){da, WIDTH, 1, depth, (ptrdiff_t)(job->window * job->s.B * WIDTH)};
}

/* The right-hand side for it: w [G * H, N], packed or in place. */
PK_INLINE right_operand weight_rows(const rnn_job *job, columns of, const real *packed,
                                    const real *w, size_t N)
{
    const size_t H = job->s.H;
    return packed ? in_panels(packed, of.count * H) : (right_operand){w, N, WIDTH, of.count, H * N};
}

/* c[rows, N] = begin + dA of step t times w */
static void rnn_da_product(const rnn_job *job, columns of, size_t t, range rows, size_t N,
                           right_operand w, real *c, size_t ldc, const real *begin)
{
    for (size_t k = 0, depth; k < of.count * job->s.H; k += depth) {
        depth = da_block(job, of, k);
        product_block(length(rows), N, depth, da_at(job, of, k, t, rows.from), rows_from(w, k), c,
                      ldc, k ? NULL : begin);
    }
}

/* ---- dx -------------------------------------------------------------------------------------- */

typedef struct {
    const rnn_run *run;
    const rnn_job *job;
    range steps;   /* of dx */
    size_t tasks;  /* that share them */
    size_t groups; /* of panels; a task computes GRADIENT_WIDTH columns of a weight for one group */
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

/* dx = dA w_ih, or +=, for a share of the steps; block by block of k, so that w_ih is read once. */
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
    const fp_mode mode = flush_denormals();
    for (size_t k = 0, depth; k < OF_X.count * job->s.H; k += depth) {
        depth = da_block(job, OF_X, k);
        for (size_t t = from, together; t < to; t += together) {
            const range live = active_rows(job, t, rows);
            const int is_new = k == 0 && is_new_dx(of, t);
            together = equally_far ? steps_together(job, t, to, rows) : 1;
            product_block(length(live) * together, I, depth, da_at(job, OF_X, k, t, live.from),
                          rows_from(w, k), row_at(job->dx, t, live.from), row,
                          is_new ? ZEROS : NULL);
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
        rnn_sums of = {run, job, steps, 1 + length(steps) * (job->s.B + 1) / rows, 1};
        if (threads > 1)
            of.tasks = round_up(of.tasks, 2 * threads);
        of.tasks = smaller(of.tasks, length(steps));
        pk_parallel(rnn_dx, &of, of.tasks, run->nthreads);
    }
}

/* ---- sums over steps and rows ---------------------------------------------------------------- */

/* Compacts the dA of one panel: moves the active rows of all steps of the run together.  The task
 * after the last panel does it for the gradients of h of a projection. */
static void rnn_close_gaps(void *arg, size_t panel)
{
    const rnn_sums *of = arg;
    const rnn_job *job = of->job;
    const range steps = of->run->steps;
    const int of_h = panel == panels_in(job->s.H);
    const size_t row = of_h ? job->Q : WIDTH;
    real *to = of_h ? dh_row(job, steps.from, 0) : gates_at(job, panel, steps.from, 0);
    const real *from = to;
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = 0; b < job->s.B; b++, from += row)
            if (active(job, t, b)) {
                if (to != from)
                    memcpy(to, from, row * sizeof *to);
                to += row;
            }
}

/* The number of active rows in these steps. */
static size_t active_in(const rnn_job *job, range steps)
{
    const size_t B = job->s.B;
    size_t n = 0;
    if (!job->s.lengths)
        return steps.to > steps.from ? length(steps) * B : 0;
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = 0; b < B; b++)
            n += (size_t)active(job, t, b);
    return n;
}

/* A weight gradient: dw [G * H, N] += dA^T right [rows, N], with the columns `of` of dA; or that of
 * w_hr, with the gradients of h instead of dA. */
typedef struct {
    columns of; /* count 0: w_hr */
    real *dw;
    size_t N;
    pk_sequence right; /* x, h, s or m, from step `first` on */
    size_t first;
    int is_h;
    range steps; /* whose active rows are summed */
    range rows;  /* of w_hr, for this task */
} rnn_weight;

/* Returns the first active row, starting at row b of step t, and the mask of h for it or NULL;
 * moves t and b past it. */
PK_INLINE const real *next_row(const rnn_job *job, const rnn_weight *g, size_t *t, size_t *b,
                               const real **mask)
{
    for (;;) {
        const size_t step = *t, row = *b;
        if (++*b == job->s.B)
            *b = 0, ++*t;
        if (active(job, step, row)) {
            const real *of_step = row_at(g->right, step - g->first, row);
            *mask = g->is_h && job->h_mask ? job->h_mask + row * job->P_h : NULL;
            return g->is_h ? h_or_reset(job, step, row, of_step) : of_step;
        }
    }
}

/* Transposes n rows of each gate of w [G * H, N] into w_t [N, WIDTH], with columns [of, n]; or
 * back. */
static void turn(real *w_t, real *w, columns of, size_t H, size_t N, size_t n, int back)
{
    for (size_t j = 0; j < of.count; j++)
        for (size_t unit = 0; unit < n; unit++)
            for (size_t i = 0; i < N; i++) {
                real *a = w_t + i * WIDTH + j * n + unit, *b = w + (of.gate[j] * H + unit) * N + i;
                *(back ? b : a) = *(back ? a : b);
            }
}

/* For N < LANES: computes dw^T with dA as the right-hand side, whose rows are whole vectors.  Not
 * inline, like the function below: the arrays of both together would be too much stack. */
__attribute__((noinline)) static void rnn_narrow_gradient(const rnn_sums *sums, const rnn_weight *g,
                                                          range panels)
{
    enum { DEPTH = 2 * K_BLOCK };
    _Alignas(ALIGNMENT) real packed[DEPTH * LANES], dw_t[LANES * WIDTH];
    const rnn_job *job = sums->job;
    const size_t H = job->s.H, N = g->N, total = active_in(job, g->steps);
    const size_t before = active_in(job, (range){sums->run->steps.from, g->steps.from});
    size_t k0 = 0, t = g->steps.from, b = 0;
    do { /* once even if there is nothing to add */
        const size_t depth = smaller(total - k0, DEPTH);
        for (size_t k = 0; k < depth; k++)
            store(packed + k * LANES, load_part(next_row(job, g, &t, &b, &(const real *){0}), N));
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            const size_t n = units_of(panel, H);
            const real *da = gates_at(job, panel, sums->run->steps.from, 0) + g->of.first * n;
            const int is_new = k0 == 0 && !job->accumulate;
            turn(dw_t, g->dw + panel * UNITS * N, g->of, H, N, n, 0);
            product_panel(N, width_of(g->of, n),
                          &(term){depth, strided(packed, 1, LANES),
                                  in_panels(da + (before + k0) * WIDTH, depth)},
                          1, dw_t, WIDTH, is_new ? ZEROS : NULL);
            turn(dw_t, g->dw + panel * UNITS * N, g->of, H, N, n, 1);
        }
    } while ((k0 += DEPTH) < total);
}

/* For other N: at most GRADIENT_WIDTH columns, from `column` on; packed is [PANELS, K_BLOCK,
 * WIDTH]. */
__attribute__((noinline)) static void rnn_wide_gradient(const rnn_sums *sums, const rnn_weight *g,
                                                        size_t column, range panels, real *packed)
{
    enum { PANEL = K_BLOCK * WIDTH };
    const rnn_job *job = sums->job;
    const size_t H = job->s.H, N = g->N, end = smaller(column + GRADIENT_WIDTH, N);
    const size_t total = active_in(job, g->steps);
    const size_t before = active_in(job, (range){sums->run->steps.from, g->steps.from});
    size_t k0 = 0, t = g->steps.from, b = 0;
    do { /* once even if there is nothing to add */
        const size_t depth = smaller(total - k0, K_BLOCK);
        const real *begin = k0 == 0 && !job->accumulate ? ZEROS : NULL;
        for (size_t k = 0; k < depth; k++) {
            const real *mask, *row = next_row(job, g, &t, &b, &mask);
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++) {
                real *const to = packed + p * PANEL + k * WIDTH;
                pack_row(to, row + n, smaller(end - n, WIDTH));
                for (size_t i = 0; mask && i < WIDTH && n + i < job->P_h; i += LANES)
                    store(to + i, load(to + i) * load(mask + n + i));
            }
        }
        for (size_t panel = panels.from; panel < panels.to; panel++)
            for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
                for (size_t j = 0; j < g->of.count; j++) {
                    const size_t units = units_of(panel, H);
                    const real *da = gates_at(job, panel, sums->run->steps.from, 0);
                    da += (before + k0) * WIDTH + (g->of.first + j) * units;
                    product_panel(
                        units, smaller(end - n, WIDTH),
                        &(term){depth, strided(da, 1, WIDTH), in_panels(packed + p * PANEL, depth)},
                        1, g->dw + (g->of.gate[j] * H + panel * UNITS) * N + n, N, begin);
                }
        if (g->of.count)
            continue;
        const real *dh = dh_row(job, sums->run->steps.from, 0) + k0 * job->Q + g->rows.from;
        for (size_t n = column, p = 0; n < end; n += WIDTH, p++)
            product_panel(length(g->rows), smaller(end - n, WIDTH),
                          &(term){depth, strided(dh, 1, (ptrdiff_t)job->Q),
                                  in_panels(packed + p * PANEL, depth)},
                          1, g->dw + g->rows.from * N + n, N, begin);
    } while ((k0 += K_BLOCK) < total);
}

/* The same on a worker, whose stack has room for 128 KiB; that of other threads may not. */
__attribute__((noinline)) static void
rnn_wide_gradient_on_worker(const rnn_sums *sums, const rnn_weight *g, size_t column, range panels)
{
    _Alignas(ALIGNMENT) real packed[GRADIENT_WIDTH * K_BLOCK];
    rnn_wide_gradient(sums, g, column, panels, packed);
}

/* db_ih and db_hh = the sum of dA over steps and rows, or +=, for one panel of units. */
static void rnn_bias_gradient(const rnn_sums *sums, size_t panel)
{
    const rnn_job *job = sums->job;
    const size_t H = job->s.H, units = units_of(panel, H), vectors = vectors_of(job, panel);
    vec sum[CELL_COLUMNS][VECTORS] = {{{0}}};
    const real *da = gates_at(job, panel, sums->run->steps.from, 0);
    for (size_t k = active_in(job, sums->run->steps); k > 0; k--, da += WIDTH)
        for (size_t j = 0; j < CELL_COLUMNS; j++)
            for (size_t v = 0; v < VECTORS; v++) /* unused ones, too: cheaper than a branch */
                sum[j][v] += load(da + j * units + v * LANES);
    real *outs[] = {job->dw.b_ih, job->dw.b_hh, job->dw.b_hh};
    const columns of[] = {OF_X, OF_H, OF_S};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < of[i].count && outs[i]; j++)
            for (size_t v = 0; v < vectors; v++) {
                const place p = place_of(job, panel, v);
                real *out = outs[i] + of[i].gate[j] * H + p.unit;
                const vec s = sum[of[i].first + j][v];
                store_part(out, job->accumulate ? s + load_part(out, p.lanes) : s, p.lanes);
            }
}

/* The gradients of the peepholes = the sum of dA * c over steps and rows, or +=, for one panel. */
static void rnn_peephole_gradient(const rnn_sums *sums, size_t panel)
{
    const rnn_job *job = sums->job;
    const range steps = sums->run->steps;
    const place p = place_of(job, panel, 0); /* a panel has one vector of units */
    vec sum[CELL_N_PEEPHOLES + 1] = {{0}};
    const real *da = gates_at(job, panel, steps.from, 0);
    for (size_t t = steps.from; t < steps.to; t++)
        for (size_t b = 0; b < job->s.B; b++) {
            if (!active(job, t, b))
                continue;
            const vec before = load(c_or_reset(job, t, b, c_before(job, t, b)) + p.unit);
            const vec after = load(c_behind(job, t, b) + p.unit);
            for (size_t k = 0; k != CELL_N_PEEPHOLES; k++)
                sum[k] +=
                    load(da + PEEPHOLES[k] * p.n) * (k + 1 != CELL_N_PEEPHOLES ? before : after);
            da += WIDTH;
        }
    for (size_t k = 0; k != CELL_N_PEEPHOLES; k++) {
        real *out = (real *)job->dw.peepholes + k * job->s.H + p.unit;
        store_part(out, job->accumulate ? sum[k] + load_part(out, p.lanes) : sum[k], p.lanes);
    }
}

/* GRADIENT_WIDTH columns of a weight for a group of panels.  Tasks: dw_ih, then dw_hh, of h and of
 * s, then biases, then dw_hr. */
static void rnn_gradient_task(void *arg, size_t task)
{
    const rnn_sums *sums = arg;
    const rnn_job *job = sums->job;
    const size_t B = job->s.B, I = job->s.I, R = job->R, width = GRADIENT_WIDTH;
    const size_t of_w_ih = round_up(I, width) / width, of_w_hh = round_up(R, width) / width;
    const size_t part = task / sums->groups, group = task % sums->groups;
    const size_t all = panels_in(job->s.H);
    const range panels = {pk_chunk_begin(all, group, sums->groups),
                          pk_chunk_begin(all, group + 1, sums->groups)};
    const pk_sequence h = {job->h, (ptrdiff_t)(B * job->P_h), (ptrdiff_t)job->P_h};
    const range steps = sums->run->steps;
    const pk_sequence s = {job->s_rows, (ptrdiff_t)(B * job->P_c), (ptrdiff_t)job->P_c};
    const range with_h = steps_with_h(job, steps);
    const range rows = {pk_chunk_begin(R, group, sums->groups),
                        pk_chunk_begin(R, group + 1, sums->groups)};
    const rnn_weight of_x = {OF_X, job->dw.w_ih, I, job->x, 0, 0, steps, {0, 0}};
    const rnn_weight of_h = {OF_H, job->dw.w_hh, R, h, 0, 1, with_h, {0, 0}};
    const rnn_weight of_s = {OF_S, job->dw.w_hh, R, s, steps.from, 0, with_h, {0, 0}};
    const rnn_weight of_m = {{0}, job->dw.w_hr, job->s.H, s, steps.from, 0, steps, rows};
    const size_t biases = of_w_ih + (1 + CELL_HAS_S) * of_w_hh;
    const rnn_weight *w = part < of_w_ih ? &of_x : part < of_w_ih + of_w_hh ? &of_h : &of_s;
    size_t column = (part < of_w_ih ? part : (part - of_w_ih) % of_w_hh) * width;
    if (CELL_PROJECTS && part > biases)
        w = &of_m, column = (part - biases - 1) * width;
    const fp_mode mode = flush_denormals();
    if (part == biases)
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            rnn_bias_gradient(sums, panel);
            if (CELL_N_PEEPHOLES > 0 && job->dw.peepholes)
                rnn_peephole_gradient(sums, panel);
        }
    else if (w->dw && w->N < LANES && w != &of_m && (w == &of_x || !job->h_mask))
        rnn_narrow_gradient(sums, w, panels);
    else if (w->dw && pk_on_worker())
        rnn_wide_gradient_on_worker(sums, w, column, panels);
    else if (w->dw)
        rnn_wide_gradient(sums, w, column, panels, job->packed_rows);
    restore_denormals(mode);
}

/* dx and all weight gradients from the dA of the steps of a run.  Tasks own elements of the
 * results, so that one thread sums each element, in an order that does not depend on rows or
 * windows. */
static void rnn_gradients_of(const rnn_run *run)
{
    const size_t threads = (size_t)run->nthreads, width = GRADIENT_WIDTH;
    const size_t half = run->count > 1 ? run->jobs->s.T / 2 : 0; /* see is_new_dx */
    rnn_dx_of(run, (range){run->steps.from > half ? run->steps.from : half, run->steps.to});
    rnn_dx_of(run, (range){run->steps.from, smaller(run->steps.to, half)});
    for (size_t i = 0; i < run->count; i++) {
        const rnn_job *job = run->jobs + i;
        const size_t panels = panels_in(job->s.H);
        rnn_sums of = {run, job, run->steps, 1, 1};
        const size_t of_w_hh = (1 + CELL_HAS_S) * round_up(job->R, width) / width;
        const size_t of_w_hr = projects(&job->s) ? round_up(job->s.H, width) / width : 0;
        const size_t parts = round_up(job->s.I, width) / width + of_w_hh + 1 + of_w_hr;
        if (threads > 1)
            of.groups = smaller(panels, 1 + 4 * threads / parts);
        if (job->s.lengths)
            pk_parallel(rnn_close_gaps, &of, panels + projects(&job->s), run->nthreads);
        pk_parallel(rnn_gradient_task, &of, parts * of.groups, run->nthreads);
    }
}

#endif
