/* The LSTM, with or without peepholes, a bound for c and a projection: its description, equations
 * and their gradient, and the passes around them.  lstm_coupled.c includes this file for the cell
 * whose input gate is 1 - f, which leaves three gates.  CMake compiles it once for each instruction
 * set and dtype; everything is static except the table.  Equations and sources are in
 * pyoptk_rnn.h. */
#ifndef LSTM_COUPLED
#define LSTM_COUPLED 0
#endif

/* The first column of each gate; the peepholes are those of all gates but g, in this order. */
#if LSTM_COUPLED
#define CELL_X {0, 3, {0, 1, 2}}
#define CELL_H {0, 3, {0, 1, 2}}
#define CELL_PEEPHOLES {0, 2}
enum { CELL_GATES = 3, CELL_COLUMNS = 3, CELL_HAS_C = 1, CELL_SAVES = 1, F = 0, G = 1, O = 2 };
#else
#define CELL_X {0, 4, {0, 1, 2, 3}}
#define CELL_H {0, 4, {0, 1, 2, 3}}
#define CELL_PEEPHOLES {0, 1, 3}
enum { CELL_GATES = 4, CELL_COLUMNS = 4, CELL_HAS_C = 1, CELL_SAVES = 1, F = 1, G = 2, O = 3 };
#endif

#define CELL_PROJECTS 1

#include "rnn_layout.h"

enum { OF_I = 0, OF_F = F, OF_O = CELL_N_PEEPHOLES - 1 }; /* the peephole of each gate */

typedef struct {
    vec i, f, g, o;
} lstm_gates;

/* a + p * c, or a if there are no peepholes; k: the number of the peephole. */
PK_INLINE vec with_peephole(const cell_context *context, size_t k, vec a, vec c)
{
    return context->peepholes ? a + load(context->peepholes + k * context->row) * c : a;
}

/* i, f, g and o are gates or pre-activations.  The columns of a are n <= LANES apart.  Lanes >= n
 * are garbage: a load reads into the next column, a store overwrites its beginning, so the columns
 * are stored from first to last. */
PK_INLINE lstm_gates lstm_load(const real *a, size_t n)
{
    return (lstm_gates){LSTM_COUPLED ? (vec){0} : load(a), load(a + F * n), load(a + G * n),
                        load(a + O * n)};
}

PK_INLINE void lstm_store(real *a, size_t n, lstm_gates s)
{
    if (!LSTM_COUPLED)
        store(a, s.i);
    store(a + F * n, s.f);
    store(a + G * n, s.g);
    store(a + O * n, s.o);
}

/* c, limited to +-limit; a NaN stays a NaN. */
PK_INLINE vec bounded(vec c, real limit)
{
    const vec high = broadcast(limit), low = -high;
    const vec below = masked(c < low, low) + masked(~(c < low), c);
    return masked(below > high, high) + masked(~(below > high), below);
}

/* c from the pre-activations a and c_prev.  That of o, which may depend on c, is left for
 * cell_h. */
PK_INLINE vec cell_c(const cell_context *context, real *a, real *gates, size_t n, vec c_prev)
{
    lstm_gates s = lstm_load(a, n);
    const real limit = (real)context->shape->cell_clip;
    s.f = vec_sigmoid(with_peephole(context, OF_F, s.f, c_prev));
    s.i = LSTM_COUPLED ? 1 - s.f : vec_sigmoid(with_peephole(context, OF_I, s.i, c_prev));
    s.g = vec_tanh(s.g);
    if (gates)
        lstm_store(gates, n, s);
    const vec c = s.f * c_prev + s.i * dropped(context, s.g);
    return limit > 0 ? bounded(c, limit) : c;
}

/* The same from the gates. */
PK_INLINE vec cell_new_c(const cell_context *context, const real *gates, size_t n, vec c_prev)
{
    const lstm_gates s = lstm_load(gates, n);
    const real limit = (real)context->shape->cell_clip;
    const vec c = s.f * c_prev + (LSTM_COUPLED ? 1 - s.f : s.i) * dropped(context, s.g);
    return limit > 0 ? bounded(c, limit) : c;
}

PK_INLINE vec cell_h(const cell_context *context, real *a, real *gates, size_t n, vec c, vec h_prev)
{
    const vec o = vec_sigmoid(with_peephole(context, OF_O, load(a + O * n), c));
    (void)h_prev;
    if (gates)
        store(gates + O * n, o);
    return o * vec_tanh(c);
}

/* The input of a projection, which is h in a cell without one. */
PK_INLINE vec cell_before_projection(const real *gates, size_t n, vec c)
{
    return load(gates + O * n) * vec_tanh(c);
}

/* tanh(c), which a division by o gives in a quarter of the operations.  Where o is 0, so are its
 * factors.  Within 1, even if weights have changed since and o is computed again from them. */
PK_INLINE vec tanh_of_c(vec o, cell_states at)
{
    return at.own_h ? masked(o > 0, limited(at.h / o, 1)) : vec_tanh(at.c);
}

/* h_prev enters only the product with w_hh, so dh becomes 0. */
PK_INLINE void cell_gradient(const cell_context *context, real *gates, size_t n, size_t lanes,
                             cell_states at, vec *dh, vec *dc)
{
    const lstm_gates s = lstm_load(gates, n);
    const vec tanh_c = tanh_of_c(s.o, at), limit = broadcast((real)context->shape->cell_clip);
    lstm_gates d = {.o = zero_tail(*dh * tanh_c * s.o * (1 - s.o), lanes)};
    vec dc_t = *dc + *dh * s.o * (1 - tanh_c * tanh_c);
    dc_t = with_peephole(context, OF_O, dc_t, d.o);
    if (context->shape->cell_clip > 0) /* where c is at a limit, it is constant */
        dc_t = masked(~((at.c >= limit) | (at.c <= -limit)), dc_t);
    const vec i = LSTM_COUPLED ? 1 - s.f : s.i;
    const vec g = dropped(context, s.g), df = LSTM_COUPLED ? at.c_prev - g : at.c_prev;
    d.i = LSTM_COUPLED ? (vec){0} : zero_tail(dc_t * g * i * (1 - i), lanes);
    d.f = zero_tail(dc_t * df * s.f * (1 - s.f), lanes);
    d.g = zero_tail(dropped(context, dc_t * i) * (1 - s.g * s.g), lanes);
    lstm_store(gates, n, d);
    *dc = with_peephole(context, OF_F, dc_t * s.f, d.f);
    if (!LSTM_COUPLED)
        *dc = with_peephole(context, OF_I, *dc, d.i);
    *dh = broadcast(0);
}

#include "rnn_passes.h"
