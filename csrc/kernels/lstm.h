/* The LSTM's cell, as the equations in pyoptk.h say, for the LANES units of a panel. */
#ifndef PK_LSTM_H
#define PK_LSTM_H

#include "mathfun.h"
#include "pack.h"

enum { I_GATE, F_GATE, G_GATE, O_GATE };

typedef struct {
    vec i, f, g, o;
} lstm_gates;

/* a, da, gates: [GATES, LANES] */

PK_INLINE lstm_gates lstm_activate(const real *a)
{
    return (lstm_gates){
        .i = vec_sigmoid(load(a + I_GATE * LANES)),
        .f = vec_sigmoid(load(a + F_GATE * LANES)),
        .g = vec_tanh(load(a + G_GATE * LANES)),
        .o = vec_sigmoid(load(a + O_GATE * LANES)),
    };
}

PK_INLINE lstm_gates lstm_load(const real *gates)
{
    return (lstm_gates){load(gates + I_GATE * LANES), load(gates + F_GATE * LANES),
                        load(gates + G_GATE * LANES), load(gates + O_GATE * LANES)};
}

PK_INLINE void lstm_store(real *gates, lstm_gates s)
{
    store(gates + I_GATE * LANES, s.i);
    store(gates + F_GATE * LANES, s.f);
    store(gates + G_GATE * LANES, s.g);
    store(gates + O_GATE * LANES, s.o);
}

PK_INLINE vec lstm_c(lstm_gates s, vec c_prev) { return s.f * c_prev + s.i * s.g; }
PK_INLINE vec lstm_h(lstm_gates s, vec c) { return s.o * vec_tanh(c); }

/* The gradient of the pre-activations, from dh and dc, both sums over what uses h and c; *dc becomes the
 * gradient of c_prev. */
PK_INLINE lstm_gates lstm_gradient(lstm_gates s, vec c_prev, vec c, vec dh, vec *dc)
{
    const vec tanh_c = vec_tanh(c), dc_t = *dc + dh * s.o * (1 - tanh_c * tanh_c);
    *dc = dc_t * s.f;
    return (lstm_gates){
        .i = dc_t * s.g * s.i * (1 - s.i),
        .f = dc_t * c_prev * s.f * (1 - s.f),
        .g = dc_t * s.i * (1 - s.g * s.g),
        .o = dh * tanh_c * s.o * (1 - s.o),
    };
}

#endif
