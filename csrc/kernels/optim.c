/* The table of the optimizer kernels, and `step`, which all optimizers share.  Compiled once per
 * instruction set and dtype, without contraction to FMA.  Everything is static except the table, so
 * that no two objects share a symbol.  Users get the table from pk_optim (dispatch.c). */
#include "adam.h"
#include "norm.h"
#include "optim.h"
#include "rows.h"

#define PK_ROW(number, name) [number] = {name##_context, name##_update, sizeof(pk_##name##_config)},
static const optimizer optimizers[PK_N_OPTIMIZERS + 1] = {
    PK_OPTIMIZERS(PK_ROW)[PK_MEMORY_ROOF] = {memory_roof_context, memory_roof_update,
                                             sizeof(pk_common)},
};

#if PK_DTYPE_BITS == 32
static size_t rmsprop_narrow(const piece *p, const context *k)
{
    return (k->variant ? rmsprop_narrow_pushed : rmsprop_narrow_blocks)(p, k);
}

static size_t adam_narrow(const piece *p, const context *k)
{
    return (k->variant ? adam_narrow_amsgrad : adam_narrow_blocks)(p, k);
}

static update_function *const narrow_updates[PK_N_OPTIMIZERS + 1] = {
    [PK_SGD] = sgd_narrow_blocks,     [PK_ADAGRAD] = adagrad_narrow_blocks,
    [PK_RMSPROP] = rmsprop_narrow,    [PK_ADAM] = adam_narrow,
    [PK_NADAM] = nadam_narrow_blocks, [PK_LION] = lion_narrow_blocks,
};
#else
static update_function *const narrow_updates[PK_N_OPTIMIZERS + 1] = {NULL};
#endif

/* One sweep; two if a group is cautious, because the share of agreeing elements of a tensor is
 * known only after all of them.  Then it takes CAUTIOUS_AT_ONCE tensors at a time, so that their
 * counts fit the stack. */
static void watched_step(pk_which which, const pk_tensor *tensors, size_t count,
                         const void *configs, void *scratch, pk_watched *watched,
                         void *watched_scratch, int nthreads)
{
    size_t agreeing[CAUTIOUS_AT_ONCE];
    int cautious = 0;
    sweep s = {.optimizer = &optimizers[which],
               .narrow = narrow_updates[which],
               .takes_halves = LANES == 16 && which == PK_ADAM, /* as NARROW(adam, ...) says */
               .configs = configs,
               .watched = watched,
               .parts = watched_scratch};
    const double *const rates =
        which == PK_LAMB ? lamb_rates(s, tensors, count, scratch, nthreads) : NULL;
    for (size_t i = 0; i < count; i++)
        cautious |= common_of(&s, &tensors[i])->cautious;
    for (size_t first = 0; first < count; first += s.count) {
        s.tensors = tensors + first;
        s.rates = rates ? rates + first : NULL;
        s.count = cautious ? smaller(count - first, CAUTIOUS_AT_ONCE) : count;
        if (cautious) {
            s.agreeing = memset(agreeing, 0, sizeof agreeing);
            s.counting = 1;
            run_sweep(&s, elements_of, 1, update_chunk, nthreads);
            s.counting = 0;
        }
        if (watched)
            watched_sweep(&s, nthreads);
        else
            run_sweep(&s, elements_of, 1, update_chunk, nthreads);
    }
}

static void step(pk_which which, const pk_tensor *tensors, size_t count, const void *configs,
                 void *scratch, int nthreads)
{
    watched_step(which, tensors, count, configs, scratch, NULL, NULL, nthreads);
}

static size_t scratch_size(pk_which which, const pk_tensor *tensors, size_t count)
{
    return which == PK_LAMB ? lamb_scratch_size(tensors, count) : 0;
}

extern const pk_optim_kernels PK_TABLE;

const pk_optim_kernels PK_TABLE = {
    .step = step,
    .watched_step = watched_step,
    .scratch_size = scratch_size,
    .watched_scratch_size = watched_scratch_size,
    .touched_rows = touched_rows,
    .touched_scratch_size = touched_scratch_size,
#if PK_DTYPE_BITS == 32
    .read_state = read_state,
    .write_state = write_state,
    .read_param = read_param,
    .write_param = write_param,
#endif
    .global_norm = global_norm,
    .norm_scratch_size = norm_scratch_size,
};
