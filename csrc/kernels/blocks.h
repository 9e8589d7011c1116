/* Blocks of a tensor whose states, parameter or gradient are narrow: where the arrays of a block
 * are, copies for a last block that is shorter, and the conversion of 16-bit parameters and
 * gradients.  narrow.h includes it. */
#ifndef PK_BLOCKS_H
#define PK_BLOCKS_H

#include "codes.h"

#if PK_DTYPE_BITS == 32

/* Elements from what is computed to what is prefetched.  A block takes longer than the processor
 * looks ahead: with its own prefetching alone a step has three quarters of the speed. */
enum { AHEAD = 2 * PK_BLOCK };

/* One block of all states, and the arrays of its elements; or a whole piece, if nothing is rounded
 * by chance and so no random numbers begin anew at a block. */
typedef struct {
    real *param, *grad, *ema;
    void *state[PK_MAX_STATES];
    numbers numbers[PK_MAX_STATES + 1]; /* the last: of the parameter */
    uint32_t base[PK_MAX_STATES];
    uint16_t *half, *half_grad, *low, *copy; /* of 16 bits: param and grad, if those are NULL */
    size_t at, n;                            /* its first element in the piece; elements */
    size_t more;                             /* whole blocks after it in the piece */
} block;

typedef struct {
    _Alignas(CACHE_LINE) real param[PK_BLOCK], grad[PK_BLOCK], ema[PK_BLOCK];
    uint32_t state[PK_MAX_STATES][PK_BLOCK / 2];
} block_copies;

/* Fills in *b by its address and field by field: a vector that is loaded right after its parts were
 * stored waits until all stores before are in the cache, and with it the block waits for the whole
 * block before. */
static __attribute__((noinline)) void open_block(block *b, const piece *t, size_t at, int reads,
                                                 int positive)
{
    const pk_tensor *const of = t->narrow;
    const size_t i = t->first + at, index = i / PK_BLOCK, nth = of->first_block + index;
    const uint64_t stream = stream_of(of->seed, of->step);
    b->param = t->param ? t->param + at : NULL;
    b->grad = t->grad ? t->grad + at : NULL;
    b->ema = t->ema ? t->ema + at : NULL;
    b->half = b->low = b->copy = b->half_grad = NULL;
    b->at = at;
    b->n = PK_BLOCK;
    if (t->halves) {
        b->half = element(of->param, i, PK_BF16);
        b->low = element(of->low, i, PK_BF16);
        b->copy = element(of->copy, i, PK_BF16);
        b->half_grad = element(of->grad, i, PK_BF16);
        if (of->stored.by_chance)
            b->numbers[PK_MAX_STATES] = numbers_in(stream, nth, PK_MAX_STATES);
        else if (!has_narrow_states(of))
            b->n = t->n; /* no random numbers: the whole piece at once */
    }
    for (int s = 0; s < PK_MAX_STATES; s++) {
        b->state[s] = NULL;
        if (!(reads >> s & 1))
            continue;
        b->state[s] = element(of->state[s], i, of->stored.states);
        if (of->stored.states)
            b->numbers[s] = numbers_in(stream, nth, s);
        if (of->stored.states == PK_8BIT)
            b->base[s] = base_of(of->scale[s][index], positive >> s & 1);
    }
}

/* Parameters and gradients of 2 * WORDS elements, as `real`. */
typedef struct {
    _Alignas(CACHE_LINE) real param_copy[AT_ONCE], grad_copy[AT_ONCE];
    real *param, *grad;
} operands;

/* Those of a block from element `at` on, in its arrays or converted to copies; prefetches those of
 * a later block. */
PK_INLINE void open_operands(const block *b, size_t at, operands *x)
{
    const numbers none = {0, 0};
    uint16_t *const half = element(b->half, at, PK_BF16), *const low = element(b->low, at, PK_BF16);
    uint16_t *const half_grad = element(b->half_grad, at, PK_BF16);
    x->param = b->param ? b->param + at : x->param_copy;
    x->grad = b->grad ? b->grad + at : x->grad_copy;
    __builtin_prefetch(b->param ? (void *)(x->param + AHEAD) : half + AHEAD, 1);
    __builtin_prefetch(b->grad ? (void *)(x->grad + AHEAD) : half_grad + AHEAD);
    if (low) {
        __builtin_prefetch(low + AHEAD, 1);
        convert_some(LOAD_BOTH, PK_BF16, half, low, x->param, none);
    } else if (!b->param) {
        convert_some(LOAD, PK_BF16, half, NULL, x->param, none);
    }
    if (b->param)
        __builtin_prefetch(x->param + WORDS + AHEAD, 1);
    if (b->grad)
        __builtin_prefetch(x->grad + WORDS + AHEAD);
    else
        convert_some(LOAD, PK_BF16, half_grad, NULL, x->grad, none);
}

PK_INLINE void close_operands(const block *b, size_t at, operands *x)
{
    uint16_t *const half = element(b->half, at, PK_BF16), *const low = element(b->low, at, PK_BF16);
    uint16_t *const copy = element(b->copy, at, PK_BF16);
    numbers of = b->numbers[PK_MAX_STATES];
    of.start += (uint32_t)at * of.stride;
    if (low)
        convert_some(STORE_BOTH, PK_BF16, half, low, x->param, of);
    else if (!b->param)
        convert_some(STORE_BY_CHANCE, PK_BF16, half, NULL, x->param, of);
    if (copy) {
        __builtin_prefetch(copy + AHEAD, 1);
        convert_some(STORE, PK_BF16, copy, NULL, x->param, of);
    }
}

/* The bytes that n elements of a state take. */
PK_INLINE size_t bytes_of(size_t n, int bits8)
{
    return round_up(n, PK_CODE_GROUP) * (bits8 ? 1 : 2);
}

/* A block shorter than PK_BLOCK in copies that are filled up with zeros. */
static __attribute__((noinline)) block copied(const block *b, size_t n, int bits8, block_copies *c)
{
    block copied = *b;
    memset(c, 0, sizeof *c);
    copied.param = memcpy(c->param, b->param, n * sizeof(real));
    copied.grad = memcpy(c->grad, b->grad, n * sizeof(real));
    copied.ema = b->ema ? memcpy(c->ema, b->ema, n * sizeof(real)) : NULL;
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (b->state[s])
            copied.state[s] = memcpy(c->state[s], b->state[s], bytes_of(n, bits8));
    return copied;
}

static __attribute__((noinline)) void copy_block_back(const block *to, const block *from, size_t n,
                                                      int bits8, int zero_grad)
{
    memcpy(to->param, from->param, n * sizeof(real));
    if (to->ema)
        memcpy(to->ema, from->ema, n * sizeof(real));
    if (zero_grad)
        memset(to->grad, 0, n * sizeof(real));
    for (int s = 0; s < PK_MAX_STATES; s++) {
        if (!to->state[s])
            continue;
        uint32_t *const words = from->state[s];
        for (size_t i = n; !bits8 && i < round_up(n, GROUP); i++) /* perhaps -0 */
            words[i / 32 * WORDS + i % WORDS] &= i / WORDS % 2 ? 0x0000ffff : 0xffff0000;
        memcpy(to->state[s], words, bytes_of(n, bits8));
    }
}

/* ---- new states of 8 bits -------------------------------------------------------------------- */

/* Those of a block, and how they are encoded. */
typedef struct {
    _Alignas(CACHE_LINE) real state[PK_MAX_STATES][PK_BLOCK];
    uint32_t nowhere[PK_BLOCK / 4];
    uint32_t *words[PK_MAX_STATES];
    uint32_t largest[PK_MAX_STATES], base[PK_MAX_STATES];
    numbers numbers[PK_MAX_STATES];
    int waits; /* the loop over the next block encodes them */
} new_states;

/* Those of the block that is stepped, and of the block before. */
typedef struct {
    new_states two[2], *now, *last;
} fresh_states;

/* Nothing of a block before. */
PK_INLINE void forget_states(fresh_states *f, int bits8)
{
    f->now = &f->two[0];
    f->last = &f->two[1];
    if (bits8)
        memset(f->last, 0, sizeof *f->last);
    for (int s = 0; s < PK_MAX_STATES; s++)
        f->last->words[s] = f->last->nowhere;
}

static __attribute__((noinline)) void encode_states(new_states *last, int reads, int positive)
{
    for (int s = 0; last->waits && s < PK_MAX_STATES; s++)
        if (reads >> s & 1)
            (positive >> s & 1 ? encode_positive : encode_signed)(last->state[s], last->words[s],
                                                                  last->base[s], last->numbers[s]);
    last->waits = 0;
}

/* After the step of block b, of n elements: settles the scales of its new states, which are now
 * those of the block before.  Encodes them if the loop did not ask them to wait. */
static __attribute__((noinline)) void next_states(fresh_states *f, const piece *t, const block *b,
                                                  size_t n, int reads, int positive)
{
    new_states *const now = f->now;
    for (int s = 0; s < PK_MAX_STATES; s++) {
        if (!(reads >> s & 1))
            continue;
        if (n < PK_BLOCK)
            memset(now->state[s] + n, 0, (PK_BLOCK - n) * sizeof(real));
        const uint32_t largest = now->waits ? now->largest[s] : largest_of(now->state[s]);
        const float scale = scale_for(largest, positive >> s & 1);
        t->narrow->scale[s][(t->first + b->at) / PK_BLOCK] = scale;
        now->words[s] = b->state[s];
        now->numbers[s].start = b->numbers[s].start;
        now->numbers[s].stride = b->numbers[s].stride;
        now->base[s] = base_of(scale, positive >> s & 1);
        if (bits_of(scale) >= 0x7f800000) {
            memset(b->state[s], 1, PK_BLOCK);
            now->words[s] = now->nowhere;
        }
    }
    f->now = f->last;
    f->last = now;
    if (!now->waits) {
        now->waits = 1;
        encode_states(now, reads, positive);
    }
}

#endif
#endif
