/* A sweep: one pass over the memory of a list of tensors.  The list is divided into chunks, which
 * may run on several threads.  Each chunk calls one optimizer's `update` with pieces of tensors.
 * optim.c calls sweep_chunk; an update is a loop of loop.h.
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

/* One optimizer, as the table in optim.c lists it. */
typedef struct {
    void (*prepare)(const void *config, int64_t step, context *k);
    /* One step of a piece; if p->counting, changes nothing and returns how many elements agree. */
    size_t (*update)(const piece *p, const context *k);
    size_t config_size;
    /* LAMB: computes a rate for each tensor, [count] in scratch, before the sweep.  Others:
     * NULL. */
    const double *(*rates)(const pk_tensor *tensors, size_t count, const void *configs,
                           void *scratch, int nthreads);
    size_t (*scratch_size)(const pk_tensor *tensors, size_t count); /* bytes; NULL: none */
} optimizer;

/* Where a chunk begins: the index of its first tensor, and the elements of all tensors before. */
typedef struct {
    size_t tensor, before;
} chunk_start;

typedef struct {
    const optimizer *optimizer;
    const pk_tensor *tensors;
    size_t count, total, chunks;
    const chunk_start *starts; /* [chunks] */
    const char *configs; /* an array of the optimizer's config, each beginning with pk_common */
    const double *rates; /* [count], or NULL: the rate is in the context */
    size_t *agreeing;    /* [count] the number of agreeing elements of a cautious update, or NULL */
    int counting;        /* this sweep only counts agreeing elements */
} sweep;

PK_INLINE const pk_common *common_of(const sweep *s, const pk_tensor *t)
{
    return (const pk_common *)(s->configs + t->group * s->optimizer->config_size);
}

/* The factor of the agreeing elements, which keeps the size of the update. */
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
    return next->grad && next->n > SHORT && next->n <= MIDDLING && is_native(next);
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

/* Found once for all chunks, because each would otherwise scan the list from its beginning. */
static void find_starts(chunk_start *starts, size_t chunks, const pk_tensor *tensors, size_t total,
                        size_t (*length_of)(const pk_tensor *t))
{
    size_t i = 0, before = 0;
    for (size_t c = 0; c < chunks; c++) {
        const size_t from = pk_chunk_begin(total, c, chunks);
        while (from < total && before + length_of(&tensors[i]) <= from)
            before += length_of(&tensors[i++]);
        starts[c] = (chunk_start){i, before};
    }
}

static size_t elements_of(const pk_tensor *t) { return t->n; }

/* One step of elements begin..end-1 of a tensor with converted arrays, a stage at a time. */
static size_t update_staged(const optimizer *o, const pk_tensor *t, size_t begin, size_t end,
                            piece p, const context *k)
{
    stage copies;
    size_t agreeing = 0;
    for (size_t i = begin; i < end; i += STAGE) {
        const pk_tensor part = part_of(t, i, end - i < STAGE ? end : i + STAGE);
        open_piece(&p, &part, &copies);
        agreeing += o->update(&p, k);
        if (!p.counting)
            close_piece(&p, &part, k->zero_grad);
    }
    return agreeing;
}

/* Chunk c of the list, counted in elements over all its tensors. */
static void sweep_chunk(void *arg, size_t c)
{
    const sweep *s = arg;
    const optimizer *const o = s->optimizer;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_chunk_begin(s->total, c, s->chunks),
                 to = pk_chunk_begin(s->total, c + 1, s->chunks);
    const pk_tensor *const list_end = s->tensors + s->count;
    const pk_tensor *prepared = NULL; /* k is the context of its group and step count */
    context k;

    size_t start = s->starts[c].before; /* index of the first element of t, over the list */
    for (const pk_tensor *t = s->tensors + s->starts[c].tensor; t < list_end && start < to;
         start += t++->n) {
        if (!t->grad || !t->n)
            continue;
        const pk_tensor *soon = t + ROWS_AHEAD;
        if (soon < list_end && soon->n <= SHORT)
            prefetch_rows(soon);
        if (s->counting && !common_of(s, t)->cautious)
            continue;
        if (!prepared || t->group != prepared->group || t->step != prepared->step)
            o->prepare(common_of(s, t), t->step, &k);
        prepared = t;

        const size_t begin = from > start ? next_grain(t, from - start) : 0;
        const size_t end = to < start + t->n ? next_grain(t, to - start) : t->n;
        if (begin >= end)
            continue;
        const size_t i = (size_t)(t - s->tensors);
        piece next, p;
        p.next = NULL;
        p.counting = s->counting;
        p.rate = s->rates ? (real)s->rates[i] : 0;
        /* Not while other threads count. */
        p.caution = s->agreeing && !s->counting ? (real)caution_of(s->agreeing[i], t->n) : 0;
        if (start + t->n < to && t + 1 < list_end && pays_to_prefetch(t + 1))
            p.next = open_native(&next, t + 1, 0, t[1].n);
        const size_t agreeing = is_native(t) ? o->update(open_native(&p, t, begin, end), &k)
                                             : update_staged(o, t, begin, end, p, &k);
        if (s->counting) /* integers: the order of the threads does not matter */
            __atomic_fetch_add(&s->agreeing[i], agreeing, __ATOMIC_RELAXED);
    }
    restore_denormals(mode);
}

#endif
