/* Arrays of other formats.  Among the files of the optimizers only this one, formats.h, codes.h,
 * blocks.h and narrow.h know element sizes and formats; sweep.h and norm.h call it.  The loops see
 * a `piece`, whose arrays are `real`, except perhaps what narrow.h converts in the loop.  Another
 * array in another format is converted into a copy in L1 and back, STAGE elements at a time: no
 * loop and no rule knows of it.
 *
 * If a tensor has narrow states or a narrow parameter, its pieces begin at blocks, and a stage is a
 * whole number of blocks: one thread sees all elements of a block, and knows its number. */
#ifndef PK_STORAGE_H
#define PK_STORAGE_H

#include "formats.h"

enum {
    CACHE_LINE = 64,
    STAGE = 1024 /* elements that are converted at once: three arrays of float take 12 KiB of L1 */
};

/* A part of one tensor, as a loop sees it, and the numbers that belong to this tensor alone. */
typedef struct piece {
    real *param, *grad, *state[PK_MAX_STATES], *ema; /* [n] each; NULL where there is none */
    size_t n;
    const pk_tensor *narrow;  /* if narrow.h steps it: where its narrow arrays are; else NULL */
    size_t first;             /* and the index of the first element there */
    int halves;               /* whether those are param and grad, if NULL; see in_halves */
    const struct piece *next; /* the tensor after this one, if it should be prefetched, else NULL */
    struct watched_sums *sums; /* watch.h: where what the step does is summed, or NULL */
    real rate;                 /* LAMB: replaces the rate of the context */
    real caution;              /* factor of the agreeing elements of a cautious update */
    int counting;              /* change nothing, count agreeing elements */
} piece;

typedef struct {
    _Alignas(CACHE_LINE) real param[STAGE], grad[STAGE], ema[STAGE];
} stage;

/* With real = double every array is native. */
PK_INLINE int is_stored_as_real(int kind) { return sizeof(real) != 4 || kind == PK_NATIVE; }

/* Apart from states. */
PK_INLINE int is_native(const pk_tensor *t)
{
    return is_stored_as_real(t->stored.param | t->stored.grad | t->stored.ema) &&
           (sizeof(real) != 4 || !t->copy);
}

PK_INLINE int has_narrow_states(const pk_tensor *t) { return !is_stored_as_real(t->stored.states); }

PK_INLINE size_t size_as(int kind)
{
    return is_stored_as_real(kind) ? sizeof(real) : kind == PK_8BIT ? 1 : 2;
}

/* The address of element i; NULL if the array is. */
PK_INLINE void *element(const void *array, size_t i, int kind)
{
    return array ? (char *)(uintptr_t)array + i * size_as(kind) : NULL;
}

/* A tensor of elements begin..end-1 of another. */
PK_INLINE pk_tensor part_of(const pk_tensor *t, size_t begin, size_t end)
{
    pk_tensor part = *t;
    part.n = end - begin;
    part.first_block = t->first_block + begin / PK_BLOCK;
    part.param = element(t->param, begin, t->stored.param);
    part.grad = element(t->grad, begin, t->stored.grad);
    part.ema = element(t->ema, begin, t->stored.ema);
    part.copy = element(t->copy, begin, t->stored.copy);
    part.low = t->low ? t->low + begin : NULL;
    for (int s = 0; s < PK_MAX_STATES; s++) {
        part.state[s] = element(t->state[s], begin, t->stored.states);
        part.scale[s] = t->scale[s] ? t->scale[s] + begin / PK_BLOCK : NULL;
    }
    return part;
}

/* The first index >= i, at most n, at which a piece may begin: the beginning of a block, or of a
 * cache line of the parameter, so that no two threads write to the same line. */
PK_INLINE size_t next_grain(const pk_tensor *t, size_t i)
{
    const size_t size = size_as(t->stored.param);
    const int in_blocks = has_narrow_states(t) || !is_stored_as_real(t->stored.param);
    const size_t past =
        in_blocks ? i % PK_BLOCK * size : ((uintptr_t)t->param + i * size) % CACHE_LINE;
    const size_t grain = in_blocks ? PK_BLOCK * size : CACHE_LINE;
    const size_t next = past ? i + (grain - past) / size : i;
    return next < t->n ? next : t->n;
}

/* ---- pieces ---------------------------------------------------------------------------------- */

/* The array itself if it is native, else `copy`, filled with its converted elements. */
PK_INLINE real *as_real(const void *array, size_t n, int kind, real *copy)
{
    if (!array || is_stored_as_real(kind))
        return (real *)(uintptr_t)array;
    convert(LOAD, kind, (void *)(uintptr_t)array, NULL, copy, n, (numbers){0, 0});
    return copy;
}

/* The same of a parameter. */
PK_INLINE real *param_as_real(const pk_tensor *part, real *copy)
{
    if (!part->low || is_stored_as_real(part->stored.param))
        return as_real(part->param, part->n, part->stored.param, copy);
    convert(LOAD_BOTH, PK_BF16, part->param, part->low, copy, part->n, (numbers){0, 0});
    return copy;
}

/* Stores a parameter that is not native. */
static void store_param(const pk_tensor *part, const real *from)
{
    size_t block = part->first_block;
    real *const values = (real *)(uintptr_t)from;
    const int kind = part->stored.param;
    if (!part->stored.by_chance) {
        convert(part->low ? STORE_BOTH : STORE, kind, part->param, part->low, values, part->n,
                (numbers){0, 0});
        return;
    }
    uint16_t *const to = part->param;
    const uint64_t stream = stream_of(part->seed, part->step);
    for (size_t i = 0; i < part->n; i += PK_BLOCK)
        convert(STORE_BY_CHANCE, kind, to + i, NULL, values + i,
                part->n - i < PK_BLOCK ? part->n - i : PK_BLOCK,
                numbers_in(stream, block++, PK_MAX_STATES));
}

/* The states of elements begin..end-1. */
PK_INLINE void open_states(piece *p, const pk_tensor *t, size_t begin)
{
    p->narrow = has_narrow_states(t) ? t : NULL;
    p->first = begin;
    p->halves = 0;
    for (int s = 0; s < PK_MAX_STATES; s++)
        p->state[s] = t->state[s] && !p->narrow ? (real *)t->state[s] + begin : NULL;
}

/* p, with the arrays of elements begin..end-1 of a native tensor. */
PK_INLINE const piece *open_native(piece *p, const pk_tensor *t, size_t begin, size_t end)
{
    p->n = end - begin;
    p->param = (real *)t->param + begin;
    p->grad = (real *)(uintptr_t)t->grad + begin;
    p->ema = t->ema ? (real *)t->ema + begin : NULL;
    open_states(p, t, begin);
    return p;
}

/* Whether all arrays but the states are native or in PK_BF16, as open_halves wants them, and the
 * parameter is not rounded to the nearest, which those loops do not do. */
PK_INLINE int in_halves(const pk_tensor *t)
{
    const int kinds = t->stored.param | t->stored.grad | t->stored.copy;
    const int to_nearest = t->stored.param && !t->low && !t->stored.by_chance;
    return (kinds & ~PK_BF16) == 0 && !t->ema && !to_nearest;
}

/* p, for a loop that converts in registers. */
PK_INLINE const piece *open_halves(piece *p, const pk_tensor *t, size_t begin, size_t end)
{
    open_native(p, t, begin, end);
    if (!is_stored_as_real(t->stored.param))
        p->param = NULL;
    if (!is_stored_as_real(t->stored.grad))
        p->grad = NULL;
    p->narrow = t;
    p->halves = 1;
    return p;
}

/* p, with copies of those that are not native. */
static void open_copies(piece *p, const pk_tensor *t, size_t begin, size_t end, stage *copies)
{
    const pk_tensor part = part_of(t, begin, end);
    p->n = part.n;
    p->param = param_as_real(&part, copies->param);
    p->grad = as_real(part.grad, part.n, part.stored.grad, copies->grad);
    p->ema = as_real(part.ema, part.n, part.stored.ema, copies->ema);
    open_states(p, t, begin);
}

/* Asks for the narrow arrays of a stage while the one before is stepped: each is read in one go,
 * which ends before the processor's own prefetching has begun. */
PK_INLINE void prefetch_stage(const pk_tensor *t, size_t begin)
{
    const pk_tensor part = part_of(t, begin, begin);
    const char *const halves[] = {is_stored_as_real(t->stored.param) ? NULL : part.param,
                                  is_stored_as_real(t->stored.grad) ? NULL : part.grad,
                                  (const char *)part.low, part.copy};
    for (size_t a = 0; a < sizeof halves / sizeof *halves; a++)
        for (size_t at = 0; halves[a] && at < STAGE * sizeof(uint16_t); at += CACHE_LINE)
            __builtin_prefetch(halves[a] + at, 0, 2);
}

/* Converts changed copies back into the arrays of the tensor. */
static void close_copies(const piece *p, const pk_tensor *t, size_t begin, int zero_grad)
{
    const pk_tensor part = part_of(t, begin, begin + p->n);
    if (p->param != part.param)
        store_param(&part, p->param);
    if (part.copy)
        convert(STORE, part.stored.copy, part.copy, NULL, p->param, part.n, (numbers){0, 0});
    if (p->ema != part.ema)
        convert(STORE, part.stored.ema, part.ema, NULL, p->ema, part.n, (numbers){0, 0});
    if (zero_grad && p->grad != part.grad)
        memset((void *)(uintptr_t)part.grad, 0, part.n * size_as(part.stored.grad));
}

#if PK_DTYPE_BITS == 32

static void read_param(const pk_tensor *t, float *values)
{
    const real *const found = param_as_real(t, values);
    if (found != values)
        memcpy(values, found, t->n * sizeof *values);
}

static void write_param(const pk_tensor *t, const float *values) { store_param(t, values); }

#endif

#endif
