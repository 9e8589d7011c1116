/* Sums of many elements, for losses and normalization: in vectors, which are added to a sum in
 * double every so often. */
#ifndef PK_SUMS_H
#define PK_SUMS_H

#include "vec.h"

typedef struct {
    vec block;
    double total;
    size_t count;
} long_sum;

PK_INLINE void flush_sum(long_sum *s)
{
    double parts[4] = {0}; /* which do not wait for one another */
    for (int i = 0; i < LANES; i++)
        parts[i % 4] += (double)s->block[i];
    s->total += (parts[0] + parts[1]) + (parts[2] + parts[3]);
    s->block = (vec){0};
    s->count = 0;
}
PK_INLINE void add_to(long_sum *s, vec v)
{
    s->block += v;
    if (++s->count == 32)
        flush_sum(s);
}
PK_INLINE double sum_of(long_sum *s)
{
    flush_sum(s);
    return s->total;
}

#endif
