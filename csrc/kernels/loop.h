/* The loop of every optimizer, over a piece of one tensor.  What becomes of an element is a rule: a
 * function of one vector of each array.  Around it, where the config asks for it and in the same
 * registers, is what all optimizers share: what happens to the gradient first, the choice of a cautious
 * step, the moving average of the parameter.  Included by optim.h and adam.h. */
#ifndef PK_LOOP_H
#define PK_LOOP_H

#include "root.h"
#include "sweep.h"

enum { PAIR = 2 * LANES };

/* Arrays besides the parameter and the gradient, which every rule reads, bit by bit. */
enum { STATE_0 = 1, STATE_1 = 2, STATE_2 = 4, STATES_01 = STATE_0 | STATE_1, PARAM = 8 };

/* One unit of a core does divisions and roots, and most rules wait for it.  So one root in four
 * vectors is taken by products; where the rule itself has few of those, two in four. */
enum { NO_ROOTS = 0, ROOTS_1_IN_4 = 0, ROOTS_2_IN_4 = 1 };

/* One vector of each array. */
typedef struct {
    vec p, g, s[PK_MAX_STATES], ema;
    vec_bits kept; /* of a cautious step */
} vectors;

typedef struct {
    vectors even, odd;
} pair;

typedef vectors update_rule(vectors x, constants k);

PK_INLINE vec root_of(vec x, constants k) { return k.by_products ? root_by_products(x) : root(x); }

/* `all`: what is not the rule's too. */
PK_INLINE vectors load_vectors(const pk_tensor *t, size_t i, int reads, int all)
{
    vectors x = {.p = load((const real *)t->param + i), .g = load((const real *)t->grad + i)};
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (reads >> s & 1)
            x.s[s] = load((const real *)t->state[s] + i);
    if (all && t->ema)
        x.ema = load((const real *)t->ema + i);
    return x;
}

PK_INLINE void store_vectors(const pk_tensor *t, size_t i, vectors x, int changes, int all,
                             int zero_grad)
{
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (changes >> s & 1)
            store((real *)t->state[s] + i, x.s[s]);
    if (changes & PARAM)
        store((real *)t->param + i, x.p);
    if (all && t->ema)
        store((real *)t->ema + i, x.ema);
    if (all && zero_grad)
        store((real *)(uintptr_t)t->grad + i, broadcast(0));
}

/* The gradient after scaling, clipping, maximize and coupled decay, as pk_common says. */
PK_INLINE vec prepared(vec g, vec p, constants k)
{
    g = k.scale * g;
    g = smaller_of(broadcast(k.clip), g);
    g = larger_of(broadcast(-k.clip), g);
    g = k.sign * g;
    return k.decay != 0 ? g + k.decay * p : g;
}

/* Where an update of -moved has the sign of the gradient.  Compared, not multiplied as in the paper: a
 * product may underflow.  Neither 0 nor NaN agrees. */
PK_INLINE vec_bits agreeing(vec moved, vec g)
{
    return ((moved < 0) & (g > 0)) | ((moved > 0) & (g < 0));
}

/* The rule, and what is not the rule's around it.  A cautious step applies it to a parameter of zeros,
 * and multiplies what is not to be kept by 0: a NaN stays one. */
PK_INLINE vectors stepped(vectors x, constants k, update_rule *rule)
{
    const vec p = x.p, g = x.g = prepared(x.g, p, k);
    if (k.cautious)
        x.p = broadcast(0);
    x = rule(x, k);
    if (k.cautious) {
        x.kept = agreeing(x.p, g);
        x.p = k.keep * p + x.p * pick(x.kept, broadcast(k.caution), broadcast(0));
    }
    x.ema = k.ema_keep * x.ema + k.ema_rest * x.p;
    return x;
}

PK_INLINE pair pair_after(const pk_tensor *t, size_t i, constants k, int reads, int all,
                          int by_products, update_rule *rule)
{
    pair x = {load_vectors(t, i, reads, all), load_vectors(t, i + LANES, reads, all)};
    k.by_products = 0;
    x.even = all ? stepped(x.even, k, rule) : rule(x.even, k);
    k.by_products = by_products;
    x.odd = all ? stepped(x.odd, k, rule) : rule(x.odd, k);
    return x;
}

PK_INLINE void store_pair(const pk_tensor *t, size_t i, pair x, int changes, int all, int zero_grad)
{
    store_vectors(t, i, x.even, changes, all, zero_grad);
    store_vectors(t, i + LANES, x.odd, changes, all, zero_grad);
}

/* Elements i..i+n-1, or beyond the end none, of what a step reads of a tensor, into the L2 cache: the L1
 * cache is too small for two tensors. */
PK_INLINE void fetch(const pk_tensor *t, size_t i, size_t n, int reads)
{
    for (size_t j = i; j < i + n && i < t->n; j += LANES) {
        __builtin_prefetch((const real *)t->param + j, 0, 2);
        __builtin_prefetch((const real *)t->grad + j, 0, 2);
        for (int s = 0; s < PK_MAX_STATES; s++)
            if (reads >> s & 1 && t->state[s])
                __builtin_prefetch((const real *)t->state[s] + j, 0, 2);
    }
}

/* How many of the elements from..to-1 of a pair are kept. */
PK_INLINE size_t kept_of(pair x, size_t from, size_t to)
{
    real_bits kept[PAIR];
    size_t count = 0;
    memcpy(kept, &x.even.kept, sizeof x.even.kept);
    memcpy(kept + LANES, &x.odd.kept, sizeof x.odd.kept);
    for (size_t l = from; l < to; l++)
        count += kept[l] != 0;
    return count;
}

/* A piece shorter than a pair is stepped in copies that are filled up with zeros. */
typedef struct {
    _Alignas(CACHE_LINE) real param[PAIR], grad[PAIR], ema[PAIR], state[PK_MAX_STATES][PAIR];
} copies;

static void *copy(real *to, const void *from, size_t n)
{
    return from ? memcpy(to, from, n * sizeof(real)) : NULL;
}

static pk_tensor filled_up(const pk_tensor *t, copies *c)
{
    memset(c, 0, sizeof *c);
    pk_tensor filled = {.n = t->n,
                        .param = copy(c->param, t->param, t->n),
                        .grad = copy(c->grad, t->grad, t->n),
                        .ema = copy(c->ema, t->ema, t->n)};
    for (int s = 0; s < PK_MAX_STATES; s++)
        filled.state[s] = copy(c->state[s], t->state[s], t->n);
    return filled;
}

static void copy_back(const pk_tensor *t, const copies *c, int changes, int zero_grad)
{
    const size_t size = t->n * sizeof(real);
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (changes >> s & 1)
            memcpy(t->state[s], c->state[s], size);
    if (changes & PARAM)
        memcpy(t->param, c->param, size);
    if (t->ema)
        memcpy(t->ema, c->ema, size);
    if (zero_grad)
        memset((void *)(uintptr_t)t->grad, 0, size);
}

/* A pair that overlaps others, at an end of the piece: computed before these are stored, and stored
 * after them.  Its elements from..to-1 are in no other. */
typedef struct {
    size_t at, from, to;
} edge;

/* Two pairs at a time, from begin to end, with nothing but the rule. */
PK_INLINE void update_plainly(const pk_tensor *t, size_t begin, size_t end, constants k, int reads,
                              int changes, int roots, update_rule *rule)
{
    if (k.next)
        fetch(k.next, 0, 2 * PAIR, reads);
    for (size_t i = begin; i + 2 * PAIR <= end; i += 2 * PAIR) {
        if (k.next)
            fetch(k.next, i - begin + 2 * PAIR, 2 * PAIR, reads);
        store_pair(t, i, pair_after(t, i, k, reads, 0, 1, rule), changes, 0, 0);
        store_pair(t, i + PAIR, pair_after(t, i + PAIR, k, reads, 0, roots, rule), changes, 0, 0);
    }
}

/* Begins with the loop where vectors of the parameter do not straddle cache lines, as all of an array
 * from NumPy's allocator would, and has no tail.  Returns, when counting, how many elements a cautious
 * step keeps, and changes nothing then. */
PK_INLINE size_t update_arrays(update_rule *rule, int reads, int changes, int roots,
                               const pk_tensor *piece, constants k)
{
    copies filled;
    const int is_short = piece->n < PAIR;
    const pk_tensor t = is_short ? filled_up(piece, &filled) : *piece;
    const int plain = k.plain && !t.ema;
    const size_t off = -(uintptr_t)t.param % PK_VECTOR_BYTES / sizeof(real);
    const size_t begin = is_short ? 0 : off, stride = plain ? 2 * PAIR : PAIR;
    const size_t end = is_short ? 0 : t.n - (t.n - begin) % PAIR;
    size_t kept = 0;

    edge edges[3];
    pair after[3];
    int count = 0;
    if (begin)
        edges[count++] = (edge){.at = 0, .from = 0, .to = begin};
    if ((end - begin) % stride)
        edges[count++] = (edge){.at = end - PAIR, .from = 0, .to = PAIR};
    if (end < t.n)
        edges[count++] = is_short
                             ? (edge){.at = 0, .from = 0, .to = t.n}
                             : (edge){.at = t.n - PAIR, .from = PAIR - (t.n - end), .to = PAIR};
    for (int e = 0; e < count; e++)
        after[e] = pair_after(&t, edges[e].at, k, reads, 1, 1, rule);

    if (plain && k.next) {
        update_plainly(&t, begin, end, k, reads, changes, roots, rule);
    } else if (plain) {
        k.next = NULL; /* a literal: nothing to decide in the loop */
        update_plainly(&t, begin, end, k, reads, changes, roots, rule);
    } else {
        for (size_t i = begin; i < end; i += PAIR) {
            if (k.next)
                fetch(k.next, i - begin, PAIR, reads);
            const pair x = pair_after(&t, i, k, reads, 1, 1, rule);
            if (k.counting)
                kept += kept_of(x, 0, PAIR);
            else
                store_pair(&t, i, x, changes, 1, k.zero_grad);
        }
    }

    for (int e = 0; e < count; e++)
        if (k.counting)
            kept += kept_of(after[e], edges[e].from, edges[e].to);
        else
            store_pair(&t, edges[e].at, after[e], changes, 1, k.zero_grad);
    if (is_short && !k.counting)
        copy_back(piece, &filled, changes, k.zero_grad);
    return kept;
}

/* Of an optimizer that changes all that it reads. */
PK_INLINE size_t update_by(update_rule *rule, int states, int roots, const pk_tensor *piece,
                           constants k)
{
    return update_arrays(rule, states, PARAM | states, roots, piece, k);
}

#endif
