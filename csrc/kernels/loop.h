/* The loop of every optimizer, over a piece of one tensor.  What becomes of an element is a rule: a
 * function of one vector of each array.  The loop loads two vectors of each array before it stores
 * any, begins where vectors of the parameter do not straddle cache lines, and has no tail: the pairs at
 * both ends are computed first, from what no other has changed yet, and stored last, so that they may
 * overlap the others.  Included by optim.h and adam.h. */
#ifndef PK_LOOP_H
#define PK_LOOP_H

#include "root.h"
#include "sweep.h"

enum { PAIR = 2 * LANES };

/* What is used of the states, bit by bit. */
enum { NO_STATE = 0, STATE_0 = 1, STATE_1 = 2, STATE_2 = 4, STATES_01 = 3 };

/* One unit of a core does divisions and roots, and most rules wait for it.  So one root in four
 * vectors is taken by products; where the rule itself has few of those, two in four. */
enum { ROOTS_1_IN_4 = 0, ROOTS_2_IN_4 = 1, NO_ROOTS = 0 };

/* One vector of each array. */
typedef struct {
    vec p, g, s[PK_MAX_STATES];
} vectors;

typedef struct {
    vectors even, odd;
} pair;

typedef vectors update_rule(vectors x, constants k);

PK_INLINE vec root_of(vec x, constants k) { return k.by_products ? root_by_products(x) : root(x); }

PK_INLINE vectors load_vectors(const pk_tensor *t, size_t i, int states)
{
    vectors x = {.p = load((const real *)t->param + i), .g = load((const real *)t->grad + i)};
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (states >> s & 1)
            x.s[s] = load((const real *)t->state[s] + i);
    return x;
}

PK_INLINE void store_vectors(const pk_tensor *t, size_t i, vectors x, int states)
{
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (states >> s & 1)
            store((real *)t->state[s] + i, x.s[s]);
    store((real *)t->param + i, x.p);
}

PK_INLINE pair updated(const pk_tensor *t, size_t i, constants k, int states, int by_products,
                       update_rule *rule)
{
    pair x = {load_vectors(t, i, states), load_vectors(t, i + LANES, states)};
    k.by_products = 0;
    x.even = rule(x.even, k);
    k.by_products = by_products;
    x.odd = rule(x.odd, k);
    return x;
}

PK_INLINE void store_pair(const pk_tensor *t, size_t i, pair x, int states)
{
    store_vectors(t, i, x.even, states);
    store_vectors(t, i + LANES, x.odd, states);
}

/* A piece of less than a pair, by way of one that is filled up with zeros. */
PK_INLINE void update_short(const pk_tensor *t, constants k, int states, update_rule *rule)
{
    _Alignas(CACHE_LINE) real arrays[2 + PK_MAX_STATES][PAIR] = {{0}};
    const size_t size = t->n * sizeof(real);
    pk_tensor whole = {.param = memcpy(arrays[0], t->param, size),
                       .grad = memcpy(arrays[1], t->grad, size)};
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (states >> s & 1)
            whole.state[s] = memcpy(arrays[2 + s], t->state[s], size);
    store_pair(&whole, 0, updated(&whole, 0, k, states, 1, rule), states);
    memcpy(t->param, whole.param, size);
    for (int s = 0; s < PK_MAX_STATES; s++)
        if (states >> s & 1)
            memcpy(t->state[s], whole.state[s], size);
}

PK_INLINE void update_by(update_rule *rule, int states, int roots, const pk_tensor *piece,
                         constants k)
{
    const pk_tensor t = *piece;
    if (t.n < PAIR) {
        update_short(&t, k, states, rule);
        return;
    }
    const size_t begin = -(uintptr_t)t.param % PK_VECTOR_BYTES / sizeof(real);
    const size_t rest = (t.n - begin) % PAIR;
    size_t i = begin;
    pair head, tail;
    if (begin)
        head = updated(&t, 0, k, states, 1, rule);
    if (rest)
        tail = updated(&t, t.n - PAIR, k, states, 1, rule);
    for (; i + 2 * PAIR <= t.n; i += 2 * PAIR) {
        store_pair(&t, i, updated(&t, i, k, states, 1, rule), states);
        store_pair(&t, i + PAIR, updated(&t, i + PAIR, k, states, roots, rule), states);
    }
    if (i + PAIR <= t.n)
        store_pair(&t, i, updated(&t, i, k, states, 1, rule), states);
    if (begin)
        store_pair(&t, 0, head, states);
    if (rest)
        store_pair(&t, t.n - PAIR, tail, states);
}

#endif
