/* Computes the gradients of the weights from dA, the gradient of the pre-activations, in products
 * over many steps at once, and calls rnn_dx.h.  rnn_backward.h calls rnn_gradients_of. */
#ifndef PK_RNN_GRADIENTS_H
#define PK_RNN_GRADIENTS_H

#include "rnn_dx.h"

/* ---- sums over steps and rows ---------------------------------------------------------------- */

/* Compacts the dA of one panel: moves the active rows of all steps of the run together.  The task
 * after the last panel compacts the gradients of h of a projection. */
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
__attribute__((noinline)) static size_t active_in(const rnn_job *job, range steps)
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
    range steps;   /* whose active rows are summed */
    size_t with_h; /* the first step in which h enters products */
    range rows;    /* of w_hr, for this task */
} rnn_weight;

/* The sum runs over elements: rows of dA and `right`, or pairs of rows.  Both rows of a pair are
 * from steps before with_h, or both are not. */
typedef struct {
    size_t t, b;    /* of the next row */
    size_t rows[2]; /* rows left, before with_h and from there on */
} row_walk;

PK_INLINE row_walk walk_of(const rnn_job *job, const rnn_weight *g)
{
    const size_t first = active_in(job, (range){g->steps.from, g->with_h});
    return (row_walk){g->steps.from, 0, {first, active_in(job, g->steps) - first}};
}

PK_INLINE size_t elements_to_come(const rnn_job *job, const row_walk *walk)
{
    return elements_of(job->products, walk->rows[0]) + elements_of(job->products, walk->rows[1]);
}

/* Returns the next active row from `column` on.  With dropout of h this is a copy in `left`, up to
 * column `end`. */
PK_INLINE const real *next_row(const rnn_job *job, const rnn_weight *g, row_walk *walk,
                               size_t column, size_t end, real *left)
{
    walk->rows[walk->rows[0] == 0]--;
    for (;;) {
        const size_t step = walk->t, row = walk->b;
        if (++walk->b == job->s.B)
            walk->b = 0, ++walk->t;
        if (!active(job, step, row))
            continue;
        const real *found = row_at(g->right, step - g->first, row) + column;
        if (g->is_h && is_reset(job, step, row))
            found = job->reset_h + row * job->P_h + column;
        if (!g->is_h || !job->h_mask)
            return found;
        for (size_t n = column; n < end; n += LANES)
            store(left + n - column, dropped_h(job, row, n, load(found + n - column)));
        return left;
    }
}

/* Packs the next element of `right`, from `column` on, into arrays that are `stride` apart, `width`
 * columns (whole vectors) in each; columns from `end` on are 0. */
__attribute__((noinline)) static void pack_element(const rnn_job *job, const rnn_weight *g,
                                                   row_walk *walk, real *to, size_t stride,
                                                   size_t column, size_t end, size_t width)
{
    real left[2][GRADIENT_WIDTH];
    const size_t *to_come = walk->rows + (walk->rows[0] == 0);
    const real *row[2] = {NULL, NULL};
    const size_t count = rounded(job->products) ? smaller(*to_come, job->products->per) : 1;
    for (size_t i = 0; i < count; i++)
        row[i] = next_row(job, g, walk, column, end, left[i]);
    for (size_t n = 0; n < end - column; n += width, to += stride) {
        const size_t rest = smaller(end - column - n, width);
        if (rounded(job->products))
            job->products->round_right(to, row[0] + n, row[1] ? row[1] + n : NULL, rest, width);
        else if (rest == WIDTH)
            memcpy(to, row[0] + n, WIDTH * sizeof *to);
        else
            for (size_t j = 0; j < width; j += LANES)
                store(to + j,
                      j < rest ? load_n(row[0] + n + j, smaller(rest - j, LANES)) : (vec){0});
    }
}

/* Whether products read rows of `right` where they are: values, no gaps, equally far apart. */
__attribute__((noinline)) static int is_in_place(const rnn_job *job, const rnn_weight *g)
{
    const int as_stored = !(g->is_h && (job->s.resets || job->h_mask));
    return as_stored && !rounded(job->products) && !job->s.lengths &&
           g->right.t_stride == (ptrdiff_t)job->s.B * g->right.b_stride;
}

/* Element k of `right`, if that is so. */
__attribute__((noinline)) static const real *element_at(const rnn_weight *g, size_t k)
{
    return row_at(g->right, g->steps.from - g->first, 0) + (ptrdiff_t)k * g->right.b_stride;
}

/* How many elements of dA come before those of this weight. */
PK_INLINE size_t elements_before(const rnn_sums *sums, const rnn_weight *g)
{
    const range steps = {sums->run->steps.from, g->steps.from};
    return elements_of(sums->job->products, active_in(sums->job, steps));
}

/* Transposes n rows of each gate of w [G * H, N] into w_t [N, WIDTH], whose columns are [of, n]; or
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

/* db_ih and db_hh = the sum of `rows` rows of dA from row k on, or += it unless `is_new`, for one
 * panel of units. */
__attribute__((noinline)) static void rnn_bias_gradient(const rnn_sums *sums, size_t panel,
                                                        size_t k, size_t rows, int is_new)
{
    const rnn_job *job = sums->job;
    const size_t H = job->s.H, units = units_of(panel, H), vectors = vectors_of(job, panel);
    vec sum[CELL_COLUMNS][VECTORS] = {{{0}}};
    const real *da = gates_at(job, panel, sums->run->steps.from, 0) + k * WIDTH;
    for (; rows > 0; rows--, da += WIDTH)
        for (size_t j = 0; j < CELL_COLUMNS; j++)
            for (size_t v = 0; v < VECTORS; v++) /* also unused ones: no branch */
                sum[j][v] += load(da + j * units + v * LANES);
    real *outs[] = {job->dw.b_ih, job->dw.b_hh, job->dw.b_hh};
    const columns of[] = {OF_X, OF_H, OF_S};
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < of[i].count && outs[i]; j++)
            for (size_t v = 0; v < vectors; v++) {
                const place p = place_of(job, panel, v);
                real *out = outs[i] + of[i].gate[j] * H + p.unit;
                const vec s = sum[of[i].first + j][v];
                store_part(out, is_new ? s : s + load_part(out, p.lanes), p.lanes);
            }
}

/* For N < LANES: computes dw^T with dA as the right-hand side, whose rows are whole vectors.  Not
 * inline, like the function below: the arrays of both together would be too much stack. */
__attribute__((noinline)) static void rnn_narrow_gradient(const rnn_sums *sums, const rnn_weight *g,
                                                          range panels)
{
    enum { DEPTH = K_BLOCK + K_BLOCK / 2 }; /* 12 KiB of stack */
    _Alignas(ALIGNMENT) real packed[DEPTH * LANES], dw_t[LANES * WIDTH];
    const rnn_job *job = sums->job;
    row_walk walk = walk_of(job, g);
    const size_t H = job->s.H, N = g->N, total = elements_to_come(job, &walk);
    const size_t before = elements_before(sums, g);
    const int in_place = is_in_place(job, g);
    size_t k0 = 0;
    do { /* once even with no terms, to set the result */
        const size_t depth = smaller(total - k0, DEPTH);
        const operand left =
            in_place ? strided(element_at(g, k0), 1, g->right.b_stride) : strided(packed, 1, LANES);
        for (size_t k = 0; k < depth && !in_place; k++)
            pack_element(job, g, &walk, packed + k * LANES, 0, 0, N, LANES);
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            const size_t n = units_of(panel, H);
            const real *da = gates_at(job, panel, sums->run->steps.from, 0) + g->of.first * n;
            const int is_new = k0 == 0 && !job->accumulate;
            turn(dw_t, g->dw + panel * UNITS * N, g->of, H, N, n, 0);
            term t = {depth, left,
                      rounded_panels(job->products, da + (before + k0) * WIDTH, depth)};
            product_panel(N, width_of(g->of, n), &t, 1, dw_t, WIDTH, is_new ? ZEROS : NULL);
            turn(dw_t, g->dw + panel * UNITS * N, g->of, H, N, n, 1);
        }
    } while ((k0 += DEPTH) < total);
}

/* For other N: at most GRADIENT_WIDTH columns, from `column` on; packed is [PANELS, k_block,
 * WIDTH]. */
__attribute__((noinline)) static void rnn_wide_gradient(const rnn_sums *sums, const rnn_weight *g,
                                                        size_t column, range panels, real *packed)
{
    const rnn_job *job = sums->job;
    const size_t k_block = k_block_of(job->products);
    row_walk walk = walk_of(job, g);
    const size_t H = job->s.H, N = g->N, end = smaller(column + GRADIENT_WIDTH, N);
    const size_t total = elements_to_come(job, &walk), before = elements_before(sums, g);
    const ptrdiff_t row = g->right.b_stride;
    const int near = row > 0 && row <= 2 * WIDTH && row % LANES == 0 && N % LANES == 0;
    const int in_place =
        near && is_in_place(job, g) && (uintptr_t)element_at(g, 0) % ALIGNMENT == 0;
    size_t k0 = 0;
    do { /* once even with no terms, to set the result */
        const size_t depth = smaller(total - k0, k_block);
        right_operand right = rounded_panels(job->products, packed, k_block);
        if (in_place)
            right = (right_operand){element_at(g, k0) + column, (size_t)row, WIDTH, 1, 0, NULL};
        const real *begin = k0 == 0 && !job->accumulate ? ZEROS : NULL;
        for (size_t k = 0; k < depth && !in_place; k++)
            pack_element(job, g, &walk, packed + k * WIDTH, right.panel, column, end, WIDTH);
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            for (size_t j = 0; j < g->of.count; j++) {
                const size_t units = units_of(panel, H);
                const real *da = gates_at(job, panel, sums->run->steps.from, 0);
                da += (before + k0) * WIDTH + (g->of.first + j) * units;
                product(units, end - column, depth, strided(da, 1, WIDTH), right,
                        g->dw + (g->of.gate[j] * H + panel * UNITS) * N + column, N, begin);
            }
            if (g->dw == job->dw.w_ih && column == 0 && sums->biases_with_w_ih)
                rnn_bias_gradient(sums, panel, k0, depth, begin != NULL);
        }
        if (g->of.count)
            continue;
        const real *dh = dh_row(job, sums->run->steps.from, 0) + k0 * job->Q + g->rows.from;
        product(length(g->rows), end - column, depth, strided(dh, 1, (ptrdiff_t)job->Q), right,
                g->dw + g->rows.from * N + column, N, begin);
    } while ((k0 += k_block) < total);
}

/* The same on a worker, whose stack has room for 512 KiB; that of other threads may not. */
__attribute__((noinline)) static void
rnn_wide_gradient_on_worker(const rnn_sums *sums, const rnn_weight *g, size_t column, range panels)
{
    _Alignas(ALIGNMENT) real packed[GRADIENT_WIDTH * MOST_K];
    rnn_wide_gradient(sums, g, column, panels, packed);
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

/* The sums of dA that are not products, for one panel, but biases only if `with_biases`. */
static void rnn_sums_of_da(const rnn_sums *sums, size_t panel, int with_biases)
{
    if (with_biases)
        rnn_bias_gradient(sums, panel, 0, active_in(sums->job, sums->run->steps),
                          !sums->job->accumulate);
    if (CELL_N_PEEPHOLES > 0 && sums->job->dw.peepholes)
        rnn_peephole_gradient(sums, panel);
}

/* Computes the gradients that are not products from the dA of one panel, then rounds that, in
 * place, to the elements of the products.  The task after the last panel rounds the gradients of h
 * of a projection. */
static void rnn_round_da(void *arg, size_t panel)
{
    const rnn_sums *of = arg;
    const rnn_job *job = of->job;
    const range steps = of->run->steps;
    const row_walk walk =
        walk_of(job, &(rnn_weight){.steps = steps, .with_h = steps_with_h(job, steps).from});
    const int of_h = panel == panels_in(job->s.H);
    const size_t row = of_h ? job->Q : WIDTH;
    real *to = of_h ? dh_row(job, steps.from, 0) : gates_at(job, panel, steps.from, 0);
    const real *from = to;
    if (!of_h)
        rnn_sums_of_da(of, panel, 1);
    for (int part = 0; part < 2; part++) {
        job->products->round_rows(to, row, from, row, walk.rows[part], row);
        to += elements_of(job->products, walk.rows[part]) * row;
        from += walk.rows[part] * row;
    }
}

/* The same for all panels. */
static void rnn_round_da_of(const rnn_run *run, const rnn_job *job)
{
    rnn_sums of = {run, job, run->steps, 1, 1, 0};
    pk_parallel(rnn_round_da, &of, panels_in(job->s.H) + projects(&job->s), run->nthreads);
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
    const size_t from_s = job->s_steps ? steps.from - steps.from % job->s_steps : 0;
    const range with_h = steps_with_h(job, steps);
    const range rows = {pk_chunk_begin(R, group, sums->groups),
                        pk_chunk_begin(R, group + 1, sums->groups)};
    const size_t from_h = with_h.from;
    const rnn_weight of_x = {OF_X, job->dw.w_ih, I, job->x, 0, 0, steps, from_h, {0, 0}};
    const rnn_weight of_h = {OF_H, job->dw.w_hh, R, h, 0, 1, with_h, from_h, {0, 0}};
    const rnn_weight of_s = {OF_S, job->dw.w_hh, R, s, from_s, 0, with_h, from_h, {0, 0}};
    const rnn_weight of_m = {{0}, job->dw.w_hr, job->s.H, s, from_s, 0, steps, from_h, rows};
    const size_t biases = of_w_ih + (1 + CELL_HAS_S) * of_w_hh;
    const rnn_weight *w = part < of_w_ih ? &of_x : part < of_w_ih + of_w_hh ? &of_h : &of_s;
    size_t column = (part < of_w_ih ? part : (part - of_w_ih) % of_w_hh) * width;
    if (CELL_PROJECTS && part > biases)
        w = &of_m, column = (part - biases - 1) * width;
    const fp_mode mode = flush_denormals();
    if (part == biases)
        for (size_t panel = panels.from; panel < panels.to && !rounded(job->products); panel++)
            rnn_sums_of_da(sums, panel, !sums->biases_with_w_ih);
    else if (w->dw && w->N < LANES && w != &of_m && (w == &of_x || !job->h_mask))
        rnn_narrow_gradient(sums, w, panels);
    else if (w->dw && pk_on_worker())
        rnn_wide_gradient_on_worker(sums, w, column, panels);
    else if (w->dw)
        rnn_wide_gradient(sums, w, column, panels, job->packed_rows);
    restore_denormals(mode);
}

/* dx and all weight gradients from the dA of the steps of a run.  Tasks own elements of the
 * results, so that one thread sums each element, in an order that does not depend on how many
 * threads there are. */
static void rnn_gradients_of(const rnn_run *run)
{
    const size_t threads = (size_t)run->nthreads, width = GRADIENT_WIDTH;
    const size_t half = run->count > 1 ? run->jobs->s.T / 2 : 0; /* see is_new_dx */
    for (size_t i = 0; i < run->count; i++)
        if (is_rounded_before_dx(run->jobs + i))
            rnn_round_da_of(run, run->jobs + i);
    rnn_dx_of(run, (range){run->steps.from > half ? run->steps.from : half, run->steps.to});
    rnn_dx_of(run, (range){run->steps.from, smaller(run->steps.to, half)});
    for (size_t i = 0; i < run->count; i++) {
        const rnn_job *job = run->jobs + i;
        const size_t panels = panels_in(job->s.H);
        rnn_sums of = {run, job, run->steps, 1, 1, 0};
        of.biases_with_w_ih = job->dw.w_ih && job->s.I >= LANES && !rounded(job->products);
        const size_t of_w_hh = (1 + CELL_HAS_S) * round_up(job->R, width) / width;
        const size_t of_w_hr = projects(&job->s) ? round_up(job->s.H, width) / width : 0;
        const size_t parts = round_up(job->s.I, width) / width + of_w_hh + 1 + of_w_hr;
        if (threads > 1) /* each part has as many tasks for every thread */
            of.groups = smaller(panels, threads);
        if (job->s.lengths)
            pk_parallel(rnn_close_gaps, &of, panels + projects(&job->s), run->nthreads);
        if (rounded(job->products) && !is_rounded_before_dx(job))
            rnn_round_da_of(run, job);
        pk_parallel(rnn_gradient_task, &of, parts * of.groups, run->nthreads);
    }
}

#endif
