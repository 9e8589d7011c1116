/* Linear layers, backward: dA, dx, dw and db.  For dense.c. */
#ifndef PK_LINEAR_BACKWARD_H
#define PK_LINEAR_BACKWARD_H

#include "linear.h"

/* to [end - r, O], rows ldt apart = rows r..end-1 of dA */
static void linear_dA(const linear_job *job, size_t r, size_t end, real *to, size_t ldt)
{
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    const size_t ldv = l->activation >= PK_GELU ? l->O : l->ldy;
    const real *const v = l->activation >= PK_GELU ? l->z : l->y, slope = (real)l->slope;
    const fp_mode mode = flush_denormals();
#define GRADIENT_ROWS(f)                                                                           \
    for (; r < end; r++, to += ldt)                                                                \
        for (size_t j = 0; j < l->O; j += LANES) {                                                 \
            const size_t n = smaller(l->O - j, LANES);                                             \
            const vec dy = load_n((const real *)g->dy + r * g->lddy + j, n);                       \
            store_n(to + j, activation_gradient(f, dy, load_n(v + r * ldv + j, n), slope), n);     \
        }
    PK_EACH_ACTIVATION(l->activation, GRADIENT_ROWS)
    restore_denormals(mode);
}

/* to[n] = 0 or to[n], plus the rows of `from` in their order; WIDTH elements at a time */
static void linear_sum(real *to, size_t n, const real *from, size_t ldf, size_t rows,
                       int accumulate)
{
    for (size_t j = 0; j < n; j += LANES) {
        const size_t lanes = smaller(n - j, LANES);
        vec sum = accumulate ? load_n(to + j, lanes) : (vec){0};
        for (size_t r = 0; r < rows; r++)
            sum += load_n(from + r * ldf + j, lanes);
        store_n(to + j, sum, lanes);
    }
}

/* For a chunk of the blocks of rows of dA: computes each in the memory of the first one, sums it,
 * and rounds it to the left-hand sides of both products. */
static void linear_round_dA(const linear_job *job, size_t chunk, size_t chunks)
{
    const pk_linear *l = job->layer;
    const rounding *how = job->products;
    const size_t row = dA_t_row(l), K = elements_of(how, l->M);
    const size_t end = pk_chunk_begin(job->blocks, chunk + 1, chunks);
    size_t block = pk_chunk_begin(job->blocks, chunk, chunks);
    real *const place = job->place + block * LAID_ROWS * row;
    const fp_mode mode = flush_denormals();
    for (; block < end; block++) {
        const size_t r = block * LAID_ROWS, rows = smaller(l->M - r, LAID_ROWS);
        const int is_dy = l->activation == PK_IDENTITY;
        const real *const dA = is_dy ? job->dA + r * job->dA_row : place;
        const size_t ld = is_dy ? job->dA_row : row;
        if (!is_dy)
            linear_dA(job, r, r + rows, place, row);
        linear_sum(job->sums + block * row, l->O, dA, ld, rows, 0);
        if (how->per > 1) /* else dA_t has the same elements */
            how->lay_rows((real *)how->laid(job->rows, job->K, r).a, job->K, dA, (ptrdiff_t)ld,
                          rows, l->O);
        real *const pairs = how->lay_columns ? place : job->dA_t + r / how->per * row;
        how->round_rows(pairs, row, dA, ld, rows, l->O);
        for (size_t k = 0, n = elements_of(how, rows); how->lay_columns && k < n; k += LANES)
            how->lay_columns(job->dA_t, K, r / how->per + k, place + k * row, row,
                             smaller(n - k, LANES), l->O);
    }
    restore_denormals(mode);
}

/* Whether a panel of x or w is multiplied in place, by `rows` rows.  An incomplete one is not. */
static int in_place(const pk_linear *l, size_t panel, size_t rows)
{
    return !rounded(l->products) && rows < FEW_ROWS && (panel + 1) * WIDTH <= l->I;
}
static right_operand panel_of(const pk_linear *l, size_t panel, size_t rows, const void *in,
                              size_t ld, const real *packed, size_t K)
{
    if (in_place(l, panel, rows))
        return (right_operand){(const real *)in + panel * WIDTH, ld, WIDTH, 1, 0, NULL};
    return rounded_panels(l->products, packed + panel * WIDTH * K, K);
}

/* Packs the panels of columns n to `end` of K rows of x or w, `ld` elements apart. */
static void linear_pack_rows(const linear_job *job, real *to, size_t K, const void *in, size_t ld,
                             size_t n, size_t end)
{
    enum { ROWS = 32 }; /* of all panels, before the next rows: so that memory is read in order */
    const rounding *how = job->products;
    const real *const from = (const real *)in + n;
    if (!rounded(how)) {
        pack_rows(to, K, in, ld, n, end);
        return;
    }
    for (size_t k = 0; k < K; k += ROWS)
        for (size_t j = 0; j < end - n; j += WIDTH)
            how->round_rows(to + j * elements_of(how, K) + k / how->per * WIDTH, WIDTH,
                            from + k * ld + j, ld, smaller(K - k, ROWS),
                            smaller(end - n - j, WIDTH));
}

/* Tasks: dA; then panels of x, then of w */
static void linear_prepare(void *arg, size_t task)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t r = task * job->row_block;
    if (task < job->prepared) {
        if (rounded(job->products))
            linear_round_dA(job, task, job->prepared);
        else
            linear_dA(job, r, smaller(r + job->row_block, l->M), job->dA + r * l->O, l->O);
        return;
    }
    const size_t panel = (task - job->prepared) % job->panels, n = panel * WIDTH;
    const int of_x = task < job->prepared + job->panels;
    const size_t K = of_x ? l->M : l->O, end = smaller(n + WIDTH, l->I);
    if (!in_place(l, panel, of_x ? l->O : l->M))
        linear_pack_rows(job, (of_x ? job->x : job->w) + n * elements_of(job->products, K), K,
                         of_x ? l->x : l->w, of_x ? l->ldx : l->I, n, end);
}

/* Where one of the parts of n rows begins: with rounded left-hand sides, at a block. */
static size_t part_of(const linear_job *job, size_t n, size_t split, size_t splits)
{
    const size_t each = takes_all(job->products) ? LAID_ROWS : 1;
    return smaller(pk_chunk_begin((n + each - 1) / each, split, splits) * each, n);
}

/* dx for a group of panels, columns n to `end`, in some of its rows */
static void linear_dx(const linear_job *job, size_t n, size_t end, size_t split,
                      right_operand right)
{
    const pk_linear_gradients *g = job->gradients;
    const size_t M = job->layer->M, from = part_of(job, M, split, job->splits),
                 to = part_of(job, M, split + 1, job->splits);
    const rounding *how = rounded(job->products);
    const size_t row = how ? dA_t_row(job->layer) : job->dA_row;
    const operand left = how && how->per > 1
                             ? how->laid(job->rows, job->K, from)
                             : strided((how ? job->dA_t : job->dA) + from * row, (ptrdiff_t)row, 1);
    product(to - from, end - n, job->K, left, right, (real *)g->dx + from * g->lddx + n, g->lddx,
            ZEROS);
}

/* dw for a group of panels, in some of its rows */
static void linear_dw(const linear_job *job, size_t n, size_t end, size_t split,
                      right_operand right)
{
    const pk_linear *l = job->layer;
    const rounding *how = rounded(job->products);
    const size_t from = part_of(job, l->O, split, job->dw_splits),
                 to = part_of(job, l->O, split + 1, job->dw_splits);
    const size_t K = elements_of(how, l->M);
    const ptrdiff_t row = (ptrdiff_t)(how ? dA_t_row(l) : job->dA_row);
    const operand left = how && how->lay_columns
                             ? how->laid(job->dA_t, K, from)
                             : strided((how ? job->dA_t : job->dA) + from, 1, row);
    product(to - from, end - n, K, left, right, (real *)job->gradients->dw + from * l->I + n, l->I,
            job->gradients->accumulate ? NULL : ZEROS);
}

/* A part of the product of a group; groups of dw come first, then those of dx.  `place`: where to
 * pack its panels of x or w now; NULL: they are packed already. */
static void linear_product(const linear_job *job, size_t group, size_t split, real *place)
{
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    const int of_w = group < job->groups;
    const size_t panel = (of_w ? group : group - job->groups) * job->each, n = panel * WIDTH;
    const size_t end = smaller(n + job->each * WIDTH, l->I), rows = of_w ? l->O : l->M;
    const size_t K = of_w ? l->M : l->O, ld = of_w ? l->ldx : l->I;
    const void *const in = of_w ? l->x : l->w;
    if (!(of_w ? g->dw : g->dx))
        return;
    if (place)
        linear_pack_rows(job, place, K, in, ld, n, end);
    const size_t elements = elements_of(job->products, K);
    const right_operand right =
        place ? rounded_panels(job->products, place, elements)
              : panel_of(l, panel, rows, in, ld, of_w ? job->x : job->w, elements);
    if (of_w)
        linear_dw(job, n, end, split, right);
    else
        linear_dx(job, n, end, split, right);
}

/* A chunk of all groups; the panels of each are packed into the memory of the first one. */
static void linear_groups(const linear_job *job, size_t chunk)
{
    const pk_linear *l = job->layer;
    const size_t groups = job->groups, first = pk_chunk_begin(job->shared, chunk, job->chunks),
                 end = pk_chunk_begin(job->shared, chunk + 1, job->chunks),
                 most = job->each * WIDTH;
    real *const w = job->w + (first < groups ? 0 : first - groups) * most * l->O;
    for (size_t group = first; group < end; group++)
        linear_product(job, group, 0, group < groups ? job->x + first * most * l->M : w);
}

/* Few rows: dw in the order of memory, with x in L1.  Tiles write 256 bytes here and there, which
 * no prefetcher of the processor follows. */
static int by_rows(const linear_job *job)
{
    return IN_LANES && PK_VECTOR_BYTES == 64 && !rounded(job->products) &&
           job->layer->M == LANE_ROWS && job->layer->I % LANES == 0;
}

PK_INLINE void linear_dw_vectors(const linear_job *job, const vec a[LANE_ROWS], const int vectors,
                                 size_t i, real *dw)
{
    const pk_linear *l = job->layer;
    vec sums[COLS];
    for (int v = 0; v < vectors; v++)
        sums[v] = job->gradients->accumulate ? load(dw + i + v * LANES) : (vec){0};
    for (size_t r = 0; r < LANE_ROWS; r++) {
        const real *const x = (const real *)l->x + r * l->ldx + i;
        for (int v = 0; v < vectors; v++)
            sums[v] += a[r] * load(x + v * LANES);
    }
    for (int v = 0; v < vectors; v++)
        store(dw + i + v * LANES, sums[v]);
}

static void linear_dw_by_rows(const linear_job *job, size_t split)
{
    const pk_linear *l = job->layer;
    const size_t end = part_of(job, l->O, split + 1, job->dw_splits);
    for (size_t o = part_of(job, l->O, split, job->dw_splits); o < end; o++) {
        real *const dw = (real *)job->gradients->dw + o * l->I;
        vec a[LANE_ROWS];
        for (size_t r = 0; r < LANE_ROWS; r++)
            a[r] = broadcast(job->dA[r * job->dA_row + o]);
        size_t i = 0;
        for (; i + WIDTH <= l->I; i += WIDTH)
            linear_dw_vectors(job, a, COLS, i, dw);
        for (; i < l->I; i += LANES)
            linear_dw_vectors(job, a, 1, i, dw);
    }
}

/* Tasks of dw, and of all products. */
static size_t linear_dw_tasks(const linear_job *job)
{
    return job->dw_splits * (by_rows(job) ? 1 : job->groups);
}
static size_t linear_products_of(const linear_job *job)
{
    return job->at_once ? job->chunks : linear_dw_tasks(job) + job->groups * job->splits;
}

/* Tasks: products, then db */
static void linear_gradients(void *arg, size_t task)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    const size_t of_dw = linear_dw_tasks(job), products = linear_products_of(job);
    const fp_mode mode = flush_denormals();
    if (task >= products) {
        const size_t o = (task - products) * WIDTH;
        const int is_rounded = rounded(job->products) != NULL;
        linear_sum((real *)g->db + o, smaller(l->O - o, WIDTH),
                   (is_rounded ? job->sums : job->dA) + o, is_rounded ? dA_t_row(l) : job->dA_row,
                   is_rounded ? job->blocks : l->M, g->accumulate);
    } else if (job->at_once)
        linear_groups(job, task);
    else if (task < of_dw && by_rows(job)) {
        if (g->dw)
            linear_dw_by_rows(job, task);
    } else if (task < of_dw) /* all groups of a part, so that memory is written in order */
        linear_product(job, task % job->groups, task / job->groups, NULL);
    else
        linear_product(job, job->groups + (task - of_dw) / job->splits,
                       (task - of_dw) % job->splits, NULL);
    restore_denormals(mode);
}

/* Up to LANE_ROWS rows, more than half of them, and weights that stay in L1: nothing is packed, and
 * dw and dx share what they read of dA.  Columns are whole vectors, the last of which overlap. */
enum { MOST_OUTPUTS = 256, dA_ROW = MOST_OUTPUTS + LANES }; /* not a power of two */

static int is_small(const pk_linear *l, const pk_linear_gradients *g)
{
    return IN_LANES && !rounded(l->products) && l->M > LANE_ROWS / 2 && l->M <= LANE_ROWS &&
           g->dw && l->I >= LANES && l->O <= MOST_OUTPUTS && l->I * l->O <= 1 << 14 &&
           !(g->accumulate && l->I % LANES);
}

/* dw and, if `with_dx`, a literal, dx, in the LANES columns from i on. */
PK_INLINE void linear_columns(const linear_job *job, const real *dA, const int with_dx, size_t i)
{
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    const size_t M = l->M, I = l->I, O = l->O, ldx = l->ldx;
    const int accumulate = g->accumulate;
    const real *w = (const real *)l->w + i;
    real *dw = (real *)g->dw + i;
    vec x[LANE_ROWS], dx[LANE_ROWS];
    for (size_t r = 0; r < LANE_ROWS; r++) {
        x[r] = load(r < M ? (const real *)l->x + r * ldx + i : ZEROS);
        dx[r] = (vec){0};
    }
    for (size_t o = 0; o < O; o++, w += I, dw += I) {
        vec sum = accumulate ? load(dw) : (vec){0};
        const vec w_o = with_dx ? load(w) : sum;
        for (int r = 0; r < LANE_ROWS; r++) {
            const vec a = broadcast(dA[r * dA_ROW + o]);
            sum += a * x[r];
            if (with_dx)
                dx[r] += a * w_o;
        }
        store(dw, sum);
    }
    for (size_t r = 0; with_dx && r < M; r++)
        store((real *)g->dx + r * g->lddx + i, dx[r]);
}

__attribute__((noinline)) static void linear_small(const linear_job *job)
{
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    _Alignas(ALIGNMENT) real dA[LANE_ROWS * dA_ROW];
    const fp_mode mode = flush_denormals();
    if (l->activation)
        linear_dA(job, 0, l->M, dA, dA_ROW);
    for (size_t r = 0; r < LANE_ROWS; r++) {
        if (r >= l->M)
            memset(dA + r * dA_ROW, 0, l->O * sizeof(real));
        else if (!l->activation)
            memcpy(dA + r * dA_ROW, (const real *)g->dy + r * g->lddy, l->O * sizeof(real));
    }
    for (size_t i = 0; i < l->I; i += LANES)
        if (g->dx)
            linear_columns(job, dA, 1, smaller(i, l->I - LANES));
        else
            linear_columns(job, dA, 0, smaller(i, l->I - LANES));
    if (g->db)
        linear_sum(g->db, l->O, dA, dA_ROW, l->M, g->accumulate);
    restore_denormals(mode);
}

static void linear_backward(const pk_linear *l, const pk_linear_gradients *g, int nthreads)
{
    linear_job job = {.layer = l, .gradients = g, .panels = panels_of(l->I), .splits = 1};
    if (is_small(l, g)) {
        linear_small(&job);
        return;
    }
    const int threads = linear_threads(l, nthreads), identity = l->activation == PK_IDENTITY;
    job.products = rounding_of(l->products);
    job.K = elements_of(job.products, l->O);
    linear_share(&job, threads, g->dx ? 2 : 1);
    if (threads > 1 && !job.at_once) /* enough parts that no thread waits long for another */
        job.splits = 1 + 2 * (size_t)threads / (job.groups + 1);
    job.dw_splits = job.splits;
    if (l->M < LAID_ROWS && !job.at_once && job.dw_splits <= l->O / ROW_BLOCK)
        job.dw_splits = l->O / ROW_BLOCK; /* because their products wait for memory */
    job.x = align(l->scratch);
    job.w = job.x + job.panels * WIDTH * l->M;
    job.place = job.w + job.panels * WIDTH * l->O;
    job.dA = identity ? (real *)g->dy : job.place; /* read only */
    job.dA_row = identity ? g->lddy : l->O;
    job.row_block = smaller(ROW_BLOCK, l->M / (2 * (size_t)threads) + 1); /* of dA */
    job.prepared = identity ? 0 : (l->M + job.row_block - 1) / job.row_block;
    if (rounded(job.products)) {
        job.blocks = (l->M + LAID_ROWS - 1) / LAID_ROWS;
        job.prepared = threads > 1 ? smaller(job.blocks, 2 * (size_t)threads) : job.blocks > 0;
        job.sums = job.place + job.blocks * LAID_ROWS * dA_t_row(l);
        job.rows = job.sums + job.blocks * dA_t_row(l);
        job.dA_t = align(job.rows + laid_size(l->M, job.K));
    }
    pk_parallel(linear_prepare, &job,
                job.prepared + (job.at_once ? 0 : job.panels * (g->dx ? 2 : 1)), threads);
    pk_parallel(linear_gradients, &job, linear_products_of(&job) + (g->db ? panels_of(l->O) : 0),
                threads);
}

#endif
