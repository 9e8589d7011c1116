/* The optimizer part of the C API: configs with formulas, tensors, descriptions, kernels.  Users
 * include pyoptk.h, which includes this file and says what holds for all kernels. */
#ifndef PYOPTK_OPTIM_H
#define PYOPTK_OPTIM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- optimizers ------------------------------------------------------------------------------ */

/* All optimizers: (name in the enum, name of everything else).  The enum, the table of descriptions
 * (optimizers.c) and the table of kernels (kernels/optim.c) are made from this list, so that an
 * optimizer without one of its parts does not compile. */
#define PK_OPTIMIZERS(X)                                                                           \
    X(PK_SGD, sgd)                                                                                 \
    X(PK_ADAGRAD, adagrad)                                                                         \
    X(PK_RMSPROP, rmsprop)                                                                         \
    X(PK_ADADELTA, adadelta)                                                                       \
    X(PK_ADAM, adam)                                                                               \
    X(PK_NADAM, nadam)                                                                             \
    X(PK_RADAM, radam)                                                                             \
    X(PK_ADAMAX, adamax)                                                                           \
    X(PK_LION, lion)                                                                               \
    X(PK_LAMB, lamb)                                                                               \
    X(PK_ADABELIEF, adabelief)                                                                     \
    X(PK_RPROP, rprop)

#define PK_ENUMERATOR(number, name) number,
typedef enum {
    PK_OPTIMIZERS(PK_ENUMERATOR) PK_N_OPTIMIZERS,
    /* For benchmarks: the memory traffic of adam with one addition per array, a lower bound for the
     * time of its step.  param, state[0] and state[1] += grad; the config is a pk_common of 0. */
    PK_MEMORY_ROOF = PK_N_OPTIMIZERS
} pk_which;
#undef PK_ENUMERATOR

enum { PK_MAX_STATES = 3 };

/* The format of an array; arithmetic is always in the dtype of the table.  With that of float32
 * parameters, averages, copies and gradients may be anything but PK_8BIT, rounded to the nearest,
 * ties to even; states anything but PK_F16, rounded by chance, so that their mean is right.  Which
 * bits come by chance depends on `seed`, `step`, state and element alone, which is counted from
 * `first_block` on. */
typedef enum {
    PK_NATIVE, /* as the dtype of the table that the kernel was taken from */
    PK_BF16,   /* bfloat16: the upper half of a float32 */
    PK_F16,    /* IEEE binary16 */
    PK_8BIT    /* uint32 words of four codes, in blocks of PK_BLOCK: csrc/kernels/codes.h */
} pk_storage;
enum {
    PK_BLOCK = 256,     /* elements with one scale; the last block of an array may be shorter */
    PK_CODE_GROUP = 64, /* elements whose codes take 16 words; arrays end with a whole group */
};

/* One parameter with its gradient and state.  A kernel takes a list of them, so that one call and
 * one parallel region serve a whole model.  A field that a designated initializer leaves out is 0:
 * no state, no average, PK_NATIVE. */
typedef struct {
    void *param;                 /* [n] in/out */
    const void *grad;            /* [n] in, out with zero_grad; NULL: leave this tensor alone */
    void *state[PK_MAX_STATES];  /* [n] in/out each, zero before step 1; NULL where unused */
    void *ema;                   /* [n] in/out: the parameter's moving average; NULL: none */
    size_t n;                    /* elements; may be 0 */
    int64_t step;                /* of this tensor; the first is 1 */
    size_t group;                /* which element of `configs` holds its hyper-parameters */
    float *scale[PK_MAX_STATES]; /* [ceil(n / PK_BLOCK)] in/out: of a state in PK_8BIT; else NULL */
    uint64_t seed;               /* of what is rounded by chance */
    size_t first_block;          /* of a part of an array: the blocks of PK_BLOCK before it */
    void *copy;                  /* [n] out: the parameter after the step, as stored.copy */
    uint16_t *low;               /* [n] in/out: of a parameter in PK_BF16, which is rounded to the
                                  * nearest: the lower halves of the float32 that it stands for */
    struct {
        uint8_t param, grad, ema, states, copy; /* a pk_storage each */
        uint8_t by_chance;                      /* 1: a parameter in PK_BF16 is rounded by chance */
    } stored;
} pk_tensor;

/* The gradient of a parameter [rows, width] that is zero except in some rows.  If an index occurs
 * several times, the gradient of the row is the sum of its values. */
typedef struct {
    const int64_t *indices; /* [count] in; each >= 0 and < rows */
    const void *values;     /* [count, width] in, in the dtype of the table */
    size_t count, width;
} pk_rows;

/* What every optimizer does to the gradient first, in this order:
 *     g *= grad_scale;  g = min(max(g, -clip_value), clip_value);  g = -g if maximize;
 *     g += weight_decay * p, or, decoupled (Loshchilov & Hutter 2019), p *= 1 - lr * weight_decay.
 * cautious (Liang et al. 2024): u is the update, which is subtracted from p; elements whose sign is
 * not that of g become 0, the others grow to make up for it.  The mean is over the tensor.
 *     agree = u * g > 0      u *= agree / max(mean(agree), 1e-3)
 * And after the update, in the same sweep over memory:
 *     ema = ema_decay * ema + (1-ema_decay) * p, unless ema is NULL
 *     grad = 0, if zero_grad; grad must then be writable. */
typedef struct {
    double lr, weight_decay, grad_scale, clip_value; /* clip_value: INFINITY for none */
    double ema_decay;
    int decoupled, maximize, zero_grad, cautious;
} pk_common;
#define PK_COMMON_DEFAULTS {.lr = 1e-3, .grad_scale = 1, .clip_value = INFINITY}

/* state: velocity, unless momentum is 0.
 *     step 1: velocity = g    later: velocity = momentum * velocity + (1 - dampening) * g
 *     p -= lr * (nesterov ? g + momentum * velocity : velocity)            Sutskever et al. 2013
 * lr_in_momentum: velocity = momentum * velocity - lr * g, p += velocity (Keras, scikit-learn). */
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

/* state: v; avg if centered; velocity if momentum is not 0; NULL where unused.
 *                                                                      Tieleman & Hinton 2012
 *     v = rho * v + (1-rho) * g * g      avg = rho * avg + (1-rho) * g
 *     den = sqrt(centered ? max(v - avg * avg, 0) : v) + eps
 *     p -= lr * g / den
 * with momentum: velocity = momentum * velocity + g / den      p -= lr * velocity */
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
 * amsgrad: vmax = max(vmax, v) in place of v; amsgrad_on_corrected: the maximum of v after bias
 * correction (Optax).  eps_hat: eps is added before the bias correction of v (Keras, ONNX,
 * scikit-learn). */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
    int amsgrad, amsgrad_on_corrected, eps_hat;
} pk_adam_config;

/* state: m, v.  Dozat 2016; m and v as adam's
 *     mu(t) = beta1 * (1 - 0.96^(t * momentum_decay) / 2)      product = mu(1) * ... * mu(step)
 *     ahead = mu(step+1) / (1 - product * mu(step+1)) * m + (1 - mu(step)) / (1 - product) * g
 *     p -= lr * ahead / (sqrt(v) / sqrt(1-beta2^step) + eps)
 * The product is computed from this config, also for earlier steps.  momentum_decay 1: Keras; from
 * 1e5 on mu is beta1: Optax. */
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
 * The norms are those of the one tensor, summed in double.  Not decoupled, the decay is in g
 * instead of in direction; decoupled with decay_outside_norm, it is p *= 1 - lr * weight_decay
 * before all this (Keras). */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
    int decay_outside_norm;
} pk_lamb_config;

/* state: m, s.  Zhuang et al. 2020; m as adam's
 *     s = beta2 * s + (1-beta2) * (g - m) * (g - m) + eps
 *     p -= lr / (1-beta1^step) * m / (sqrt(s) / sqrt(1-beta2^step) + eps) */
typedef struct {
    pk_common common;
    double beta1, beta2, eps;
} pk_adabelief_config;

/* state: prev, size.  Riedmiller & Braun 1993; each element has a step size, which begins at lr
 *     size = min(max(size * factor, min_size), max_size), where factor is
 *         eta_plus where g has the sign of prev, eta_minus where it has the other, 1 where one is 0
 *     g = 0 where it has the other      p -= sign(g) * size      prev = g
 * Signs are compared; PyTorch multiplies g and prev, which may underflow. */
typedef struct {
    pk_common common;
    double eta_minus, eta_plus, min_size, max_size;
} pk_rprop_config;

/* ---- descriptions of the optimizers ---- */

typedef enum {
    PK_NUMBER,   /* a double with low <= x < high */
    PK_EPS,      /* the same; if it is not 0 it must not round to 0 in the dtype of the arrays */
    PK_OPTIONAL, /* the same, or none, which is stored as `fallback` */
    PK_SWITCH,   /* an int, 0 or 1 */
    PK_START     /* not part of the config: the value of a state before step 1 */
} pk_kind;

typedef struct {
    const char *name;
    pk_kind kind;
    size_t offset; /* in the config */
    double fallback, low, high;
    const char *expected; /* the bounds in words: "a number in [0, 1)" */
} pk_field;

/* A condition on two fields. */
typedef enum {
    PK_NEEDS,    /* if field is not 0, other must not be 0 */
    PK_EXCLUDES, /* if field is not 0, other must be 0 */
    PK_AT_MOST   /* field <= other */
} pk_relation;
typedef struct {
    const char *field; /* NULL after the last rule */
    pk_relation relation;
    const char *other;
} pk_rule;

enum {
    PK_CAUTIOUS = 1,     /* has a cautious step; a pk_rule may say what that needs */
    PK_SPARSE_ROWS = 2,  /* may step single rows of a parameter and leave the others unchanged */
    PK_SCRATCH = 4,      /* needs scratch memory */
    PK_NARROW_STATES = 8 /* states may be stored as PK_BF16 or PK_8BIT, unless it is centered */
};

/* The states that cannot be negative, as bits: PK_8BIT has codes of their own for them. */
enum {
    PK_POSITIVE_sgd = 0,
    PK_POSITIVE_adagrad = 1,
    PK_POSITIVE_rmsprop = 1,
    PK_POSITIVE_adam = 6,
    PK_POSITIVE_nadam = 2,
    PK_POSITIVE_lion = 0
};

enum { PK_MAX_FIELDS = 8, PK_MAX_RULES = 4 };
typedef struct {
    const char *name;
    size_t config_size;
    pk_field fields[PK_MAX_FIELDS]; /* without those of pk_common; name NULL after the last */
    struct {
        const char *name;      /* NULL after the last state */
        const char *needed_by; /* the state is used if this field is not 0; NULL: always */
        const char *start;     /* the field whose value it has before step 1; NULL: 0 */
    } states[PK_MAX_STATES];
    unsigned positive; /* of PK_POSITIVE_ */
    pk_rule rules[PK_MAX_RULES];
    unsigned abilities;
} pk_optimizer;

extern const pk_optimizer *const pk_optimizers[PK_N_OPTIMIZERS];
extern const pk_field pk_common_fields[]; /* of pk_common; name NULL after the last */

/* ---- optimizer kernels ---- */

/* What a watched step reports about one tensor.  All are doubles, so that a list of them is an
 * array.  Gradients are as given, before grad_scale. */
enum { PK_WATCHED_RATES = 32 };
typedef struct {
    double grad_norm, param_norm, update_norm; /* Euclidean; of the parameter after the step */
    double largest_grad;                       /* the largest magnitude that is not a NaN */
    double clipped, zeros, nonfinite;          /* shares of the elements of the gradient */
    double rates[PK_WATCHED_RATES]; /* |update / (grad_scale * gradient)| of so many elements at
                                     * equal distances; if n is smaller, of all, in the first n */
} pk_watched;

typedef struct {
    /* One step of each tensor whose grad is not NULL; changes its param, states and ema.  The bits
     * are the same for any nthreads and on every instruction set, except for the sign and the
     * payload of a NaN.  Denormal numbers count as zero.
     *   tensors  [count] in
     *   configs  [number of groups] in: configs of this optimizer
     *   scratch  [scratch_size(which, tensors, count) bytes, aligned as by malloc]; NULL if 0 bytes
     *   nthreads upper limit; 1: the calling thread alone */
    void (*step)(pk_which which, const pk_tensor *tensors, size_t count, const void *configs,
                 void *scratch, int nthreads);
    size_t (*scratch_size)(pk_which which, const pk_tensor *tensors, size_t count); /* bytes */

    /* The same step, which also fills `watched`, with the same bits for any nthreads.  In float32
     * the norm of an update is exact to some 1e-5; where squares leave the range of the dtype it is
     * 0 or infinite.
     *   watched  [count] out; elements of tensors that do not change stay as they are
     *   watched_scratch  [watched_scratch_size bytes, aligned as by malloc] */
    void (*watched_step)(pk_which which, const pk_tensor *tensors, size_t count,
                         const void *configs, void *scratch, pk_watched *watched,
                         void *watched_scratch, int nthreads);
    size_t (*watched_scratch_size)(const pk_tensor *tensors, size_t count); /* bytes */

    /* Makes a list of tensors, one for each row that occurs in a gradient, in the order of their
     * first occurrence.  A step of this list changes only these rows and their part of the state.
     * Values of the same row are summed in the order of `indices`.  Returns the number of rows.
     *   whole    in: the parameter with its states, none of them narrow; its grad is ignored
     *   gradient in
     *   touched  [gradient->count] out; each grad points into gradient->values or into scratch
     *   scratch  [touched_scratch_size bytes, aligned as by malloc]; must live as long as
     * touched */
    size_t (*touched_rows)(const pk_tensor *whole, const pk_rows *gradient, pk_tensor *touched,
                           void *scratch);
    size_t (*touched_scratch_size)(const pk_rows *gradient); /* bytes */

    /* Convert a narrow state of a tensor to the numbers that it stands for, and back; in the table
     * of float32 alone.  write_state rounds as a step would.  positive: whether the state cannot be
     * negative.
     *   values  [n] float32 out or in */
    void (*read_state)(const pk_tensor *t, int state, int positive, float *values);
    void (*write_state)(const pk_tensor *t, int state, int positive, const float *values);

    /* The same for a parameter that is not PK_NATIVE, together with its `low` if that is not NULL.
     * write_param rounds as a step would.
     *   values  [n] float32 out or in */
    void (*read_param)(const pk_tensor *t, float *values);
    void (*write_param)(const pk_tensor *t, const float *values);

    /* sqrt(sum of grad^2) over the list, summed in double; finite if all float32 grads are.
     *   tensors  [count] in: their grad, n and stored.grad; a grad may be NULL
     *   scratch  [norm_scratch_size bytes, aligned as by malloc] */
    double (*global_norm)(const pk_tensor *tensors, size_t count, void *scratch, int nthreads);
    size_t (*norm_scratch_size)(const pk_tensor *tensors, size_t count); /* bytes */
} pk_optim_kernels;

/* The factor that clips a gradient of this norm to max_norm.  eps: 1e-6 in PyTorch's
 * clip_grad_norm_, 0 in Optax and Keras. */
static inline double pk_clip_coefficient(double norm, double max_norm, double eps)
{
    const double coefficient = max_norm / (norm + eps);
    return coefficient > 1 || norm == 0 ? 1 : coefficient; /* a NaN stays one */
}

#ifdef __cplusplus
}
#endif

#endif
