/* How a recurrent layer is laid out in memory, and which rows take part in a step.  A cell's file
 * (lstm.c, rnn.c) includes this after its description; the passes are built on it.
 *
 * Rows of our own arrays are padded to whole vectors, P, so that only the caller's arrays need
 * partial loads and stores.  The units beyond H have weights and gradients 0.
 *
 * A panel holds the pre-activations of UNITS units, column by column: [COLUMNS, UNITS], WIDTH
 * elements.  Gates, and dA, which replaces them, are stored panel by panel: [panels, steps, B,
 * WIDTH].  The gradients of the weights need one panel of many steps at a time: in rows of all
 * panels, each step would be on another memory page.  In the last panel, which may have fewer
 * units, columns stand that much closer, so that products with dA have no gaps to skip. */
#ifndef PK_RNN_LAYOUT_H
#define PK_RNN_LAYOUT_H

#include "mathfun.h"
#include "pack.h"

/* What a cell's file defines first:
 *     CELL_GATES    of its weights
 *     CELL_COLUMNS  vectors of pre-activations for a vector of units: 1 or up to COLS
 *     CELL_X        the columns that x enters, consecutive ones, and which gate of w_ih each is
 *     CELL_H        the same of h and w_hh.  A column that both enter has the sum, of biases, too;
 *                   a GRU, whose n needs them apart, has n_h, r, z, n_x, of which h enters the
 *                   first three and x the last three
 *     CELL_HAS_C    whether there is a second state
 *     CELL_SAVES    whether backward needs gates; else the states are enough
 * and CELL_WHOLE_ROW, if all pre-activations of a row must be there before the cell sees one of
 * them (to normalize them), or h needs all units (a projection).  Then each step has two phases. */
#ifndef CELL_WHOLE_ROW
#define CELL_WHOLE_ROW 0
#endif

typedef struct {
    size_t first, count;
    size_t gate[COLS];
} columns;
static const columns OF_X = CELL_X, OF_H = CELL_H;

enum {
    VECTORS = CELL_COLUMNS == 1 ? COLS : 1, /* of a column in a panel */
    UNITS = VECTORS * LANES,
    PHASES = 1 + CELL_WHOLE_ROW
};

typedef struct {
    pk_rnn_shape s;
    size_t R;           /* width of h: H, unless there is a projection */
    size_t P_h, P_c, Q; /* R and H rounded up to LANES, R to WIDTH */
    pk_rnn_weights w, dw;
    pk_sequence x, y, dy, dx; /* in the order in which steps are taken */
    real *h, *c, *gates;
    real *c_again;     /* for backward: c before and after every step of the window */
    size_t window;     /* steps that `gates` has room for: step t is at t % window */
    size_t c_interval; /* forward keeps c of every so many steps */
    size_t block;      /* steps whose products with w_ih are done together */
    real *packed_w;    /* [panels]: a bias of WIDTH, w_ih [I, x_width], w_hh [R, h_width] */
    real *packed_rows; /* for backward: rows of x or h, see rnn_wide_gradient */
    real *packed_w_hh, *packed_w_ih; /* for backward: rows in the order of dA; NULL: w in place */
    real *dh, *dc;                   /* [B, Q], [B, P_c] */
    int accumulate;
    int from_zeros; /* h before the first step is 0: it enters no product */
    int wants_dh0;
} rnn_job;

/* What the gradient of a cell may need of the states before and after a step. */
typedef struct {
    vec h_prev, h, c_prev, c;
} cell_states;

/* from .. to - 1, of steps, batch rows, panels, or columns of dh (WIDTH elements each) */
typedef struct {
    size_t from, to;
} range;

PK_INLINE size_t length(range r) { return r.to - r.from; }

static size_t padded(size_t H) { return round_up(H, LANES); }
PK_INLINE size_t panels_in(size_t H) { return round_up(H, UNITS) / UNITS; }
PK_INLINE size_t units_of(size_t panel, size_t H) { return smaller(H - panel * UNITS, UNITS); }

/* The vectors of a panel that hold some of these columns. */
PK_INLINE size_t width_of(columns of, size_t units) { return round_up(of.count * units, LANES); }

/* ---- rows of a step -------------------------------------------------------------------------- */

/* Whether step t (in the order in which steps are taken) is one of sequence b. */
PK_INLINE int active(const rnn_job *job, size_t t, size_t b)
{
    const size_t step = job->s.reverse ? job->s.T - 1 - t : t;
    return !job->s.lengths || (int64_t)step < job->s.lengths[b];
}

/* Whether the state before step t is the initial one, not that after step t - 1. */
PK_INLINE int fresh(const rnn_job *job, size_t t, size_t b)
{
    (void)job, (void)b;
    return t == 0;
}

PK_INLINE int takes_h(const rnn_job *job, size_t t, size_t b)
{
    return active(job, t, b) && !(job->from_zeros && fresh(job, t, b));
}

PK_INLINE int gives_dh(const rnn_job *job, size_t t, size_t b)
{
    return active(job, t, b) && (job->wants_dh0 || !fresh(job, t, b));
}

/* Without the rows at either end of which that is not true at step t: in a batch that is sorted by
 * length, all that are not active. */
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

/* How many steps from t on, before `end`, can be one product because all of the rows are active. */
static size_t steps_together(const rnn_job *job, size_t t, size_t end, range rows)
{
    size_t n = 0;
    while (t + n < end && length(active_rows(job, t + n, rows)) == length(rows))
        n++;
    return n ? n : 1;
}

/* ---- places ---------------------------------------------------------------------------------- */

/* Units of a panel: one vector of each column. */
typedef struct {
    size_t panel, vector;
    size_t unit;  /* the first */
    size_t n;     /* of the panel: the distance between columns */
    size_t lanes; /* of the vector that are units */
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

/* c before and after step t, in forward: one slot for an interval, overwritten within it. */
PK_INLINE real *c_at(const rnn_job *job, size_t t, size_t b)
{
    return job->c + ((t + job->c_interval - 1) / job->c_interval * job->s.B + b) * job->P_c;
}
PK_INLINE real *c_after(const rnn_job *job, size_t t, size_t b)
{
    return job->c + ((t / job->c_interval + 1) * job->s.B + b) * job->P_c;
}

/* In backward c before step t; B * P_c further on, c after it. */
PK_INLINE real *c_around(const rnn_job *job, size_t t, size_t b)
{
    return job->c_again + (t % job->window * job->s.B + b) * job->P_c;
}

PK_INLINE size_t packed_row(columns of) { return of.count * UNITS; }

PK_INLINE size_t size_of_packed_panel(const rnn_job *job)
{
    return WIDTH + job->s.I * packed_row(OF_X) + job->R * packed_row(OF_H);
}

PK_INLINE real *packed_panel(const rnn_job *job, size_t panel)
{
    return job->packed_w + panel * size_of_packed_panel(job);
}

/* Copies [rows, H] between the caller's rows of H and ours of `stride`, padding ours with 0. */
static void copy_in(real *to, size_t stride, const real *from, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows; b++) {
        if (from)
            memcpy(to + b * stride, from + b * H, H * sizeof *to);
        memset(to + b * stride + (from ? H : 0), 0, (stride - (from ? H : 0)) * sizeof *to);
    }
}

static void copy_out(real *to, const real *from, size_t stride, size_t H, size_t rows)
{
    for (size_t b = 0; b < rows && to; b++)
        memcpy(to + b * H, from + b * stride, H * sizeof *to);
}

#endif
