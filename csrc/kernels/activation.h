/* The activation functions of linear layers and their gradients, of a vector.  linear.h applies
 * them to rows.  pyoptk_dense.h has the formulas. */
#ifndef PK_ACTIVATION_H
#define PK_ACTIVATION_H

#include "mathfun.h"

/* (1 + tanh(u)) / 2 = sigmoid(2 u), and 2 u is this in PK_GELU_TANH. */
static const real GELU_SCALE = (real)1.5957691216057308; /* 2 sqrt(2 / pi) */
PK_INLINE vec gelu_argument(vec z) { return GELU_SCALE * z * (1 + (real)0.044715 * z * z); }

/* f(z); `f` is a literal. */
PK_INLINE vec activated(const pk_activation f, vec z, real slope)
{
    const vec zero = {0};
    switch (f) {
    case PK_RELU:
        return larger_of(zero, z); /* a NaN stays a NaN */
    case PK_LEAKY_RELU:
        return pick(z > zero, z, z * slope);
    case PK_TANH:
        return vec_tanh(z);
    case PK_SIGMOID:
        return vec_sigmoid(z);
    case PK_GELU: {
        vec density;
        return larger_of(broadcast(-TAIL_END), z) * normal_cdf(z, &density);
    }
    case PK_GELU_TANH:
        return larger_of(broadcast(-EXP_MAX), z) * vec_sigmoid(gelu_argument(z));
    case PK_SILU:
        return larger_of(broadcast(-EXP_MAX), z) * vec_sigmoid(z);
    case PK_SOFTPLUS:
        return larger_of(zero, z) + vec_log1p(vec_exp(-vec_abs(z)));
    default:
        return z;
    }
}

/* dy * f'(z); v is z from PK_GELU on, else y. */
PK_INLINE vec activation_gradient(const pk_activation f, vec dy, vec v, real slope)
{
    const vec zero = {0};
    switch (f) {
    case PK_RELU:
        return pick(v <= zero, zero, dy);
    case PK_LEAKY_RELU:
        return pick(v <= zero, dy * slope, dy);
    case PK_TANH:
        return dy * (1 - v * v);
    case PK_SIGMOID:
        return dy * (v * (1 - v));
    case PK_GELU: {
        vec density;
        const vec cdf = normal_cdf(v, &density);
        return dy * (cdf + limited(v, TAIL_END) * density);
    }
    case PK_GELU_TANH: {
        const vec z = limited(v, EXP_MAX), s = vec_sigmoid(gelu_argument(v));
        const vec slope_of_argument = GELU_SCALE * (1 + 3 * (real)0.044715 * z * z);
        return dy * s * (1 + z * (1 - s) * slope_of_argument);
    }
    case PK_SILU: {
        const vec s = vec_sigmoid(v);
        return dy * s * (1 + limited(v, EXP_MAX) * (1 - s));
    }
    case PK_SOFTPLUS:
        return dy * vec_sigmoid(v);
    default:
        return dy;
    }
}

/* Calls loop(f) with a literal f. */
#define PK_EACH_ACTIVATION(f, loop)                                                                \
    switch (f) {                                                                                   \
    case PK_RELU:                                                                                  \
        loop(PK_RELU);                                                                             \
        break;                                                                                     \
    case PK_LEAKY_RELU:                                                                            \
        loop(PK_LEAKY_RELU);                                                                       \
        break;                                                                                     \
    case PK_TANH:                                                                                  \
        loop(PK_TANH);                                                                             \
        break;                                                                                     \
    case PK_SIGMOID:                                                                               \
        loop(PK_SIGMOID);                                                                          \
        break;                                                                                     \
    case PK_GELU:                                                                                  \
        loop(PK_GELU);                                                                             \
        break;                                                                                     \
    case PK_GELU_TANH:                                                                             \
        loop(PK_GELU_TANH);                                                                        \
        break;                                                                                     \
    case PK_SILU:                                                                                  \
        loop(PK_SILU);                                                                             \
        break;                                                                                     \
    case PK_SOFTPLUS:                                                                              \
        loop(PK_SOFTPLUS);                                                                         \
        break;                                                                                     \
    default:                                                                                       \
        loop(PK_IDENTITY);                                                                         \
    }

#endif
