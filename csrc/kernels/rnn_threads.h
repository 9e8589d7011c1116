/* The partition of a recurrent layer: how its work is divided between threads, and the loop over
 * its time steps.  Both passes call rnn_walk_steps.  You may change the rules: results have the
 * same bits for any partition. */
#ifndef PK_RNN_THREADS_H
#define PK_RNN_THREADS_H

#include "rnn_memory.h"

/* A call of a pass: its jobs, their partition, and the time steps being computed. */
typedef struct {
    rnn_job *jobs;
    size_t count;
    size_t rows, units; /* number of shares of batch rows, of hidden units; one of them is 1 */
    int nthreads;
    range steps;
    int is_backward;
} rnn_run;

/* By rows: batch rows are independent, so a thread takes some rows through all steps and never
 * waits. But each thread reads all weights in every step.  This is best if each thread has enough
 * rows for full tiles and the weights fit its cache. By units: a thread computes some hidden units
 * of all rows and reads only their weights, but all threads wait for each other after every step.
 * This pays if a step takes longer than waking a thread. Problems of some 10 microseconds stay on
 * one thread. */
static pk_rnn_partition rnn_partition(const pk_rnn_shape *s, size_t count, int nthreads)
{
    enum { SERIAL_BELOW = 1 << 20, WORTH_WAITING = 1 << 17 }; /* multiply-adds */
    const size_t state_weights = times((OF_H.count + OF_S.count) * s->H, width_of_h(s));
    const size_t input_weights = times(OF_X.count * s->H, s->I);
    const size_t step = times(state_weights, s->B);
    const size_t all = times(times(count * s->T, s->B), plus(state_weights, input_weights));
    pk_rnn_partition parts = {1, 1, 1};
    if (nthreads <= 1 || all < SERIAL_BELOW)
        return parts;
    parts.nthreads = nthreads;
    const size_t share = ((size_t)nthreads + count - 1) / count;
    const int rows_suffice = s->B >= share * TILE_ROWS;
    const size_t elements = elements_of(s->products, state_weights);
    const int one_thread_fits = times(elements, sizeof(real)) <= L2_SHARE;
    const int worth = step >= share * WORTH_WAITING && round_up(s->H, WIDTH) / WIDTH >= share;
    if (worth && !(rows_suffice && one_thread_fits))
        parts.units = share;
    else if (s->B >= 2 * TILE_ROWS)
        parts.rows = smaller(share, s->B / TILE_ROWS);
    return parts;
}

static rnn_run rnn_run_of(rnn_job *jobs, size_t count, int nthreads)
{
    const pk_rnn_partition parts = rnn_partition(&jobs->s, count, nthreads);
    return (rnn_run){jobs, count, parts.rows, parts.units, parts.nthreads, {0, jobs->s.T}, 0};
}

/* The first row of share c.  Shares have the same number of rows or, with lengths, of steps. */
static size_t partition_rows(const rnn_job *job, size_t c, size_t shares)
{
    const int64_t *lengths = job->s.lengths;
    size_t all = 0, before = 0, b = 0;
    if (!lengths)
        return pk_chunk_begin(job->s.B, c, shares);
    for (size_t i = 0; i < job->s.B; i++)
        all += (size_t)lengths[i];
    for (const size_t share = pk_chunk_begin(all, c, shares);
         b < job->s.B && (before < share || c == shares); b++)
        before += (size_t)lengths[b];
    return b;
}

/* The panels of these groups of WIDTH units. */
PK_INLINE range panels_of(const rnn_job *job, range columns)
{
    const size_t each = WIDTH / UNITS;
    return (range){columns.from * each, smaller(columns.to * each, panels_in(job->s.H))};
}

/* The features of h that belong to these groups of units: of the same index, without a projection.
 * Whole vectors. */
PK_INLINE range features_of(const rnn_job *job, range columns)
{
    if (projects(&job->s)) {
        const size_t all = job->Q / WIDTH, of_c = job->Q_c / WIDTH;
        columns = (range){columns.from * all / of_c, columns.to * all / of_c};
    }
    return (range){smaller(columns.from * WIDTH, job->P_h), smaller(columns.to * WIDTH, job->P_h)};
}

/* The work of the i-th step of a run, for some rows and all columns, or for all rows and some
 * columns.  In the second phase of a cell with CELL_WHOLE_ROW it is always for all columns. */
typedef void rnn_work(const rnn_job *job, range steps, size_t i, int phase, range rows,
                      range columns);

typedef struct {
    const rnn_run *run;
    rnn_work *work;
    size_t i_from, i_to;
    int phase_from, phase_to;
} rnn_walk;

/* One share of one job; there are run->count * run->rows * run->units of them. */
static void rnn_walk_task(void *arg, size_t task)
{
    const rnn_walk *walk = arg;
    const rnn_run *run = walk->run;
    const rnn_job *job = run->jobs + task % run->count;
    size_t share = task / run->count, row_shares = run->rows, row = share % row_shares;
    range columns = {0, job->Q_c / WIDTH};
    if (CELL_WHOLE_ROW && walk->phase_from == 1) {
        row_shares = run->units, row = share;
    } else if (run->units > 1) {
        const size_t unit = share / row_shares, all = columns.to;
        columns = (range){pk_chunk_begin(all, unit, run->units),
                          pk_chunk_begin(all, unit + 1, run->units)};
    }
    const range rows = {partition_rows(job, row, row_shares),
                        partition_rows(job, row + 1, row_shares)};
    const fp_mode mode = flush_denormals();
    for (size_t i = walk->i_from; i < walk->i_to; i++)
        for (int phase = walk->phase_from; phase < walk->phase_to; phase++)
            walk->work(job, run->steps, i, phase, rows, columns);
    restore_denormals(mode);
}

/* Calls `work` for every i < n.  Shares of rows run through all i independently; shares of units
 * wait for each other after each phase. */
static void rnn_walk_steps(const rnn_run *run, rnn_work *work, size_t n)
{
    const size_t tasks = run->count * run->rows * run->units;
    if (run->units == 1) {
        rnn_walk walk = {run, work, 0, n, 0, phases_of(run->jobs)};
        pk_parallel(rnn_walk_task, &walk, tasks, run->nthreads);
        return;
    }
    for (size_t i = 0; i < n; i++)
        for (int phase = 0; phase < phases_of(run->jobs); phase++) {
            rnn_walk walk = {run, work, i, i + 1, phase, phase + 1};
            pk_parallel(rnn_walk_task, &walk, tasks, run->nthreads);
        }
}

#endif
