/* The LSTM: its description, its equations and their gradient, and the passes around them.  CMake
 * compiles this file once for each instruction set and dtype; everything is static except the
 * table.  Equations and sources are in pyoptk_rnn.h. */
#define CELL_X {0, 4, {0, 1, 2, 3}}
#define CELL_H {0, 4, {0, 1, 2, 3}}
enum { CELL_GATES = 4, CELL_COLUMNS = 4, CELL_HAS_C = 1, CELL_SAVES = 1 };

#include "rnn_layout.h"

typedef struct {
    vec i, f, g, o;
} lstm_gates;

/* The columns of a are n <= LANES apart.  Lanes >= n are garbage: a load reads into the next
 * column, a store overwrites its beginning, so the columns are stored from first to last. */
PK_INLINE lstm_gates lstm_load(const real *a, size_t n)
{
    return (lstm_gates){load(a), load(a + n), load(a + 2 * n), load(a + 3 * n)};
}

PK_INLINE void lstm_store(real *a, size_t n, lstm_gates s)
{
    store(a, s.i);
    store(a + n, s.f);
    store(a + 2 * n, s.g);
    store(a + 3 * n, s.o);
}

/* c from the pre-activations a and c_prev; stores o in a, for cell_h. */
PK_INLINE vec cell_c(const cell_context *context, real *a, real *gates, size_t n, vec c_prev)
{
    const lstm_gates pre = lstm_load(a, n);
    const lstm_gates s = {vec_sigmoid(pre.i), vec_sigmoid(pre.f), vec_tanh(pre.g),
                          vec_sigmoid(pre.o)};
    (void)context;
    store(a + 3 * n, s.o);
    if (gates)
        lstm_store(gates, n, s);
    return s.f * c_prev + s.i * s.g;
}

PK_INLINE vec cell_h(const cell_context *context, real *a, real *gates, size_t n, vec c, vec h_prev)
{
    (void)context, (void)gates, (void)h_prev;
    return load(a + 3 * n) * vec_tanh(c);
}

/* h_prev enters only the product, so dh ends as 0. */
PK_INLINE void cell_gradient(const cell_context *context, real *gates, size_t n, size_t lanes,
                             cell_states at, vec *dh, vec *dc)
{
    const lstm_gates s = lstm_load(gates, n);
    const vec tanh_c = vec_tanh(at.c), dc_t = *dc + *dh * s.o * (1 - tanh_c * tanh_c);
    (void)context;
    lstm_store(gates, n,
               (lstm_gates){
                   .i = zero_tail(dc_t * s.g * s.i * (1 - s.i), lanes),
                   .f = zero_tail(dc_t * at.c_prev * s.f * (1 - s.f), lanes),
                   .g = zero_tail(dc_t * s.i * (1 - s.g * s.g), lanes),
                   .o = zero_tail(*dh * tanh_c * s.o * (1 - s.o), lanes),
               });
    *dc = dc_t * s.f;
    *dh = broadcast(0);
}

#include "rnn_passes.h"
