/* The loop of loop.h for states of 8 and 16 bits, block by block.  States are decoded in registers,
 * before the rule; what comes out of it is rounded there too if it is of 16 bits.  New states of 8
 * bits wait in L1 until the block is done and its scale is known; the loop over the next block
 * encodes them if it is short, because then the divider has time for both.  NARROW says which rules
 * have a loop for parameters and gradients of 16 bits, too, with conversions in the same time.
 *
 * The arithmetic of an element is that of loop.h. */
#ifndef PK_NARROW_H
#define PK_NARROW_H

#include "blocks.h"
#include "loop.h"

#if PK_DTYPE_BITS == 32

/* The loop over a block: literals, and what passes from one vector to the next. */
typedef struct {
    int bits, reads, positive, all, roots, in_halves;
    vec_unsigned words[PK_MAX_STATES];  /* of the states before the step */
    vec_unsigned halves[PK_MAX_STATES]; /* new states of 16 bits that wait for the other half */
    vec_unsigned random[PK_MAX_STATES];
    vec_unsigned half_stride[PK_MAX_STATES], pair_stride[PK_MAX_STATES];
    vec_unsigned base[PK_MAX_STATES], largest[PK_MAX_STATES];
    vec offset[PK_MAX_STATES];
    encoder last[PK_MAX_STATES]; /* of the block before */
    vec_bits agree;
} loop;

/* The loop that leaves the codes of its block to the next block. */
PK_INLINE int is_short8(const loop *l) { return l->bits == 8 && !l->all; }

PK_INLINE vec decoded(const block *b, const loop *l, int s, size_t at, int j)
{
    if (l->bits == 32)
        return load((const real *)b->state[s] + at);
    if (l->bits == 16)
        return decoded_half(l->words[s], j);
    if (l->positive >> s & 1)
        return decoded_positive(l->words[s], j, l->base[s]);
    return decoded_signed(l->words[s], j, l->base[s], l->offset[s]);
}

static __attribute__((noinline)) void watch_vector(watched_sums *sums, vec before, vec g, vec after)
{
    add_vector(sums, before, g, after);
}

/* One step of elements at .. at + LANES - 1, whose codes are those with number j of the words. */
PK_INLINE void step_lanes(const piece *t, const block *b, new_states *fresh, loop *l,
                          const operands *given, size_t at, int j, context k, update_rule *rule)
{
    real *const param = l->in_halves ? given->param + at % AT_ONCE : b->param + at;
    real *const grad = l->in_halves ? given->grad + at % AT_ONCE : b->grad + at;
    vectors x = {.p = load(param), .g = load(grad)};
    const vec before = x.p, g = x.g;
    if (!l->in_halves) {
        __builtin_prefetch(param + AHEAD, 1);
        __builtin_prefetch(grad + AHEAD);
    }
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (l->reads >> s & 1)
            x.s[s] = decoded(b, l, s, at, j);
    if (l->all && b->ema)
        x.ema = load(b->ema + at);
    k.by_products =
        l->bits == 16 && j && !l->in_halves && (l->roots == ROOTS_2_IN_4 || (l->roots && !l->all));
    x = l->all ? stepped(x, k, t->caution, rule) : rule(x, k);
    if (l->all && t->counting) {
        l->agree += x.agree;
        return;
    }
    if (l->all && t->sums)
        watch_vector(t->sums, before, g, x.p);
    for (int s = 0; s < PK_MAX_STATES; s++) {
        if (!(l->reads >> s & 1))
            continue;
        if (l->bits != 16) {
            store((l->bits == 8 ? fresh->state[s] : (real *)b->state[s]) + at, x.s[s]);
            if (is_short8(l)) /* of a positive state only a NaN may have a sign */
                l->largest[s] = larger_bits(
                    l->largest[s], (vec_unsigned)(l->positive >> s & 1 ? x.s[s] : vec_abs(x.s[s])));
            continue;
        }
        const vec_unsigned half = rounded_half(x.s[s], l->random[s]);
        const size_t w = at % WORDS, word = (at - w - WORDS) / 2 + w; /* if it is the upper half */
        l->random[s] += l->half_stride[s];
        if (j % 2)
            store_words((uint32_t *)b->state[s] + word,
                        merged(broadcast_bits(0xffff0000), half, l->halves[s]));
        else
            l->halves[s] = half >> 16;
    }
    store(param, x.p);
    if (l->all && b->ema)
        store(b->ema + at, x.ema);
    if (l->all && k.zero_grad)
        store(b->grad + at, broadcast(0));
}

/* Loads the words of elements at .. at + LANES - 1 and at + WORDS .., codes 0 and 1 then; states of
 * float32 are only prefetched. */
PK_INLINE void load_state_words(const block *b, loop *l, size_t at, uint32_t half)
{
    const size_t w = at % WORDS;
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (l->bits == 32 && l->reads >> s & 1) {
            __builtin_prefetch((const real *)b->state[s] + at + AHEAD, 1);
            __builtin_prefetch((const real *)b->state[s] + at + WORDS + AHEAD, 1);
        } else if (l->reads >> s & 1) {
            const uint32_t *const words = (const uint32_t *)b->state[s] +
                                          (l->bits == 8 ? at / GROUP * WORDS : (at - w) / 2) + w;
            l->words[s] = load_words(words) >> (l->bits == 8 && l->all ? 16 * half : 0);
            __builtin_prefetch(words + AHEAD / (l->bits == 8 ? 4 : 2), 1);
        }
}

/* One step of 2 * WORDS elements: half of a group. */
PK_INLINE void step_pair(const piece *t, const block *b, new_states *now, loop *l, size_t pair,
                         uint32_t half, vec_unsigned *first, const context *k, update_rule *rule)
{
    const int j = is_short8(l) ? 2 * (int)half : 0;
    operands x;
    if (l->in_halves)
        open_operands(b, pair, &x);
    for (uint32_t w = 0; w < WORDS; w += LANES) {
        for (int s = 0; l->bits == 16 && s < PK_MAX_STATES; s++)
            l->random[s] = first[s] + w * b->numbers[s].stride;
        load_state_words(b, l, pair + w, half);
        step_lanes(t, b, now, l, &x, pair + w, j, *k, rule);
        step_lanes(t, b, now, l, &x, pair + w + WORDS, j + 1, *k, rule);
    }
    if (l->in_halves)
        close_operands(b, pair, &x);
    for (int s = 0; l->bits == 16 && s < PK_MAX_STATES; s++)
        first[s] += l->pair_stride[s];
}

/* Encodes a state of a group of the block before, between two pairs. */
PK_INLINE void encode_last(loop *l, const new_states *last, int s, size_t at)
{
    if (is_short8(l) && l->reads >> s & 1)
        encode_group(&l->last[s], last->state[s] + at, last->words[s] + at / 4,
                     l->positive >> s & 1);
}

/* One step of a block; returns the number of agreeing elements if they are counted.  A short loop
 * encodes the states of the block before while the divider is busy. */
PK_INLINE size_t step_block(const piece *t, const block *b, fresh_states *fresh, loop l,
                            const context *k, update_rule *rule)
{
    const int short8 = is_short8(&l);
    const size_t stride = l.all || (l.in_halves && !short8) ? 2 * WORDS : GROUP;
    vec_unsigned first[PK_MAX_STATES];
    size_t count = 0;
    for (int s = 0; s < PK_MAX_STATES; s++) {
        if (!(l.reads >> s & 1))
            continue;
        if (l.bits == 16) {
            first[s] = first_numbers(b->numbers[s]);
            l.half_stride[s] = broadcast_bits(WORDS * b->numbers[s].stride);
            l.pair_stride[s] = broadcast_bits(2 * WORDS * b->numbers[s].stride);
        }
        if (l.bits == 8) {
            l.base[s] = broadcast_bits(b->base[s]);
            l.offset[s] = broadcast(offset_of(b->base[s]));
            l.largest[s] = (vec_unsigned){0};
        }
        if (short8)
            l.last[s] =
                encoder_of(fresh->last->base[s], fresh->last->numbers[s], l.positive >> s & 1);
    }
    for (size_t at = 0; at < (l.in_halves ? b->n : PK_BLOCK); at += stride) {
        step_pair(t, b, fresh->now, &l, at, at % GROUP / (2 * WORDS), first, k, rule);
        encode_last(&l, fresh->last, 0, at);
        if (stride == GROUP)
            step_pair(t, b, fresh->now, &l, at + 2 * WORDS, 1, first, k, rule);
        encode_last(&l, fresh->last, 1, at);
    }
    for (int s = 0; short8 && s < PK_MAX_STATES; s++)
        if (l.reads >> s & 1)
            fresh->now->largest[s] = largest_lane(l.largest[s]) & 0x7fffffff;
    fresh->now->waits = short8;
    for (int j = 0; l.all && j < LANES; j++)
        count -= (size_t)l.agree[j];
    return count;
}

/* The same of b and, if the loop is short, of b->more blocks after it: constants are made once. */
PK_INLINE size_t step_blocks(const piece *t, block *b, fresh_states *fresh, loop l,
                             const context *c, int variant, update_rule *rule)
{
    context k = *c;
    k.variant = variant; /* perhaps a literal */
    for (;;) {
        const size_t count = step_block(t, b, fresh, l, &k, rule);
        if (l.all || !b->more)
            return count;
        b->more--;
        if (l.bits == 8)
            next_states(fresh, t, b, PK_BLOCK, l.reads, l.positive);
        open_block(b, t, b->at + PK_BLOCK, l.reads, l.positive);
    }
}

typedef size_t block_step(const piece *t, block *b, fresh_states *fresh, const context *k);

static __attribute__((noinline)) void watch_copies(watched_sums *sums, const block *before,
                                                   const block *after, size_t n)
{
    for (size_t i = 0; i < n; i += PAIR)
        watch_part(sums, before->param + i, before->grad + i, load(after->param + i),
                   load(after->param + i + LANES), 0, smaller(n - i, PAIR));
}

/* One step of a piece, which begins at a block.  As update_arrays. */
static __attribute__((noinline)) size_t update_blocks(block_step *step, int reads, int positive,
                                                      const piece *p, const context *k)
{
    const int bits8 = p->narrow->stored.states == PK_8BIT;
    size_t agreeing = 0;
    fresh_states fresh;
    block_copies copies;
    piece t = *p;
    forget_states(&fresh, bits8);
    for (size_t at = 0; at < t.n;) {
        block b, filled;
        open_block(&b, &t, at, reads, positive);
        const size_t n = smaller(t.n - at, b.n);
        block *const whole = n < PK_BLOCK ? &filled : &b;
        b.more = b.n == PK_BLOCK ? (t.n - at) / PK_BLOCK - (n == PK_BLOCK) : 0;
        if (n < PK_BLOCK) {
            filled = copied(&b, n, bits8, &copies);
            t.sums = NULL;
        }
        agreeing += step(&t, whole, &fresh, k);
        at = whole->at + n;
        if (t.counting)
            continue;
        if (bits8)
            next_states(&fresh, &t, whole, n, reads, positive);
        if (n >= PK_BLOCK)
            continue;
        if (bits8)
            encode_states(fresh.last, reads, positive);
        if (p->sums)
            watch_copies(p->sums, &b, whole, n);
        copy_block_back(&b, whole, n, bits8, k->zero_grad);
    }
    if (bits8)
        encode_states(fresh.last, reads, positive);
    return agreeing;
}

/* A block by the rule: literals, so that most branches of the loop are gone.  Without what few
 * configs ask for it is shorter; that pays for rules with a root and two states, which wait for
 * arithmetic. */
PK_INLINE size_t step_with(const piece *t, block *b, fresh_states *fresh, const context *k,
                           update_rule *rule, int variant, int reads, int positive, int roots,
                           int takes_halves)
{
    const int short_pays = LANES == 16 && roots == ROOTS_1_IN_4 && reads == STATES_01;
    const int all = !short_pays || !k->rule_only || b->ema || t->sums || t->counting;
    loop l; /* the arrays are not set: to clear them takes as long as 40 elements */
    l.reads = reads;
    l.positive = positive;
    l.roots = roots;
    l.all = 1;
    l.in_halves = 0;
    l.agree = (vec_bits){0};
    if (takes_halves && t->halves) {
        l.in_halves = 1;
        l.all = 0;
        l.bits = 8;
        if (t->narrow->stored.states == PK_8BIT)
            return step_blocks(t, b, fresh, l, k, variant, rule);
        l.bits = 16;
        if (t->narrow->stored.states == PK_BF16)
            return step_blocks(t, b, fresh, l, k, variant, rule);
        l.bits = 32;
        return step_blocks(t, b, fresh, l, k, variant, rule);
    }
    l.bits = 8;
    if (t->narrow->stored.states == PK_8BIT && all)
        return step_blocks(t, b, fresh, l, k, variant, rule);
    l.all = 0;
    if (t->narrow->stored.states == PK_8BIT)
        return step_blocks(t, b, fresh, l, k, variant, rule);
    l.bits = 16;
    if (!all)
        return step_blocks(t, b, fresh, l, k, variant, rule);
    l.all = 1;
    return step_blocks(t, b, fresh, l, k, variant, rule);
}

/* Defines the step of a block for a variant of a rule, and what runs it. */
#define NARROW(name, part, variant, states, roots, takes_halves)                                   \
    static __attribute__((noinline)) size_t name##_##part(const piece *t, block *b,                \
                                                          fresh_states *fresh, const context *k)   \
    {                                                                                              \
        return step_with(t, b, fresh, k, name##_rule, variant, states, PK_POSITIVE_##name, roots,  \
                         takes_halves);                                                            \
    }                                                                                              \
    static size_t name##_narrow_##part(const piece *p, const context *k)                           \
    {                                                                                              \
        return update_blocks(name##_##part, states, PK_POSITIVE_##name, p, k);                     \
    }

/* ---- states as numbers ----------------------------------------------------------------------- */

PK_INLINE void read_block(const block *b, int state, int bits8, int positive, real *values)
{
    loop l;
    l.bits = bits8 ? 8 : 16;
    l.reads = 1 << state;
    l.positive = positive << state;
    l.all = 1;
    l.base[state] = broadcast_bits(b->base[state]);
    l.offset[state] = broadcast(offset_of(b->base[state]));
    for (size_t pair = 0; pair < PK_BLOCK; pair += 2 * WORDS)
        for (size_t at = pair; at < pair + WORDS; at += LANES) {
            load_state_words(b, &l, at, pair % GROUP / (2 * WORDS));
            store(values + at, decoded(b, &l, state, at, 0));
            store(values + at + WORDS, decoded(b, &l, state, at, 1));
        }
}

PK_INLINE void write_block(const block *b, int state, int bits8, int positive, const real *values,
                           float *scale)
{
    const numbers of = b->numbers[state];
    if (bits8) {
        encode_values(values, b->state[state], scale, of, positive);
        return;
    }
    for (uint32_t i = 0; i < PK_BLOCK / 2; i += LANES) {
        const uint32_t at = 2 * i - i % WORDS;
        const vec_unsigned low = first_numbers(of) + at * of.stride;
        const vec_unsigned high = low + WORDS * of.stride;
        store_words((uint32_t *)b->state[state] + i,
                    merged(broadcast_bits(0xffff0000),
                           rounded_half(load(values + at + WORDS), high),
                           rounded_half(load(values + at), low) >> 16));
    }
}

/* Both directions; the other array is only read. */
static void convert_state(const pk_tensor *t, int state, int positive, const real *from, real *to)
{
    const int bits8 = t->stored.states == PK_8BIT;
    const fp_mode mode = flush_denormals();
    pk_tensor one = {.stored = t->stored, .seed = t->seed, .step = t->step};
    one.first_block = t->first_block;
    one.state[state] = t->state[state];
    one.scale[state] = t->scale[state];
    const piece p = {.narrow = &one};
    for (size_t at = 0; at < t->n; at += PK_BLOCK) {
        real values[PK_BLOCK] = {0};
        block_copies copies;
        const size_t n = smaller(t->n - at, PK_BLOCK);
        block b;
        open_block(&b, &p, at, 1 << state, positive << state);
        b.param = b.grad = values;
        const block whole = copied(&b, n, bits8, &copies);
        if (to) {
            read_block(&whole, state, bits8, positive, values);
            memcpy(to + at, values, n * sizeof *to);
        } else {
            memcpy(values, from + at, n * sizeof *from);
            write_block(&whole, state, bits8, positive, values,
                        bits8 ? t->scale[state] + at / PK_BLOCK : NULL);
            memcpy(b.state[state], whole.state[state], bytes_of(n, bits8));
        }
    }
    restore_denormals(mode);
}

static void read_state(const pk_tensor *t, int state, int positive, float *values)
{
    convert_state(t, state, positive, NULL, values);
}

static void write_state(const pk_tensor *t, int state, int positive, const float *values)
{
    convert_state(t, state, positive, values, NULL);
}

#else /* float64 has no narrow states */
#define NARROW(...)
#endif
#endif
