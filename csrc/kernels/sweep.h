/* How a step goes over memory: once, cut into chunks that may run on several threads, each chunk
 * handing pieces of tensors to one optimizer's loop.  Included by optim.h and norm.h.
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
    BLOCK = 1024           /* elements of a gradient prepared at a time: stays in the L1 cache */
};

/* What an optimizer's loop needs besides the arrays: computed in double, once per group and step. */
typedef struct {
    real keep; /* 1 - lr * weight_decay if decoupled, else 1: multiplies the parameter */
    real rate, gain, direct, momentum, beta1, rest1, beta2, rest2, correct2, eps, eps_inside;
    int has_momentum, first, nesterov, centered, amsgrad, rectified;
    int by_products; /* take the root so: see loop.h */
} constants;

typedef struct {
    const pk_tensor *tensors;
    size_t count, total, chunks;
    const char *configs; /* an array of the optimizer's config, each beginning with pk_common */
    size_t config_size;
    void (*prepare)(const void *config, int64_t step, constants *k);
    void (*update)(const pk_tensor *piece, const constants *k);
    const double *rates; /* [count] the rate of each tensor, or NULL: that of the constants */
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

/* out = the gradient after scaling, clipping, maximize and coupled decay, as pk_common says. */
static void prepare_gradient(real *restrict out, const pk_tensor *piece, const pk_common *c)
{
    const real *restrict g = piece->grad, *restrict p = piece->param;
    const real scale = (real)c->grad_scale, clip = (real)c->clip_value;
    const real sign = c->maximize ? -1 : 1, decay = c->decoupled ? 0 : (real)c->weight_decay;
    const size_t n = piece->n;

    PK_SIMD
    for (size_t i = 0; i < n; i++) {
        const real scaled = scale * g[i];
        const real below = scaled > clip ? clip : scaled; /* both comparisons let a NaN through */
        out[i] = sign * (below < -clip ? -clip : below);
    }
    if (decay != 0) {
        PK_SIMD
        for (size_t i = 0; i < n; i++)
            out[i] += decay * p[i];
    }
}

/* What follows the update, while the block is still in the cache. */
static void finish(const pk_tensor *piece, const pk_common *c)
{
    if (piece->ema) {
        real *restrict ema = piece->ema;
        const real *restrict p = piece->param;
        const real decay = (real)c->ema_decay, rest = (real)(1 - c->ema_decay);
        PK_SIMD
        for (size_t i = 0; i < piece->n; i++)
            ema[i] = decay * ema[i] + rest * p[i];
    }
    if (c->zero_grad)
        memset((void *)(uintptr_t)piece->grad, 0, piece->n * sizeof(real));
}

static void update_piece(const sweep *s, pk_tensor piece, const pk_common *c, const constants *k)
{
    const int prepare = c->grad_scale != 1 || c->clip_value != (double)INFINITY || c->maximize ||
                        (!c->decoupled && c->weight_decay != 0);
    if (!prepare && !piece.ema && !c->zero_grad) {
        s->update(&piece, k);
        return;
    }
    for (size_t begin = 0, end; begin < piece.n; begin = end) {
        _Alignas(CACHE_LINE) real gradient[BLOCK];
        end = next_line(&piece, begin + BLOCK - CACHE_LINE / sizeof(real));
        const pk_tensor block = piece_of(&piece, begin, end);
        pk_tensor prepared = block;
        if (prepare) {
            prepare_gradient(gradient, &block, c);
            prepared.grad = gradient;
        }
        s->update(&prepared, k);
        finish(&block, c);
    }
}

/* Chunk c of the list, counted in elements over all its tensors. */
static void sweep_chunk(void *arg, size_t c)
{
    const sweep *s = arg;
    const fp_mode mode = flush_denormals();
    const size_t from = pk_cut(s->total, c, s->chunks), to = pk_cut(s->total, c + 1, s->chunks);
    const pk_tensor *prepared = NULL; /* the tensor whose group and step k is for */
    constants k;

    size_t start = 0; /* of tensor t, in elements of the list */
    for (const pk_tensor *t = s->tensors; t < s->tensors + s->count && start < to;
         start += t++->n) {
        if (start + t->n <= from || !t->grad || !t->n)
            continue;
        const void *config = s->configs + t->group * s->config_size;
        if (!prepared || t->group != prepared->group || t->step != prepared->step)
            s->prepare(config, t->step, &k);
        prepared = t;
        if (s->rates)
            k.rate = (real)s->rates[t - s->tensors];

        const size_t begin = from > start ? next_line(t, from - start) : 0;
        const size_t end = to < start + t->n ? next_line(t, to - start) : t->n;
        if (begin >= end)
            continue;
        update_piece(s, piece_of(t, begin, end), config, &k);
    }
    restore_denormals(mode);
}

static size_t chunks_for(size_t total, int nthreads)
{
    if (nthreads <= 1 || total < SERIAL_BELOW)
        return 1;
    const size_t most = (size_t)nthreads * CHUNKS_PER_THREAD;
    const size_t by_size = total / (SERIAL_BELOW / CHUNKS_PER_THREAD);
    return by_size < most ? by_size : most;
}

static void run_sweep(sweep s, int nthreads)
{
    s.total = 0;
    for (size_t i = 0; i < s.count; i++)
        s.total += s.tensors[i].n;
    s.chunks = chunks_for(s.total, nthreads);
    if (s.chunks == 1)
        sweep_chunk(&s, 0);
    else
        pk_parallel(sweep_chunk, &s, s.chunks, nthreads);
}

#endif
