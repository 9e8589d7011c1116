/* The LSTM's cell, as the equations in pyoptk.h say, for the LANES units of a panel. */
#ifndef PK_LSTM_H
#define PK_LSTM_H

#include "mathfun.h"
#include "pack.h"

enum { I_GATE, F_GATE, G_GATE, O_GATE };

typedef struct {
    vec i, f, g, o;
} lstm_gates;

/* a, da, gates: [GATES, n] with n <= LANES units, in room for [GATES, LANES].  Lanes behind n hold
 * something: what is loaded there is of another gate, what is stored there goes over. */

PK_INLINE lstm_gates lstm_load(const real *a, size_t n)
{
    return (lstm_gates){load(a + I_GATE * n), load(a + F_GATE * n), load(a + G_GATE * n),
                        load(a + O_GATE * n)};
}

PK_INLINE void lstm_store(real *a, size_t n, lstm_gates s)
{
    store(a + I_GATE * n, s.i);
    store(a + F_GATE * n, s.f);
    store(a + G_GATE * n, s.g);
    store(a + O_GATE * n, s.o);
}

PK_INLINE lstm_gates lstm_activate(lstm_gates a)
{
    return (lstm_gates){vec_sigmoid(a.i), vec_sigmoid(a.f), vec_tanh(a.g), vec_sigmoid(a.o)};
}

PK_INLINE vec lstm_c(lstm_gates s, vec c_prev) { return s.f * c_prev + s.i * s.g; }
PK_INLINE vec lstm_h(vec o, vec c) { return o * vec_tanh(c); }

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
