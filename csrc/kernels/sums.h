/* Sums of many elements, for losses and normalization: in vectors, which are regularly added to a
 * sum in double. */
#ifndef PK_SUMS_H
#define PK_SUMS_H

#include "vec.h"

typedef struct {
    vec block;
    double total;
    size_t count;
} long_sum;

typedef real half_vec __attribute__((vector_size(PK_VECTOR_BYTES / 2)));
typedef double wide_vec __attribute__((vector_size(LANES / 2 * sizeof(double))));

/* The sum of a vector in double; the halves are added, again and again: the shortest chain of
 * additions. */
PK_INLINE double sum_in_double(vec v)
{
    half_vec half[2];
    double part[LANES / 2];
    memcpy(half, &v, sizeof v);
    const wide_vec sums =
        __builtin_convertvector(half[0], wide_vec) + __builtin_convertvector(half[1], wide_vec);
    memcpy(part, &sums, sizeof sums);
    for (int width = LANES / 4; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            part[i] += part[i + width];
    return part[0];
}

PK_INLINE void flush_sum(long_sum *s)
{
    s->total += sum_in_double(s->block);
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

/* The mean of (x - shift)^power over a row; power is 1 or 2. */
PK_INLINE double mean_of_row(const real *x, size_t N, real shift, const int power)
{
    long_sum sum = {0};
    size_t i = 0;
    for (; i + 2 * LANES <= N; i += 2 * LANES) { /* two, because each addition waits for the one
                                                  * before */
        const vec a = load(x + i) - shift, b = load(x + i + LANES) - shift;
        add_to(&sum, power == 1 ? a + b : a * a + b * b);
    }
    for (; i < N; i += LANES) {
        const size_t n = smaller(N - i, LANES);
        const vec v = zero_tail(load_n(x + i, n) - shift, n);
        add_to(&sum, power == 1 ? v : v * v);
    }
    return sum_of(&sum) / (double)N;
}

#endif
