/* The GRU whose reset gate acts after the product with h: its description, equations and gradient,
 * and the passes around them.  lstm.c explains the form; equations and sources are in pyoptk_rnn.h.
 *
 * The candidate n needs the products with h and with x separately, so it has two columns, n_h and
 * n_x: h enters the columns n_h, r, z, and x the columns r, z, n_x. */
#define CELL_H {0, 3, {2, 0, 1}}
#define CELL_X {1, 3, {0, 1, 2}}
enum { CELL_GATES = 3, CELL_COLUMNS = 4, CELL_HAS_C = 0, CELL_SAVES = 1 };

#include "rnn_layout.h"

/* Stores z and the pre-activation of n in a, for cell_h. */
PK_INLINE vec cell_c(const cell_context *context, real *a, real *gates, size_t n, vec c_prev)
{
    const vec n_h = load(a), r = vec_sigmoid(load(a + n)), z = vec_sigmoid(load(a + 2 * n));
    const vec pre_n = load(a + 3 * n) + r * n_h;
    (void)context;
    if (gates) {
        store(gates, n_h);
        store(gates + n, r);
    }
    store(a + 2 * n, z);
    store(a + 3 * n, pre_n);
    return c_prev; /* the cell has no c */
}

PK_INLINE vec cell_h(const cell_context *context, real *a, real *gates, size_t n, vec c, vec h_prev)
{
    const vec z = load(a + 2 * n), candidate = vec_tanh(load(a + 3 * n));
    (void)c;
    if (gates) {
        store(gates + 2 * n, z);
        store(gates + 3 * n, candidate);
    }
    const vec n_d = dropped(context, candidate);
    return n_d + z * (h_prev - n_d);
}

/* dh becomes the part of the gradient of h_prev that passes through z. */
PK_INLINE void cell_gradient(const cell_context *context, real *gates, size_t n, size_t lanes,
                             cell_states at, vec *dh, vec *dc)
{
    const vec n_h = load(gates), r = load(gates + n), z = load(gates + 2 * n);
    const vec candidate = load(gates + 3 * n);
    const vec n_d = dropped(context, candidate);
    const vec dn = dropped(context, *dh * (1 - z)) * (1 - candidate * candidate);
    (void)dc;
    store(gates, zero_tail(dn * r, lanes));
    store(gates + n, zero_tail(dn * n_h * r * (1 - r), lanes));
    store(gates + 2 * n, zero_tail(*dh * (at.h_prev - n_d) * z * (1 - z), lanes));
    store(gates + 3 * n, zero_tail(dn, lanes));
    *dh = *dh * z;
}

#include "rnn_passes.h"
