/* What the passes of all recurrent layers share: which batch rows take part in a step, where
 * sequences begin, parts of scratch memory, copies between the caller's arrays and the kernels'.
 * Cells reach it through rnn_layout.h, normalized cells through normed_layout.h. */
#ifndef PK_RNN_SHARED_H
#define PK_RNN_SHARED_H

#include "matmul.h"

/* from..to-1: steps, batch rows, panels, or groups of WIDTH columns */
typedef struct {
    size_t from, to;
} range;

PK_INLINE size_t length(range r) { return r.to - r.from; }

static size_t padded(size_t H) { return round_up(H, LANES); }

/* ---- rows of a step -------------------------------------------------------------------------- */

/* Whether sequence b has a step t; t counts in the order in which steps are taken. */
PK_INLINE int is_active(const pk_rnn_shape *s, size_t t, size_t b)
{
    const size_t step = s->reverse ? s->T - 1 - t : t;
    return !s->lengths || (int64_t)step < s->lengths[b];
}

/* Whether the state before step t is that of a reset; for active rows alone. */
PK_INLINE int begins_anew(const pk_rnn_shape *s, size_t t, size_t b)
{
    if (!s->resets)
        return 0;
    const size_t T = s->T, at = s->reverse ? T - t : t; /* the step that has the flag */
    return t < T && at < (s->lengths ? (size_t)s->lengths[b] : T) && s->resets[at * s->B + b];
}

static pk_sequence in_order_of_steps(pk_sequence s, const pk_rnn_shape *shape)
{
    if (!s.data || !shape->reverse || !shape->T)
        return s;
    return (pk_sequence){row_at(s, shape->T - 1, 0), -s.t_stride, s.b_stride};
}

/* Backward without the gates of all steps works window by window and computes the gates of each
 * again.  A window has about as many steps as there are windows: then neither the states between
 * windows nor the scratch memory takes much. */
static size_t steps_of_window(const pk_rnn_shape *s)
{
    size_t steps = 1;
    while (steps < s->T && (steps * steps < s->T || steps * s->B < ROW_BLOCK))
        steps++;
    return steps;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* Takes a part of scratch memory and moves *end, where the next one begins.  If memory is NULL, it
 * only counts. */
PK_INLINE real *part(real *memory, size_t *end, size_t elements)
{
    real *const begin = memory ? memory + *end : NULL;
    *end = plus(*end, elements);
    return begin;
}

/* Copies [rows, H] from the caller's array to one with rows of `stride`, padded with 0; or back. */
__attribute__((noinline)) static void copy_in(real *to, size_t stride, const real *from, size_t H,
                                              size_t rows)
{
    for (size_t b = 0; b < rows; b++) {
        if (from)
            memcpy(to + b * stride, from + b * H, H * sizeof *to);
        memset(to + b * stride + (from ? H : 0), 0, (stride - (from ? H : 0)) * sizeof *to);
    }
}

__attribute__((noinline)) static void copy_out(real *to, const real *from, size_t stride, size_t H,
                                               size_t rows)
{
    for (size_t b = 0; b < rows && to; b++)
        memcpy(to + b * H, from + b * stride, H * sizeof *to);
}

#endif
