/* The loop of every optimizer, over a piece of one tensor.  An optimizer's rule is a function of
 * one vector of each array.  The loop loads the vectors, applies the rule and stores them.  Where
 * the config asks for it, it also does in registers what all optimizers share: it prepares the
 * gradient, masks a cautious update and keeps a moving average of the parameter.
 *
 * An update (LOOPS in optim.h and adam.h) calls update_arrays with literal arguments, so that each
 * combination compiles to a loop of its own without branches.  Do not change the order of
 * operations: it is that of the twins in pyoptk/reference. */
#ifndef PK_LOOP_H
#define PK_LOOP_H

#include "root.h"
#include "watch.h"

enum { PAIR = 2 * LANES };

/* How many loops without options are compiled for each rule: none, one, or a second one for watched
 * steps.  Fewer make a smaller wheel, and slower steps in a cache. */
#ifndef PK_RULE_ONLY_LOOPS
#define PK_RULE_ONLY_LOOPS 2
#endif

/* Bit flags: the arrays that a rule reads or changes.  It always reads parameter and gradient. */
enum { STATE_0 = 1, STATES_01 = 3, STATE_2 = 4, STATES_02 = 5, STATES_012 = 7, PARAM = 8 };

/* Divisions and square roots share one execution unit, and most rules wait for it.  So one vector
 * in four takes its root by multiplications; two in four, if the rule has few multiplications. */
enum { NO_ROOTS, ROOTS_1_IN_4, ROOTS_2_IN_4 };

/* One vector of each array. */
typedef struct {
    vec p, g, s[PK_MAX_STATES], ema;
    vec_bits agree; /* mask of a cautious step */
} vectors;

typedef struct {
    vectors even, odd;
} pair;

typedef vectors update_rule(vectors x, context k);

PK_INLINE vec root_of(vec x, context k) { return k.by_products ? root_by_products(x) : root(x); }

/* -1, 1, or x itself if it is 0 or a NaN. */
PK_INLINE vec sign_of(vec x) { return pick(x > 0, broadcast(1), pick(x < 0, broadcast(-1), x)); }

/* `all`: also load the moving average. */
PK_INLINE vectors load_vectors(const piece *t, size_t i, int reads, int all)
{
    vectors x = {.p = load(t->param + i), .g = load(t->grad + i)};
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (reads >> s & 1)
            x.s[s] = load(t->state[s] + i);
    if (all && t->ema)
        x.ema = load(t->ema + i);
    return x;
}

PK_INLINE void store_vectors(const piece *t, size_t i, vectors x, int changes, int all,
                             int zero_grad)
{
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (changes >> s & 1)
            store(t->state[s] + i, x.s[s]);
    if (changes & PARAM)
        store(t->param + i, x.p);
    if (all && t->ema)
        store(t->ema + i, x.ema);
    if (all && zero_grad)
        store(t->grad + i, broadcast(0));
}

PK_INLINE pair load_pair(const piece *t, size_t i, int reads, int all)
{
    return (pair){load_vectors(t, i, reads, all), load_vectors(t, i + LANES, reads, all)};
}

PK_INLINE void store_pair(const piece *t, size_t i, pair x, int changes, int all, int zero_grad)
{
    store_vectors(t, i, x.even, changes, all, zero_grad);
    store_vectors(t, i + LANES, x.odd, changes, all, zero_grad);
}

/* The gradient after scaling, clipping, maximize and coupled decay, as pk_common says. */
PK_INLINE vec prepared(vec g, vec p, context k)
{
    g = k.scale * g;
    g = smaller_of(broadcast(k.clip), g);
    g = larger_of(broadcast(-k.clip), g);
    g = k.sign * g;
    return k.decay != 0 ? g + k.decay * p : g;
}

/* Mask: where the update, -moved, has the sign of the gradient.  Signs are compared, not multiplied
 * as in the paper, because a product may underflow.  Neither 0 nor NaN agrees. */
PK_INLINE vec_bits agreeing(vec moved, vec g)
{
    return ((moved < 0) & (g > 0)) | ((moved > 0) & (g < 0));
}

/* Applies the rule and what all optimizers share.  A cautious step applies the rule to a parameter
 * of zeros, which yields minus the update, and multiplies elements that do not agree by 0, so that
 * a NaN stays a NaN. */
PK_INLINE vectors stepped(vectors x, context k, real caution, update_rule *rule)
{
    const vec p = x.p, g = x.g = prepared(x.g, p, k);
    if (k.cautious)
        x.p = broadcast(0);
    x = rule(x, k);
    if (k.cautious) {
        x.agree = agreeing(x.p, g);
        x.p = k.shrink * p + x.p * pick(x.agree, broadcast(caution), broadcast(0));
    }
    x.ema = k.ema_keep * x.ema + k.ema_rest * x.p;
    return x;
}

PK_INLINE pair stepped_pair(const piece *t, size_t i, context k, int reads, update_rule *rule)
{
    pair x = load_pair(t, i, reads, 1);
    k.by_products = 0;
    x.even = stepped(x.even, k, t->caution, rule);
    k.by_products = 1;
    x.odd = stepped(x.odd, k, t->caution, rule);
    return x;
}

/* Prefetches elements i..i+n-1, as far as they exist, of all arrays that a step reads.  Into L2: L1
 * is too small for two tensors. */
__attribute__((noinline)) static void prefetch_next(const piece *t, size_t i, size_t n, int reads)
{
    for (size_t j = i; j < i + n && j < t->n; j += LANES) {
        __builtin_prefetch(t->param + j, 0, 2);
        __builtin_prefetch(t->grad + j, 0, 2);
        for (int s = 0; s < PK_MAX_STATES; s++)
            if (reads >> s & 1 && t->state[s])
                __builtin_prefetch(t->state[s] + j, 0, 2);
    }
}

/* The number of agreeing elements among from..to-1 of a pair. */
PK_INLINE size_t count_agreeing(pair x, size_t from, size_t to)
{
    real_bits agree[PAIR];
    size_t count = 0;
    memcpy(agree, &x.even.agree, sizeof x.even.agree);
    memcpy(agree + LANES, &x.odd.agree, sizeof x.odd.agree);
    for (size_t l = from; l < to; l++)
        count += agree[l] != 0;
    return count;
}

/* A piece shorter than a pair is stepped in copies that are padded with zeros. */
typedef struct {
    _Alignas(CACHE_LINE) real param[PAIR], grad[PAIR], ema[PAIR], state[PK_MAX_STATES][PAIR];
} copies;

static real *copy(real *to, const real *from, size_t n)
{
    return from ? memcpy(to, from, n * sizeof *to) : NULL;
}

static piece filled_up(const piece *t, copies *c)
{
    memset(c, 0, sizeof *c);
    piece filled = *t;
    filled.param = copy(c->param, t->param, t->n);
    filled.grad = copy(c->grad, t->grad, t->n);
    filled.ema = copy(c->ema, t->ema, t->n);
    for (int s = 0; s < PK_MAX_STATES; s++)
        filled.state[s] = copy(c->state[s], t->state[s], t->n);
    return filled;
}

static void copy_back(const piece *t, const copies *c, int changes, int zero_grad)
{
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (changes >> s & 1)
            copy(t->state[s], c->state[s], t->n);
    if (changes & PARAM)
        copy(t->param, c->param, t->n);
    if (t->ema)
        copy(t->ema, c->ema, t->n);
    if (zero_grad)
        memset(t->grad, 0, t->n * sizeof *t->grad);
}

/* A pair at an end of the piece that overlaps other pairs.  It is computed before they are stored
 * and stored after them.  Elements from..to-1 belong to no other pair. */
typedef struct {
    size_t at, from, to;
} edge;

/* stepped_pair with the rule of an optimizer; the variant is k's. */
typedef pair edge_step(const piece *t, size_t i, const context *k, int reads);

/* The loop with nothing but the rule, two pairs at a time, from begin to end.  Prefetches the next
 * tensor ahead of each stretch, so that the innermost loop has no branch. */
PK_INLINE void update_rule_only(const piece *t, int watched, size_t begin, size_t end, context k,
                                int reads, int changes, int roots, update_rule *rule)
{
    enum { STRETCH = 4 * PAIR };
    context slow = k, fast = k; /* roots by the instruction and by multiplications */
    watched_sums w;
    slow.by_products = 0;
    fast.by_products = !watched; /* the sums already fill the multipliers */
    if (watched)
        w = *t->sums;
    for (size_t i = begin, stop; i + 2 * PAIR <= end;) {
        stop = t->next ? smaller(i + STRETCH, end) : end;
        if (t->next)
            prefetch_next(t->next, i - begin, STRETCH, reads);
        for (; i + 2 * PAIR <= stop; i += 2 * PAIR) {
            pair x = load_pair(t, i, reads, 0);
            x = (pair){rule(x.even, slow), rule(x.odd, fast)};
            if (watched)
                add_pair(&w, t->param + i, t->grad + i, x.even.p, x.odd.p);
            store_pair(t, i, x, changes, 0, 0);
            x = load_pair(t, i + PAIR, reads, 0);
            x = (pair){rule(x.even, slow), rule(x.odd, roots == ROOTS_2_IN_4 ? fast : slow)};
            if (watched)
                add_pair(&w, t->param + i + PAIR, t->grad + i + PAIR, x.even.p, x.odd.p);
            store_pair(t, i + PAIR, x, changes, 0, 0);
        }
    }
    if (watched)
        *t->sums = w;
}

/* One step of a piece.  The loop begins at the first aligned vector of the parameter, because
 * stores that cross a cache line are slow; edges do the rest, so that there is no scalar tail.  If
 * counting, changes nothing and returns the number of agreeing elements. */
PK_INLINE size_t update_arrays(update_rule *rule, edge_step *at_edge, int variant, int reads,
                               int changes, int roots, const piece *p, context k)
{
    copies filled;
    k.variant = variant; /* a literal: the rule compiles without branches */
    const int is_short = p->n < PAIR;
    const piece t = is_short ? filled_up(p, &filled) : *p;
    const int has_loop = PK_RULE_ONLY_LOOPS > (t.sums ? 1 : 0);
    const int rule_only = has_loop && k.rule_only && !t.ema;
    const size_t off = -(uintptr_t)t.param % PK_VECTOR_BYTES / sizeof(real);
    const size_t begin = is_short ? 0 : off, stride = rule_only ? 2 * PAIR : PAIR;
    const size_t end = is_short ? 0 : t.n - (t.n - begin) % PAIR;
    size_t agree = 0;
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
        after[e] = at_edge(&t, edges[e].at, &k, reads);

    if (PK_RULE_ONLY_LOOPS > 1 && rule_only && t.sums) /* literals: no branch in the loop */
        update_rule_only(&t, 1, begin, end, k, reads, changes, roots, rule);
    else if (rule_only)
        update_rule_only(&t, 0, begin, end, k, reads, changes, roots, rule);
    else
        for (size_t i = begin; i < end; i += PAIR) {
            if (t.next)
                prefetch_next(t.next, i - begin, PAIR, reads);
            const pair x = stepped_pair(&t, i, k, reads, rule);
            if (t.sums)
                watch_pair(t.sums, t.param + i, t.grad + i, x.even.p, x.odd.p);
            if (t.counting)
                agree += count_agreeing(x, 0, PAIR);
            else
                store_pair(&t, i, x, changes, 1, k.zero_grad);
        }

    for (int i = 0; i < count; i++) {
        const edge e = edges[i];
        if (t.sums)
            watch_part(t.sums, t.param + e.at, t.grad + e.at, after[i].even.p, after[i].odd.p,
                       e.from, e.to);
        if (t.counting)
            agree += count_agreeing(after[i], e.from, e.to);
        else
            store_pair(&t, e.at, after[i], changes, 1, k.zero_grad);
    }
    if (is_short && !t.counting)
        copy_back(p, &filled, changes, k.zero_grad);
    return agree;
}

/* Defines name_edge from name_rule: one function for all variants and all edges. */
#define EDGE(name)                                                                                 \
    static __attribute__((noinline)) pair name##_edge(const piece *t, size_t i, const context *k,  \
                                                      int reads)                                   \
    {                                                                                              \
        return stepped_pair(t, i, *k, reads, name##_rule);                                         \
    }

/* Defines name_update from name_rule and a list of LOOP(variant, states, roots), one for each
 * variant that name_context may set.  A rule changes the states that it reads. */
#define LOOP(variant, states, roots)                                                               \
    case variant:                                                                                  \
        return update_arrays(rule, at_edge, variant, states, PARAM | (states), roots, p, *k)
#define LOOPS(name, ...)                                                                           \
    EDGE(name)                                                                                     \
    static size_t name##_update(const piece *p, const context *k)                                  \
    {                                                                                              \
        update_rule *const rule = name##_rule;                                                     \
        edge_step *const at_edge = name##_edge;                                                    \
        switch (k->variant) {                                                                      \
            __VA_ARGS__;                                                                           \
        }                                                                                          \
        __builtin_unreachable();                                                                   \
    }

#endif
