/* Linear layers, y = f(x w^T + b), forward and backward; kernels of dense.c.
 *
 * Forward transposes w into panels, which costs as much as the products of ten rows.  So a few long
 * rows are multiplied by dot products along the rows of w, in place.  The products of backward need
 * no transposition: dx = dA w reads w along its rows, and dw = dA^T x reads dA with swapped
 * strides. dA is the gradient of x w^T + b.  With rounded products, x or dA are copied, too: to
 * rows for the products with w, and dA also to elements along M for dw. */
#ifndef PK_LINEAR_H
#define PK_LINEAR_H

#include "activation.h"
#include "pack.h"

enum {
    FEW_ROWS = 12, /* below, a matrix that so many rows are multiplied with is not packed */
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    DOT_ROWS = 4, /* 16 sums in 32 registers */
#else
    DOT_ROWS = 2, /* 8 in 16 */
#endif
    DOT_COLS = LANES < 4 ? LANES : 4,
};

typedef struct {
    const pk_linear *layer;
    const pk_linear_gradients *gradients;          /* NULL: forward */
    real *w, *x, *bias, *dA;                       /* packed, packed, padded, [M, O] */
    size_t dA_row, panels, splits, chunks, blocks; /* of rows, that backward prepares */
    size_t groups;                                 /* of panels, for dw */
    /* Only with rounded products: rows of x or dA, K elements each; dA^T, [M_elements, O]. */
    const rounding *products;
    real *rows, *dA_t;
    size_t K, row_block;
} linear_job;

static size_t linear_scratch_size(const pk_linear *l)
{
    const size_t forward = plus(packed_size(l->I, l->O), round_up(l->O, WIDTH));
    const size_t x_and_w = plus(packed_size(l->M, l->I), packed_size(l->O, l->I));
    const size_t backward = plus(plus(times(l->M, l->O), ALIGNMENT / sizeof(real)), x_and_w);
    if (rounded(l->products)) {
        const size_t rows = plus(l->M, 1), dA = times(rows, round_up(l->O, LANES));
        const size_t with_x = plus(forward, times(rows, l->I)),
                     with_dA = plus(backward, times(2, dA));
        return PK_SCRATCH_BYTES(with_x > with_dA ? with_x : with_dA);
    }
    return PK_SCRATCH_BYTES(forward > backward ? forward : backward);
}

static int linear_threads(const pk_linear *l, int nthreads)
{
    const size_t serial_below = (size_t)1 << 19; /* multiply-adds: some 10 microseconds */
    return times(times(l->M, l->I), l->O) < serial_below ? 1 : nthreads;
}

static size_t panels_of(size_t columns) { return (columns + WIDTH - 1) / WIDTH; }

/* ---- forward --------------------------------------------------------------------------------- */

/* Tasks: panels of w; then, with rounded products, blocks of rows of x. */
static void linear_pack(void *arg, size_t panel)
{
    static const size_t gates[] = {0};
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t o = panel * WIDTH, r = (panel - job->panels) * ROW_BLOCK;
    if (panel >= job->panels) {
        job->products->round_left(job->rows + r * job->K, job->K, (const real *)l->x + r * l->ldx,
                                  (ptrdiff_t)l->ldx, smaller(l->M - r, ROW_BLOCK), l->I);
        return;
    }
    packing_of(job->products)
        ->gate_columns(job->w + o * l->I, WIDTH, l->w, 0, l->I, o, smaller(l->O - o, WIDTH), gates,
                       1);
}

/* y = f(z) in `rows` rows from row r on, columns o..o+width-1. */
static void linear_activate(const pk_linear *l, size_t r, size_t rows, size_t o, size_t width)
{
    const real slope = (real)l->slope;
#define ACTIVATE_ROWS(f)                                                                           \
    for (size_t end = r + rows; r < end; r++)                                                      \
        for (size_t j = 0; j < width; j += LANES) {                                                \
            const size_t n = smaller(width - j, LANES);                                            \
            real *const y = (real *)l->y + r * l->ldy + o + j;                                     \
            store_n(y, activated(f, load_n(l->z ? (real *)l->z + r * l->O + o + j : y, n), slope), \
                    n);                                                                            \
        }
    if (l->activation != PK_IDENTITY || l->z)
        PK_EACH_ACTIVATION(l->activation, ACTIVATE_ROWS)
}

/* A block of rows of a panel. */
static void linear_block(void *arg, size_t task)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t r = task / job->panels * job->row_block, o = task % job->panels * WIDTH;
    const size_t rows = smaller(l->M - r, job->row_block), width = smaller(l->O - o, WIDTH);
    const size_t ldc = l->z ? l->O : l->ldy;
    real *const c = (real *)(l->z ? l->z : l->y) + r * ldc + o;
    const size_t K = elements_of(job->products, l->I), ldx = job->rows ? K : l->ldx;
    const real *const x = (job->rows ? job->rows : (const real *)l->x) + r * ldx;
    const real *const w = job->w + o * l->I;
    const fp_mode mode = flush_denormals();
    const size_t depth = k_block_of(job->products);
    size_t k = 0;
    do {
        const term t = {smaller(K - k, depth), strided(x + k, (ptrdiff_t)ldx, 1),
                        rounded_panels(job->products, w + k * WIDTH, K)};
        product_panel(rows, width, &t, 1, c, ldc, k == 0 ? job->bias + o : NULL);
    } while ((k += depth) < K);
    linear_activate(l, r, rows, o, width);
    restore_denormals(mode);
}

/* sums[r][j] += the products of elements k..k+n-1 of row r of x and row o[j] of w, n <= LANES */
PK_INLINE void linear_products(vec sums[DOT_ROWS][DOT_COLS], const int rows, size_t n,
                               const real *const w[DOT_COLS], const real *x, size_t ldx, size_t k)
{
    vec x_r[DOT_ROWS];
    for (int r = 0; r < rows; r++)
        x_r[r] = load_n(x + (size_t)r * ldx + k, n);
    for (int j = 0; j < DOT_COLS; j++) {
        const vec w_j = load_n(w[j] + k, n);
        for (int r = 0; r < rows; r++)
            sums[r][j] += w_j * x_r[r];
    }
}

/* `rows` rows from row r on, which is a literal, columns o..o+LANES-1 */
PK_INLINE void linear_dots(const pk_linear *l, const int rows, size_t r, size_t o)
{
    const size_t n = smaller(l->O - o, LANES);
    const real *const x = (const real *)l->x + r * l->ldx;
    real *const z = l->z;
    vec dots[DOT_ROWS][LANES];
    for (size_t j = 0; j < LANES; j += DOT_COLS) {
        vec sums[DOT_ROWS][DOT_COLS] = {{{0}}};
        const real *w[DOT_COLS]; /* beyond the last output: that one again */
        for (size_t i = 0; i < DOT_COLS; i++)
            w[i] = (const real *)l->w + smaller(o + j + i, l->O - 1) * l->I;
        size_t k = 0;
        for (; j < n && k + LANES <= l->I; k += LANES)
            linear_products(sums, rows, LANES, w, x, l->ldx, k);
        if (j < n && k < l->I)
            linear_products(sums, rows, l->I - k, w, x, l->ldx, k);
        for (int i = 0; i < rows; i++)
            for (size_t c = 0; c < DOT_COLS; c++)
                dots[i][j + c] = sums[i][c];
    }
    const vec bias = l->b ? load_n((const real *)l->b + o, n) : (vec){0};
    for (size_t i = 0; i < (size_t)rows; i++)
        store_n(z ? z + (r + i) * l->O + o : (real *)l->y + (r + i) * l->ldy + o,
                sums_of_lanes(dots[i]) + bias, n);
}

static void linear_few_rows(void *arg, size_t chunk)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t groups = (l->O + LANES - 1) / LANES;
    const size_t from = pk_chunk_begin(groups, chunk, job->chunks) * LANES;
    const size_t to = smaller(pk_chunk_begin(groups, chunk + 1, job->chunks) * LANES, l->O);
    const fp_mode mode = flush_denormals();
    for (size_t o = from; o < to; o += LANES) {
        size_t r = 0;
        for (; r + DOT_ROWS <= l->M; r += DOT_ROWS)
            linear_dots(l, DOT_ROWS, r, o);
        for (; r < l->M; r++)
            linear_dots(l, 1, r, o);
    }
    linear_activate(l, 0, l->M, from, to - from);
    restore_denormals(mode);
}

/* Whether dot products are faster.  They cost about 20 times as much for each output, beside their
 * multiply-adds, as packing costs for each weight; ten columns of zeros in the last vector of a
 * tile cost as much as packing, for each row. */
static int prefers_dots(const pk_linear *l)
{
    const size_t zeros = round_up(l->O, LANES) - l->O;
    return 20 * l->M * l->O <= l->I * (l->O + l->M * zeros / 10);
}

static void linear_forward(const pk_linear *l, int nthreads)
{
    const int threads = linear_threads(l, nthreads);
    linear_job job = {.layer = l, .w = align(l->scratch), .panels = panels_of(l->O)};
    job.products = rounding_of(l->products);
    job.row_block = row_block_of(job.products);
    if (takes_all(job.products) && job.panels >= 2 * (size_t)threads)
        job.row_block *= 8; /* w is then read more seldom */
    const size_t blocks = (l->M + job.row_block - 1) / job.row_block;
    const size_t to_round = rounded(job.products) ? (l->M + ROW_BLOCK - 1) / ROW_BLOCK : 0;
    if (!rounded(job.products) && prefers_dots(l)) {
        job.chunks = smaller((size_t)threads, (l->O + LANES - 1) / LANES);
        pk_parallel(linear_few_rows, &job, job.chunks, threads);
        return;
    }
    job.bias = job.w + job.panels * WIDTH * l->I;
    memset(job.bias, 0, job.panels * WIDTH * sizeof(real));
    if (l->b)
        memcpy(job.bias, l->b, l->O * sizeof(real));
    job.K = elements_of(job.products, l->I);
    if (rounded(job.products))
        job.rows = job.bias + job.panels * WIDTH;
    pk_parallel(linear_pack, &job, job.panels + to_round, threads);
    pk_parallel(linear_block, &job, blocks * job.panels, threads);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* dA in rows r..end-1 */
static void linear_dA(const linear_job *job, size_t r, size_t end)
{
    const pk_linear *l = job->layer;
    const pk_linear_gradients *g = job->gradients;
    const size_t ldv = l->activation >= PK_GELU ? l->O : l->ldy;
    const real *const v = l->activation >= PK_GELU ? l->z : l->y, slope = (real)l->slope;
    const fp_mode mode = flush_denormals();
#define GRADIENT_ROWS(f)                                                                           \
    for (; r < end; r++)                                                                           \
        for (size_t j = 0; j < l->O; j += LANES) {                                                 \
            const size_t n = smaller(l->O - j, LANES);                                             \
            const vec dy = load_n((const real *)g->dy + r * g->lddy + j, n);                       \
            store_n(job->dA + r * l->O + j,                                                        \
                    activation_gradient(f, dy, load_n(v + r * ldv + j, n), slope), n);             \
        }
    PK_EACH_ACTIVATION(l->activation, GRADIENT_ROWS)
    restore_denormals(mode);
}

static size_t dA_t_row(const pk_linear *l) { return round_up(l->O, LANES); }

/* Rounds these rows of dA for both products; r is even. */
static void linear_round_dA(const linear_job *job, size_t r, size_t end)
{
    const pk_linear *l = job->layer;
    const rounding *p = job->products;
    const real *dA = job->dA + r * job->dA_row;
    p->round_left(job->rows + r * job->K, job->K, dA, (ptrdiff_t)job->dA_row, end - r, l->O);
    p->round_rows(job->dA_t + r / p->per * dA_t_row(l), dA_t_row(l), dA, job->dA_row, end - r,
                  l->O);
}

/* Whether a panel of columns of x or w is multiplied in place, by `rows` rows: not an incomplete
 * one. */
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

/* A panel of K rows of x or w, `ld` elements apart, from column n on. */
static void linear_pack_rows(const linear_job *job, real *packed, size_t K, const void *in,
                             size_t ld, size_t n)
{
    const size_t N = job->layer->I;
    if (rounded(job->products))
        job->products->round_rows(packed + n * elements_of(job->products, K), WIDTH,
                                  (const real *)in + n, ld, K, smaller(N - n, WIDTH));
    else
        pack_rows(packed + n * K, K, in, ld, n, N);
}

/* Tasks: dA; then panels of x, then of w */
static void linear_prepare(void *arg, size_t task)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    if (task < job->blocks) {
        const size_t r = task * ROW_BLOCK, end = smaller(r + ROW_BLOCK, l->M);
        if (l->activation != PK_IDENTITY)
            linear_dA(job, r, end);
        if (rounded(job->products))
            linear_round_dA(job, r, end);
        return;
    }
    const size_t panel = (task - job->blocks) % job->panels, n = panel * WIDTH;
    const int of_x = task < job->blocks + job->panels;
    if (in_place(l, panel, of_x ? l->O : l->M))
        return;
    if (of_x)
        linear_pack_rows(job, job->x, l->M, l->x, l->ldx, n);
    else
        linear_pack_rows(job, job->w, l->O, l->w, l->I, n);
}

/* A panel of dx, in some of its rows */
static void linear_dx(const linear_job *job, size_t panel, size_t split)
{
    const pk_linear *l = job->layer;
    const size_t n = panel * WIDTH, from = pk_chunk_begin(l->M, split, job->splits),
                 to = pk_chunk_begin(l->M, split + 1, job->splits);
    const size_t row = rounded(job->products) ? job->K : job->dA_row;
    product(to - from, smaller(l->I - n, WIDTH), job->K,
            strided((rounded(job->products) ? job->rows : job->dA) + from * row, (ptrdiff_t)row, 1),
            panel_of(l, panel, l->M, l->w, l->I, job->w, job->K),
            (real *)job->gradients->dx + from * job->gradients->lddx + n, job->gradients->lddx,
            ZEROS);
}

/* A group of panels of dw, in some of its rows */
static void linear_dw(const linear_job *job, size_t group, size_t split)
{
    const pk_linear *l = job->layer;
    const size_t panel = pk_chunk_begin(job->panels, group, job->groups), n = panel * WIDTH;
    const size_t end = smaller(pk_chunk_begin(job->panels, group + 1, job->groups) * WIDTH, l->I);
    const size_t from = pk_chunk_begin(l->O, split, job->splits),
                 to = pk_chunk_begin(l->O, split + 1, job->splits);
    const size_t K = elements_of(job->products, l->M);
    const ptrdiff_t row = (ptrdiff_t)(rounded(job->products) ? dA_t_row(l) : job->dA_row);
    product(to - from, end - n, K,
            strided((rounded(job->products) ? job->dA_t : job->dA) + from, 1, row),
            panel_of(l, panel, l->O, l->x, l->ldx, job->x, K),
            (real *)job->gradients->dw + from * l->I + n, l->I,
            job->gradients->accumulate ? NULL : ZEROS);
}

/* WIDTH elements of db: the sum of the rows of dA, in their order */
static void linear_db(const linear_job *job, size_t o)
{
    const pk_linear *l = job->layer;
    for (size_t end = smaller(o + WIDTH, l->O); o < end; o += LANES) {
        const size_t n = smaller(end - o, LANES);
        real *const db = (real *)job->gradients->db + o;
        vec sum = job->gradients->accumulate ? load_n(db, n) : (vec){0};
        for (size_t r = 0; r < l->M; r++)
            sum += load_n(job->dA + r * job->dA_row + o, n);
        store_n(db, sum, n);
    }
}

/* Tasks: dw, then dx, then db */
static void linear_gradients(void *arg, size_t task)
{
    const linear_job *job = arg;
    const pk_linear_gradients *g = job->gradients;
    const size_t of_dw = job->groups * job->splits, products = of_dw + job->panels * job->splits;
    const fp_mode mode = flush_denormals();
    if (task >= products)
        linear_db(job, (task - products) * WIDTH);
    else if (task >= of_dw && g->dx)
        linear_dx(job, (task - of_dw) / job->splits, (task - of_dw) % job->splits);
    else if (task < of_dw && g->dw)
        linear_dw(job, task / job->splits, task % job->splits);
    restore_denormals(mode);
}

static void linear_backward(const pk_linear *l, const pk_linear_gradients *g, int nthreads)
{
    const int threads = linear_threads(l, nthreads), identity = l->activation == PK_IDENTITY;
    linear_job job = {.layer = l, .gradients = g, .panels = panels_of(l->I), .splits = 1};
    job.products = rounding_of(l->products);
    job.K = elements_of(job.products, l->O);
    if (!identity || rounded(job.products))
        job.blocks = (l->M + ROW_BLOCK - 1) / ROW_BLOCK;
    job.groups = takes_all(job.products) ? (job.panels + 3) / 4 : job.panels;
    if (threads > 1) /* enough tasks that no thread waits long for another */
        job.splits = 1 + 2 * (size_t)threads / (job.groups + 1);
    job.x = align(l->scratch);
    job.w = job.x + job.panels * WIDTH * l->M;
    job.dA = identity ? (real *)g->dy : job.w + job.panels * WIDTH * l->O; /* read only */
    job.dA_row = identity ? g->lddy : l->O;
    job.rows = job.w + job.panels * WIDTH * l->O + l->M * l->O;
    job.dA_t = align(job.rows + l->M * job.K);
    pk_parallel(linear_prepare, &job, job.blocks + job.panels * (g->dx ? 2 : 1), threads);
    pk_parallel(linear_gradients, &job,
                (job.groups + job.panels) * job.splits + (g->db ? panels_of(l->O) : 0), threads);
}

#endif
