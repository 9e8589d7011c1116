/* pyoptk: fused optimizer steps and recurrent layers on arrays that the caller owns.
 *
 *     pk_tensor t = {.param = p, .grad = g, .state = {m, v}, .n = n, .step = 1};
 *     pk_adam_config c = {.common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
 *     c.common.lr = 1e-3;
 *     pk_optim(PK_F32)->step(PK_ADAM, &t, 1, &c, NULL, pk_num_threads());
 *
 * This is the whole C API; Python is one of its users.  Kernels never allocate, print, lock or
 * fail: the caller has checked shapes, and no array overlaps another unless a comment allows it.
 * Arrays have the dtype of the table that the kernel was taken from.  Shapes are in [brackets]; the
 * last index is contiguous.  A pointer may be NULL where a comment says so.  A calling thread needs
 * 64 KiB of stack.
 */
#ifndef PYOPTK_H
#define PYOPTK_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PK_VERSION_MAJOR 0
#define PK_VERSION_MINOR 2
#define PK_VERSION_PATCH 0
#define PK_VERSION "0.2.0"

typedef enum { PK_F32, PK_F64, PK_N_DTYPES } pk_dtype;

#include "pyoptk_optim.h" /* optimizers */
#include "pyoptk_rnn.h"   /* recurrent layers, functions of arrays */
#include "pyoptk_dense.h" /* linear layers, losses */

/* ---- instruction sets ------------------------------------------------------------------------ */

/* The kernels of one dtype, for the instruction set in use. */
const pk_optim_kernels *pk_optim(pk_dtype dtype);
const pk_cell_kernels *pk_cell(pk_cell_id cell, pk_dtype dtype);
const pk_math_kernels *pk_math(pk_dtype dtype);
const pk_dense_kernels *pk_dense(pk_dtype dtype);

/* For `products` of a layer: both operands of every product are rounded to bfloat16, to the
 * nearest, ties to even, and denormal ones to 0; sums are float.  They belong to the instruction
 * set in use, and so must the kernels of the layer. */
const pk_products *pk_bf16_products(void);

enum { PK_ISA_UNKNOWN = 1, PK_ISA_UNUSABLE = 2 };

/* Selects a set by name, or the best one if name is NULL.  Returns 0, or an error from above, after
 * which nothing has changed.  At first the best one is in use.  Do not call this while a kernel
 * runs. */
int pk_use_isa(const char *name);
const char *pk_isa(void);
/* The i-th set of this build, best first, and whether this CPU has it; NULL past the last one. */
const char *pk_isa_at(int i, int *usable);

/* ---- threads --------------------------------------------------------------------------------- */

/* Calls fn(arg, chunk) for every chunk < chunks, on at most nthreads threads including the
 * caller's, and returns when all calls have returned.  A nested call, or one while another thread
 * is in pk_parallel, runs on the calling thread alone. */
void pk_parallel(void (*fn)(void *arg, size_t chunk), void *arg, size_t chunks, int nthreads);

/* In fn: whether this thread is a worker, with 1 MiB of stack, and not a thread of the program. */
int pk_on_worker(void);

/* Bytes that probably stay in the L2 cache of a core: 1.5 MiB if it has 2 or more, else 1 MiB.  No
 * result depends on it, so C programs need not ask. */
enum { PK_L2_SHARE = 1 << 20 };
size_t pk_l2_share(void);

/* For kernels: asks the caches for the i-th of n shares of `rows` rows, `bytes` long and `stride`
 * bytes apart, which are about to be written.  NULL: for nothing. */
void pk_ask_for(const void *from, ptrdiff_t stride, size_t rows, size_t bytes, size_t i, size_t n);

/* The first element of chunk c of n elements in `chunks` chunks; that of chunk `chunks` is n. */
static inline size_t pk_chunk_begin(size_t n, size_t c, size_t chunks)
{
    const size_t share = n / chunks, rest = n % chunks;
    return share * c + (c < rest ? c : rest); /* n * c / chunks would overflow */
}

/* PYOPTK_NUM_THREADS, else OMP_NUM_THREADS, else the cores that affinity and cgroup allow. */
int pk_num_threads(void);
enum { PK_MAX_THREADS = 256 };
void pk_set_num_threads(int n);       /* 1 .. PK_MAX_THREADS; 0 for the default again */
const char *pk_threads_backend(void); /* "pool", "openmp" or "none" */

#ifdef __cplusplus
}
#endif

#endif
