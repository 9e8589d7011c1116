/* The table of the optimizer kernels, and `step`, which all optimizers share.  Compiled once per
 * instruction set and dtype, without contraction to FMA.  Everything is static except the table, so
 * that no two objects share a symbol.  Users get the table from pk_optim (dispatch.c). */
#include "adam.h"
#include "norm.h"
#include "optim.h"
#include "rows.h"

#define PK_ROW(number, name) [number] = &name,
static const optimizer *const optimizers[PK_N_OPTIMIZERS + 1] = {
    PK_OPTIMIZERS(PK_ROW)[PK_MEMORY_ROOF] = &memory_roof,
};

/* One sweep; two if a group is cautious, because the share of agreeing elements of a tensor is
 * known only after all of them.  Then CAUTIOUS_AT_ONCE tensors at a time, whose counts fit the
 * stack. */
static void step(pk_which which, const pk_tensor *tensors, size_t count, const void *configs,
                 void *scratch, int nthreads)
{
    const optimizer *const o = optimizers[which];
    chunk_start starts[MOST_CHUNKS];
    size_t agreeing[CAUTIOUS_AT_ONCE];
    int cautious = 0;
    sweep s = {.optimizer = o, .configs = configs, .starts = starts};
    const double *const rates =
        o->rates ? o->rates(tensors, count, configs, scratch, nthreads) : NULL;
    for (size_t i = 0; i < count; i++)
        cautious |= common_of(&s, &tensors[i])->cautious;
    for (size_t first = 0; first < count; first += s.count) {
        s.tensors = tensors + first;
        s.rates = rates ? rates + first : NULL;
        s.count = cautious ? smaller(count - first, CAUTIOUS_AT_ONCE) : count;
        s.total = 0;
        for (size_t i = 0; i < s.count; i++)
            s.total += s.tensors[i].n;
        s.chunks = chunks_for(s.total, nthreads);
        find_starts(starts, s.chunks, s.tensors, s.total, elements_of);
        if (cautious) {
            s.agreeing = memset(agreeing, 0, sizeof agreeing);
            s.counting = 1;
            pk_parallel(sweep_chunk, &s, s.chunks, nthreads);
            s.counting = 0;
        }
        pk_parallel(sweep_chunk, &s, s.chunks, nthreads);
    }
}

static size_t scratch_size(pk_which which, const pk_tensor *tensors, size_t count)
{
    const optimizer *const o = optimizers[which];
    return o->scratch_size ? o->scratch_size(tensors, count) : 0;
}

extern const pk_optim_kernels PK_TABLE;

const pk_optim_kernels PK_TABLE = {
    .step = step,
    .scratch_size = scratch_size,
    .touched_rows = touched_rows,
    .touched_scratch_size = touched_scratch_size,
    .global_norm = global_norm,
    .norm_scratch_size = norm_scratch_size,
};
