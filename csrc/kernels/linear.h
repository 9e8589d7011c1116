/* Linear layers, y = f(x w^T + b): forward, a kernel of dense.c, and what linear_backward.h shares
 * with it.
 *
 * Forward transposes w into panels, which costs as much as the products of ten rows.  So a few rows
 * are laid in the lanes of vectors and multiplied with w in place, or, if they are fewer and long,
 * by dot products along the rows of w.  The products of backward need no transposition: dx = dA w
 * reads w along its rows, and dw = dA^T x reads dA with swapped strides. dA is the gradient of
 * x w^T + b.  With rounded products, x and dA are copied, too: rounded, and where elements are
 * pairs dA also as dA^T. */
#ifndef PK_LINEAR_H
#define PK_LINEAR_H

#include "activation.h"
#include "lanes.h"

enum {
    FEW_ROWS = 12, /* with fewer rows of the other operand a matrix is not packed */
#if PK_VECTOR_BYTES == 64 || defined(__aarch64__)
    DOT_ROWS = 4, /* 16 sums in 32 registers */
#else
    DOT_ROWS = 2, /* 8 in 16 */
#endif
    DOT_COLS = LANES < 4 ? LANES : 4,
    LAID_ROWS = 64, /* rows of x or dA that are rounded or multiplied together */
    PANELS_TOGETHER = 4,
    PART_ROWS = LAID_ROWS / 2,
};

typedef struct {
    const pk_linear *layer;
    const pk_linear_gradients *gradients;          /* NULL: forward */
    real *w, *x, *bias, *dA;                       /* packed, packed, padded, [M, O] */
    size_t dA_row, panels, splits, chunks, blocks; /* blocks: of rows, that backward prepares */
    size_t each, groups, shared; /* panels that are multiplied together; groups of them, of all
                                  * products */
    /* Only with rounded products: x or dA, of K elements, and dA^T, as left-hand sides; sums over
     * blocks of rows of dA, [blocks, O]. */
    const rounding *products;
    real *rows, *dA_t, *sums;
    real *place; /* memory for dA, and for rounded rows of it */
    size_t K, row_block, prepared, dw_splits;
    int at_once; /* whether a chunk packs a right-hand side, multiplies it and forgets it */
} linear_job;

static size_t dA_t_row(const pk_linear *l) { return round_up(l->O, LANES); }

/* Elements of a rounded left-hand side of M rows. */
static size_t laid_size(size_t M, size_t K) { return times(plus(M, LAID_ROWS), plus(K, LANES)); }

static size_t linear_scratch_size(const pk_linear *l)
{
    const size_t forward = plus(packed_size(l->I, l->O), round_up(l->O, WIDTH));
    const size_t x_and_w = plus(packed_size(l->M, l->I), packed_size(l->O, l->I));
    const size_t backward = plus(plus(times(l->M, l->O), ALIGNMENT / sizeof(real)), x_and_w);
    if (rounded(l->products)) {
        const size_t row = dA_t_row(l), blocks = l->M / LAID_ROWS + 1;
        const size_t dA = plus(times(plus(l->M, LAID_ROWS), row), times(blocks, row));
        const size_t with_x = plus(forward, laid_size(l->M, l->I));
        const size_t with_dA =
            plus(plus(x_and_w, dA), plus(laid_size(l->M, l->O), laid_size(l->O, l->M)));
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

/* Packs the panel of w for the outputs from o on. */
static void linear_pack_outputs(const linear_job *job, real *to, size_t o)
{
    static const size_t gates[] = {0};
    const pk_linear *l = job->layer;
    packing_of(job->products)
        ->gate_columns(to, WIDTH, l->w, 0, l->I, o, smaller(l->O - o, WIDTH), gates, 1);
}

/* Rounds LAID_ROWS rows of x from row r on, a multiple of LAID_ROWS, to a left-hand side. */
static void linear_round_x(const linear_job *job, size_t r)
{
    const pk_linear *l = job->layer;
    const rounding *how = job->products;
    how->lay_rows((real *)how->laid(job->rows, job->K, r).a, job->K,
                  (const real *)l->x + r * l->ldx, (ptrdiff_t)l->ldx, smaller(l->M - r, LAID_ROWS),
                  l->I);
}

/* Tasks: with rounded products, blocks of rows of x; then panels of w. */
static void linear_pack(void *arg, size_t task)
{
    const linear_job *job = arg;
    if (task < job->blocks)
        linear_round_x(job, task * LAID_ROWS);
    else
        linear_pack_outputs(job, job->w + (task - job->blocks) * WIDTH * job->layer->I,
                            (task - job->blocks) * WIDTH);
}

/* y = f(z) for `rows` rows from row r on and columns o..o+width-1; z begins with these, and its
 * rows are ldz apart. */
static void linear_activate(const pk_linear *l, size_t r, size_t rows, size_t o, size_t width,
                            const real *z, size_t ldz)
{
    const real slope = (real)l->slope;
    real *const y = (real *)l->y + r * l->ldy + o;
#define ACTIVATE_ROWS(f)                                                                           \
    for (size_t i = 0; i < rows; i++)                                                              \
        for (size_t j = 0; j < width; j += LANES) {                                                \
            const size_t n = smaller(width - j, LANES);                                            \
            store_n(y + i * l->ldy + j, activated(f, load_n(z + i * ldz + j, n), slope), n);       \
        }
    if (l->activation != PK_IDENTITY || z != y)
        PK_EACH_ACTIVATION(l->activation, ACTIVATE_ROWS)
}

/* z from element (r, o) on; where there is no z, x w^T + b is stored in y first. */
static real *linear_z(const pk_linear *l, size_t r, size_t o)
{
    return l->z ? (real *)l->z + r * l->O + o : (real *)l->y + r * l->ldy + o;
}
static size_t z_row(const pk_linear *l) { return l->z ? l->O : l->ldy; }

/* At most `rows` rows of the panel that is packed in w. */
static void linear_panel(const linear_job *job, size_t r, size_t rows, size_t o, const real *w)
{
    const pk_linear *l = job->layer;
    const size_t width = smaller(l->O - o, WIDTH);
    const operand x = job->rows ? job->products->laid(job->rows, job->K, r)
                                : strided((const real *)l->x + r * l->ldx, (ptrdiff_t)l->ldx, 1);
    real *const z = linear_z(l, r, o);
    rows = smaller(l->M - r, rows);
    product(rows, width, job->K, x, rounded_panels(job->products, w, job->K), z, z_row(l),
            job->bias + o);
    linear_activate(l, r, rows, o, width, z, z_row(l));
}

/* A block of rows of a panel. */
static void linear_block(void *arg, size_t task)
{
    const linear_job *job = arg;
    const size_t r = task / job->panels * job->row_block, o = task % job->panels * WIDTH;
    const fp_mode mode = flush_denormals();
    linear_panel(job, r, job->row_block, o, job->w + o * job->layer->I);
    restore_denormals(mode);
}

/* Few rows of a group of panels; their sums stay in L1 until they are y. */
__attribute__((noinline)) static void linear_part(const linear_job *job, size_t r, size_t o,
                                                  size_t width, right_operand w)
{
    enum { ROW = PANELS_TOGETHER * WIDTH + LANES }; /* not a power of two */
    _Alignas(ALIGNMENT) real sums[PART_ROWS * ROW];
    const pk_linear *l = job->layer;
    const size_t rows = smaller(l->M - r, PART_ROWS);
    real *const z = l->z ? linear_z(l, r, o) : sums;
    const size_t ldz = l->z ? l->O : ROW;
    for (size_t i = 0; i < rows; i++)
        memcpy(z + i * ldz, job->bias + o, width * sizeof *z);
    product(rows, width, job->K, job->products->laid(job->rows, job->K, r), w, z, ldz, NULL);
    linear_activate(l, r, rows, o, width, z, ldz);
}

/* Asks for a left-hand side in the order of memory.  The loads of a tile, six rows at a time, would
 * wait for most of its lines: almost half of the first panel's time. */
static void prefetch_rows_of(const void *x, size_t rows, size_t width, size_t ld)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t k = 0; k < width; k += ALIGNMENT / sizeof(real))
            __builtin_prefetch((const real *)x + r * ld + k, 0, 2);
}

/* All rows for a chunk of the groups of panels, each packed into the memory of the first one. */
static void linear_chunk(void *arg, size_t chunk)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t most = job->each * WIDTH;
    size_t o = pk_chunk_begin(job->groups, chunk, job->chunks) * most;
    const size_t end = smaller(pk_chunk_begin(job->groups, chunk + 1, job->chunks) * most, l->O);
    const fp_mode mode = flush_denormals();
    if (!takes_all(job->products))
        prefetch_rows_of(l->x, l->M, l->I, l->ldx);
    for (real *w = job->w + o * l->I; o < end; o += most) {
        const size_t width = smaller(end - o, most);
        for (size_t n = 0; n < width; n += WIDTH)
            linear_pack_outputs(job, w + n * job->K, o + n);
        if (!takes_all(job->products))
            linear_panel(job, 0, l->M, o, w);
        for (size_t r = 0; takes_all(job->products) && r < l->M; r += PART_ROWS)
            linear_part(job, r, o, width, rounded_panels(job->products, w, job->K));
    }
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

/* `rows` (a literal) rows from row r on, columns o..o+LANES-1 */
PK_INLINE void linear_dots(const pk_linear *l, const int rows, size_t r, size_t o)
{
    const size_t n = smaller(l->O - o, LANES);
    const real *const x = (const real *)l->x + r * l->ldx;
    real *const z = l->z;
    vec dots[DOT_ROWS][LANES];
    for (size_t j = 0; j < LANES; j += DOT_COLS) {
        vec sums[DOT_ROWS][DOT_COLS] = {{{0}}};
        const real *w[DOT_COLS]; /* beyond the last output: repeats it */
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
    const size_t groups = (l->O + LANES - 1) / LANES, part = chunk / job->chunks;
    const size_t from = pk_chunk_begin(groups, chunk % job->chunks, job->chunks) * LANES;
    const size_t to =
        smaller(pk_chunk_begin(groups, chunk % job->chunks + 1, job->chunks) * LANES, l->O);
    const size_t first = pk_chunk_begin(l->M, part, job->splits),
                 end = pk_chunk_begin(l->M, part + 1, job->splits);
    const fp_mode mode = flush_denormals();
    for (size_t o = from; o < to; o += LANES) {
        size_t r = first;
        for (; r + DOT_ROWS <= end; r += DOT_ROWS)
            linear_dots(l, DOT_ROWS, r, o);
        for (; r < end; r++)
            linear_dots(l, 1, r, o);
    }
    linear_activate(l, first, end - first, from, to - from, linear_z(l, first, from), z_row(l));
    restore_denormals(mode);
}

/* Up to LANE_ROWS rows, LANES outputs at a time. */
static void linear_few_lanes(void *arg, size_t chunk)
{
    const linear_job *job = arg;
    const pk_linear *l = job->layer;
    const size_t groups = (l->O + LANES - 1) / LANES, ldz = z_row(l), M = l->M;
    const size_t from = pk_chunk_begin(groups, chunk, job->chunks) * LANES;
    const size_t to = smaller(pk_chunk_begin(groups, chunk + 1, job->chunks) * LANES, l->O);
    const int relu = l->activation == PK_RELU && !l->z;
    const fp_mode mode = flush_denormals();
    for (size_t o = from; o < to; o += LANES) {
        const size_t first = smaller(o, l->O - LANES), n = smaller(to - o, LANES);
        real *z = linear_z(l, 0, o);
        vec rows[LANE_ROWS];
        lanes_product(l, job->x, first, rows);
        for (size_t r = 0; r < LANE_ROWS && relu; r++)
            rows[r] = activated(PK_RELU, rows[r], 0);
        _Pragma("GCC unroll 1") for (size_t r = 0; r < M; r++, z += ldz)
        {
            if (n == LANES)
                store(z, rows[r]);
            else /* the first of them are done */
                memcpy(z, (const real *)&rows[r] + (o - first), n * sizeof *z);
        }
    }
    if (!relu)
        linear_activate(l, 0, M, from, to - from, linear_z(l, 0, from), ldz);
    restore_denormals(mode);
}

static int prefers_lanes(const pk_linear *l)
{
    return IN_LANES && l->M <= LANE_ROWS && l->M > (l->I < 128 ? 1 : LANE_ROWS / 2) &&
           l->O >= LANES;
}

/* Whether dot products are faster.  Besides multiply-adds, a dot product costs some 20 times as
 * much for each output as packing for each weight.  Ten columns of zeros in the last vector of a
 * tile cost as much for each row as packing. */
static int prefers_dots(const pk_linear *l)
{
    const size_t zeros = round_up(l->O, LANES) - l->O;
    return 20 * l->M * l->O <= l->I * (l->O + l->M * zeros / 10);
}

/* Divides the panels of `products` right-hand sides between threads.  A chunk may pack a group of
 * panels, multiply all rows, and pack the next group into the same memory: what is packed is then
 * in L2 of the core that multiplies it, and no thread waits for others to pack.  Products that take
 * all rows and panels do so if there is a group for every thread, others if x and y stay in L2, and
 * enough groups keep threads equally busy. */
static void linear_share(linear_job *job, int threads, size_t products)
{
    const pk_linear *l = job->layer;
    const int all = takes_all(job->products);
    job->each = all ? PANELS_TOGETHER : 1;
    job->groups = (job->panels + job->each - 1) / job->each;
    job->shared = job->groups * products;
    const size_t least = all ? (size_t)threads : threads > 1 ? 3 * (size_t)threads : 1;
    const int fits = all || (!rounded(job->products) && l->M >= LAID_ROWS &&
                             times(l->M, l->I > l->O ? l->I : l->O) <= L2_SHARE / sizeof(real));
    job->at_once = fits && job->shared >= least;
    job->chunks = threads > 1 ? smaller(job->shared, (all ? 2 : 4) * (size_t)threads) : 1;
}

static void linear_forward(const pk_linear *l, int nthreads)
{
    const int threads = linear_threads(l, nthreads);
    linear_job job = {.layer = l, .w = align(l->scratch), .panels = panels_of(l->O)};
    job.products = rounding_of(l->products);
    job.row_block = row_block_of(job.products);
    const int lanes = prefers_lanes(l);
    if (!rounded(job.products) && (lanes || prefers_dots(l))) {
        job.x = job.w;
        if (lanes)
            lanes_lay(l, job.x);
        job.chunks = smaller((size_t)threads, (l->O + LANES - 1) / LANES);
        job.splits = lanes ? 1 : smaller((size_t)threads / job.chunks, l->M / DOT_ROWS + 1);
        pk_parallel(lanes ? linear_few_lanes : linear_few_rows, &job, job.chunks * job.splits,
                    threads); /* splits: of the rows */
        return;
    }
    job.bias = job.w + job.panels * WIDTH * l->I;
    memset(job.bias, 0, job.panels * WIDTH * sizeof(real));
    if (l->b)
        memcpy(job.bias, l->b, l->O * sizeof(real));
    job.K = elements_of(job.products, l->I);
    if (rounded(job.products)) {
        job.rows = job.bias + job.panels * WIDTH;
        job.blocks = (l->M + LAID_ROWS - 1) / LAID_ROWS;
    }
    linear_share(&job, threads, 1);
    const size_t row_blocks = (l->M + job.row_block - 1) / job.row_block;
    pk_parallel(linear_pack, &job, job.blocks + (job.at_once ? 0 : job.panels), threads);
    if (job.at_once)
        pk_parallel(linear_chunk, &job, job.chunks, threads);
    else
        pk_parallel(linear_block, &job, row_blocks * job.panels, threads);
}

#endif
