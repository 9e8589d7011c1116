/* The forward pass of a recurrent layer: packs the weights, then computes step by step, panel by
 * panel, the products of x and h with the weights and applies the cell.  rnn_forward is a kernel of
 * the table (rnn_passes.h). */
#ifndef PK_RNN_FORWARD_H
#define PK_RNN_FORWARD_H

#include "rnn_rounded.h"

PK_INLINE real *packed_w_s(const rnn_job *job, size_t panel)
{
    const size_t before = job->s.I * packed_row(OF_X) + job->R * packed_row(OF_H);
    return packed_panel(job, panel) + WIDTH + before;
}

/* Packs bias and weights of one panel of a job; task = panel * count + job. */
static void rnn_pack_forward(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t panel = task / run->count, I = job->s.I, H = job->s.H, R = job->R;
    const size_t unit = panel * UNITS, n = units_of(panel, H);
    const real *biases[] = {job->w.b_ih, job->w.b_hh, job->w.b_hh};
    const columns of[] = {OF_X, OF_H, OF_S};
    real *bias = packed_panel(job, panel), *w_ih = bias + WIDTH;
    real *w_hh = w_ih + I * packed_row(OF_X);
    memset(bias, 0, WIDTH * sizeof *bias);
    for (size_t i = 0; i < 3; i++)
        for (size_t j = 0; j < of[i].count && biases[i]; j++)
            for (size_t u = 0; u < n; u++)
                bias[(of[i].first + j) * n + u] += biases[i][of[i].gate[j] * H + unit + u];
    const packing *pack = packing_of(job->products);
    pack->gate_columns(w_ih, packed_row(OF_X), job->w.w_ih, H, I, unit, n, OF_X.gate, OF_X.count);
    pack->gate_columns(w_hh, packed_row(OF_H), job->w.w_hh, H, R, unit, n, OF_H.gate, OF_H.count);
    if (CELL_HAS_S)
        pack->gate_columns(packed_w_s(job, panel), packed_row(OF_S), job->w.w_hh, H, R, unit, n,
                           OF_S.gate, OF_S.count);
}

/* Packs columns of w_hr for a pass, WIDTH outputs of its product; task = part * count + job. */
static void rnn_pack_projection(void *arg, size_t task)
{
    const rnn_run *run = arg;
    const rnn_job *job = run->jobs + task % run->count;
    const size_t at = task / run->count * WIDTH, H = job->s.H, R = job->R;
    real *const to = job->packed_w_hr;
    if (!run->is_backward)
        packing_of(job->products)
            ->gate_columns(to + at * H, WIDTH, job->w.w_hr, 0, H, at, smaller(R - at, WIDTH),
                           (size_t[]){0}, 1);
    else if (rounded(job->products))
        job->products->round_rows(to + at * R, WIDTH, (const real *)job->w.w_hr + at, H, R,
                                  smaller(H - at, WIDTH));
    else
        pack_rows(to + at * R, R, job->w.w_hr, H, at, H);
}

PK_INLINE right_operand packed_w_ih(const rnn_job *job, size_t panel)
{
    return (right_operand){
        packed_panel(job, panel) + WIDTH, packed_row(OF_X), 0, 1, 0, job->products};
}

PK_INLINE right_operand packed_w_hh(const rnn_job *job, size_t panel)
{
    const real *w_ih = packed_panel(job, panel) + WIDTH;
    return (right_operand){
        w_ih + job->s.I * packed_row(OF_X), packed_row(OF_H), 0, 1, 0, job->products};
}

/* Returns the bias of the columns that x enters, with which the products with x begin.  Copies that
 * of the others to each row of a. */
PK_INLINE const real *begin_at_bias(const rnn_job *job, size_t panel, real *a, size_t rows)
{
    const real *bias = packed_panel(job, panel);
    const size_t n = units_of(panel, job->s.H), first = OF_X.first * n, end = CELL_COLUMNS * n;
    for (size_t r = 0; r < rows && OF_X.count < CELL_COLUMNS; r++, a += WIDTH) {
        for (size_t i = 0; i < first; i += LANES) /* the products write to what is too much */
            store(a + i, load(bias + i));
        for (size_t i = first + OF_X.count * n; i < end; i += LANES)
            store(a + i, load(bias + i));
    }
    return bias + first;
}

/* The products of one panel for some steps: a[rows, WIDTH] += s_t w, where s is x with w_ih, or h
 * or s with w_hh; its data begins with the first of these steps.  All steps are one product if
 * their rows have the same stride. */
static void rnn_products(const rnn_job *job, columns of, pk_sequence s, size_t N, right_operand w,
                         size_t panel, range steps, range rows, const real *begin)
{
    const size_t B = job->s.B, n = units_of(panel, job->s.H);
    const int one_row = length(rows) == 1;
    const int equally_far =
        one_row || (length(rows) == B && s.t_stride == (ptrdiff_t)B * s.b_stride);
    size_t t = steps.from;
    while (t < steps.to) {
        const range live = active_rows(job, t, rows);
        const size_t together = equally_far ? steps_together(job, t, steps.to, rows) : 1;
        product(length(live) * together, width_of(of, n), N,
                strided(row_at(s, t - steps.from, live.from), one_row ? s.t_stride : s.b_stride, 1),
                w, gates_at(job, panel, t, live.from) + of.first * n, one_row ? B * WIDTH : WIDTH,
                begin);
        t += together;
    }
}

/* bias + w_ih x for a block of steps, into the memory of the gates. */
static void rnn_inputs(const rnn_job *job, range steps, range rows, range panels)
{
    pk_sequence x = job->x_rounded;
    x.data = row_at(x, steps.from, 0);
    for (size_t panel = panels.from; panel < panels.to; panel++) {
        const real *begin = NULL;
        for (size_t t = steps.from; t < steps.to; t++)
            begin = begin_at_bias(job, panel, gates_at(job, panel, t, rows.from), length(rows));
        rnn_products(job, OF_X, x, job->K_x, packed_w_ih(job, panel), panel, steps, rows, begin);
    }
}

/* Pre-activations a[rows, WIDTH] of one panel at step t; only those of `live`, a part of `rows`,
 * are computed. */
static void rnn_pre_activations(const rnn_job *job, size_t t, range rows, range live, size_t panel,
                                real *a)
{
    real *live_a = a + (live.from - rows.from) * WIDTH;
    const range with_h = rows_that(takes_h, job, t, live);
    const size_t K_x = job->K_x, K_h = job->K_h, n = units_of(panel, job->s.H), m = length(live);
    const operand x = strided(row_at(job->x_rounded, t, live.from), job->x_rounded.b_stride, 1);
    const operand h = strided(h_before(job, t, with_h.from), (ptrdiff_t)job->P_before, 1);
    const right_operand w_ih = packed_w_ih(job, panel), w_hh = packed_w_hh(job, panel);
    const int same_columns = OF_X.count == CELL_COLUMNS && OF_H.count == CELL_COLUMNS;
    const int same_rows = length(with_h) == 0 || length(with_h) == m;
    if (same_columns && same_rows && job->block == 1 && K_x + K_h <= k_block_of(job->products)) {
        const term terms[] = {{K_x, x, w_ih}, {K_h, h, w_hh}};
        product_panel(m, width_of(OF_X, n), terms, length(with_h) ? 2 : 1, live_a, WIDTH,
                      packed_panel(job, panel));
        return;
    }
    if (job->block == 1)
        product(m, width_of(OF_X, n), K_x, x, w_ih, live_a + OF_X.first * n, WIDTH,
                begin_at_bias(job, panel, live_a, m));
    else if (PHASES == 1) /* else they are in a */
        memcpy(live_a, gates_at(job, panel, t, live.from), m * WIDTH * sizeof *a);
    if (length(with_h))
        product(length(with_h), width_of(OF_H, n), K_h, h, w_hh,
                a + (with_h.from - rows.from) * WIDTH + OF_H.first * n, WIDTH, NULL);
}

/* Where h after step t is stored once more, as it enters products, from row b on; NULL: nowhere. */
PK_INLINE real *rnn_next(const rnn_job *job, size_t t, size_t b, const int rare)
{
    return rare && job->before && !rounded(job->products) ? h_before(job, t + 1, b) : NULL;
}

/* Stores a new state, and the output of step t, for some features; `next`: a row of rnn_next;
 * `anew`: whether a reset follows. */
PK_INLINE void rnn_put(const rnn_job *job, size_t t, size_t b, size_t at, size_t lanes, vec h,
                       vec y, real *next, int anew)
{
    store(h_at(job, t + 1, b) + at, h);
    if (next) {
        const vec entering = anew ? load(job->reset_h + b * job->P_h + at) : h;
        store(next + at, dropped_h(job, b, at, entering));
    }
    if (job->y.data)
        store_n(row_at(job->y, t, b) + at, y, lanes);
}

/* Applies the cell to rows of a panel: from the pre-activations a[rows, WIDTH] and c[rows, P_c] to
 * c_next and, unless NULL, gates, which may be a.  If `again`, h and y are known already; `rare`:
 * whether there are options of job->rare.  A projection gets m instead of h.
 * Two loops, c and then h, because the chain of operations from a pre-activation to h is too long
 * to overlap with that of the next row. */
PK_INLINE void rnn_cells(const rnn_job *job, size_t t, range rows, size_t panel, real *a,
                         real *gates, const real *c, real *c_next, const int again, const int rare)
{
    const size_t vectors = vectors_of(job, panel), P_c = CELL_HAS_C ? job->P_c : 0;
    const int to_project = rare && projects(&job->s);
    real *const c_new = CELL_HAS_C && rare ? job->c_new : NULL,
                *next = rnn_next(job, t, rows.from, rare);
    const int zones = rare && !to_project && noise_p(&job->s, ZONEOUT_H) > 0;
    for (size_t b = rows.from, r = 0; b < rows.to; b++, r++) {
        const real *c_b = rare ? c_or_reset(job, t, b, c + r * P_c) : c + r * P_c;
        for (size_t v = 0; v < vectors; v++) {
            const place p = place_of(job, panel, v);
            const size_t at = r * WIDTH + v * LANES;
            vec state = CELL_HAS_C ? load(c_b + p.unit) : (vec){0};
            const cell_context context =
                rare ? noisy_context(job, t, b, p.unit) : context_of(job, p.unit);
            const vec before = state;
            if (active(job, t, b))
                state = cell_c(&context, a + at, gates ? gates + at : NULL, p.n, state);
            if (c_new) {
                store(c_new + b * P_c + p.unit, state); /* h is computed from it */
                if (active(job, t, b))
                    state = zoned(job, ZONEOUT_C, t, b, p.unit, before, state);
            }
            if (CELL_HAS_C)
                store(c_next + r * P_c + p.unit, state);
        }
    }
    for (size_t b = rows.from, r = 0; b < rows.to; b++, r++) {
        const real *c_b = c_new ? c_new + b * P_c : c_next + r * P_c, *h_b = h_at(job, t, b);
        const int anew = rare && is_reset(job, t + 1, b);
        if (rare)
            h_b = h_or_reset(job, t, b, h_b);
        for (size_t v = 0; v < vectors; v++) {
            const place p = place_of(job, panel, v);
            const size_t at = r * WIDTH + v * LANES;
            const vec state = CELL_HAS_C ? load(c_b + p.unit) : (vec){0};
            /* past the end of the sequence h does not change */
            vec h = to_project ? (vec){0} : load(h_b + p.unit);
            vec y = job->s.repeat_last ? h : broadcast(0);
            const cell_context context =
                rare ? noisy_context(job, t, b, p.unit) : context_of(job, p.unit);
            if (active(job, t, b)) {
                y = cell_h(&context, a + at, gates ? gates + at : NULL, p.n, state, h);
                if (zones)
                    y = zoned(job, ZONEOUT_H, t, b, p.unit, h, y);
                h = y;
            }
            if (to_project)
                store(s_at(job, t, b) + p.unit, h);
            else if (!again)
                rnn_put(job, t, b, p.unit, p.lanes, h, y, next, anew);
        }
        next = next ? next + job->P_before : NULL;
    }
}

/* The same with all options, compiled once.  Inline, they would slow down the usual case. */
__attribute__((noinline)) static void rnn_rare_cells(const rnn_job *job, size_t t, range rows,
                                                     size_t panel, real *a, real *gates,
                                                     const real *c, real *c_next, int again)
{
    rnn_cells(job, t, rows, panel, a, gates, c, c_next, again, 1);
}

/* The cells of step t, with pre-activations a. */
static void rnn_forward_cells(const rnn_job *job, size_t t, range rows, size_t panel, real *a)
{
    real *const gates = keeps_gates(&job->s) ? gates_at(job, panel, t, rows.from) : NULL;
    const real *c = c_at(job, t, rows.from);
    real *c_next = c_after(job, t, rows.from);
    if (job->rare)
        rnn_rare_cells(job, t, rows, panel, a, gates, c, c_next, 0);
    else
        rnn_cells(job, t, rows, panel, a, gates, c, c_next, 0, 0);
    if (rounded(job->products) && projects(&job->s))
        rnn_round_s(job, t, rows, panel * UNITS, vectors_of(job, panel) * LANES);
    else if (rounded(job->products))
        rnn_round_h(job, t + 1, rows, panel * UNITS, vectors_of(job, panel) * LANES);
}

/* For cells with s: s of step t, from the pre-activations a[rows, WIDTH] of one panel. */
static void rnn_s(const rnn_job *job, size_t t, range rows, size_t panel, real *a)
{
    for (size_t b = rows.from; b < rows.to; b++, a += WIDTH)
        for (size_t v = 0; v < vectors_of(job, panel); v++) {
            const place p = place_of(job, panel, v);
            vec h = load(h_or_reset(job, t, b, h_at(job, t, b)) + p.unit);
            h = dropped_h(job, b, p.unit, h);
            store(s_at(job, t, b) + p.unit, zero_tail(cell_s(a + v * LANES, p.n, h), p.lanes));
        }
    if (rounded(job->products))
        rnn_round_s(job, t, rows, panel * UNITS, vectors_of(job, panel) * LANES);
}

/* The products with s, in place, for some steps. */
static void rnn_products_of_s(const rnn_job *job, range steps, range rows, size_t panel)
{
    const pk_sequence s = {s_before(job, steps.from, 0), (ptrdiff_t)(job->s.B * job->P_s),
                           (ptrdiff_t)job->P_s};
    const right_operand w = {packed_w_s(job, panel), packed_row(OF_S), 0, 1, 0, job->products};
    rnn_products(job, OF_S, s, job->K_h, w, panel, steps, rows, NULL);
}

/* h = w_hr m for the features that belong to some columns of units. */
static void rnn_project(const rnn_job *job, size_t t, range rows, range columns)
{
    const range live = active_rows(job, t, rows), features = features_of(job, columns);
    const size_t H = job->s.H;
    if (length(live) && length(features))
        product(length(live), length(features), elements_of(job->products, H),
                strided(s_before(job, t, live.from), (ptrdiff_t)job->P_s, 1),
                rounded_panels(job->products, job->packed_w_hr + features.from * H, H),
                h_at(job, t + 1, live.from) + features.from, job->P_h, ZEROS);
    for (size_t b = rows.from; b < rows.to; b++)
        for (size_t at = features.from; at < features.to; at += LANES) {
            const int is_active = active(job, t, b);
            vec h = load(h_or_reset(job, t, b, h_at(job, t, b)) + at);
            if (is_active)
                h = zoned(job, ZONEOUT_H, t, b, at, h, load(h_at(job, t + 1, b) + at));
            rnn_put(job, t, b, at, smaller(job->R - at, LANES), h,
                    is_active || job->s.repeat_last ? h : broadcast(0), rnn_next(job, t, b, 1),
                    is_reset(job, t + 1, b));
        }
    if (rounded(job->products))
        rnn_round_h(job, t + 1, rows, features.from, length(features));
}

static void rnn_forward_step(const rnn_job *job, range steps, size_t t, int phase, range rows,
                             range columns)
{
    _Alignas(ALIGNMENT) real local[MOST_ROWS * WIDTH]; /* never leaves the L1 cache */
    const range panels = panels_of(job, columns);
    if (CELL_PROJECTS && phase == PHASES) {
        rnn_project(job, t, rows, columns);
        return;
    }
    if (phase == 1) {
        for (size_t panel = panels.from; panel < panels.to; panel++) {
            if (CELL_HAS_S && !(job->from_zeros && t == 0))
                rnn_products_of_s(job, (range){t, t + 1}, rows, panel);
            rnn_forward_cells(job, t, rows, panel, gates_at(job, panel, t, rows.from));
        }
        return;
    }
    if (job->rare)
        rnn_draw(job, steps, t, 0, rows, columns);
    if (job->block > 1 && t % job->block == 0)
        rnn_inputs(job, (range){t, smaller(t + job->block, steps.to)}, rows, panels);
    const size_t together = row_block_of(job->products);
    for (size_t b = rows.from; b < rows.to; b += together) {
        const range block = {b, smaller(b + together, rows.to)};
        const range live = active_rows(job, t, block);
        for (size_t i = 0; i < length(panels); i++) { /* alternately up and down: the last panels
                                                       * are still cached */
            const size_t panel = t % 2 ? panels.to - 1 - i : panels.from + i;
            real *a = PHASES == 2 ? gates_at(job, panel, t, b) : local;
            ask_for_next(job, t, block, i, length(panels));
            rnn_pre_activations(job, t, block, live, panel, a);
            if (CELL_HAS_S)
                rnn_s(job, t, block, panel, a);
            else if (PHASES == 1)
                rnn_forward_cells(job, t, block, panel, a);
        }
    }
}

/* If the products do not read the states themselves: copies h as it enters the products of step
 * t. */
__attribute__((noinline)) static void rnn_copy_before(const rnn_job *job, size_t t)
{
    if (rounded(job->products)) {
        rnn_round_h(job, t, (range){0, job->s.B}, 0, job->P_h);
        return;
    }
    for (size_t b = 0; b < job->s.B; b++) {
        const real *from = h_or_reset(job, t, b, h_at(job, t, b));
        real *to = h_before(job, t, b);
        for (size_t at = 0; at < job->P_h; at += LANES)
            store(to + at, dropped_h(job, b, at, load(from + at)));
    }
}

/* The states after a reset, from the initial ones. */
static void rnn_begin_resets(rnn_job *job)
{
    const size_t B = job->s.resets ? job->s.B : 0;
    const int initial = job->s.reset_to_initial;
    copy_in(job->reset_h, job->P_h, initial ? h_at(job, 0, 0) : NULL, job->P_h, B);
    if (CELL_HAS_C)
        copy_in(job->reset_c, job->P_c, initial ? c_slot(job, job->c, 0, 0) : NULL, job->P_c, B);
}

static void rnn_forward(const pk_rnn_layer *layers, size_t count, int nthreads)
{
    rnn_job jobs[2];
    for (size_t i = 0; i < count; i++) {
        rnn_job *job = jobs + i;
        *job = rnn_job_of(layers + i, forward_scratch);
        copy_in(h_at(job, 0, 0), job->P_h, layers[i].h0, job->R, job->s.B);
        if (CELL_HAS_C)
            copy_in(c_at(job, 0, 0), job->P_c, layers[i].c0, job->s.H, job->s.B);
        rnn_begin_resets(job);
        noise_begin(job);
        if (job->before)
            rnn_copy_before(job, 0);
        if (!keeps_gates(&job->s))
            job->window = job->block;
    }
    rnn_run run = rnn_run_of(jobs, count, nthreads);
    pk_parallel(rnn_pack_forward, &run, count * panels_in(jobs->s.H), run.nthreads);
    if (rounded(jobs->products))
        pk_parallel(rnn_round_x, &run, count * jobs->s.T, run.nthreads);
    if (projects(&jobs->s))
        pk_parallel(rnn_pack_projection, &run, count * jobs->Q / WIDTH, run.nthreads);
    rnn_walk_steps(&run, rnn_forward_step, jobs->s.T);
    for (size_t i = 0; i < count; i++) {
        const rnn_job *job = jobs + i;
        copy_out(layers[i].h_last, h_at(job, job->s.T, 0), job->P_h, job->R, job->s.B);
        if (CELL_HAS_C)
            copy_out(layers[i].c_last, c_at(job, job->s.T, 0), job->P_c, job->s.H, job->s.B);
    }
}

#endif
