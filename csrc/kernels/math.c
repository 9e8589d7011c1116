/* The table of functions of arrays: exp, sigmoid, tanh, dropout, products of matrices, linear
 * recurrences.  CMake compiles this file once for each instruction set and dtype, with contraction
 * to FMA.  Everything is static except the table, which users get from pk_math (dispatch.c). */
#include "dropout.h"
#include "mathfun.h"
#include "matmul.h"
#include "scan.h"

/* ---- element by element ---------------------------------------------------------------------- */

/* y[i] = f(x[i]), i < n; y may be x. */
PK_INLINE void map(vec (*f)(vec), const real *x, real *y, size_t n)
{
    const fp_mode mode = flush_denormals();
    size_t i = 0;
    for (; n - i >= LANES; i += LANES)
        store(y + i, f(load(x + i)));
    if (i < n)
        store_part(y + i, f(load_part(x + i, n - i)), n - i);
    restore_denormals(mode);
}

/* z = x + y. A cache line at a time, which is asked for before it is needed. */
static void add_arrays(const void *x, const void *y, void *z, size_t n)
{
    enum { LINE = 64 / sizeof(real), AHEAD = 32 * LINE };
    const real *const a = x, *const b = y;
    real *const c = z;
    size_t i = 0;
    for (; n - i >= LINE; i += LINE) {
        __builtin_prefetch(a + i + AHEAD, 0, 2);
        __builtin_prefetch(b + i + AHEAD, 0, 2);
        for (size_t j = i; j < i + LINE; j += LANES)
            store(c + j, load(a + j) + load(b + j));
    }
    for (; i < n; i++)
        c[i] = a[i] + b[i];
}

static void exp_array(const void *x, void *y, size_t n) { map(vec_exp, x, y, n); }
static void sigmoid_array(const void *x, void *y, size_t n) { map(vec_sigmoid, x, y, n); }
static void tanh_array(const void *x, void *y, size_t n) { map(vec_tanh, x, y, n); }

/* ---- the product of matrices ----------------------------------------------------------------- */

typedef struct {
    size_t M, N, K, lda, ldb, ldc, chunks;
    const real *a, *b;
    real *c, *packed;
    int accumulate;
} matmul_job;

static void matmul_pack(void *arg, size_t panel)
{
    const matmul_job *j = arg;
    pack_rows(j->packed + panel * WIDTH * j->K, j->K, j->b, j->ldb, panel * WIDTH, j->N);
}

static void matmul_rows(void *arg, size_t chunk)
{
    const matmul_job *j = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_chunk_begin(j->M, chunk, j->chunks),
                 to = pk_chunk_begin(j->M, chunk + 1, j->chunks);
    product(to - from, j->N, j->K, strided(j->a + from * j->lda, (ptrdiff_t)j->lda, 1),
            in_panels(j->packed, j->K), j->c + from * j->ldc, j->ldc, j->accumulate ? NULL : ZEROS);
    restore_denormals(mode);
}

static void matmul(size_t M, size_t N, size_t K, const void *a, size_t lda, const void *b,
                   size_t ldb, void *c, size_t ldc, int accumulate, void *scratch, int nthreads)
{
    const size_t serial_below = (size_t)1 << 20; /* multiply-adds: some 10 microseconds */
    const int threads = times(times(M, N), K) < serial_below ? 1 : nthreads;
    if (M == 0 || N == 0) /* returns, because a loop over a huge K would never end */
        return;
    matmul_job job = {M, N, K, lda, ldb, ldc, 1, a, b, c, align(scratch), accumulate};
    if (threads > 1 && M >= 2 * TILE_ROWS)
        job.chunks = smaller((size_t)threads * 2, M / TILE_ROWS);
    pk_parallel(matmul_pack, &job, round_up(N, WIDTH) / WIDTH, threads);
    pk_parallel(matmul_rows, &job, job.chunks, threads);
}

static size_t matmul_scratch_size(size_t N, size_t K)
{
    return PK_SCRATCH_BYTES(packed_size(K, N));
}

/* ---- the roof -------------------------------------------------------------------------------- */

static double fma_roof(size_t rounds, double *out)
{
    enum { SUMS = 12 }; /* independent sums: more than latency times units, fewer than registers */
    vec sum[SUMS], x = broadcast((real)0.999), y = broadcast((real)1e-3);
    __asm__("" : "+m"(x), "+m"(y)); /* hides from the compiler that x and y are constants */
    for (int i = 0; i < SUMS; i++)
        sum[i] = broadcast((real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = sum[i] * x + y;
    *out = 0;
    for (int i = 0; i < SUMS; i++)
        for (int j = 0; j < LANES; j++)
            *out += (double)sum[i][j];
    return 2.0 * SUMS * LANES * (double)rounds;
}

extern const pk_math_kernels PK_TABLE;

const pk_math_kernels PK_TABLE = {
    .exp = exp_array,
    .sigmoid = sigmoid_array,
    .tanh = tanh_array,
    .add = add_arrays,
    .dropout = dropout,
    .matmul = matmul,
    .matmul_scratch_size = matmul_scratch_size,
    .linear_scan_forward = scan_forward,
    .linear_scan_backward = scan_backward,
    .fma_roof = fma_roof,
};
