/* Asks the CPU and picks the kernel tables.  Compiled once, for the baseline, because it runs
 * before anything is known about the CPU.  No initialisation call and no constructor: the first
 * call that asks for a table makes the choice.  Several threads may do so at once, because each
 * would choose the same. */
#include "pyoptk.h"

#include <stdatomic.h>
#include <string.h>

#if defined(PK_HAVE_avx2) || defined(PK_HAVE_avx512)
/* Not __builtin_cpu_supports, which needs a constructor and a hidden symbol of libgcc that not
 * every compiler links into a shared library. */
#include <cpuid.h>

enum {
    LEAF1_ECX = 1 << 12 | 1 << 27 | 1 << 29,   /* FMA, OSXSAVE, F16C */
    LEAF7_EBX_AVX2 = 1 << 3 | 1 << 5 | 1 << 8, /* BMI, AVX2, BMI2 */
    XCR0_YMM = 0x06,                           /* the system saves xmm and ymm registers */
    XCR0_ZMM = 0xe6,                           /* and zmm and mask registers */
};

static unsigned xcr0(void)
{
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int cpu_has(unsigned leaf7_ebx, unsigned state)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & LEAF1_ECX) != LEAF1_ECX)
        return 0;
    if ((xcr0() & state) != state)
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & leaf7_ebx) == leaf7_ebx;
}
#endif

#ifdef PK_HAVE_avx2
static int has_avx2(void) { return cpu_has(LEAF7_EBX_AVX2, XCR0_YMM); }
#endif

#ifdef PK_HAVE_avx512
static int has_avx512(void)
{
    const unsigned f_dq_cd_bw_vl = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;
#ifdef __APPLE__ /* turns the registers on at their first use, so XCR0 does not show them */
    const unsigned state = XCR0_YMM;
#else
    const unsigned state = XCR0_ZMM;
#endif
    return cpu_has(LEAF7_EBX_AVX2 | f_dq_cd_bw_vl, state);
}
#endif

#ifdef PK_HAVE_avx512bf16
static int has_avx512bf16(void)
{
    unsigned a, b, c, d;
    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}
#endif

#ifdef PK_HAVE_amx
/* Linux lets a process use tile registers once it has asked.  The permission then holds for all its
 * threads until it ends. */
static int may_use_tiles(void)
{
#if defined(__linux__) && defined(__x86_64__)
    enum { ARCH_PRCTL = 158, REQUEST_STATE = 0x1023, TILE_DATA = 18 };
    const unsigned tiles = 1u << 17 | 1u << 18;
    long status = ARCH_PRCTL;
    if ((xcr0() & tiles) != tiles)
        return 0;
    __asm__ volatile("syscall"
                     : "+a"(status)
                     : "D"((long)REQUEST_STATE), "S"((long)TILE_DATA)
                     : "rcx", "r11", "memory");
    return status == 0;
#else
    return 0;
#endif
}

static int has_amx(void)
{
    const unsigned bf16_and_tile = 1u << 22 | 1u << 24;
    unsigned a, b, c, d;
    return has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
           (d & bf16_and_tile) == bf16_and_tile && may_use_tiles();
}
#endif

static int always(void) { return 1; }

typedef struct {
    const char *name;
    int (*usable)(void);
    const pk_optim_kernels *optim[PK_N_DTYPES];
    const pk_math_kernels *math[PK_N_DTYPES];
    const pk_dense_kernels *dense[PK_N_DTYPES];
    const pk_cell_kernels *cells[PK_N_CELLS][PK_N_DTYPES];
    const pk_products *bf16;
} instruction_set;

#define DECLARE(isa)                                                                               \
    extern const pk_optim_kernels pk_optim_f32_##isa, pk_optim_f64_##isa;                          \
    extern const pk_math_kernels pk_math_f32_##isa, pk_math_f64_##isa;                             \
    extern const pk_dense_kernels pk_dense_f32_##isa, pk_dense_f64_##isa;                          \
    extern const pk_cell_kernels pk_lstm_f32_##isa, pk_lstm_f64_##isa;                             \
    extern const pk_cell_kernels pk_lstm_coupled_f32_##isa, pk_lstm_coupled_f64_##isa;             \
    extern const pk_cell_kernels pk_rnn_f32_##isa, pk_rnn_f64_##isa;                               \
    extern const pk_cell_kernels pk_gru_f32_##isa, pk_gru_f64_##isa;                               \
    extern const pk_cell_kernels pk_gru_before_f32_##isa, pk_gru_before_f64_##isa;                 \
    extern const pk_cell_kernels pk_normed_f32_##isa[2], pk_normed_f64_##isa[2];
DECLARE(baseline)
DECLARE(avx2)
DECLARE(avx512)
extern const pk_products pk_rounded_f32_baseline, pk_rounded_f32_avx2, pk_rounded_f32_avx512,
    pk_rounded_f32_avx512bf16, pk_rounded_f32_amx;

#define BOTH(family, isa) {&pk_##family##_f32_##isa, &pk_##family##_f64_##isa}
/* To save 0.2 MB, some kernels of a set are those of another set, `rare`: rare cells, and steps of
 * float64, whose divisions are no faster in wider vectors. */
#define TABLES(isa, rare)                                                                          \
    .optim = {&pk_optim_f32_##isa, &pk_optim_f64_##rare}, .math = BOTH(math, isa),                 \
    .dense = BOTH(dense, isa),                                                                     \
    .cells = {[PK_LSTM] = BOTH(lstm, isa),                                                         \
              [PK_RNN] = {&pk_rnn_f32_##isa, &pk_rnn_f64_##rare},                                  \
              [PK_GRU] = BOTH(gru, isa),                                                           \
              [PK_GRU_BEFORE] = BOTH(gru_before, rare),                                            \
              [PK_LSTM_COUPLED] = BOTH(lstm_coupled, rare),                                        \
              [PK_LSTM_NORMED] = {&pk_normed_f32_##isa[0], &pk_normed_f64_##rare[0]},              \
              [PK_GRU_NORMED] = {&pk_normed_f32_##isa[1], &pk_normed_f64_##rare[1]}}

/* Best first. */
static const instruction_set sets[] = {
#ifdef PK_HAVE_amx /* the kernels of avx512, with other products of bfloat16 */
    {"amx", has_amx, TABLES(avx512, avx2), .bf16 = &pk_rounded_f32_amx},
#endif
#ifdef PK_HAVE_avx512bf16 /* the same */
    {"avx512bf16", has_avx512bf16, TABLES(avx512, avx2), .bf16 = &pk_rounded_f32_avx512bf16},
#endif
#ifdef PK_HAVE_avx512
    {"avx512", has_avx512, TABLES(avx512, avx2), .bf16 = &pk_rounded_f32_avx512},
#endif
#ifdef PK_HAVE_avx2
    {"avx2", has_avx2, TABLES(avx2, avx2), .bf16 = &pk_rounded_f32_avx2},
#endif
    {"baseline", always, TABLES(baseline, baseline), .bf16 = &pk_rounded_f32_baseline},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static _Atomic(const instruction_set *) active; /* NULL until somebody asks */

static const instruction_set *best(void)
{
    const instruction_set *set = sets;
    while (!set->usable())
        set++;
    return set;
}

static const instruction_set *current(void)
{
    const instruction_set *set = atomic_load_explicit(&active, memory_order_relaxed);
    if (!set) {
        const instruction_set *chosen = best();
        /* If pk_use_isa has stored a set in between, that one stays, and `set` becomes it. */
        if (atomic_compare_exchange_strong(&active, &set, chosen))
            set = chosen;
    }
    return set;
}

const pk_optim_kernels *pk_optim(pk_dtype dtype) { return current()->optim[dtype]; }
const pk_math_kernels *pk_math(pk_dtype dtype) { return current()->math[dtype]; }
const pk_dense_kernels *pk_dense(pk_dtype dtype) { return current()->dense[dtype]; }
const pk_cell_kernels *pk_cell(pk_cell_id cell, pk_dtype dtype)
{
    return current()->cells[cell][dtype];
}
const pk_products *pk_bf16_products(void) { return current()->bf16; }
const char *pk_isa(void) { return current()->name; }

int pk_use_isa(const char *name)
{
    if (!name) {
        atomic_store(&active, best());
        return 0;
    }
    for (const instruction_set *set = sets; set < sets + N_SETS; set++) {
        if (strcmp(name, set->name) != 0)
            continue;
        if (!set->usable())
            return PK_ISA_UNUSABLE;
        atomic_store(&active, set);
        return 0;
    }
    return PK_ISA_UNKNOWN;
}

const char *pk_isa_at(int i, int *usable)
{
    if (i < 0 || i >= N_SETS)
        return NULL;
    *usable = sets[i].usable();
    return sets[i].name;
}
