/* Row-sparse gradients: turns the rows that a gradient contains into a list of tensors, so that a
 * step changes those rows and no others.  touched_rows is a kernel of optim.c. */
#ifndef PK_ROWS_H
#define PK_ROWS_H

#include "storage.h"

/* A hash table (open addressing, at most half full) maps a row to its tensor.  Its size, and the
 * time to clear it, depend on the gradient, not on the parameter. */
static int slot_bits(size_t count)
{
    int bits = 1;
    while (((size_t)1 << bits) < 2 * count)
        bits++;
    return bits;
}

static size_t touched_scratch_size(const pk_rows *g)
{
    /* a row has a sum if it occurs twice or more: at most count / 2 rows */
    const size_t sums = g->count / 2 * g->width * sizeof(real);
    return ((size_t)1 << slot_bits(g->count)) * sizeof(size_t) +
           (sums + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static size_t touched_rows(const pk_tensor *whole, const pk_rows *g, pk_tensor *touched,
                           void *scratch)
{
    const fp_mode mode = flush_denormals();
    const int bits = slot_bits(g->count);
    const size_t last_slot = ((size_t)1 << bits) - 1;
    size_t *slots = scratch; /* 1 + the index of the row's tensor; 0: free */
    real *const sums = (real *)(slots + last_slot + 1), *free_sum = sums;
    pk_tensor from = *whole;
    size_t found = 0;

    memset(slots, 0, (last_slot + 1) * sizeof *slots);
    from.grad = NULL;
    for (size_t k = 0; k < g->count; k++) {
        const size_t begin = (size_t)g->indices[k] * g->width;
        const real *restrict row = (const real *)g->values + k * g->width;
        const void *param = element(whole->param, begin, whole->stored.param);
        /* Fibonacci hashing: spreads neighbouring and regularly spaced indices */
        size_t slot = (size_t)((uint64_t)g->indices[k] * 0x9E3779B97F4A7C15u >> (64 - bits));
        while (slots[slot] && touched[slots[slot] - 1].param != param)
            slot = (slot + 1) & last_slot;
        if (!slots[slot]) {
            touched[found] = part_of(&from, begin, begin + g->width);
            touched[found].grad = row;
            slots[slot] = ++found;
            continue;
        }
        pk_tensor *t = &touched[slots[slot] - 1];
        real *restrict sum = (real *)(uintptr_t)t->grad;
        if ((uintptr_t)sum < (uintptr_t)sums || (uintptr_t)sum >= (uintptr_t)free_sum) {
            sum = memcpy(free_sum, t->grad, g->width * sizeof(real));
            free_sum += g->width;
            t->grad = sum;
        }
        PK_SIMD
        for (size_t i = 0; i < g->width; i++)
            sum[i] += row[i];
    }
    restore_denormals(mode);
    return found;
}

#endif
