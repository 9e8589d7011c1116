/* The memory layout of a recurrent layer, and which batch rows take part in a step.  A cell's file
 * (lstm.c, rnn.c) includes this after its description; the passes are built on it.
 *
 * The kernel's own arrays have rows of P elements, padded to whole vectors, so that only the
 * caller's arrays need partial loads and stores.  The weights and gradients of units from H on are
 * 0.
 *
 * A panel is UNITS units.  Its pre-activations are [columns, UNITS], WIDTH elements, where a column
 * is one gate.  Gates are stored panel by panel, [panels, steps, B, WIDTH]; dA replaces them.  The
 * gradient of a weight is a sum over steps for one panel: if a row held all panels, every step
 * would be in another memory page.  The last panel may have fewer units.  Then its columns are that
 * many elements apart, so that products with dA have no gaps. */
#ifndef PK_RNN_LAYOUT_H
#define PK_RNN_LAYOUT_H

#include "mathfun.h"
#include "numbers.h"
#include "pack.h"
#include "rnn_shared.h"

/* The description of a cell, which its file defines before it includes this:
 *     CELL_GATES      gates of its weights
 *     CELL_COLUMNS    columns of pre-activations; 1 to COLS
 *     CELL_X          {first, count, gates}: the consecutive columns that x enters, and the gate of
 *                     w_ih for each
 *     CELL_H          the same for h and w_hh.  A column that both enter holds the sum, of biases,
 *                     too.  A GRU, whose n needs two separate sums, has the columns n_h, r, z, n_x:
 *                     h enters the first three, x the last three
 *     CELL_S          optional, the same for s with w_hh: another operand as wide as h, which the
 *                     cell computes from the products with x and h.  Each step then has two phases.
 *                     A column that s enters holds the bias as those of h do
 *     CELL_PEEPHOLES  optional: the columns that have one; the last is of c after the step
 *     CELL_HAS_C      whether there is a second state, c
 *     CELL_SAVES      whether backward needs the gates; if not, the states are enough
 *     CELL_WHOLE_ROW  optional.  1: the cell needs all pre-activations of a row at once, to
 *                     normalize them.  Each step then has two phases
 *     CELL_PROJECTS   optional.  1: h may be w_hr m, where m is what cell_h returns.  Each step
 *                     then has one more phase.  m takes the memory of s */
#ifndef CELL_WHOLE_ROW
#define CELL_WHOLE_ROW 0
#endif
#ifndef CELL_PROJECTS
#define CELL_PROJECTS 0
#define cell_before_projection(gates, n, c) (c) /* never called */
#endif
#if !CELL_PROJECTS /* no c, and so no zoneout of c */
#define cell_new_c(context, gates, n, c_prev) (c_prev)
#endif
#ifdef CELL_PEEPHOLES
enum { CELL_N_PEEPHOLES = CELL_GATES - 1 };
#else
#define CELL_PEEPHOLES {0}
enum { CELL_N_PEEPHOLES = 0 };
#endif
#ifdef CELL_S
enum { CELL_HAS_S = 1 };
#else /* never called */
#define CELL_S {0, 0, {0}}
#define cell_s(a, n, h_prev) (h_prev)
#define cell_s_gradient(gates, n, lanes, h_prev, ds, dh) (h_prev)
enum { CELL_HAS_S = 0 };
#endif

typedef struct {
    size_t first, count;
    size_t gate[COLS];
} columns;
static const size_t PEEPHOLES[] = CELL_PEEPHOLES;
static const columns OF_X = CELL_X, OF_H = CELL_H, OF_S = CELL_S;

enum {
    VECTORS = CELL_COLUMNS == 1 ? COLS : 1, /* in a column of a panel */
    UNITS = VECTORS * LANES,
    PHASES = 1 + (CELL_WHOLE_ROW || CELL_HAS_S)
};

/* What random numbers decide. */
typedef enum { ZONEOUT_H, ZONEOUT_C, DROPOUT, NOISE_KINDS } noise_kind;

typedef struct {
    pk_rnn_shape s;
    size_t R;        /* width of h: H, unless there is a projection */
    size_t P_h, P_c; /* R and H rounded up to LANES */
    size_t Q, Q_c;   /* R and H rounded up to WIDTH */
    pk_rnn_weights w, dw;
    pk_sequence x, y, dy, dx; /* in the order in which steps are taken */
    real *h, *c, *gates;
    real *c_again;     /* for backward: c before and after every step of the window */
    size_t window;     /* steps whose gates are in memory; those of step t are at t % window */
    size_t c_interval; /* forward keeps c of every c_interval-th step */
    size_t block;      /* steps whose products with w_ih are computed together */
    real *packed_w;    /* for each panel: bias [WIDTH], w_ih and w_hh [., packed_row] */
    real *packed_rows; /* for backward: rows of x or h, see rnn_wide_gradient */
    real *packed_w_hh, *packed_w_ih; /* for backward: rows in the order of dA; NULL: weights are
                                      * read in place */
    real *dh, *dc;                   /* [B, Q], [B, P_c] */
    real *peepholes;                 /* [CELL_N_PEEPHOLES, P_c] */
    /* Only with s or a projection: s or m, [s_steps, B, P_c], that of step t at t % s_steps; for
     * backward, its gradient [B, Q_c] and the rows of w_hh that it needs. */
    real *s_rows, *ds, *packed_w_s;
    size_t s_steps;
    /* Only with a projection: w_hr, packed for the pass; for backward, the gradients of h after
     * each step of the window, [window, B, Q]. */
    real *packed_w_hr, *dh_rows;
    /* Only with resets: the states [B, P_h] and [B, P_c] of a row after one; for backward, the
     * gradients of the initial state that came from resets, [B, Q] and [B, P_c]. */
    real *reset_h, *reset_c, *dh_resets, *dc_resets;
    /* Only with resets or dropout of h: h as it enters the products of each step,
     * [before_steps, B, P_h], that of step t at t % before_steps. */
    real *before;
    size_t before_steps;
    /* `before`, too, exists with rounded products.  Only with these: the operands of the products,
     * rows of x, of s or m, and with a projection of the gradient of h [B, K_Q].  K: elements in
     * rows of x, of h, and of Q; P: how far rows of h, and of s or m, are apart. */
    const rounding *products;
    pk_sequence x_rounded;
    real *x_memory, *s_rounded, *dh_rounded;
    size_t K_x, K_h, K_Q, P_before, P_s;
    /* Only with noise: numbers [noise_steps, B, R or H], those of step t at t % noise_steps; what h
     * is multiplied by [B, P_h] and, for backward, the gradient of that product [B, Q]; c before
     * zoneout [B, P_c]. */
    uint16_t *numbers[NOISE_KINDS];
    size_t noise_steps;
    real *h_mask, *dh_masked, *c_new;
    int rare; /* whether there are resets, a projection or noise */
    int accumulate;
    int from_zeros; /* h before the first step is 0: it enters no product */
    int wants_dh0;
} rnn_job;

/* The states before and after a step, for the gradient of a cell.  own_h: whether h is what the
 * cell has computed; then c may be 0 where the shape has no cell_clip. */
typedef struct {
    vec h_prev, h, c_prev, c;
    int own_h;
} cell_states;

/* What a cell knows besides its arrays.  The peepholes of a vector's units are `row` apart; NULL:
 * none.  If `drops`, the candidate is multiplied by `factor` where `mask` is set, and 0
 * elsewhere. */
typedef struct {
    const pk_rnn_shape *shape;
    const real *peepholes;
    size_t row;
    int drops;
    vec_bits mask;
    vec factor;
} cell_context;

/* The mask is applied last, so that the multiplication is not fused with a later addition: with
 * factor 1 the bits are those of the candidate. */
PK_INLINE vec dropped(const cell_context *context, vec candidate)
{
    return context->drops ? masked(context->mask, candidate * context->factor) : candidate;
}

PK_INLINE cell_context context_of(const rnn_job *job, size_t unit)
{
    const real *peepholes = job->w.peepholes ? job->peepholes + unit : NULL;
    return (cell_context){.shape = &job->s, .peepholes = peepholes, .row = job->P_c};
}

PK_INLINE size_t panels_in(size_t H) { return round_up(H, UNITS) / UNITS; }
PK_INLINE size_t units_of(size_t panel, size_t H) { return smaller(H - panel * UNITS, UNITS); }

PK_INLINE int projects(const pk_rnn_shape *s) { return CELL_PROJECTS && s->R > 0; }
PK_INLINE size_t width_of_h(const pk_rnn_shape *s) { return projects(s) ? s->R : s->H; }
PK_INLINE double noise_p(const pk_rnn_shape *s, noise_kind kind)
{
    return kind == ZONEOUT_H ? s->zoneout_h
           : kind == DROPOUT ? s->recurrent_dropout
                             : (CELL_HAS_C ? s->zoneout_c : 0);
}
PK_INLINE int trains(const pk_rnn_shape *s) { return s->save != PK_SAVE_NOTHING; }

/* Whether each step draws random numbers of this kind. */
PK_INLINE int draws(const pk_rnn_shape *s, noise_kind kind)
{
    return trains(s) && noise_p(s, kind) > 0 && (kind != DROPOUT || s->drop_candidate);
}
PK_INLINE int drops_h(const pk_rnn_shape *s)
{
    return trains(s) && s->recurrent_dropout > 0 && !s->drop_candidate;
}
PK_INLINE int is_rare(const pk_rnn_shape *s)
{
    const int zones = s->zoneout_h > 0 || noise_p(s, ZONEOUT_C) > 0;
    return s->resets || projects(s) || zones || drops_h(s) || draws(s, DROPOUT);
}
PK_INLINE int phases_of(const rnn_job *job) { return PHASES + projects(&job->s); }

/* The vectors of a panel that hold some of these columns. */
PK_INLINE size_t width_of(columns of, size_t units) { return round_up(of.count * units, LANES); }

/* ---- rows of a step -------------------------------------------------------------------------- */

PK_INLINE int active(const rnn_job *job, size_t t, size_t b) { return is_active(&job->s, t, b); }

PK_INLINE int takes_h(const rnn_job *job, size_t t, size_t b)
{
    return active(job, t, b) && !(job->from_zeros && t == 0);
}

PK_INLINE int gives_dh(const rnn_job *job, size_t t, size_t b)
{
    return active(job, t, b) && (job->wants_dh0 || t > 0);
}

PK_INLINE int is_reset(const rnn_job *job, size_t t, size_t b)
{
    return begins_anew(&job->s, t, b);
}

/* `rows` without those at either end for which is(job, t, b) is false.  In a batch that is sorted
 * by length, this leaves exactly the active rows. */
PK_INLINE range rows_that(int (*is)(const rnn_job *, size_t, size_t), const rnn_job *job, size_t t,
                          range rows)
{
    while (rows.from < rows.to && !is(job, t, rows.from))
        rows.from++;
    while (rows.from < rows.to && !is(job, t, rows.to - 1))
        rows.to--;
    return rows;
}

static range active_rows(const rnn_job *job, size_t t, range rows)
{
    return rows_that(active, job, t, rows);
}

/* The number of steps from t on, before `end`, in which all rows are active, so that they can be
 * one product; at least 1. */
static size_t steps_together(const rnn_job *job, size_t t, size_t end, range rows)
{
    size_t n = 0;
    while (t + n < end && length(active_rows(job, t + n, rows)) == length(rows))
        n++;
    return n ? n : 1;
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Some units of a panel: one vector in each column. */
typedef struct {
    size_t panel, vector;
    size_t unit;  /* the first one */
    size_t n;     /* elements between two columns of the panel */
    size_t lanes; /* how many lanes of the vector are units */
} place;

PK_INLINE place place_of(const rnn_job *job, size_t panel, size_t vector)
{
    const size_t n = units_of(panel, job->s.H), at = vector * LANES;
    return (place){panel, vector, panel * UNITS + at, n, VECTORS == 1 ? n : smaller(n - at, LANES)};
}

PK_INLINE size_t vectors_of(const rnn_job *job, size_t panel)
{
    return VECTORS == 1 ? 1 : round_up(units_of(panel, job->s.H), LANES) / LANES;
}

PK_INLINE real *gates_at(const rnn_job *job, size_t panel, size_t t, size_t b)
{
    return job->gates + ((panel * job->window + t % job->window) * job->s.B + b) * WIDTH;
}

/* The state before step t. */
PK_INLINE real *h_at(const rnn_job *job, size_t t, size_t b)
{
    const size_t slot = job->s.save == PK_SAVE_NOTHING ? t % 2 : t;
    return job->h + (slot * job->s.B + b) * job->P_h;
}

/* h before step t as the operand of products: in another array if operands are rounded, with
 * resets, and with dropout of h. */
PK_INLINE real *h_before(const rnn_job *job, size_t t, size_t b)
{
    if (!job->before)
        return h_at(job, t, b);
    return job->before + (t % job->before_steps * job->s.B + b) * job->P_before;
}

PK_INLINE real *s_at(const rnn_job *job, size_t t, size_t b)
{
    return job->s_rows + (t % job->s_steps * job->s.B + b) * job->P_c;
}

PK_INLINE real *dh_row(const rnn_job *job, size_t t, size_t b)
{
    return job->dh_rows + (t % job->window * job->s.B + b) * job->Q;
}

/* s or m as the operand of products. */
PK_INLINE real *s_before(const rnn_job *job, size_t t, size_t b)
{
    if (!rounded(job->products))
        return s_at(job, t, b);
    return job->s_rounded + (t % job->s_steps * job->s.B + b) * job->P_s;
}

/* Row b of a slot of c [slots, B, P_c]; NULL if the cell has no c. */
PK_INLINE real *c_slot(const rnn_job *job, real *c, size_t slot, size_t b)
{
    return CELL_HAS_C ? c + (slot * job->s.B + b) * job->P_c : NULL;
}

/* Forward: c before and after step t.  The steps of an interval overwrite one slot. */
PK_INLINE real *c_at(const rnn_job *job, size_t t, size_t b)
{
    return c_slot(job, job->c, (t + job->c_interval - 1) / job->c_interval, b);
}
PK_INLINE real *c_after(const rnn_job *job, size_t t, size_t b)
{
    return c_slot(job, job->c, t / job->c_interval + 1, b);
}

/* Backward: c before and after step t, for every step of the window. */
PK_INLINE real *c_before(const rnn_job *job, size_t t, size_t b)
{
    return c_slot(job, job->c_again, t % job->window, b);
}
PK_INLINE real *c_behind(const rnn_job *job, size_t t, size_t b)
{
    return c_slot(job, job->c_again, t % job->window + 1, b);
}

/* The state before step t in the arrays of states, or that of a reset. */
PK_INLINE const real *h_or_reset(const rnn_job *job, size_t t, size_t b, const real *h)
{
    return is_reset(job, t, b) ? job->reset_h + b * job->P_h : h;
}
PK_INLINE const real *c_or_reset(const rnn_job *job, size_t t, size_t b, const real *c)
{
    return CELL_HAS_C && is_reset(job, t, b) ? job->reset_c + b * job->P_c : c;
}

PK_INLINE size_t packed_row(columns of) { return of.count * UNITS; }

PK_INLINE size_t size_of_packed_panel(const rnn_job *job)
{
    const size_t rows = plus(times(job->s.I, packed_row(OF_X)), times(job->R, packed_row(OF_H)));
    return plus(WIDTH, plus(rows, times(job->R, packed_row(OF_S))));
}

PK_INLINE real *packed_panel(const rnn_job *job, size_t panel)
{
    return job->packed_w + panel * size_of_packed_panel(job);
}

#endif
