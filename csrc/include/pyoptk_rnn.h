/* The recurrent layers of pyoptk.h, which includes this file and says what holds for all kernels,
 * and the functions of arrays that go with them.  Users include pyoptk.h. */
#ifndef PYOPTK_RNN_H
#define PYOPTK_RNN_H

#include <stddef.h>
#include <stdint.h>

/* ---- recurrent layers ------------------------------------------------------------------------ */

/* The cells, and which rows [H] the gates of their weights are, in PyTorch's order:
 *     PK_LSTM   i, f, g, o    states h and c        Hochreiter & Schmidhuber 1997, Gers et al. 2000
 *         a = w_ih x_t + b_ih + w_hh h_{t-1} + b_hh
 *         i, f, o = sigmoid(a_i, a_f, a_o)          g = tanh(a_g)
 *         c_t = f * c_{t-1} + i * g                 h_t = o * tanh(c_t)
 *     PK_RNN    one gate      state h               Elman 1990
 *         h_t = tanh(w_ih x_t + b_ih + w_hh h_{t-1} + b_hh), or max(0, ...) if shape.relu */
typedef enum { PK_LSTM, PK_RNN, PK_N_CELLS } pk_cell_id;

/* What forward keeps for backward.  PK_SAVE_MINIMAL keeps the outputs, and c every few steps, and
 * backward computes the rest again, with the same bits: for an LSTM a third more arithmetic and a
 * sixth of the memory; a plain RNN never keeps more.  No backward can follow after
 * PK_SAVE_NOTHING. */
typedef enum { PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING } pk_save;

/* Sizes may be at most PTRDIFF_MAX. */
typedef struct {
    size_t T, B; /* steps and sequences, at least 0 */
    size_t I, H; /* inputs and hidden units; H at least 1, I at least 0 */
    /* [B] in 0..T, or NULL: all T.  From step lengths[b] on, sequence b keeps its state, its y is 0
     * and its dy is ignored. */
    const int64_t *lengths;
    int repeat_last; /* instead, y is the state that the sequence keeps, and dy counts */
    int reverse;     /* steps are taken from T-1 to 0, those of sequence b from lengths[b]-1 on */
    int relu;        /* of PK_RNN: see above */
    pk_save save;
} pk_rnn_shape;

/* A sequence of batches: element [t][b][i] is data[t * t_stride + b * b_stride + i].  Strides count
 * elements, so that time-major, batch-first and sliced arrays need no copy. */
typedef struct {
    void *data; /* NULL: absent */
    ptrdiff_t t_stride, b_stride;
} pk_sequence;

/* G: the gates of the cell, `gates` of its table. */
typedef struct {
    void *w_ih; /* [G * H, I] */
    void *w_hh; /* [G * H, H] */
    void *b_ih; /* [G * H], may be NULL */
    void *b_hh; /* [G * H], may be NULL */
} pk_rnn_weights;

/* How many elements the arrays of the same names in pk_rnn_layer must have; scratch: bytes.
 * SIZE_MAX where that is more than a size_t can say. */
typedef struct {
    size_t h, c, gates, scratch;
} pk_rnn_sizes;

/* One direction of one layer: what forward needs.  The caller owns every array; none overlaps
 * another, unless it says so. */
typedef struct {
    pk_rnn_shape shape;
    pk_rnn_weights weights; /* in */
    pk_sequence x;          /* [T, B, I] in */
    pk_sequence y;          /* [T, B, H] out, may be absent */
    const void *h0;         /* [B, H] in: the state before the first step; NULL: zeros.  Backward
                             * does not read it, but asks whether it is NULL */
    const void *c0;         /* [B, H] in; NULL: zeros, or the cell has no c */
    void *h_last;           /* [B, H] out: the state after the last step, may be NULL */
    void *c_last;           /* [B, H] out, may be NULL */
    void *h;       /* [sizes.h] out, in of backward.  If anything is saved, with P = padded(H), this
                    * is [T+1, B, P]: the state before the first step, then that after each */
    void *c;       /* [sizes.c] the same; the order is the kernel's own.  NULL if that is 0 */
    void *gates;   /* [sizes.gates] the same; backward overwrites it */
    void *scratch; /* [sizes.scratch bytes] of any alignment; holds nothing between calls */
} pk_rnn_layer;

/* What backward needs besides. */
typedef struct {
    pk_sequence dy;      /* [T, B, H] in, absent: zeros */
    pk_sequence dx;      /* [T, B, I] out, may be absent.  Layers of one call that have the same one
                          * get the sum of theirs in it */
    const void *dh_last; /* [B, H] in; NULL: zeros */
    const void *dc_last; /* [B, H] in; NULL: zeros */
    void *dh0;           /* [B, H] out, may be NULL, may be dh_last */
    void *dc0;           /* [B, H] out, may be NULL, may be dc_last */
    pk_rnn_weights grads; /* out, each may be NULL */
    int accumulate;       /* add to what `grads` hold */
} pk_rnn_gradients;

/* How the recurrence is divided between threads: into `rows` shares of the batch, which never wait
 * for each other, or into `units` shares of the hidden units, which do after every step. */
typedef struct {
    size_t rows, units; /* for each layer of the call; one of them is 1 */
    int nthreads;       /* that the call uses at most */
} pk_rnn_partition;

/* A cell.  `layers` are one or two that do not depend on each other, as the directions of one:
 * their shapes differ in `reverse` at most.  The same bits for any nthreads, and for a row whatever
 * the other rows are. */
typedef struct {
    size_t gates, states;       /* 1: h; 2: h and c */
    size_t (*padded)(size_t H); /* H rounded up to whole vectors */
    pk_rnn_sizes (*sizes)(const pk_rnn_shape *shape);
    pk_rnn_partition (*partition)(const pk_rnn_shape *shape, size_t count, int nthreads);
    void (*forward)(const pk_rnn_layer *layers, size_t count, int nthreads);
    /* Once after a forward of the same layers that saved anything. */
    void (*backward)(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients, size_t count,
                     int nthreads);

    /* One step of one layer, for inference on a stream: nothing is packed, each weight is read
     * once.  Of `layer` it uses shape.B, I, H and relu, weights, the first step of x, h0, c0,
     * h_last and c_last; c_last may be c0.  The sums are those of forward in another order. */
    void (*step)(const pk_rnn_layer *layer, int nthreads);
} pk_cell_kernels;

/* ---- functions of arrays --------------------------------------------------------------------- */

/* Element n = (t * B + b) * H + i is dropped if its number is less than 2^16 p, rounded; p is at
 * least 0, and must not round to 1.  Of each 512 elements, which take 64 counters in a row,
 * element e takes
 *     counter e % 64, of it word e / 64 % 4, of it the low half if e < 256, else the high one.
 * The upper 64 bits of a counter are `stream`; the key is `seed`. */
typedef struct {
    double p;
    uint64_t seed, stream;
} pk_dropout_config;

typedef struct {
    /* y[i] = f(x[i]), i < n; y may be x.  At most 1, 2.5 and 1.5 ulp. */
    void (*exp)(const void *x, void *y, size_t n);
    void (*sigmoid)(const void *x, void *y, size_t n);
    void (*tanh)(const void *x, void *y, size_t n);

    /* y = x / (1 - p) where kept, 0 where dropped (Srivastava et al. 2014), with p as rounded
     * above.  The mask is a function of the config alone: Philox4x32-10 (Salmon et al. 2011).  The
     * same bits on every instruction set.
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

    /* For benchmarks: multiply-adds in registers alone, on one core, which no product can beat.
     * Returns how many floating-point operations that were; *out only keeps the compiler from
     * removing them. */
    double (*fma_roof)(size_t rounds, double *out);
} pk_math_kernels;

#endif
