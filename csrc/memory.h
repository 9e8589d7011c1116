/* Memory of large results, which later results take again, and huge pages.  For the binding, in
 * which NumPy calls these functions for arrays that pyoptk makes; kernels do not allocate.
 *
 * Without it every step of a training loop frees and allocates the same sizes: the C library gives
 * them back to the system, which clears new pages one by one. */
#ifndef PK_MEMORY_H
#define PK_MEMORY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

enum {
    PK_LARGE = 1 << 14,       /* bytes; below, NumPy's allocator is faster */
    PK_MOST_KEPT = 1 << 26,   /* bytes of all that is kept, */
    PK_MOST_OF_ONE = 1 << 25, /* and of one piece */
    PK_PLACES = 64,
    PK_LINE = 64, /* bytes of a cache line, by which memory is aligned; more than there are kinds */
#ifdef MADV_HUGEPAGE
    PK_HUGE = 1 << 21, /* bytes of a huge page, at which larger pieces begin */
#else
    PK_HUGE = 0, /* not asked for */
#endif
};

/* What is before the memory of a result. */
typedef struct {
    size_t size;
    void *begin; /* what malloc returned */
} pk_piece;

/* Each place has the address of what is free there, with its kind added; 0: nothing.  One atomic
 * operation takes or puts it, so that threads need no lock and a fork leaves no half of a change.
 * `newest` is the place that was filled last; it only says where to look first. */
static struct {
    _Atomic uintptr_t places[PK_PLACES];
    atomic_uint newest;
    _Atomic ptrdiff_t bytes;
} pk_kept;

static inline pk_piece *pk_piece_of(uintptr_t memory) { return (pk_piece *)memory - 1; }

static inline _Atomic uintptr_t *pk_place(unsigned i) { return &pk_kept.places[i % PK_PLACES]; }

/* Rounds a size of PK_LARGE..PK_MOST_OF_ONE up to one of four for each power of 2; its number. */
static inline unsigned pk_kind_of(size_t *size)
{
    unsigned kind = 0;
    size_t step = PK_LARGE / 4;
    for (; *size > 8 * step; step *= 2)
        kind += 4;
    *size = (*size + step - 1) & ~(step - 1);
    return kind + (unsigned)(*size / step) - 4;
}

/* Frees what was in a place; its size. */
static size_t pk_drop(uintptr_t found)
{
    if (!found)
        return 0;
    pk_piece *const piece = pk_piece_of(found - found % PK_LINE);
    const size_t size = piece->size;
    free(piece->begin);
    atomic_fetch_sub(&pk_kept.bytes, (ptrdiff_t)size);
    return size;
}

/* Frees what was put first, until at most so many bytes are kept; how many were freed. */
static size_t pk_release_memory(ptrdiff_t most)
{
    const unsigned newest = atomic_load(&pk_kept.newest);
    size_t freed = 0;
    for (unsigned i = 1; i <= PK_PLACES && atomic_load(&pk_kept.bytes) > most; i++)
        freed += pk_drop(atomic_exchange(pk_place(newest + i), 0));
    return freed;
}

/* How many bytes more than `size` pk_aligned needs. */
static size_t pk_room_of(size_t size)
{
    return PK_HUGE && size >= PK_HUGE ? PK_HUGE + PK_HUGE / 4 : PK_LINE;
}

/* Aligns new memory.  Huge pages, the last of which is used by three quarters or more, save the
 * processor's look-ups of addresses; if the system has none, nothing changes but time. */
static void *pk_aligned(void *begin, size_t size)
{
    const size_t unit = PK_HUGE && size >= PK_HUGE ? PK_HUGE : PK_LINE;
    const uintptr_t memory = ((uintptr_t)begin + unit - 1) & ~(uintptr_t)(unit - 1);
#ifdef MADV_HUGEPAGE
    size += PK_HUGE / 4;
    if (unit == PK_HUGE)
        (void)madvise((void *)memory, size - size % PK_HUGE, MADV_HUGEPAGE);
#endif
    return (void *)memory;
}

/* At least so many bytes; NULL if there are none. */
static void *pk_take_memory(size_t size)
{
    const size_t used = size;
    if (size >= PK_LARGE && size <= PK_MOST_OF_ONE) {
        const unsigned kind = pk_kind_of(&size), newest = atomic_load(&pk_kept.newest);
        for (unsigned i = 0; i < PK_PLACES; i++) { /* the newest is most likely in a cache */
            _Atomic uintptr_t *const place = pk_place(newest - i);
            uintptr_t found = atomic_load_explicit(place, memory_order_relaxed);
            if (found && found % PK_LINE == kind &&
                atomic_compare_exchange_strong(place, &found, 0)) {
                atomic_fetch_sub(&pk_kept.bytes, (ptrdiff_t)size);
                return (void *)(found - kind);
            }
        }
    }
    const size_t room = PK_LINE + pk_room_of(used);
    if (size > SIZE_MAX - room)
        return NULL;
    void *begin = malloc(size + room);
    if (!begin && pk_release_memory(0))
        begin = malloc(size + room);
    if (!begin)
        return NULL;
    void *const memory = pk_aligned((char *)begin + PK_LINE, used);
    *pk_piece_of((uintptr_t)memory) = (pk_piece){size, begin};
    return memory;
}

/* Keeps what pk_take_memory returned; if there is no place, frees what was put there first. */
static void pk_give_memory(void *memory)
{
    if (!memory)
        return;
    pk_piece *const piece = pk_piece_of((uintptr_t)memory);
    size_t size = piece->size;
    if (size < PK_LARGE || size > PK_MOST_OF_ONE) {
        free(piece->begin);
        return;
    }
    const uintptr_t put = (uintptr_t)memory + pk_kind_of(&size);
    const unsigned newest = atomic_load(&pk_kept.newest);
    atomic_fetch_add(&pk_kept.bytes, (ptrdiff_t)size);
    unsigned i = 1;
    for (uintptr_t none = 0; i <= PK_PLACES; i++, none = 0)
        if (!atomic_load_explicit(pk_place(newest + i), memory_order_relaxed) &&
            atomic_compare_exchange_strong(pk_place(newest + i), &none, put))
            break;
    if (i > PK_PLACES) /* the next place has what is likely the oldest */
        pk_drop(atomic_exchange(pk_place(newest + i), put));
    atomic_store(&pk_kept.newest, newest + i);
    pk_release_memory(PK_MOST_KEPT);
}

/* ---- NumPy's handler of data memory (NEP 49) ------------------------------------------------- */

static void *pk_malloc(void *context, size_t size)
{
    (void)context;
    return pk_take_memory(size);
}

static void *pk_calloc(void *context, size_t count, size_t size)
{
    (void)context;
    void *const memory = size && count > SIZE_MAX / size ? NULL : pk_take_memory(count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}

static void pk_free(void *context, void *memory, size_t size)
{
    (void)context, (void)size; /* that of the array, which may have been changed */
    pk_give_memory(memory);
}

static void *pk_realloc(void *context, void *memory, size_t size)
{
    (void)context;
    void *const other = pk_take_memory(size);
    if (other && memory) {
        const size_t before = pk_piece_of((uintptr_t)memory)->size;
        memcpy(other, memory, before < size ? before : size);
        pk_give_memory(memory);
    }
    return other;
}

#endif
