/* pyoptk: fused optimizer steps and recurrent layers on arrays that the caller owns.
 *
 *     pk_tensor t = {.param = p, .grad = g, .state = {m, v}, .n = n, .step = 1};
 *     pk_adam_config c = {.common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
 *     c.common.lr = 1e-3;
 *     pk_optim(PK_F32)->adam(&t, 1, &c, pk_num_threads());
 *
 * This is the whole C API; Python is one of its users.  Kernels never allocate, print, lock or
 * fail: the caller has checked shapes, and nothing overlaps unless a comment allows it.  Arrays
 * have the dtype of the table that the kernel was taken from.  Shapes stand in [brackets], the
 * last index running fastest.  A NULL pointer is allowed where a comment says so.  A thread that calls
 * needs 40 KiB of stack.
 */
#ifndef PYOPTK_H
#define PYOPTK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef enum { PK_F32, PK_F64, PK_N_DTYPES } pk_dtype;

/* ---- optimizers ------------------------------------------------------------------------------ */

enum { PK_MAX_STATES = 3 };

/* One parameter with its gradient and state.  A kernel takes a list of them, so that one call and
 * one parallel region serve a whole model. */
typedef struct {
    void *param;                /* [n] in/out */
    const void *grad;           /* [n] in; NULL leaves this tensor alone */
    void *state[PK_MAX_STATES]; /* [n] in/out each, zero before step 1; which: see the kernel */
    void *ema;                  /* [n] in/out, NULL for none: the parameter's moving average */
    size_t n;                   /* elements; may be 0 */
    int64_t step;               /* counts from 1 */
    size_t group;               /* which element of `configs` holds its hyper-parameters */
} pk_tensor;

/* A gradient of a parameter [rows, width] that is zero but for some rows.  A row may come several
 * times: its gradient is the sum. */
typedef struct {
    const int64_t *indices; /* [count] in; each >= 0 and < rows */
    const void *values;     /* [count, width] in */
    size_t count, width;
} pk_rows;

/* What every optimizer does to the gradient first, in this order:
 *     g *= grad_scale;  g = min(max(g, -clip_value), clip_value);  g = -g if maximize;
 *     g += weight_decay * p, or, decoupled (Loshchilov & Hutter 2019), p *= 1 - lr * weight_decay.
 * cautious (Liang et al. 2024): of the update u, what is subtracted from p, only the elements with the
 * sign of g count, and more the fewer they are; the mean is that of the tensor.  Not with lamb.
 *     agree = u * g > 0      u *= agree / max(mean(agree), 1e-3)
 * And after the update, in the same sweep over memory:
 *     ema = ema_decay * ema + (1-ema_decay) * p, where there is one;
 *     grad = 0 if zero_grad, which then must be writable. */
typedef struct {
    double lr, weight_decay, grad_scale, clip_value; /* clip_value: INFINITY for none */
    double ema_decay;
    int decoupled, maximize, zero_grad, cautious;
} pk_common;
#define PK_COMMON_DEFAULTS {.lr = 1e-3, .grad_scale = 1, .clip_value = INFINITY}

/* state: velocity, unless momentum is 0.
 *     step 1: velocity = g    later: velocity = momentum * velocity + (1 - dampening) * g
 *     p -= lr * (nesterov ? g + momentum * velocity : velocity)            Sutskever et al. 2013
 * lr_in_momentum: velocity = momentum * velocity - lr * g (Keras, scikit-learn), p += it. */
typedef struct {
    pk_common common;
    double momentum, dampening;
    int nesterov, lr_in_momentum;
} pk_sgd_config;

/* state: s, which the caller starts at the initial accumulator.  Duchi et al. 2011
 *     s += g * g    p -= lr / (1 + (step-1) * lr_decay) * g / (sqrt(s) + eps)
 * eps_inside_sqrt: sqrt(s + eps) (Keras, Optax). */
typedef struct {
    pk_common common;
    double lr_decay, eps;
    int eps_inside_sqrt;
} pk_adagrad_config;

/* state: v; avg if centered; velocity if momentum is not 0; NULL where unused.  Tieleman & Hinton 2012
 *     v = rho * v + (1-rho) * g * g      avg = rho * avg + (1-rho) * g
 *     den = sqrt(centered ? max(v - avg * avg, 0) : v) + eps
 *     p -= lr * g / den, or with momentum: velocity = momentum * velocity + g / den, p -= lr * velocity */
typedef struct {
    pk_common common;
    double rho, eps, momentum;
    int centered, eps_inside_sqrt, lr_in_momentum;
} pk_rmsprop_config;

/* state: v, acc_delta.  Zeiler 2012
 *     v = rho * v + (1-rho) * g * g      delta = sqrt(acc_delta + eps) / sqrt(v + eps) * g
 *     acc_delta = rho * acc_delta + (1-rho) * delta * delta      p -= lr * delta */
typedef struct {
    pk_common common;
    double rho, eps;
} pk_adadelta_config;

/* state: m, v; vmax if amsgrad.  Kingma & Ba 2015, algorithm 1; Reddi et al. 2018 for amsgrad
 *     m = beta1 * m + (1-beta1) * g      v = beta2 * v + (1-beta2) * g * g
 *     p -= lr / (1-beta1^step) * m / (sqrt(v) / sqrt(1-beta2^step) + eps)
 * amsgrad: vmax = max(vmax, v), used in place of v; amsgrad_on_corrected: of the corrected v (Optax).
 * eps_hat: eps is added before the bias correction of v (Keras, scikit-learn, ONNX). */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
    int amsgrad, amsgrad_on_corrected, eps_hat;
} pk_adam_config;

/* state: m, v.  Dozat 2016; m and v as adam's
 *     mu(t) = beta1 * (1 - 0.96^(t * momentum_decay) / 2)      product = mu(1) * ... * mu(step)
 *     ahead = mu(step+1) / (1 - product * mu(step+1)) * m + (1 - mu(step)) / (1 - product) * g
 *     p -= lr * ahead / (sqrt(v) / sqrt(1-beta2^step) + eps)
 * The product is that of the config at hand, for all steps.  momentum_decay 1: Keras; from 1e5 on mu
 * is beta1 itself: Optax. */
typedef struct {
    pk_common common;
    double beta1, beta2, eps, momentum_decay;
} pk_nadam_config;

/* state: m, v.  Liu et al. 2020; m and v as adam's
 *     last = 2 / (1-beta2) - 1      rho = last - 2 * step * beta2^step / (1-beta2^step)
 *     rho > 5:  rect = sqrt((rho-4) * (rho-2) * last / ((last-4) * (last-2) * rho))
 *               p -= lr * rect / (1-beta1^step) * m / (sqrt(v) / sqrt(1-beta2^step) + eps)
 *     else:     p -= lr / (1-beta1^step) * m
 * eps_hat: eps is added before the bias correction of v (PyTorch). */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
    int eps_hat;
} pk_radam_config;

/* state: m, u.  Kingma & Ba 2015, algorithm 2
 *     m = beta1 * m + (1-beta1) * g      u = max(beta2 * u, |g| + eps)
 *     p -= lr / (1-beta1^step) * m / u
 * eps_outside_max: u = max(beta2 * u, |g|) and m / (u + eps) (Keras). */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
    int eps_outside_max;
} pk_adamax_config;

/* state: m.  Chen et al. 2023; sign(0) is 0
 *     p -= lr * sign(beta1 * m + (1-beta1) * g)      m = beta2 * m + (1-beta2) * g */
typedef struct {
    pk_common common;
    double beta1, beta2;
} pk_lion_config;

/* state: m, v.  You et al. 2020, algorithm 2; m and v as adam's
 *     direction = m / (1-beta1^step) / (sqrt(v) / sqrt(1-beta2^step) + eps) + weight_decay * p
 *     p -= lr * ||p|| / ||direction|| * direction, or, where a norm is 0, p -= lr * direction
 * The norms are those of the one tensor, summed in double.  Not decoupled, the decay is in g instead
 * of in direction. */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
} pk_lamb_config;

/* Each kernel changes every param and state of the list; `configs` has one element per group.
 * Same bits for any nthreads and on every instruction set; denormal numbers count as zero. */
typedef struct {
    void (*sgd)(const pk_tensor *tensors, size_t count, const pk_sgd_config *configs, int nthreads);
    void (*adagrad)(const pk_tensor *tensors, size_t count, const pk_adagrad_config *configs,
                    int nthreads);
    void (*rmsprop)(const pk_tensor *tensors, size_t count, const pk_rmsprop_config *configs,
                    int nthreads);
    void (*adadelta)(const pk_tensor *tensors, size_t count, const pk_adadelta_config *configs,
                     int nthreads);
    void (*adam)(const pk_tensor *tensors, size_t count, const pk_adam_config *configs,
                 int nthreads);
    void (*nadam)(const pk_tensor *tensors, size_t count, const pk_nadam_config *configs,
                  int nthreads);
    void (*radam)(const pk_tensor *tensors, size_t count, const pk_radam_config *configs,
                  int nthreads);
    void (*adamax)(const pk_tensor *tensors, size_t count, const pk_adamax_config *configs,
                   int nthreads);
    void (*lion)(const pk_tensor *tensors, size_t count, const pk_lion_config *configs,
                 int nthreads);
    void (*lamb)(const pk_tensor *tensors, size_t count, const pk_lamb_config *configs,
                 void *scratch, int nthreads); /* scratch [lamb_scratch_size bytes] */
    size_t (*lamb_scratch_size)(const pk_tensor *tensors, size_t count); /* bytes */

    /* The rows that a gradient touches, each as a tensor, in the order in which they first come: the
     * list that makes a kernel step these rows alone, with their part of the state.  Sums are taken
     * in the order of `indices`.  Returns how many rows there are.
     *   whole    in: the parameter with its states; its grad is not looked at
     *   touched  [gradient->count] out; their grad points into the values or into scratch
     *   scratch  [touched_scratch_size bytes, aligned as by malloc], as long as they are in use   */
    size_t (*touched_rows)(const pk_tensor *whole, const pk_rows *gradient, pk_tensor *touched,
                           void *scratch);
    size_t (*touched_scratch_size)(const pk_rows *gradient); /* bytes */

    /* sqrt(sum of grad^2) over the list, summed in double; finite for finite float32 gradients.
     *   scratch [norm_scratch_size bytes] */
    double (*global_norm)(const pk_tensor *tensors, size_t count, void *scratch, int nthreads);
    size_t (*norm_scratch_size)(const pk_tensor *tensors, size_t count); /* bytes */

    /* For benchmarks: the memory streams of adam with an addition each, which no step over as many
     * arrays can beat.  param, state[0] and state[1] += grad. */
    void (*memory_roof)(const pk_tensor *tensors, size_t count, int nthreads);
} pk_optim_kernels;

/* The factor that clips a gradient of this global norm to max_norm (PyTorch's clip_grad_norm_). */
static inline double pk_clip_coefficient(double norm, double max_norm)
{
    const double coefficient = max_norm / (norm + 1e-6);
    return coefficient > 1 ? 1 : coefficient; /* a NaN stays one */
}

/* ---- recurrent layers ------------------------------------------------------------------------ */

/* The cells, and which rows [H] the gates of their weights are, in PyTorch's order:
 *     PK_LSTM   i, f, g, o    states h and c        Hochreiter & Schmidhuber 1997, Gers et al. 2000
 *         a = w_ih x_t + b_ih + w_hh h_{t-1} + b_hh
 *         i, f, o = sigmoid(a_i, a_f, a_o)          g = tanh(a_g)
 *         c_t = f * c_{t-1} + i * g                 h_t = o * tanh(c_t)
 *     PK_RNN    one gate      state h               Elman 1990
 *         h_t = tanh(w_ih x_t + b_ih + w_hh h_{t-1} + b_hh), or max(0, ...) if shape.relu         */
typedef enum { PK_LSTM, PK_RNN, PK_N_CELLS } pk_cell_id;

/* What forward keeps for backward.  PK_SAVE_MINIMAL keeps the outputs, and c every few steps, and
 * backward computes the rest again, with the same bits: for an LSTM a third more arithmetic and a
 * sixth of the memory; a plain RNN never keeps more.  After PK_SAVE_NOTHING there is no backward. */
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

/* How many elements the arrays of the same names in pk_rnn_layer must have; scratch: bytes.  SIZE_MAX
 * where that is more than a size_t can say. */
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
    pk_rnn_weights grads; /* out, each may be NULL; b_ih and b_hh of an LSTM get the same gradient */
    int accumulate;       /* add to what `grads` hold */
} pk_rnn_gradients;

/* How the recurrence is divided between threads: into `rows` shares of the batch, which never wait
 * for each other, or into `units` shares of the hidden units, which do after every step. */
typedef struct {
    size_t rows, units; /* for each layer of the call; one of them is 1 */
    int nthreads;       /* that the call uses at most */
} pk_rnn_partition;

/* A cell.  `layers` are one or two that do not depend on each other, as the directions of one: their
 * shapes differ in `reverse` at most.  The same bits for any nthreads, and for a row whatever the
 * other rows are. */
typedef struct {
    size_t gates, states; /* 1: h; 2: h and c */
    size_t (*padded)(size_t H); /* H rounded up to whole vectors */
    pk_rnn_sizes (*sizes)(const pk_rnn_shape *shape);
    pk_rnn_partition (*partition)(const pk_rnn_shape *shape, size_t count, int nthreads);
    void (*forward)(const pk_rnn_layer *layers, size_t count, int nthreads);
    /* Once after a forward of the same layers that saved anything. */
    void (*backward)(const pk_rnn_layer *layers, const pk_rnn_gradients *gradients, size_t count,
                     int nthreads);

    /* One step of one layer, for inference on a stream: nothing is packed, each weight is read once.
     * Of `layer` it uses shape.B, I, H and relu, weights, the first step of x, h0, c0, h_last and
     * c_last; c_last may be c0.  The sums are those of forward in another order. */
    void (*step)(const pk_rnn_layer *layer, int nthreads);
} pk_cell_kernels;

/* ---- functions of arrays --------------------------------------------------------------------- */

/* Element n = (t * B + b) * H + i is dropped if its number is less than 2^16 p, rounded; p in [0, 1)
 * must not round to 1.  Of each 512 elements, which take 64 counters in a row, element e takes
 *     counter e % 64      of it word e / 64 % 4      of it the low half if e < 256, else the high one
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

    /* y = x / (1 - p) where kept, 0 where dropped (Srivastava et al. 2014), with p as rounded above.
     * The mask is a function of the config alone: Philox4x32-10 (Salmon et al. 2011).  The same bits
     * on every instruction set.
     *   x  [T, B, H] in
     *   y  [T, B, H] out, may be x */
    void (*dropout)(size_t T, size_t B, size_t H, pk_sequence x, pk_sequence y,
                    const pk_dropout_config *config, int nthreads);

    /* c = a b, or c += a b if accumulate; rows are lda, ldb and ldc elements apart.
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

/* ---- instruction sets ------------------------------------------------------------------------ */

/* The kernels of one dtype, for the instruction set in use. */
const pk_optim_kernels *pk_optim(pk_dtype dtype);
const pk_cell_kernels *pk_cell(pk_cell_id cell, pk_dtype dtype);
const pk_math_kernels *pk_math(pk_dtype dtype);

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
static inline size_t pk_chunk_begin(size_t n, size_t c, size_t chunks)
{
    const size_t share = n / chunks, rest = n % chunks;
    return share * c + (c < rest ? c : rest); /* n * c / chunks would overflow */
}

/* PYOPTK_NUM_THREADS, else OMP_NUM_THREADS, else the cores that affinity and cgroup allow. */
int pk_num_threads(void);
enum { PK_MAX_THREADS = 256 };
void pk_set_num_threads(int n);       /* 1 .. PK_MAX_THREADS; 0 for the default again */
const char *pk_threads_backend(void); /* "pool", "openmp" or "none" */

#endif
