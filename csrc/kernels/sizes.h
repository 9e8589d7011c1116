/* Sizes of memory, in arithmetic that saturates: SIZE_MAX means "too much".  For every function
 * that tells a caller how much memory to allocate. */
#ifndef PK_SIZES_H
#define PK_SIZES_H

#include "real.h"

PK_INLINE size_t times(size_t a, size_t b)
{
    size_t product;
    return __builtin_mul_overflow(a, b, &product) ? SIZE_MAX : product;
}

PK_INLINE size_t plus(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

/* Bytes that probably stay in the L2 cache of a core; pk_l2_share may know more. */
enum { L2_SHARE = PK_L2_SHARE };

/* Bytes of scratch memory that holds so many elements after align(). */
#define PK_SCRATCH_BYTES(elements) plus(times(elements, sizeof(real)), ALIGNMENT)

#endif
