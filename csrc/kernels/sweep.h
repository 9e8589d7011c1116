/* A sweep: one pass over the memory of a list of tensors.  The list is divided into chunks, which
 * may run on several threads.  A chunk visits its tensors: a step (update_visit) calls the
 * optimizer's `update`, a loop of loop.h, with pieces of them; norm.h sums squares.  optim.c and
 * norm.h call run_sweep.
 *
 * The arithmetic of an element never depends on where a chunk begins, so that every number of
 * threads and every split of a model into tensors gives the same bits. */
#ifndef PK_SWEEP_H
#define PK_SWEEP_H

#include "storage.h"

enum {
    SERIAL_BELOW = 16384,  /* elements in a list; below, waking a thread costs more than it saves */
    CHUNKS_PER_THREAD = 4, /* so that a thread that starts late does not hold up the others */
    MOST_CHUNKS = PK_MAX_THREADS * CHUNKS_PER_THREAD,
    SHORT = 256,           /* elements; tensors up to this are prefetched as a whole, */
    ROWS_AHEAD = 4,        /* this many tensors ahead */
    MIDDLING = 4096,       /* elements; tensors up to this are prefetched during the step before */
    CAUTIOUS_AT_ONCE = 512 /* tensors whose agreeing elements are counted in one parallel region */
};

/* What a rule needs besides arrays; computed in double, once per group and step count. */
typedef struct {
    real scale, clip, sign, decay; /* of the gradient before the rule */
    real shrink; /* 1 - lr * weight_decay if decoupled, else 1: multiplies the parameter */
    real rate, gain, direct, momentum, beta1, rest1, beta2, rest2, correct2, eps, eps_inside;
    real low, high;
    real ema_keep, ema_rest;
    int rule_only; /* nothing but the rule: no scaling, clipping, coupled decay, caution, zeroing */
    int cautious, zero_grad;
    int variant;     /* flags of the optimizer; update_arrays sets them to a literal */
    int by_products; /* how root_of works; a literal for each vector of a loop */
} context;

/* One step of a piece; if p->counting, changes nothing and returns how many elements agree. */
typedef size_t update_function(const piece *p, const context *k);

/* One optimizer, as the table in optim.c lists it. */
typedef struct {
    void (*complete)(const void *config, int64_t step, context *k); /* after common_context */
    update_function *update;
    size_t config_size;
} optimizer;

/* Where a chunk begins: the index of its first tensor, and the elements of all tensors before. */
typedef struct {
    size_t tensor, before;
} chunk_start;

typedef struct {
    const pk_tensor *tensors;
    size_t count, total, chunks; /* total: of elements or of blocks, as a length_function counts */
    const chunk_start *starts;   /* [chunks] */
    const optimizer *optimizer;
    update_function *narrow; /* its update of tensors with narrow states, or NULL */
    int takes_halves;        /* whether `narrow` takes a piece of open_halves, if rule_only */
    const char *configs;     /* an array of the optimizer's config, each beginning with pk_common */
    const double *rates;     /* [count], or NULL: the rate is in the context */
    size_t *agreeing;    /* [count] the number of agreeing elements of a cautious update, or NULL */
    int counting;        /* this sweep only counts agreeing elements */
    double *sums;        /* norm.h: of squares, for each block */
    double scale;        /* norm.h: multiplies every element before it is squared */
    pk_watched *watched; /* [count], or NULL: the step is not watched */
    struct watched_part *parts; /* watch.h: for each block */
} sweep;

typedef size_t length_function(const pk_tensor *t);

PK_INLINE const pk_common *common_of(const sweep *s, const pk_tensor *t)
{
    return (const pk_common *)(s->configs + t->group * s->optimizer->config_size);
}

static void common_context(const pk_common *c, context *k)
{
    *k = (context){.scale = (real)c->grad_scale,
                   .clip = (real)c->clip_value,
                   .sign = c->maximize ? -1 : 1,
                   .decay = c->decoupled ? 0 : (real)c->weight_decay,
                   .shrink = (real)(c->decoupled ? 1 - c->lr * c->weight_decay : 1),
                   .rate = (real)c->lr,
                   .ema_keep = (real)c->ema_decay,
                   .ema_rest = (real)(1 - c->ema_decay),
                   .cautious = c->cautious,
                   .zero_grad = c->zero_grad};
    k->rule_only = c->grad_scale == 1 && c->clip_value == (double)INFINITY && !c->maximize &&
                   k->decay == 0 && !c->cautious && !c->zero_grad;
}

/* Makes k the context of t, unless it is that of a tensor of the same group and step count. */
PK_INLINE void prepare(const sweep *s, const pk_tensor *t, const pk_tensor **prepared, context *k)
{
    if (!*prepared || t->group != (*prepared)->group || t->step != (*prepared)->step) {
        common_context(common_of(s, t), k);
        s->optimizer->complete(common_of(s, t), t->step, k);
    }
    *prepared = t;
}

/* The factor of the agreeing elements, by which the update has the same size as without caution. */
static double caution_of(size_t agreeing, size_t n)
{
    const double share = (double)agreeing / (double)n;
    return 1 / (share > 1e-3 ? share : 1e-3);
}

/* Rows of a sparse gradient are far apart: hardware prefetch does not find them. */
PK_INLINE void prefetch_rows(const pk_tensor *t)
{
    const void *arrays[] = {t->param, t->grad, t->state[0], t->state[1], t->state[2]};
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        if (arrays[a])
            for (size_t i = 0; i < t->n * sizeof(real); i += CACHE_LINE)
                __builtin_prefetch((const char *)arrays[a] + i);
}

/* Whether the loop should prefetch this tensor during the step of the one before.  Hardware
 * prefetch stops at the end of a page, so every array of a tensor of a few pages would begin with
 * misses. */
PK_INLINE int pays_to_prefetch(const pk_tensor *next)
{
    return next->grad && next->n > SHORT && next->n <= MIDDLING && is_native(next) &&
           !has_narrow_states(next);
}

static size_t chunks_for(size_t total, int nthreads)
{
    if (nthreads <= 1 || total < SERIAL_BELOW)
        return 1;
    const size_t wanted = (size_t)nthreads * CHUNKS_PER_THREAD;
    const size_t most = wanted < MOST_CHUNKS ? wanted : MOST_CHUNKS;
    const size_t by_size = total / (SERIAL_BELOW / CHUNKS_PER_THREAD);
    return by_size < most ? by_size : most;
}

static size_t elements_of(const pk_tensor *t) { return t->n; }

PK_INLINE size_t total_of(const pk_tensor *tensors, size_t count, length_function *length_of)
{
    size_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += length_of(&tensors[i]);
    return total;
}

/* Divides the list into chunks and runs them.  Finds once for all chunks where they begin, because
 * each would otherwise scan the list.  A unit of length is at most `size` elements. */
PK_INLINE void run_sweep(sweep *s, length_function *length_of, size_t size,
                         void (*chunk)(void *sweep, size_t c), int nthreads)
{
    chunk_start starts[MOST_CHUNKS];
    size_t i = 0, before = 0;
    s->total = total_of(s->tensors, s->count, length_of);
    s->chunks = chunks_for(s->total * size, nthreads);
    s->starts = starts;
    for (size_t c = 0; c < s->chunks; c++) {
        const size_t from = pk_chunk_begin(s->total, c, s->chunks);
        while (from < s->total && before + length_of(&s->tensors[i]) <= from)
            before += length_of(&s->tensors[i++]);
        starts[c] = (chunk_start){i, before};
    }
    pk_parallel(chunk, s, s->chunks, nthreads);
}

/* The part of a tensor that belongs to a chunk, in units of length. */
typedef struct {
    const pk_tensor *t;
    size_t from;
    size_t to;     /* beyond the end of t if the chunk goes on with the next tensor */
    size_t before; /* the length of all tensors before t */
} share;

/* Calls visit with all shares of chunk c; k is for prepare(). */
PK_INLINE void visit_chunk(const sweep *s, size_t c, length_function *length_of,
                           void (*visit)(const sweep *s, share of, const pk_tensor **prepared,
                                         context *k))
{
    const fp_mode mode = flush_denormals();
    const size_t from = pk_chunk_begin(s->total, c, s->chunks),
                 to = pk_chunk_begin(s->total, c + 1, s->chunks);
    const pk_tensor *t = s->tensors + s->starts[c].tensor, *prepared = NULL;
    context k;
    for (size_t before = s->starts[c].before; t < s->tensors + s->count && before < to;
         before += length_of(t++)) {
        const share of = {t, from > before ? from - before : 0, to - before, before};
        visit(s, of, &prepared, &k);
    }
    restore_denormals(mode);
}

/* One step of elements begin..end-1 of a tensor with converted arrays, a stage at a time.  Not
 * inline, because a stage takes 12 KiB of stack. */
__attribute__((noinline)) static size_t update_staged(update_function *update, const pk_tensor *t,
                                                      size_t begin, size_t end, piece p,
                                                      const context *k)
{
    stage copies;
    size_t agreeing = 0;
    for (size_t i = begin, next; i < end; i = next) {
        next = end - i <= STAGE ? end : next_grain(t, i + STAGE - CACHE_LINE / sizeof(real) + 1);
        open_copies(&p, t, i, next, &copies);
        prefetch_stage(t, next);
        agreeing += update(&p, k);
        if (!p.counting)
            close_copies(&p, t, i, k->zero_grad);
    }
    return agreeing;
}

/* A piece without its arrays, which open_native or open_copies adds. */
PK_INLINE piece piece_of(const sweep *s, const pk_tensor *t)
{
    const size_t i = (size_t)(t - s->tensors);
    piece p;
    p.next = NULL;
    p.sums = NULL;
    p.counting = s->counting;
    p.rate = s->rates ? (real)s->rates[i] : 0;
    /* While elements are counted, other threads still add to the count. */
    p.caution = s->agreeing && !s->counting ? (real)caution_of(s->agreeing[i], t->n) : 0;
    return p;
}

/* One step of elements begin..end-1; p is from piece_of. */
PK_INLINE size_t update_elements(const sweep *s, const pk_tensor *t, size_t begin, size_t end,
                                 piece *p, const context *k)
{
    update_function *const update = has_narrow_states(t) ? s->narrow : s->optimizer->update;
    if (is_native(t))
        return update(open_native(p, t, begin, end), k);
    if (s->takes_halves && k->rule_only && !k->variant && !p->sums && !p->counting &&
        in_halves(t)) {
        const size_t blocks = begin + (end - begin) / PK_BLOCK * PK_BLOCK;
        s->narrow(open_halves(p, t, begin, blocks), k);
        begin = blocks;
    }
    return update_staged(update, t, begin, end, *p, k);
}

PK_INLINE void update_visit(const sweep *s, share of, const pk_tensor **prepared, context *k)
{
    const pk_tensor *const t = of.t, *const list_end = s->tensors + s->count;
    if (!t->grad || !t->n)
        return;
    if (t + ROWS_AHEAD < list_end && t[ROWS_AHEAD].n <= SHORT)
        prefetch_rows(t + ROWS_AHEAD);
    if (s->counting && !common_of(s, t)->cautious)
        return;
    prepare(s, t, prepared, k);
    const size_t begin = of.from ? next_grain(t, of.from) : 0;
    const size_t end = of.to < t->n ? next_grain(t, of.to) : t->n;
    if (begin >= end)
        return;
    piece next, p = piece_of(s, t);
    if (t->n < of.to && t + 1 < list_end && pays_to_prefetch(t + 1))
        p.next = open_native(&next, t + 1, 0, t[1].n);
    const size_t agreeing = update_elements(s, t, begin, end, &p, k);
    if (s->counting) /* integers: the order of the threads does not matter */
        __atomic_fetch_add(&s->agreeing[t - s->tensors], agreeing, __ATOMIC_RELAXED);
}

static void update_chunk(void *arg, size_t c) { visit_chunk(arg, c, elements_of, update_visit); }

#endif
