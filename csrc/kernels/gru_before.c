/* The GRU whose reset gate acts before the product with h: its description, equations and gradient,
 * and the passes around them.  lstm.c explains the form; equations and sources are in pyoptk_rnn.h.
 *
 * The candidate n needs the product of r * h, for which r of all units must be known: a step has a
 * second product, with s = r * h. */
#define CELL_X {0, 3, {0, 1, 2}}
#define CELL_H {0, 2, {0, 1}}
#define CELL_S {2, 1, {2}}
enum { CELL_GATES = 3, CELL_COLUMNS = 3, CELL_HAS_C = 0, CELL_SAVES = 1 };

#include "rnn_layout.h"

typedef struct {
    vec r, z, n;
} gru_gates;

PK_INLINE gru_gates gru_load(const real *a, size_t n)
{
    return (gru_gates){load(a), load(a + n), load(a + 2 * n)};
}

PK_INLINE void gru_store(real *a, size_t n, gru_gates s)
{
    store(a, s.r);
    store(a + n, s.z);
    store(a + 2 * n, s.n);
}

/* s, from the pre-activations a of the first products; stores r in a. */
PK_INLINE vec cell_s(real *a, size_t n, vec h_prev)
{
    gru_gates pre = gru_load(a, n);
    pre.r = vec_sigmoid(pre.r);
    gru_store(a, n, pre);
    return pre.r * h_prev;
}

PK_INLINE vec cell_c(const cell_context *context, real *a, real *gates, size_t n, vec c_prev)
{
    (void)context, (void)a, (void)gates, (void)n;
    return c_prev; /* the cell has no c */
}

PK_INLINE vec cell_h(const cell_context *context, real *a, real *gates, size_t n, vec c, vec h_prev)
{
    gru_gates s = gru_load(a, n);
    (void)c;
    s.z = vec_sigmoid(s.z);
    s.n = vec_tanh(s.n);
    if (gates)
        gru_store(gates, n, s);
    const vec n_d = dropped(context, s.n);
    return n_d + s.z * (h_prev - n_d);
}

/* Does not change r, which cell_s_gradient needs; dh becomes the part that passes through z. */
PK_INLINE void cell_gradient(const cell_context *context, real *gates, size_t n, size_t lanes,
                             cell_states at, vec *dh, vec *dc)
{
    const gru_gates s = gru_load(gates, n);
    const vec dn = dropped(context, *dh * (1 - s.z)) * (1 - s.n * s.n);
    (void)dc;
    store(gates + n, zero_tail(*dh * (at.h_prev - dropped(context, s.n)) * s.z * (1 - s.z), lanes));
    store(gates + 2 * n, zero_tail(dn, lanes));
    *dh = *dh * s.z;
}

/* From ds, the gradient of s: replaces r by its gradient, adds to dh, and returns s. */
PK_INLINE vec cell_s_gradient(real *gates, size_t n, size_t lanes, vec h_prev, vec ds, vec *dh)
{
    gru_gates s = gru_load(gates, n);
    const vec r = s.r;
    *dh += ds * r;
    s.r = zero_tail(ds * h_prev * r * (1 - r), lanes);
    gru_store(gates, n, s);
    return zero_tail(r * h_prev, lanes);
}

#include "rnn_passes.h"
