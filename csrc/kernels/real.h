/* The element type of a kernel object and how it treats denormal numbers.  Every header of the
 * kernels builds on it.  PK_DTYPE_BITS (32 or 64) and PK_VECTOR_BYTES come from the build, once per
 * object. */
#ifndef PK_REAL_H
#define PK_REAL_H

#include "pyoptk.h"

#include <float.h>

#if PK_DTYPE_BITS == 32
typedef float real;
typedef int32_t real_bits;
typedef uint32_t real_unsigned;
#define real_sqrt sqrtf
#define real_fma __builtin_fmaf
#define REAL_MIN FLT_MIN
#else
typedef double real;
typedef int64_t real_bits;
typedef uint64_t real_unsigned;
#define real_sqrt sqrt
#define real_fma __builtin_fma
#define REAL_MIN DBL_MIN
#endif

#define PK_INLINE static inline __attribute__((always_inline))

/* Before a loop with independent iterations, which the compiler may then vectorize. */
#define PK_SIMD _Pragma("omp simd")

/* An operation on denormal numbers may take a hundred times as long, and decaying moments and gates
 * are full of them after a while.  Kernels flush them to zero and restore the caller's mode. */
#if defined(__x86_64__) || defined(__i386__)
typedef unsigned fp_mode;
PK_INLINE fp_mode flush_denormals(void)
{
    const fp_mode before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | 0x8040); /* flush results to zero, read operands as zero */
    return before;
}
PK_INLINE void restore_denormals(fp_mode before) { __builtin_ia32_ldmxcsr(before); }
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
PK_INLINE fp_mode flush_denormals(void)
{
    fp_mode before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | (fp_mode)1 << 24));
    return before;
}
PK_INLINE void restore_denormals(fp_mode before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before));
}
#else
typedef int fp_mode;
PK_INLINE fp_mode flush_denormals(void) { return 0; }
PK_INLINE void restore_denormals(fp_mode before) { (void)before; }
#endif

#endif
