/* Linear recurrences over time, kernels of math.c.  A row is the T-th part of an array: what its
 * elements have at one time step.  Elements do not depend on each other, so a chunk is a range of
 * columns, and it walks through time row by row, because memory is read fastest in order.  Where
 * time goes down, columns and elements do so as well: else backward takes 1.7 times as long.
 * Processors follow such a walk badly, so backward asks for the next row: 0.7 times as long. */
#ifndef PK_SCAN_H
#define PK_SCAN_H

#include "vec.h"

enum {
    SCAN_COLUMNS = 8192 / sizeof(real),   /* of a chunk: L1 holds its rows of one step */
    SCAN_LINE = ALIGNMENT / sizeof(real), /* two threads do not write one cache line */
    SCAN_SERIAL_BELOW = 1 << 15,          /* elements: some 10 microseconds */
    SCAN_ROWS = 5                         /* that a step of backward reads and writes in memory */
};

typedef struct {
    const pk_scan *scan;
    pk_sequence b, h, dh, da, db;
    const real *h0;
    real *dh0;
    size_t chunks;
} scan_job;

/* The part of a row that is in one batch row: at most D elements, from d on. */
typedef struct {
    size_t b, d, n;
} scan_part;

/* Takes the next part off the columns [*from, *to), which are numbered through all batch rows;
 * `down`: off their end. */
PK_INLINE scan_part scan_next_part(size_t D, size_t *from, size_t *to, int down)
{
    const size_t b = (down ? *to - 1 : *from) / D;
    const size_t begin = b * D > *from ? b * D : *from, end = smaller((b + 1) * D, *to);
    *(down ? to : from) = down ? begin : end;
    return (scan_part){b, begin - b * D, end - begin};
}

/* One step over the n elements of a part calls `one(..., i, count)` for each vector of them. */
#define SCAN_VECTORS(n, down, one, ...)                                                            \
    do {                                                                                           \
        const size_t whole = (n) / LANES, rest = (n) % LANES;                                      \
        if (rest)                                                                                  \
            one(__VA_ARGS__, whole * LANES, rest);                                                 \
        for (size_t k = 0; k < whole; k++)                                                         \
            one(__VA_ARGS__, ((down) ? whole - 1 - k : k) * LANES, LANES);                         \
    } while (0)

PK_INLINE size_t scan_column(const scan_job *j, size_t chunk)
{
    const size_t columns = j->scan->B * j->scan->D,
                 lines = round_up(columns, SCAN_LINE) / SCAN_LINE;
    return smaller(columns, pk_chunk_begin(lines, chunk, j->chunks) * SCAN_LINE);
}

/* The time of step s. */
PK_INLINE size_t scan_time(const pk_scan *scan, size_t s)
{
    return scan->reverse ? scan->T - 1 - s : s;
}

/* The state before step s of a part; NULL if it is zero. */
PK_INLINE const real *scan_before(const scan_job *j, size_t s, scan_part p)
{
    const pk_scan *scan = j->scan;
    if (scan->resets && scan->resets[scan_time(scan, s) * scan->B + p.b])
        return NULL;
    if (s > 0)
        return row_at(j->h, scan_time(scan, s - 1), p.b) + p.d;
    return j->h0 ? j->h0 + p.b * scan->D + p.d : NULL;
}

PK_INLINE void scan_forward_vector(const real *a, const real *b, const real *before, real *h,
                                   size_t i, size_t n)
{
    store_n(h + i, load_n(a + i, n) * load_n(before + i, n) + load_n(b + i, n), n);
}

static void scan_forward_chunk(void *arg, size_t chunk)
{
    const scan_job *j = arg;
    const pk_scan *scan = j->scan;
    const size_t begin = scan_column(j, chunk), end = scan_column(j, chunk + 1);
    const int down = scan->reverse;
    const fp_mode mode = flush_denormals();
    for (size_t s = 0; s < scan->T; s++) {
        const size_t t = scan_time(scan, s);
        for (size_t from = begin, to = end; from < to;) {
            const scan_part p = scan_next_part(scan->D, &from, &to, down);
            const real *a = row_at(scan->a, t, p.b) + p.d, *b = row_at(j->b, t, p.b) + p.d;
            const real *before = scan_before(j, s, p);
            real *h = row_at(j->h, t, p.b) + p.d;
            if (before)
                SCAN_VECTORS(p.n, down, scan_forward_vector, a, b, before, h);
            else if (h != b)
                memcpy(h, b, p.n * sizeof(real));
        }
    }
    restore_denormals(mode);
}

/* `carry` is the gradient of the state after the step that comes from later ones, then that of the
 * state before it.  `soon` are the rows of the step that follows. */
PK_INLINE void scan_backward_vector(const real *a, const real *before, const real *dh, real *da,
                                    real *db, real *carry, const real *const soon[SCAN_ROWS],
                                    size_t i, size_t n)
{
    for (int k = 0; k < SCAN_ROWS; k++)
        __builtin_prefetch(soon[k] + i);
    const vec u = load_n(dh + i, n) + load_n(carry + i, n), back = load_n(a + i, n) * u;
    store_n(da + i, u * load_n(before + i, n), n);
    store_n(db + i, u, n);
    store_n(carry + i, back, n);
}

static void scan_backward_chunk(void *arg, size_t chunk)
{
    const scan_job *j = arg;
    const pk_scan *scan = j->scan;
    const size_t begin = scan_column(j, chunk), end = scan_column(j, chunk + 1);
    const int down = !scan->reverse;
    const fp_mode mode = flush_denormals();
    real carried[SCAN_COLUMNS];
    memset(carried, 0, sizeof carried);
    for (size_t s = scan->T; s-- > 0;) {
        const size_t t = scan_time(scan, s);
        for (size_t from = begin, to = end; from < to;) {
            const scan_part p = scan_next_part(scan->D, &from, &to, down);
            const real *a = row_at(scan->a, t, p.b) + p.d, *dh = row_at(j->dh, t, p.b) + p.d;
            const real *before = scan_before(j, s, p);
            real *da = row_at(j->da, t, p.b) + p.d, *db = row_at(j->db, t, p.b) + p.d;
            real *carry = carried + (p.b * scan->D + p.d - begin);
            const size_t next = scan_time(scan, s > 0 ? s - 1 : 0);
            const real *const soon[SCAN_ROWS] = {
                row_at(scan->a, next, p.b) + p.d, row_at(j->dh, next, p.b) + p.d,
                row_at(j->h, scan_time(scan, s > 1 ? s - 2 : 0), p.b) + p.d,
                row_at(j->da, next, p.b) + p.d, row_at(j->db, next, p.b) + p.d};
            if (before) {
                SCAN_VECTORS(p.n, down, scan_backward_vector, a, before, dh, da, db, carry, soon);
            } else {
                PK_SIMD
                for (size_t i = 0; i < p.n; i++) {
                    db[i] = dh[i] + carry[i];
                    da[i] = 0;
                    carry[i] = 0;
                }
            }
        }
    }
    if (j->dh0)
        memcpy(j->dh0 + begin, carried, (end - begin) * sizeof(real));
    restore_denormals(mode);
}

static void scan_run(void (*chunk)(void *, size_t), scan_job *job, int nthreads)
{
    const int any = job->scan->T > 0 || job->dh0; /* else there may be no array */
    const size_t columns = any ? job->scan->B * job->scan->D : 0;
    const int threads = job->scan->T * columns < SCAN_SERIAL_BELOW ? 1 : nthreads;
    const size_t lines = round_up(columns, SCAN_LINE) / SCAN_LINE;
    job->chunks = round_up(columns, SCAN_COLUMNS) / SCAN_COLUMNS;
    if (threads > 1 && job->chunks < (size_t)threads)
        job->chunks = smaller(lines, (size_t)threads);
    if (columns > 0)
        pk_parallel(chunk, job, job->chunks, threads);
}

static void scan_forward(const pk_scan *scan, pk_sequence b, const void *h0, pk_sequence h,
                         int nthreads)
{
    scan_job job = {.scan = scan, .b = b, .h0 = h0, .h = h};
    scan_run(scan_forward_chunk, &job, nthreads);
}

static void scan_backward(const pk_scan *scan, const void *h0, pk_sequence h, pk_sequence dh,
                          pk_sequence da, pk_sequence db, void *dh0, int nthreads)
{
    scan_job job = {.scan = scan, .h0 = h0, .h = h, .dh = dh, .da = da, .db = db, .dh0 = dh0};
    scan_run(scan_backward_chunk, &job, nthreads);
}

#endif
