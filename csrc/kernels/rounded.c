/* Products of float whose operands are rounded to bfloat16, to the nearest, ties to even: the table
 * `rounding` of matmul.h.  A NaN stays one, a denormal number becomes 0.  CMake compiles this
 * file once for each instruction set.  Sets that multiply pairs of bfloat16 (PK_PAIRS) have a
 * micro-kernel of their own here; the others multiply rounded floats by that of products.c.  Both
 * add the products of an element in the order of k, and so give the same bits.  Sets with tiles of
 * registers (PK_TILE_REGISTERS) multiply those, and add in an order of their own: tiles.h. */
#include "pack.h"

#ifdef PK_PAIRS

typedef uint16_t halves __attribute__((vector_size(PK_VECTOR_BYTES)));
typedef real half_vector __attribute__((vector_size(PK_VECTOR_BYTES / 2), aligned(4), may_alias));
/* Pairs are multiplied so fast that to read and write c more often costs more than to have the
 * right-hand side in L2. */
enum { PER = 2 };

#ifdef PK_TILE_REGISTERS
#define panel_of_pairs panel_of_tiles
enum { TAKES_ALL = 1, PRODUCT_ROWS = MOST_ROWS };
#else
enum { TAKES_ALL = 0, PRODUCT_ROWS = ROW_BLOCK };
static void panel_of_pairs(size_t M, size_t width, const term *terms, size_t count, real *c,
                           size_t ldc, const real *begin)
{
    product_panel_of(M, width, terms, count, c, ldc, begin);
}
#endif

/* The pairs of adjacent elements. */
PK_INLINE half_vector pairs_in(vec v)
{
    return (half_vector)_mm256_rol_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v), 16);
}
PK_INLINE vec pairs_in_both(vec first, vec second)
{
    const __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (vec)_mm512_rol_epi32(pairs, 16);
}

PK_INLINE void round_row(real *to, const real *from, size_t n)
{
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES)
        store(to + i / 2, pairs_in_both(load(from + i), load(from + i + LANES)));
    for (; i + LANES <= n; i += LANES)
        *(half_vector *)(to + i / 2) = pairs_in(load(from + i));
    if (i < n) {
        const half_vector last = pairs_in(load_part(from + i, n - i));
        memcpy(to + i / 2, &last, (n - i + 1) / 2 * sizeof *to);
    }
}

/* The pairs of n <= 2 * LANES adjacent elements. */
PK_INLINE vec rounded_part(const real *from, size_t n)
{
    const size_t first = smaller(n, LANES);
    return pairs_in_both(load_n(from, first), load_n(from + LANES, n - first));
}

/* The pairs of elements of two vectors. */
PK_INLINE vec rounded_pair(vec first, vec second)
{
    const halves both = (halves)_mm512_cvtne2ps_pbh((__m512)first, (__m512)second);
    return (vec)__builtin_shufflevector(both, both, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                        7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                        15, 31);
}

#ifndef PK_TILE_REGISTERS
PK_INLINE vec product_in_registers(vec sum, vec a, vec b)
{
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
#endif

#else

enum { PER = 1, TAKES_ALL = 0, PRODUCT_ROWS = ROW_BLOCK };
#define panel_of_pairs NULL

/* A fraction of 1 to 2, plus 1.5 * 2^16, is rounded at the last of 8 bits; then it is multiplied by
 * its power of two, which is 0 for a denormal number and infinity for itself. */
PK_INLINE vec rounded_vec(vec v)
{
    const vec_unsigned bits = (vec_unsigned)v;
    const vec fraction = (vec)((bits & 0x807fffffu) | 0x3f800000u), large = broadcast(98304);
    const vec power = (vec)(bits & 0x7f800000u);
    return (vec)((vec_bits)(((fraction + large) - large) * power) | (v != v));
}

PK_INLINE void round_row(real *to, const real *from, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(to + i, rounded_vec(load(from + i)));
    if (i < n)
        store_part(to + i, rounded_vec(load_part(from + i, n - i)), n - i);
}

PK_INLINE vec rounded_part(const real *from, size_t n) { return rounded_vec(load_n(from, n)); }

PK_INLINE vec rounded_pair(vec first, vec second)
{
    (void)second;
    return rounded_vec(first);
}

PK_INLINE vec product_in_registers(vec sum, vec a, vec b) { return sum + a * b; }

#endif

/* The number of elements that n values take. */
PK_INLINE size_t elements(size_t n) { return (n + PER - 1) / PER; }

static void round_left(real *to, size_t ldt, const real *from, ptrdiff_t ldf, size_t rows, size_t n)
{
    for (; rows > 0; rows--, to += ldt, from += ldf)
        round_row(to, from, n);
}

#ifdef PK_TILE_REGISTERS
#include "tiles.h"
#define LAY_COLUMNS lay_columns
#else
static operand laid(const real *a, size_t K, size_t r)
{
    return strided(a + r * K, (ptrdiff_t)K, 1);
}
static void lay_rows(real *to, size_t K, const real *from, ptrdiff_t ldf, size_t rows, size_t n)
{
    round_left(to, K, from, ldf, rows, n);
}
#define LAY_COLUMNS NULL
#endif

static void round_right(real *to, const real *first, const real *second, size_t n, size_t width)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(to + i, rounded_pair(load(first + i), second ? load(second + i) : (vec){0}));
    for (; i < width; i += LANES) {
        const size_t rest = i < n ? n - i : 0;
        store(to + i, rounded_pair(load_part(first + i, rest),
                                   second ? load_part(second + i, rest) : (vec){0}));
    }
}

static void round_rows(real *to, size_t ldt, const real *from, size_t ldf, size_t K, size_t n)
{
    if (PER == 1 && n == ldt && n == ldf) { /* all rows are one */
        round_row(to, from, K * n);
        return;
    }
    for (size_t k = 0; k < K; k += PER, to += ldt)
        round_right(to, from + k * ldf, k + 1 < K ? from + (k + 1) * ldf : NULL, n, ldt);
}

/* As pack_columns, of `depth` values of each row, rounded first: pairs are half as much to
 * transpose. */
static void pack_rounded_columns(real *to, size_t ldt, const real *from, size_t ldf, size_t rows,
                                 size_t depth)
{
    for (size_t k = 0; k < depth; k += PER * LANES, from += PER * LANES) {
        const size_t n = smaller(depth - k, PER * LANES);
        vec tile[LANES];
        for (size_t r = 0; r < LANES; r++)
            tile[r] = r < rows ? rounded_part(from + r * ldf, n) : (vec){0};
        transpose(tile);
        for (size_t i = 0; i < elements(n); i++, to += ldt)
            store(to, tile[i]);
    }
}

static void gate_columns(real *to, size_t ldt, const real *w, size_t H, size_t N, size_t unit,
                         size_t units, const size_t *gates, size_t count)
{
    enum { DEPTH = 64 }; /* elements at a time, so that the written cache lines stay in L1 */
    if (count * units < ldt)
        memset(to, 0, elements(N) * ldt * sizeof *to);
    for (size_t k = 0; k < N; k += PER * DEPTH, to += DEPTH * ldt)
        for (size_t j = 0; j < count; j++)
            for (size_t u = 0; u < units; u += LANES)
                pack_rounded_columns(to + j * units + u, ldt, w + (gates[j] * H + unit + u) * N + k,
                                     N, smaller(units - u, LANES), smaller(N - k, PER * DEPTH));
}

static void gate_rows(real *to, const real *w, size_t H, size_t N, size_t column, size_t unit,
                      size_t units, const size_t *gates, size_t count)
{
    const real *rows[2] = {NULL, NULL};
    w += unit * N + column * WIDTH;
    for (size_t k = 0; k < count * units; k += PER, to += WIDTH) {
        for (size_t i = k; i < k + PER; i++)
            rows[i - k] = i < count * units ? w + (gates[i / units] * H + i % units) * N : NULL;
        round_right(to, rows[0], rows[1], smaller(N - column * WIDTH, WIDTH), WIDTH);
    }
}

#ifdef PK_TILE_REGISTERS
static double roof(size_t rounds, double *out)
{
    *out = 0;
    shape_tiles(GROUP);
    for (size_t r = 0; r < rounds; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 2.0 * PER * GROUP * GROUP * SIDE * (double)rounds;
}
#else
/* As fma_roof of math.c. */
static double roof(size_t rounds, double *out)
{
    enum { SUMS = 12 };
    vec sum[SUMS], x = broadcast((real)0.999), y = broadcast((real)1e-3);
    __asm__("" : "+m"(x), "+m"(y));
    for (int i = 0; i < SUMS; i++)
        sum[i] = broadcast((real)i);
    for (size_t r = 0; r < rounds; r++)
        for (int i = 0; i < SUMS; i++)
            sum[i] = product_in_registers(sum[i], x, y);
    *out = 0;
    for (int i = 0; i < SUMS; i++)
        *out += (double)sum[i][0];
    return 2.0 * PER * SUMS * LANES * (double)rounds;
}
#endif

/* CMake says PK_NARROW, the table with vectors of 32 bytes, where these are wider. */
#ifdef PK_NARROW
extern const rounding PK_NARROW;
#define NARROW &PK_NARROW
#else
#define NARROW NULL
#endif

extern const rounding PK_TABLE;
const rounding PK_TABLE = {
    .of_api = {roof},
    .vector_bytes = PK_VECTOR_BYTES,
    .narrow = NARROW,
    .per = PER,
    .panel = panel_of_pairs,
    .takes_all = TAKES_ALL,
    .k_block = PRODUCT_K,
    .row_block = PRODUCT_ROWS,
    .round_left = round_left,
    .round_right = round_right,
    .round_rows = round_rows,
    .laid = laid,
    .lay_rows = lay_rows,
    .lay_columns = LAY_COLUMNS,
    .packing = {gate_columns, gate_rows},
};
