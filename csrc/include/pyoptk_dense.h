/* The dense part of the C API: linear layers, normalization and losses.  Users include pyoptk.h,
 * which includes this file and says what holds for all kernels. */
#ifndef PYOPTK_DENSE_H
#define PYOPTK_DENSE_H

#include "pyoptk_rnn.h" /* pk_products */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- linear layers --------------------------------------------------------------------------- */

/* y = f(z), element by element:
 *     PK_IDENTITY    z
 *     PK_RELU        max(0, z)
 *     PK_LEAKY_RELU  z > 0 ? z : slope * z
 *     PK_TANH        tanh(z)
 *     PK_SIGMOID     1 / (1 + exp(-z))
 *     PK_GELU        z * Phi(z), the normal distribution function    Hendrycks & Gimpel 2016
 *     PK_GELU_TANH   z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 z^3))), their approximation
 *     PK_SILU        z * sigmoid(z)
 *     PK_SOFTPLUS    log(1 + exp(z))
 * The gradient of those from PK_GELU on needs z, that of the others y. */
typedef enum {
    PK_IDENTITY,
    PK_RELU,
    PK_LEAKY_RELU,
    PK_TANH,
    PK_SIGMOID,
    PK_GELU,
    PK_GELU_TANH,
    PK_SILU,
    PK_SOFTPLUS,
    PK_N_ACTIVATIONS
} pk_activation;

/* y = f(x w^T + b): what forward needs.  A leading dimension (ldx, ldy, ...) counts the elements
 * between two rows. */
typedef struct {
    size_t M, I, O; /* rows >= 0, inputs >= 0, outputs >= 1 */
    pk_activation activation;
    double slope;  /* of PK_LEAKY_RELU, >= 0 */
    const void *x; /* [M, I] in */
    const void *w; /* [O, I] in */
    const void *b; /* [O] in; NULL: zeros */
    void *y;       /* [M, O] out; in for backward */
    void *z; /* [M, O] out; in for backward; NULL before PK_GELU, and if there is no backward */
    size_t ldx, ldy;
    const pk_products *products; /* for kernels of PK_F32; NULL: theirs */
    void *scratch; /* [linear_scratch_size bytes], any alignment; holds nothing between calls */
} pk_linear;

/* What backward needs in addition. */
typedef struct {
    const void *dy; /* [M, O] in */
    void *dx;       /* [M, I] out, may be NULL */
    void *dw;       /* [O, I] out, may be NULL */
    void *db;       /* [O] out, may be NULL */
    size_t lddy, lddx;
    int accumulate; /* add to dw and db instead of overwriting them */
} pk_linear_gradients;

/* ---- normalization --------------------------------------------------------------------------- */

/* y = (x - mean) / sqrt(variance + eps) * gain + bias, mean and variance (divided by N) of a row:
 * Ba et al. 2016.  With `rms`, mean is 0 and variance the mean of x^2: Zhang & Sennrich 2019. */
typedef struct {
    size_t M, N; /* rows >= 0 and their elements >= 1 */
    int rms;
    double eps;
    const void *x;    /* [M, N] in */
    const void *gain; /* [N] in; NULL: ones */
    const void *bias; /* [N] in; NULL: zeros */
    void *y;          /* [M, N] out, may be x if there is no backward */
    void *mean;       /* [M] out; in for backward; NULL if rms */
    void *scale;      /* [M] out: 1 / sqrt(variance + eps); in for backward */
} pk_layer_norm;

typedef struct {
    const void *dy; /* [M, N] in */
    void *dx;       /* [M, N] out, may be NULL, may be dy */
    void *dgain;    /* [N] out, may be NULL */
    void *dbias;    /* [N] out, may be NULL */
    int accumulate; /* add to dgain and dbias instead of overwriting them */
    void *scratch;  /* [layer_norm_scratch_size bytes] */
} pk_layer_norm_gradients;

/* ---- losses ---------------------------------------------------------------------------------- */

/* Every loss is the mean over rows, sum(weight * loss) / sum(weight), and its gradient that of this
 * mean times `scale`.  A row of weight 0 is not read: its gradient is 0 even if x there is NaN.  If
 * all weights are 0, loss and gradients are 0.  Denormal weights count as 0. */

/* The cross entropy of softmax(x) and a distribution q, -sum_c q_c log softmax(x)_c:
 *     with labels   q_c = u_c ((1 - smoothing) [c = label] + smoothing / C)   u: class_weights
 *     with targets  q_c = u_c ((1 - smoothing) target_c    + smoothing / C)
 * With labels, the weight of a row is multiplied by u_label in the denominator (PyTorch). */
typedef struct {
    size_t M, C;               /* rows >= 0, classes >= 1 */
    const void *x;             /* [M, C] in */
    const int64_t *labels;     /* [M] in, 0..C-1 or ignore_index; NULL: targets */
    const void *targets;       /* [M, C] in; NULL: labels */
    const void *class_weights; /* [C] in; NULL: ones */
    const void *weights;       /* [M] in, of rows; NULL: ones */
    void *dx;                  /* [M, C] out, may be NULL, may be x */
    double smoothing, scale;
    int64_t ignore_index; /* rows with this label have weight 0 */
    double *scratch;      /* [M] */
} pk_cross_entropy;

/* Losses of single elements, their mean over all elements of a row, with r = x - target:
 *     PK_SQUARED    r^2
 *     PK_ABSOLUTE   |r|
 *     PK_HUBER      r^2 / 2 if |r| <= delta, else delta (|r| - delta / 2)       Huber 1964
 *     PK_LOGISTIC   max(x, 0) - x target + log(1 + exp(-|x|)): the binary cross entropy of
 *                   sigmoid(x); the first term and the last are those of target = 1 times
 *                   `delta`, the weight of positive targets */
typedef enum { PK_SQUARED, PK_ABSOLUTE, PK_HUBER, PK_LOGISTIC, PK_N_LOSSES } pk_loss;

typedef struct {
    size_t M, N; /* rows and elements of a row */
    pk_loss loss;
    const void *x, *target; /* [M, N] in */
    const void *weights;    /* [M] in, of rows; NULL: ones */
    void *dx;               /* [M, N] out, may be NULL, may be x */
    double delta, scale;
    double *scratch; /* [M] */
} pk_elementwise_loss;

/* ---- the table ------------------------------------------------------------------------------- */

/* Bits do not depend on nthreads. */
typedef struct {
    size_t (*linear_scratch_size)(const pk_linear *layer); /* SIZE_MAX: too much */
    void (*linear_forward)(const pk_linear *layer, int nthreads);
    void (*linear_backward)(const pk_linear *layer, const pk_linear_gradients *gradients,
                            int nthreads);
    size_t (*layer_norm_scratch_size)(const pk_layer_norm *norm); /* SIZE_MAX: too much */
    void (*layer_norm_forward)(const pk_layer_norm *norm, int nthreads);
    void (*layer_norm_backward)(const pk_layer_norm *norm, const pk_layer_norm_gradients *gradients,
                                int nthreads);
    double (*cross_entropy)(const pk_cross_entropy *loss, int nthreads);
    double (*elementwise_loss)(const pk_elementwise_loss *loss, int nthreads);
} pk_dense_kernels;

#ifdef __cplusplus
}
#endif

#endif
