/* The LSTM's cell as the passes call it: on the units of a panel at step t for one batch row, past whose
 * end the state stays.  The equations are in lstm.h, which knows of no layout; the passes know how many
 * gates there are, but not what they do.  Another cell has these four functions. */
#ifndef PK_LSTM_CELL_H
#define PK_LSTM_CELL_H

#include "lstm.h"
#include "rnn.h"

/* The units of a panel at step t for one batch row: gates and c from the pre-activations; o goes over
 * these. */
PK_INLINE void cell_gates(const rnn_job *job, size_t t, size_t b, size_t panel, real *a)
{
    const size_t unit = panel * LANES, n = units_of(panel, job->s.H);
    vec c = load(c_at(job, t, b) + unit);
    if (active(job, t, b)) {
        const lstm_gates gates = lstm_activate(lstm_load(a, n));
        c = lstm_c(gates, c);
        store(a, gates.o);
        if (job->s.save == PK_SAVE_FULL)
            lstm_store(gates_at(job, panel, t, b), n, gates);
    }
    store(c_after(job, t, b) + unit, c);
}

/* h and y from o and c. */
PK_INLINE void cell_output(const rnn_job *job, size_t t, size_t b, size_t panel, const real *o)
{
    const size_t unit = panel * LANES, n = units_of(panel, job->s.H);
    vec h = load(h_at(job, t, b) + unit);
    vec y = job->s.repeat_last ? h : broadcast(0);
    if (active(job, t, b))
        y = h = lstm_h(load(o), load(c_after(job, t, b) + unit));
    store(h_at(job, t + 1, b) + unit, h);
    if (job->y.data)
        store_first(row_at(job->y, t, b) + unit, y, n);
}

/* Gates and c once more, from the pre-activations that stand in the place of the gates. */
PK_INLINE void cell_again(const rnn_job *job, size_t t, size_t b, size_t panel)
{
    const size_t n = units_of(panel, job->s.H);
    real *a = gates_at(job, panel, t, b), *c = c_around(job, t, b) + panel * LANES;
    const vec c_prev = load(c);
    const lstm_gates gates = lstm_activate(lstm_load(a, n));
    lstm_store(a, n, gates);
    store(c + job->s.B * job->P, active(job, t, b) ? lstm_c(gates, c_prev) : c_prev);
}

/* The gradient of the pre-activations of a panel at step t for one batch row, over the gates; dc goes
 * back a step.  What it consumes of dh it leaves 0, so that the product with w_hh can be added. */
PK_INLINE void cell_backward(const rnn_job *job, size_t t, size_t b, size_t panel)
{
    const size_t unit = panel * LANES, n = units_of(panel, job->s.H);
    real *gates = gates_at(job, panel, t, b);
    real *dh_b = job->dh + b * job->Q + unit, *dc_b = job->dc + b * job->P + unit;
    const int is_active = active(job, t, b);
    vec dh = load(dh_b), dc = load(dc_b);
    if (job->dy.data && (is_active || job->s.repeat_last)) {
        const real *dy = row_at(job->dy, t, b) + unit;
        dh += n == LANES ? load(dy) : load_part(dy, n);
    }
    if (!is_active) {
        memset(gates, 0, WIDTH * sizeof *gates);
        store(dh_b, dh);
        return;
    }
    const real *c = c_around(job, t, b) + unit;
    const lstm_gates da =
        lstm_gradient(lstm_load(gates, n), load(c), load(c + job->s.B * job->P), dh, &dc);
    /* behind H dA is 0, even where a NaN came */
    lstm_store(gates, n,
               (lstm_gates){first(da.i, n), first(da.f, n), first(da.g, n), first(da.o, n)});
    store(dc_b, dc);
    store(dh_b, broadcast(0));
}

#endif
