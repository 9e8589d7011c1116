/* The plain RNN, with tanh or relu: its description, equations and gradient, and the passes around
 * them.  lstm.c explains the form; equations and sources are in pyoptk_rnn.h. */
#define CELL_X {0, 1, {0}}
#define CELL_H {0, 1, {0}}
enum { CELL_GATES = 1, CELL_COLUMNS = 1, CELL_HAS_C = 0, CELL_SAVES = 0 };

#include "rnn_layout.h"

PK_INLINE vec cell_c(const cell_context *context, real *a, real *gates, size_t n, vec c_prev)
{
    (void)context, (void)a, (void)gates, (void)n;
    return c_prev; /* the cell has no c */
}

PK_INLINE vec cell_h(const cell_context *context, real *a, real *gates, size_t n, vec c, vec h_prev)
{
    const vec x = load(a);
    (void)gates, (void)n, (void)c, (void)h_prev;
    return context->shape->relu ? masked(~(x <= 0), x) : vec_tanh(x); /* a NaN stays a NaN */
}

/* The derivatives of tanh and relu are functions of h. */
PK_INLINE void cell_gradient(const cell_context *context, real *gates, size_t n, size_t lanes,
                             cell_states at, vec *dh, vec *dc)
{
    const vec da = context->shape->relu ? masked(~(at.h <= 0), *dh) : *dh * (1 - at.h * at.h);
    (void)n, (void)dc;
    store(gates, zero_tail(da, lanes));
    *dh = broadcast(0);
}

#include "rnn_passes.h"
