/* pyoptk: fused optimizer steps and recurrent layers on arrays that the caller owns.
 *
 *     pk_tensor t = {.param = p, .grad = g, .state = {m, v}, .n = n, .step = 1};
 *     pk_adam_config c = {.common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
 *     c.common.lr = 1e-3;
 *     pk_optim(PK_F32)->step(PK_ADAM, &t, 1, &c, NULL, pk_num_threads());
 *
 * This is the whole C API; Python is one of its users.  Kernels never allocate, print, lock or
 * fail: the caller has checked shapes, and nothing overlaps unless a comment allows it.  Arrays
 * have the dtype of the table that the kernel was taken from.  Shapes stand in [brackets], the
 * last index running fastest.  A NULL pointer is allowed where a comment says so.  A thread that
 * calls needs 192 KiB of stack.
 */
#ifndef PYOPTK_H
#define PYOPTK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PK_VERSION_MAJOR 0
#define PK_VERSION_MINOR 1
#define PK_VERSION_PATCH 0
#define PK_VERSION "0.1.0"

typedef enum { PK_F32, PK_F64, PK_N_DTYPES } pk_dtype;

#include "pyoptk_optim.h" /* optimizers */

/* ---- recurrent layers ------------------------------------------------------------------------ */

/* What forward keeps for backward.  PK_SAVE_MINIMAL keeps the outputs, and c every few steps, and
 * backward computes the rest again, with the same bits: a third more arithmetic for a sixth of the
 * memory.  After PK_SAVE_NOTHING there is no backward. */
typedef enum { PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING } pk_save;

/* T steps, B sequences, I inputs, H hidden units. */
typedef struct {
    size_t T, B, I, H;
    /* [B] in 0..T, or NULL: all T.  From step lengths[b] on, sequence b keeps its state, its y is 0
     * and its dy is ignored. */
    const int64_t *lengths;
    int repeat_last; /* there its y is the state it keeps, and its dy counts, instead */
    int reverse;     /* steps are taken from T-1 to 0, those of sequence b from lengths[b]-1 on */
    pk_save save;
} pk_rnn_shape;

/* A sequence of batches: element [t][b][i] is data[t * step + b * row + i], counted in elements, so that
 * time-major, batch-first and sliced arrays need no copy. */
typedef struct {
    void *data; /* NULL: absent (an output not wanted, an input of zeros) */
    ptrdiff_t step, row;
} pk_sequence;

/* Gates stand in the order i, f, g, o. */
typedef struct {
    void *w_ih; /* [4H, I] */
    void *w_hh; /* [4H, H] */
    void *b_ih; /* [4H] or NULL */
    void *b_hh; /* [4H] or NULL */
} pk_lstm_weights;

/* How many elements (scratch: bytes) the arrays of the same names in pk_lstm must have. */
typedef struct {
    size_t h, c, gates, scratch;
} pk_lstm_sizes;

/* One direction of one layer.  The caller owns every array; none may overlap another, except that dh0
 * and dc0 may be dh_last and dc_last.  Whatever is NULL is zeros, or not wanted. */
typedef struct {
    pk_rnn_shape shape;
    pk_lstm_weights weights;
    pk_sequence x;       /* [T, B, I] in */
    pk_sequence y;       /* [T, B, H] out */
    const void *h0, *c0; /* [B, H] in: the state before the first step.  For backward, too, h0 must
                             * be NULL if and only if it was; it is not read again */
    void *h_last, *c_last; /* [B, H] out: the state after the last */
    void *h, *c, *gates;   /* kept from forward to backward, which overwrites gates.  With P =
                             * padded(H), h is [T+1, B, P], the state before and after each step, if
                             * anything is saved; the others are in an order of the kernel's own */
    void *scratch;         /* of either call, nothing is kept in it */
    /* of backward: */
    pk_sequence dy;                /* [T, B, H] in */
    pk_sequence dx;                /* [T, B, I] out */
    const void *dh_last, *dc_last; /* [B, H] in */
    void *dh0, *dc0;               /* [B, H] out */
    pk_lstm_weights grads;         /* out; b_ih and b_hh get the same gradient */
    int accumulate;                /* add to what `grads` hold */
} pk_lstm;

/* Element n = (t * B + b) * H + i is dropped if its number is less than 2^16 p, rounded; p in [0, 1).
 * Of each 512 elements, which take 64 counters in a row, the e-th one takes counter e % 64, of it word
 * e / 64 % 4, of it the low half if e < 256, else the high one.  A counter ends in `stream`; the key is
 * `seed`.                                                                                           */
typedef struct {
    double p;
    uint64_t seed, stream;
} pk_dropout_config;

typedef struct {
    size_t (*padded)(size_t H); /* H rounded up to whole vectors */

    /*     a = w_ih x_t + w_hh h_{t-1} + b_ih + b_hh            Hochreiter & Schmidhuber 1997,
     *     i, f, o = sigmoid(a_i, a_f, a_o)    g = tanh(a_g)     Gers et al. 2000
     *     c_t = f * c_{t-1} + i * g           h_t = o * tanh(c_t)
     * of one or two layers that do not depend on each other, as the directions of one: their shapes
     * differ in `reverse` at most.  Layers with the same dx get the sum of theirs in it. */
    void (*lstm_forward)(const pk_lstm *layers, size_t count, int nthreads);
    void (*lstm_backward)(const pk_lstm *layers, size_t count, int nthreads);
    pk_lstm_sizes (*lstm_sizes)(const pk_rnn_shape *shape);

    /* One step of one layer, for inference on a stream: nothing is packed, each weight is read once.
     * Of `layer` it uses B, I and H of shape, weights, the first step of x, h0, c0, h_last and c_last;
     * c_last may be c0.  The sums are lstm_forward's in another order. */
    void (*lstm_step)(const pk_lstm *layer, int nthreads);

    /* y = x / (1 - p) where kept, 0 where dropped (Srivastava et al. 2014), the mask being a function of
     * the config alone: Philox4x32-10 (Salmon et al. 2011).  Same bits everywhere.
     *   x [T, B, H] in      y [T, B, H] out, may be x                                              */
    void (*dropout)(size_t T, size_t B, size_t H, pk_sequence x, pk_sequence y,
                    const pk_dropout_config *config, int nthreads);

    /* y[i] = f(x[i]), i < n; y may be x.  At most 1, 2.5 and 1.5 ulp. */
    void (*exp)(const void *x, void *y, size_t n);
    void (*sigmoid)(const void *x, void *y, size_t n);
    void (*tanh)(const void *x, void *y, size_t n);

    /* c[M, N] += a[M, K] b[K, N], or = if not accumulate.  Rows of a, b and c are lda, ldb and ldc
     * elements apart; scratch [matmul_scratch_size bytes]. */
    void (*matmul)(size_t M, size_t N, size_t K, const void *a, size_t lda, const void *b,
                   size_t ldb, void *c, size_t ldc, int accumulate, void *scratch, int nthreads);
    size_t (*matmul_scratch_size)(size_t N, size_t K);

    /* For benchmarks: multiply-adds in registers alone, on one core, which no product can beat.
     * Returns how many floating-point operations it did; *out is there to need them. */
    double (*fma_roof)(size_t rounds, double *out);
} pk_rnn_kernels;

/* ---- instruction sets ------------------------------------------------------------------------ */

/* The kernels of one dtype, for the instruction set in use. */
const pk_optim_kernels *pk_optim(pk_dtype dtype);
const pk_rnn_kernels *pk_rnn(pk_dtype dtype);

enum { PK_ISA_UNKNOWN = 1, PK_ISA_UNUSABLE = 2 };

/* Switch by name, NULL for the best one.  0, or one of the above and nothing has changed.  Before the
 * first call the best one is in use.  Not to be called while a kernel runs. */
int pk_use_isa(const char *name);
const char *pk_isa(void);
/* The i-th set of this build, best first, and whether this CPU has it; NULL past the last one. */
const char *pk_isa_at(int i, int *usable);

/* ---- threads --------------------------------------------------------------------------------- */

/* fn(arg, chunk) for every chunk < chunks, on at most nthreads threads, the caller being one of them;
 * returns when all are done.  Nested in another call, or while another thread is in one, it runs on
 * the calling thread alone. */
void pk_parallel(void (*fn)(void *arg, size_t chunk), void *arg, size_t chunks, int nthreads);

/* Where chunk c of n elements begins; chunk `chunks` begins at n. */
static inline size_t pk_cut(size_t n, size_t c, size_t chunks)
{
    const size_t share = n / chunks, rest = n % chunks;
    return share * c + (c < rest ? c : rest); /* n * c / chunks would overflow */
}

/* PYOPTK_NUM_THREADS, else OMP_NUM_THREADS, else the cores that affinity and cgroup allow. */
int pk_num_threads(void);
enum { PK_MAX_THREADS = 256 };
void pk_set_num_threads(int n);       /* 1 .. PK_MAX_THREADS; 0 for the default again */
const char *pk_threads_backend(void); /* "pool", "openmp" or "none" */

#ifdef __cplusplus
}
#endif

#endif
