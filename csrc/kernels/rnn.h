/* Recurrent layers: what both passes share, and how the work is cut between threads.  The cell is in
 * lstm.h and lstm_cell.h, the passes are in rnn_forward.h, rnn_backward.h and rnn_gradients.h.
 *
 * P is H rounded up to whole vectors.  Arrays of our own have rows of P, so that only the caller's
 * arrays need partial loads and stores; the units beyond H have weights and gradients 0.
 *
 * The LANES units of a vector are a panel.  Gates (and dA, which takes their place) are stored panel
 * by panel, [P / LANES, steps, B, GATES, LANES]: what one panel needs of all steps lies together, which
 * the gradients of the weights, summed over steps, could not do without: rows of 4P elements would
 * cost a memory page for each.  In the last panel, of n units, gates stand n apart instead of LANES, so
 * that dA has 4H columns without a gap and products have nothing to do for units beyond H. */
#ifndef PK_RNN_H
#define PK_RNN_H

#include "pack.h"

enum { L2_SHARE = 1 << 20 }; /* bytes that may be hoped to stay in the L2 cache */

typedef struct {
    pk_rnn_shape s;
    size_t P, Q; /* H rounded up to LANES, and to WIDTH */
    pk_lstm_weights w, dw;
    pk_sequence x, y, dy, dx; /* in the order in which steps are taken */
    real *h, *c, *gates;
    real *c_again;                   /* backward, where forward kept less: as c around every step */
    size_t kept;                     /* steps that gates have room for: step t is at t % kept */
    size_t stride;                   /* forward keeps c of every so many steps */
    size_t block;                    /* steps whose products with w_ih are done together */
    real *packed_w;                  /* [P / LANES] panels of 1 + I + H rows: bias, w_ih, w_hh */
    real *packed_w_hh, *packed_w_ih; /* backward: [4H; H] and [4H; I], NULL: as they lie */
    real *dh, *dc;                   /* [B, Q], [B, P] */
    int accumulate;
    int from_zeros; /* h before the first step is 0: it enters no product */
    int wants_dh0;
} rnn_job;

/* from .. to - 1, of steps, batch rows, panels or columns (of COLS panels) */
typedef struct {
    size_t from, to;
} range;

PK_INLINE size_t length(range r) { return r.to - r.from; }

static size_t padded(size_t H) { return round_up(H, LANES); }

PK_INLINE int active(const rnn_job *job, size_t t, size_t b)
{
    const size_t step = job->s.reverse ? job->s.T - 1 - t : t;
    return !job->s.lengths || (int64_t)step < job->s.lengths[b];
}

/* Without the rows at either end that are not active at step t: all that are not, in a batch that is
 * sorted by length. */
static range active_rows(const rnn_job *job, size_t t, range rows)
{
    while (rows.from < rows.to && !active(job, t, rows.from))
        rows.from++;
    while (rows.from < rows.to && !active(job, t, rows.to - 1))
        rows.to--;
    return rows;
}

/* How many steps from t on, before `end`, can be one product because all of the rows are active. */
static size_t steps_together(const rnn_job *job, size_t t, size_t end, range rows)
{
    size_t n = 0;
    while (t + n < end && length(active_rows(job, t + n, rows)) == length(rows))
        n++;
    return n ? n : 1;
}

PK_INLINE real *gates_at(const rnn_job *job, size_t panel, size_t t, size_t b)
{
    return job->gates + ((panel * job->kept + t % job->kept) * job->s.B + b) * WIDTH;
}

/* The state before step t. */
PK_INLINE real *h_at(const rnn_job *job, size_t t, size_t b)
{
    const size_t slot = job->s.save == PK_SAVE_NOTHING ? t % 2 : t;
    return job->h + (slot * job->s.B + b) * job->P;
}

/* The same of c, in forward: within a stride, each goes over the one before. */
PK_INLINE real *c_at(const rnn_job *job, size_t t, size_t b)
{
    return job->c + ((t + job->stride - 1) / job->stride * job->s.B + b) * job->P;
}
PK_INLINE real *c_after(const rnn_job *job, size_t t, size_t b)
{
    return job->c + ((t / job->stride + 1) * job->s.B + b) * job->P;
}

/* c before step t; B * P further on, c after it. */
PK_INLINE real *c_around(const rnn_job *job, size_t t, size_t b)
{
    return job->c_again + (t % job->kept * job->s.B + b) * job->P;
}

PK_INLINE real *row_at(pk_sequence s, size_t t, size_t b)
{
    return (real *)s.data + (ptrdiff_t)t * s.step + (ptrdiff_t)b * s.row;
}

static pk_sequence in_order_of_steps(pk_sequence s, const pk_rnn_shape *shape)
{
    if (!s.data || !shape->reverse || !shape->T)
        return s;
    return (pk_sequence){row_at(s, shape->T - 1, 0), -s.step, s.row};
}

/* ---- what is kept ---------------------------------------------------------------------------- */

/* PK_SAVE_MINIMAL: how many steps backward computes again at a time.  Enough rows for a product, and
 * about as many stretches as steps in one, so that neither c nor the scratch memory is large. */
static size_t steps_of_stretch(const pk_rnn_shape *s)
{
    size_t steps = 1;
    while (steps < s->T && (steps * steps < s->T || steps * s->B < ROW_BLOCK))
        steps++;
    return steps;
}

/* Weights that fit the L2 cache are best used for input and state together, step by step, unless the
 * rows of one step make no good product.  Otherwise w_ih is used for a block of steps of some 512 rows. */
static size_t steps_of_block(const pk_rnn_shape *s)
{
    const size_t weights = GATES * padded(s->H) * (s->I + s->H) * sizeof(real);
    if ((weights < L2_SHARE && s->B >= 2 * ROWS) || s->B >= 512)
        return 1;
    return smaller(1 + 512 / (s->B + 1), s->T ? s->T : 1);
}

static size_t strides(const pk_rnn_shape *s)
{
    return s->save == PK_SAVE_FULL      ? 1
           : s->save == PK_SAVE_MINIMAL ? steps_of_stretch(s)
                                        : s->T + 1;
}

static size_t size_of_forward_pack(const pk_rnn_shape *s)
{
    return padded(s->H) * GATES * (1 + s->I + s->H);
}

static pk_lstm_sizes lstm_sizes(const pk_rnn_shape *s)
{
    const size_t P = padded(s->H), row = s->B * P, K = GATES * s->H;
    pk_lstm_sizes size = {.h = (s->save == PK_SAVE_NOTHING ? 2 : s->T + 1) * row,
                          .c = ((s->T + strides(s) - 1) / strides(s) + 1) * row};
    size_t forward = size_of_forward_pack(s), backward = s->B * (round_up(s->H, WIDTH) + P);
    backward += packed_size(K, s->H) + packed_size(K, s->I);
    if (s->save == PK_SAVE_FULL) {
        size.gates = GATES * s->T * row;
    } else {
        const size_t again = steps_of_stretch(s);
        backward += forward + again * GATES * row + (again + 1) * row;
        forward += steps_of_block(s) * GATES * row;
    }
    if (s->save == PK_SAVE_NOTHING || forward > backward)
        backward = forward;
    size.scratch = backward * sizeof(real) + ALIGNMENT;
    return size;
}

static rnn_job rnn_job_for(const pk_lstm *layer)
{
    const pk_rnn_shape *s = &layer->shape;
    return (rnn_job){
        .s = *s,
        .P = padded(s->H),
        .Q = round_up(s->H, WIDTH),
        .w = layer->weights,
        .dw = layer->grads,
        .x = in_order_of_steps(layer->x, s),
        .y = in_order_of_steps(layer->y, s),
        .dy = in_order_of_steps(layer->dy, s),
        .dx = in_order_of_steps(layer->dx, s),
        .h = layer->h,
        .c = layer->c,
        .c_again = layer->c,
        .gates = layer->gates,
        .kept = s->T ? s->T : 1,
        .stride = strides(s),
        .block = steps_of_block(s),
        .packed_w = align(layer->scratch),
        .accumulate = layer->accumulate,
        .from_zeros = !layer->h0,
    };
}

/* ---- threads --------------------------------------------------------------------------------- */

/* How the recurrence is cut, and the steps that a call of pk_parallel does. */
typedef struct {
    rnn_job *jobs;
    size_t count;       /* of jobs: what follows holds for each */
    size_t rows, units; /* chunks of batch rows, or of hidden units; one of them is 1 */
    range steps;
    int nthreads;
} rnn_run;

/* Batch rows never meet in the recurrence: a thread walks through all steps of its rows and waits for
 * nobody.  That is best as long as a thread has rows enough for good tiles and the weights, which each
 * thread reads whole at every step, fit its cache.  Else every thread takes some of the hidden units
 * of all rows, reads only their weights, and waits for the others after every step: that has to be
 * worth a wake-up.  A problem of some 10 microseconds stays on one thread. */
static rnn_run rnn_cut(rnn_job *jobs, size_t count, int nthreads)
{
    enum { SERIAL_BELOW = 1 << 20, WORTH_WAITING = 1 << 17 }; /* multiply-adds */
    const pk_rnn_shape *s = &jobs->s;
    const size_t state_weights = GATES * s->H * s->H, step = state_weights * s->B;
    rnn_run run = {jobs, count, 1, 1, {0, s->T}, nthreads};
    if (nthreads <= 1 || count * s->T * GATES * s->H * s->B * (s->I + s->H) < SERIAL_BELOW) {
        run.nthreads = 1;
        return run;
    }
    const size_t share = ((size_t)nthreads + count - 1) / count;
    const int rows_suffice = s->B >= share * ROWS;
    const int one_thread_fits = state_weights * sizeof(real) <= L2_SHARE;
    const int worth = step >= share * WORTH_WAITING && jobs->Q / WIDTH >= share;
    if (worth && !(rows_suffice && one_thread_fits))
        run.units = share;
    else if (s->B >= 2 * ROWS)
        run.rows = smaller(share, s->B / ROWS);
    return run;
}

/* Where chunk c of the batch rows begins: chunks have as many rows or, if lengths differ, as many steps. */
static size_t cut_rows(const rnn_job *job, size_t c, size_t chunks)
{
    const int64_t *lengths = job->s.lengths;
    size_t all = 0, before = 0, b = 0;
    if (!lengths)
        return pk_cut(job->s.B, c, chunks);
    for (size_t i = 0; i < job->s.B; i++)
        all += (size_t)lengths[i];
    for (const size_t share = pk_cut(all, c, chunks);
         b < job->s.B && (before < share || c == chunks); b++)
        before += (size_t)lengths[b];
    return b;
}

/* Task number `task` of run.count * run.rows * run.units: the job, its rows and its columns, which are
 * COLS panels each. */
static const rnn_job *rnn_share(const rnn_run *run, size_t task, range *rows, range *columns)
{
    const rnn_job *job = run->jobs + task % run->count;
    const size_t chunk = task / run->count, row = chunk % run->rows, unit = chunk / run->rows;
    *rows = (range){cut_rows(job, row, run->rows), cut_rows(job, row + 1, run->rows)};
    const size_t all = job->Q / WIDTH;
    *columns = (range){pk_cut(all, unit, run->units), pk_cut(all, unit + 1, run->units)};
    return job;
}

PK_INLINE range panels_of(const rnn_job *job, range columns)
{
    const size_t all = job->P / LANES;
    return (range){columns.from * COLS, smaller(columns.to * COLS, all)};
}

/* What is done at the i-th of the steps of a run, for some rows or some columns. */
typedef void rnn_step(const rnn_job *job, range steps, size_t i, range rows, range columns);

typedef struct {
    const rnn_run *run;
    rnn_step *step;
    size_t from, to; /* i */
} rnn_walk;

static void rnn_walk_share(void *arg, size_t task)
{
    const rnn_walk *walk = arg;
    range rows, columns;
    const rnn_job *job = rnn_share(walk->run, task, &rows, &columns);
    const fp_mode mode = flush_denormals();
    for (size_t i = walk->from; i < walk->to; i++)
        walk->step(job, walk->run->steps, i, rows, columns);
    restore_denormals(mode);
}

/* step(.., i, ..) for i < n: each share of rows by itself, shares of units with a wait after each i. */
static void rnn_walk_all(const rnn_run *run, rnn_step *step, size_t n)
{
    const size_t at_a_time = run->units > 1 ? 1 : n;
    for (size_t i = 0; i < n; i += at_a_time) {
        rnn_walk walk = {run, step, i, i + at_a_time};
        pk_parallel(rnn_walk_share, &walk, run->count * run->rows * run->units, run->nthreads);
    }
}

#endif
