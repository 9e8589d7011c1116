/* How a step goes over memory: once, cut into chunks that may run on several threads, each chunk
 * handing pieces of tensors to one optimizer's loop.  Included by loop.h and norm.h.
 *
 * The arithmetic of an element never depends on where the cuts fall, so that every number of
 * threads and every split of a model into tensors gives the same bits. */
#ifndef PK_SWEEP_H
#define PK_SWEEP_H

#include "real.h"

#include <string.h>

enum {
    CACHE_LINE = 64,
    SERIAL_BELOW =
        16384, /* elements in a list under which waking a thread costs more than it gives */
    CHUNKS_PER_THREAD = 4, /* so that a thread that starts late does not hold up the others */
    MOST_CHUNKS = PK_MAX_THREADS * CHUNKS_PER_THREAD,
    PREFETCH_BELOW = 256,   /* elements in a tensor that is too short to be fetched as it is read */
    PREFETCH_AHEAD = 4,     /* tensors */
    PREFETCH_BESIDE = 4096, /* elements in one that is fetched while the one before it is stepped */
    CAUTIOUS_AT_ONCE = 512  /* tensors whose agreeing elements are counted in one region */
};

/* What an optimizer's loop needs besides the arrays: computed in double, once per group and step. */
typedef struct {
    real scale, clip, sign, decay; /* of the gradient before the rule */
    real keep; /* 1 - lr * weight_decay if decoupled, else 1: multiplies the parameter */
    real rate, gain, direct, momentum, beta1, rest1, beta2, rest2, correct2, eps, eps_inside;
    real caution; /* what a cautious step multiplies the kept elements of the update by */
    real ema_keep, ema_rest;
    int plain; /* nothing to be done but the rule */
    int has_momentum, first, nesterov, centered, amsgrad, rectified, cautious, zero_grad;
    int counting;          /* change nothing: how many elements does a cautious step keep? */
    int by_products;       /* take the root so: see loop.h */
    const pk_tensor *next; /* comes after this one and is worth fetching, or NULL */
} constants;

/* Where a chunk begins in a list: the tensor, and how much of the list lies before that. */
typedef struct {
    size_t tensor, before;
} cut;

typedef struct {
    const pk_tensor *tensors;
    size_t count, total, chunks;
    const cut *cuts;     /* [chunks] */
    const char *configs; /* an array of the optimizer's config, each beginning with pk_common */
    size_t config_size;
    void (*prepare)(const void *config, int64_t step, constants *k);
    size_t (*update)(const pk_tensor *piece, const constants *k); /* returns what update_by does */
    const double *rates; /* [count] the rate of each tensor, or NULL: that of the constants */
    size_t *agreeing; /* [count] of a cautious step: elements of the update to be kept, or NULL */
    int counting;     /* this sweep only counts them */
} sweep;

PK_INLINE pk_tensor piece_of(const pk_tensor *t, size_t begin, size_t end)
{
    pk_tensor piece = *t;
    piece.n = end - begin;
    piece.param = (real *)t->param + begin;
    piece.grad = (const real *)t->grad + begin;
    piece.ema = t->ema ? (real *)t->ema + begin : NULL;
    for (int s = 0; s < PK_MAX_STATES; s++)
        piece.state[s] = t->state[s] ? (real *)t->state[s] + begin : NULL;
    return piece;
}

/* The first index >= i of a cache line of the parameter, at most n. */
PK_INLINE size_t next_line(const pk_tensor *t, size_t i)
{
    const size_t past = ((uintptr_t)t->param + i * sizeof(real)) % CACHE_LINE;
    const size_t line = past ? i + (CACHE_LINE - past) / sizeof(real) : i;
    return line < t->n ? line : t->n;
}

PK_INLINE const pk_common *common_of(const sweep *s, const pk_tensor *t)
{
    return (const pk_common *)(s->configs + t->group * s->config_size);
}

/* What multiplies the kept elements, so that the update is as large as it would have been. */
static double caution_of(size_t agreeing, size_t n)
{
    const double share = (double)agreeing / (double)n;
    return 1 / (share > 1e-3 ? share : 1e-3);
}

/* The rows of a sparse gradient lie far apart, where no processor expects the next one. */
PK_INLINE void prefetch(const pk_tensor *t)
{
    const void *arrays[] = {t->param, t->grad, t->state[0], t->state[1], t->state[2]};
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        if (arrays[a])
            for (size_t i = 0; i < t->n * sizeof(real); i += CACHE_LINE)
                __builtin_prefetch((const char *)arrays[a] + i);
}

/* A processor fetches ahead of a loop, but not beyond a page: it would be late for every array of a tensor
 * that is shorter than a few.  So the loop fetches, while it goes over one, the next. */
PK_INLINE const pk_tensor *worth_fetching(const pk_tensor *next)
{
    return next->grad && next->n > PREFETCH_BELOW && next->n <= PREFETCH_BESIDE ? next : NULL;
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

/* Found once for all chunks: a list may be long, and each would go through it again. */
static void find_cuts(cut *cuts, size_t chunks, const pk_tensor *tensors, size_t total,
                      size_t (*length_of)(const pk_tensor *t))
{
    size_t i = 0, before = 0;
    for (size_t c = 0; c < chunks; c++) {
        const size_t from = pk_chunk_begin(total, c, chunks);
        while (from < total && before + length_of(&tensors[i]) <= from)
            before += length_of(&tensors[i++]);
        cuts[c] = (cut){i, before};
    }
}

/* Chunk c of the list, counted in elements over all its tensors. */
static void sweep_chunk(void *arg, size_t c)
{
    const sweep *s = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_chunk_begin(s->total, c, s->chunks), to = pk_chunk_begin(s->total, c + 1, s->chunks);
    const pk_tensor *prepared = NULL; /* the tensor whose group and step k is for */
    constants k;

    size_t start = s->cuts[c].before; /* of tensor t, in elements of the list */
    for (const pk_tensor *t = s->tensors + s->cuts[c].tensor;
         t < s->tensors + s->count && start < to; start += t++->n) {
        if (!t->grad || !t->n)
            continue;
        const pk_tensor *soon = t + PREFETCH_AHEAD;
        if (soon < s->tensors + s->count && soon->n <= PREFETCH_BELOW)
            prefetch(soon);
        const pk_common *config = common_of(s, t);
        if (s->counting && !config->cautious)
            continue;
        if (!prepared || t->group != prepared->group || t->step != prepared->step)
            s->prepare(config, t->step, &k);
        prepared = t;
        if (s->rates)
            k.rate = (real)s->rates[t - s->tensors];
        k.counting = s->counting;
        if (s->agreeing && !s->counting)
            k.caution = (real)caution_of(s->agreeing[t - s->tensors], t->n);

        const size_t begin = from > start ? next_line(t, from - start) : 0;
        const size_t end = to < start + t->n ? next_line(t, to - start) : t->n;
        if (begin >= end)
            continue;
        const int is_last = start + t->n >= to || t + 1 == s->tensors + s->count;
        k.next = is_last ? NULL : worth_fetching(t + 1);
        const pk_tensor piece = piece_of(t, begin, end);
        const size_t agreeing = s->update(&piece, &k);
        if (s->counting) /* whole numbers: the order in which threads come here does not matter */
            __atomic_fetch_add(&s->agreeing[t - s->tensors], agreeing, __ATOMIC_RELAXED);
    }
    restore_denormals(mode);
}

static size_t elements_of(const pk_tensor *t) { return t->n; }

static void sweep_once(sweep *s, int nthreads)
{
    cut cuts[MOST_CHUNKS];
    s->chunks = chunks_for(s->total, nthreads);
    s->cuts = cuts;
    find_cuts(cuts, s->chunks, s->tensors, s->total, elements_of);
    if (s->chunks == 1)
        sweep_chunk(s, 0);
    else
        pk_parallel(sweep_chunk, s, s->chunks, nthreads);
}

/* The share of agreeing elements is known only after all of a tensor have been seen. */
static void sweep_cautiously(sweep s, int nthreads)
{
    size_t agreeing[CAUTIOUS_AT_ONCE] = {0};
    s.agreeing = agreeing;
    s.counting = 1;
    sweep_once(&s, nthreads);
    s.counting = 0;
    sweep_once(&s, nthreads);
}

static void run_sweep(sweep s, int nthreads)
{
    const pk_tensor *const end = s.tensors + s.count;
    int cautious = 0;
    for (const pk_tensor *t = s.tensors; t < end; t++)
        cautious |= common_of(&s, t)->cautious;
    while (s.tensors < end) {
        const size_t left = (size_t)(end - s.tensors);
        s.count = cautious && left > CAUTIOUS_AT_ONCE ? CAUTIOUS_AT_ONCE : left;
        s.total = 0;
        for (size_t i = 0; i < s.count; i++)
            s.total += s.tensors[i].n;
        cautious ? sweep_cautiously(s, nthreads) : sweep_once(&s, nthreads);
        s.tensors += s.count;
    }
}

#endif
