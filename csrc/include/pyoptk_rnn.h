/* The recurrent part of the C API: cells, layers, and functions of arrays.  Users include pyoptk.h,
 * which includes this file and says what holds for all kernels. */
#ifndef PYOPTK_RNN_H
#define PYOPTK_RNN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- recurrent layers ------------------------------------------------------------------------ */

/* The cells, with the order of the gates in their weights, which is PyTorch's:
 *     PK_LSTM   i, f, g, o    states h and c        Hochreiter & Schmidhuber 1997, Gers et al. 2000
 *         a = w_ih x_t + b_ih + w_hh h_{t-1} + b_hh
 *         i, f, o = sigmoid(a_i, a_f, a_o)          g = tanh(a_g)
 *         c_t = f * c_{t-1} + i * g                 h_t = o * tanh(c_t)
 *         with peepholes p_i, p_f, p_o (Gers & Schmidhuber 2000):
 *             a_i, a_f += p_i * c_{t-1}, p_f * c_{t-1}                a_o += p_o * c_t
 *         if shape.cell_clip > 0, c_t is bounded by it (Sak et al. 2014), with gradient 0 there
 *         with a projection w_hr (Sak et al. 2014), h has R < H features:
 *             h_t = w_hr (o * tanh(c_t))
 *     PK_RNN    one gate      state h               Elman 1990
 *         h_t = tanh(w_ih x_t + b_ih + w_hh h_{t-1} + b_hh), or max(0, ...) if shape.relu
 *     PK_GRU    r, z, n       state h               Cho et al. 2014, in the form of cuDNN
 *         x = w_ih x_t + b_ih                       h = w_hh h_{t-1} + b_hh
 *         r, z = sigmoid(x_r + h_r, x_z + h_z)      n = tanh(x_n + r * h_n)
 *         h_t = (1 - z) * n + z * h_{t-1}
 *     PK_GRU_BEFORE             the same in the form of the paper: r acts before the product
 *         n = tanh(x_n + w_hn (r * h_{t-1}) + b_hn)
 *     PK_LSTM_COUPLED   f, g, o; p_f, p_o           the same with i = 1 - f (Greff et al. 2017)
 *     PK_LSTM_NORMED, PK_GRU_NORMED                 layer-normalized: Ba et al. 2016, appendix
 *         LN(a) = (a - mean(a)) / sqrt(variance(a) + 1e-5), the variance divided by the number of
 *         elements.  An LSTM:
 *             a = gain_ih LN(w_ih x_t) + b_ih + gain_hh LN(w_hh h_{t-1}) + b_hh   over all 4H
 *             h_t = o * tanh(gain_c LN(c_t) + b_c)            c_t itself goes on to the next step
 *         A GRU, over the 2H of r and z, and over the H of n:
 *             x = gain_ih LN(w_ih x_t) + b_ih                 h = gain_hh LN(w_hh h_{t-1}) + b_hh
 *         and else as above.  Without peepholes, cell_clip, projection, dropout and zoneout */
typedef enum {
    PK_LSTM,
    PK_RNN,
    PK_GRU,
    PK_GRU_BEFORE,
    PK_LSTM_COUPLED,
    PK_LSTM_NORMED,
    PK_GRU_NORMED,
    PK_N_CELLS
} pk_cell_id;

/* What forward keeps for backward.  PK_SAVE_MINIMAL: the outputs, and c of every few steps;
 * backward computes the rest again, with the same bits.  For an LSTM this is a third more
 * arithmetic and a sixth of the memory; PK_RNN keeps the same.  PK_SAVE_NOTHING: there is no
 * backward. */
typedef enum { PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING } pk_save;

/* How products are computed, if not in the dtype of the kernels; from pk_bf16_products. */
typedef struct {
    double (*roof)(size_t rounds, double *out); /* as fma_roof of pk_math_kernels */
} pk_products;

/* The distance between a layer's streams of random numbers; `stream` of pk_rnn_shape is less. */
#define PK_NOISE_STREAMS ((uint64_t)1 << 62)

/* The shape of one direction of one layer.  Sizes are at most PTRDIFF_MAX. */
typedef struct {
    size_t T, B; /* time steps and sequences, >= 0 */
    size_t I, H; /* inputs >= 0 and hidden units >= 1 */
    size_t R; /* PK_LSTM, PK_LSTM_COUPLED: features of h, those of a projection; 0: none, and H */
    /* [B] in 0..T; NULL: all T.  From step lengths[b] on, the state of sequence b does not change,
     * its y is 0 and its dy is ignored. */
    const int64_t *lengths;
    int repeat_last; /* instead, y is the last state there, and dy is not ignored */
    /* [T, B] 0 or 1, NULL: all 0.  1: at step t of sequence b begins another sequence, to which no
     * state passes from what is before it, in the direction of the steps: with `reverse`, none
     * passes from step t to step t-1.  Its first state is 0. */
    const uint8_t *resets;
    int reset_to_initial; /* instead, its first state is h0, c0 */
    int reverse;          /* steps go from T-1 to 0, those of sequence b from lengths[b]-1 to 0 */
    int relu;             /* PK_RNN: see above */
    double cell_clip;     /* see above; at most 0: none */
    /* Regularization, each with a probability in [0, 1), in steps of 2^-16, or 0 for none.  With
     * PK_SAVE_NOTHING, which is inference, nothing is dropped, and zoneout takes the mean:
     * p s_{t-1} + (1 - p) s_t.
     *   recurrent_dropout   h_{t-1} / (1 - p), or 0, enters the products with w_hh; the mask [B, R]
     *                       is the same for all steps (Gal & Ghahramani 2016)
     *   drop_candidate      instead, g of an LSTM or n of a GRU is multiplied so, with a mask
     *                       [T, B, H] (Semeniuta et al. 2016)
     *   zoneout_h, _c       s_t is s_{t-1} with probability p (Krueger et al. 2016); h_t uses the
     *                       new c.  zoneout_c excludes peepholes
     * The masks are those of pk_dropout_config for an array of that shape, with `seed` and a stream
     * of `stream` + PK_NOISE_STREAMS times 1 for zoneout of h, 2 of c, 3 for dropout. */
    double recurrent_dropout, zoneout_h, zoneout_c;
    int drop_candidate;
    uint64_t seed, stream;
    pk_save save;
    /* For kernels of PK_F32, except `step`; NULL: theirs. */
    const pk_products *products;
} pk_rnn_shape;

/* A sequence of batches: element [t][b][i] is data[t * t_stride + b * b_stride + i].  With strides,
 * which count elements, time-major, batch-first and sliced arrays need no copy. */
typedef struct {
    void *data; /* NULL: absent */
    ptrdiff_t t_stride, b_stride;
} pk_sequence;

/* G is the number of gates of the cell: `gates` in its table.  Without a projection R is H, here
 * and below. */
typedef struct {
    void *w_ih;      /* [G * H, I] */
    void *w_hh;      /* [G * H, R] */
    void *b_ih;      /* [G * H], may be NULL */
    void *b_hh;      /* [G * H], may be NULL */
    void *peepholes; /* [`peepholes` of the table * H], may be NULL */
    void *w_hr;      /* [R, H]; NULL without a projection */
    void *gain_ih;   /* [G * H], of normalized cells, as all below */
    void *gain_hh;   /* [G * H] */
    void *gain_c;    /* [H], of an LSTM */
    void *b_c;       /* [H], of an LSTM, may be NULL */
} pk_rnn_weights;

/* The number of elements (scratch: bytes) of the arrays of the same names in pk_rnn_layer.
 * SIZE_MAX if it does not fit a size_t.  Sizes with resets are enough without them. */
typedef struct {
    size_t h, c, gates, scratch;
} pk_rnn_sizes;

/* One direction of one layer: everything that forward needs.  The caller owns every array; no array
 * overlaps another unless a comment allows it. */
typedef struct {
    pk_rnn_shape shape;
    pk_rnn_weights weights; /* in */
    pk_sequence x;          /* [T, B, I] in */
    pk_sequence y;          /* [T, B, R] out, may be absent */
    /* [B, R] in: the state before the first step; NULL: zeros.  For backward it must be NULL if and
     * only if it was in forward; it is not read again. */
    const void *h0;
    const void *c0; /* [B, H] in; NULL: zeros, or if the cell has no c */
    void *h_last;   /* [B, R] out: the state after the last step, may be NULL */
    void *c_last;   /* [B, H] out, may be NULL */
    void *h;       /* [sizes.h] out; in for backward.  Unless PK_SAVE_NOTHING it is [T+1, B, P] with
                    * P = padded(R): the state before the first step, then the state after each */
    void *c;       /* [sizes.c] out; in for backward; in a private order; NULL if 0 */
    void *gates;   /* [sizes.gates] out; in for backward, which overwrites it */
    void *scratch; /* [sizes.scratch bytes], any alignment; holds nothing between calls */
} pk_rnn_layer;

/* What backward needs in addition. */
typedef struct {
    pk_sequence dy; /* [T, B, R] in; absent: zeros */
    /* [T, B, I] out, may be absent.  Two layers of one call may share it: it is then the sum. */
    pk_sequence dx;
    const void *dh_last;  /* [B, R] in; NULL: zeros */
    const void *dc_last;  /* [B, H] in; NULL: zeros */
    void *dh0;            /* [B, R] out, may be NULL, may be dh_last */
    void *dc0;            /* [B, H] out, may be NULL, may be dc_last */
    pk_rnn_weights grads; /* out, each may be NULL */
    int accumulate;       /* add to `grads` instead of overwriting them */
} pk_rnn_gradients;

/* How the recurrence is divided between threads: into `rows` shares of the batch, which never wait
 * for each other, or into `units` shares of the hidden units, which wait after every step. */
typedef struct {
    size_t rows, units; /* for each layer of the call; one of them is 1 */
    int nthreads;       /* upper limit of the call */
} pk_rnn_partition;

/* The kernels of a cell.  `layers` [count] are one layer, or two that do not depend on each other,
 * such as two directions, whose shapes differ only in `reverse`.  The bits of a row depend neither
 * on nthreads nor on the other rows. */
typedef struct {
    size_t gates, states;       /* 1: h; 2: h and c */
    size_t peepholes;           /* of a unit */
    int normed;                 /* whether there are gains */
    size_t (*padded)(size_t R); /* R rounded up to whole vectors */
    pk_rnn_sizes (*sizes)(const pk_rnn_shape *shape);
    pk_rnn_partition (*partition)(const pk_rnn_shape *shape, size_t count, int nthreads);
    void (*forward)(const pk_rnn_layer *layers, size_t count, int nthreads);
    /* To be called once after forward of the same layers. */
    void (*backward)(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients, size_t count,
                     int nthreads);

    /* One time step, for inference on a stream.  Reads each weight once and packs nothing.  Uses B,
     * I, H, R, relu, cell_clip and zoneout of the shape, the weights, the first step of x, h0, c0,
     * h_last, c_last and `step_scratch_size` bytes of scratch; c_last may be c0.  Adds the same
     * products as forward in another order. */
    void (*step)(const pk_rnn_layer *layer, int nthreads);
    size_t (*step_scratch_size)(const pk_rnn_shape *shape); /* 0 for most cells */
} pk_cell_kernels;

/* ---- linear recurrences ---------------------------------------------------------------------- */

/* h_t = a_t h_{t-1} + b_t, element by element, over [T, B, D].  The state before the first step is
 * h0, or zero.  Where it is zero (there, and where `resets` is not 0) a_t is not read. */
typedef struct {
    size_t T, B, D;              /* >= 0; T * B * D elements fit a size_t */
    pk_sequence a;               /* [T, B, D] in */
    const unsigned char *resets; /* [T, B]; not 0: the state before step t is zero; NULL: all 0 */
    int reverse;                 /* steps go from T-1 to 0 */
} pk_scan;

/* ---- functions of arrays --------------------------------------------------------------------- */

/* Element n = (t * B + b) * H + i has a random number of 16 bits, and is dropped if that is less
 * than 2^16 p, rounded; p >= 0 must not round to 1.  512 consecutive elements use 64 consecutive
 * counters: element e of them uses counter e % 64, word e / 64 % 4, and the low half if e < 256,
 * else the high half.  The upper 64 bits of a counter are `stream`; the key is `seed`. */
typedef struct {
    double p;
    uint64_t seed, stream;
} pk_dropout_config;

typedef struct {
    /* y[i] = f(x[i]), i < n; y may be x.  At most 1, 2.5 and 1.5 ulp. */
    void (*exp)(const void *x, void *y, size_t n);
    void (*sigmoid)(const void *x, void *y, size_t n);
    void (*tanh)(const void *x, void *y, size_t n);
    void (*add)(const void *x, const void *y, void *z, size_t n); /* z = x + y; z may be either */

    /* y = x / (1 - p), or 0 for a dropped element (Srivastava et al. 2014), with the rounded p.
     * The mask depends only on the config: Philox4x32-10 (Salmon et al. 2011).  Same bits on every
     * instruction set.
     *   x  [T, B, H] in
     *   y  [T, B, H] out, may be x */
    void (*dropout)(size_t T, size_t B, size_t H, pk_sequence x, pk_sequence y,
                    const pk_dropout_config *config, int nthreads);

    /* c = a b, or c += a b if accumulate; lda, ldb and ldc are the leading dimensions: the elements
     * between two rows.
     *   a        [M, K] in
     *   b        [K, N] in
     *   c        [M, N] out
     *   scratch  [matmul_scratch_size bytes] */
    void (*matmul)(size_t M, size_t N, size_t K, const void *a, size_t lda, const void *b,
                   size_t ldb, void *c, size_t ldc, int accumulate, void *scratch, int nthreads);
    size_t (*matmul_scratch_size)(size_t N, size_t K); /* SIZE_MAX: too much */

    /* A linear recurrence.  The bits of an element depend on no other element.
     *   b   [T, B, D] in
     *   h0  [B, D] in; NULL: zeros
     *   h   [T, B, D] out, may be b or scan->a */
    void (*linear_scan_forward)(const pk_scan *scan, pk_sequence b, const void *h0, pk_sequence h,
                                int nthreads);
    /* Its gradients: u_t = dh_t + a_{t+1} u_{t+1}, da_t = u_t h_{t-1}, db = u, dh0 = a_1 u_1.
     *   h0   as in forward
     *   h    [T, B, D] in: its result
     *   dh   [T, B, D] in
     *   da   [T, B, D] out, may be scan->a
     *   db   [T, B, D] out, may be dh
     *   dh0  [B, D] out, may be NULL */
    void (*linear_scan_backward)(const pk_scan *scan, const void *h0, pk_sequence h, pk_sequence dh,
                                 pk_sequence da, pk_sequence db, void *dh0, int nthreads);

    /* For benchmarks: multiply-adds in registers on one core, a lower bound for the time of a
     * product. Returns the number of floating-point operations; *out only keeps the compiler from
     * removing them. */
    double (*fma_roof)(size_t rounds, double *out);
} pk_math_kernels;

#ifdef __cplusplus
}
#endif

#endif
