/* pk_parallel, through which kernels use several cores, the number of threads, and L2.  The build
 * chooses one of three backends: our own pool (PK_POOL), OpenMP (PK_OPENMP), or none.  Kernels call
 * pk_parallel; the binding calls the rest.  You may change a backend without touching another file.
 *
 * Why a pool: the caller takes chunks as workers do, and at the end waits only for chunks that have
 * begun.  If the threads of a BLAS still spin on a worker's core, that worker just takes no chunk.
 * OpenMP's threads wait for each other at the end, so that one without a core delays them all. */
#include "system.h" /* first: it asks for more than POSIX */

#include "pyoptk.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- how many threads ------------------------------------------------------------------------ */

static int within_limits(long n)
{
    return n < 0 ? 0 : n > PK_MAX_THREADS ? PK_MAX_THREADS : (int)n;
}

/* The first number of a variable such as "4" or "4,2" (OpenMP: one per level of nesting); 0 if it
 * is not set, or is no such number, as for OpenMP. */
static int count_from(const char *variable)
{
    const char *text = getenv(variable);
    char *end = "";
    const long n = text ? strtol(text, &end, 10) : 0;
    end += strspn(end, " \t\r\n");
    return *end && *end != ',' ? 0 : within_limits(n);
}

static atomic_int chosen, preset; /* 0: not chosen, not yet looked up */

int pk_num_threads(void)
{
    int n = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (n)
        return n;
    n = atomic_load_explicit(&preset, memory_order_relaxed);
    if (!n) {
        n = count_from("PYOPTK_NUM_THREADS");
        if (!n)
            n = count_from("OMP_NUM_THREADS");
        if (!n)
            n = within_limits(available_cores());
        atomic_store(&preset, n);
    }
    return n;
}

void pk_set_num_threads(int n) { atomic_store(&chosen, within_limits(n)); }

size_t pk_l2_share(void)
{
    static atomic_size_t share; /* 0: not yet looked up, which takes a microsecond or more */
    size_t bytes = atomic_load_explicit(&share, memory_order_relaxed);
    if (!bytes) {
        bytes = l2_size() >= 2 * PK_L2_SHARE ? 3 * PK_L2_SHARE / 2 : PK_L2_SHARE;
        atomic_store(&share, bytes);
    }
    return bytes;
}

void pk_ask_for(const void *from, ptrdiff_t stride, size_t rows, size_t bytes, size_t i, size_t n)
{
    const size_t end = from ? pk_chunk_begin(rows, i + 1, n) : 0;
    for (size_t r = pk_chunk_begin(rows, i, n); r < end; r++)
        for (size_t at = 0; at < bytes; at += 64)
            __builtin_prefetch((const char *)from + (ptrdiff_t)r * stride + at, 1, 2);
}

/* ---- the backends ---------------------------------------------------------------------------- */

typedef void chunk_function(void *arg, size_t chunk);

static _Thread_local int on_worker; /* 1 in a thread that a backend has started */

int pk_on_worker(void) { return on_worker; }

static void run_serially(chunk_function *fn, void *arg, size_t chunks)
{
    for (size_t c = 0; c < chunks; c++)
        fn(arg, c);
}

#if defined(PK_POOL) || defined(PK_OPENMP)
static atomic_int busy; /* 1 while a job runs: there is one at a time */
#endif

#if defined(PK_OPENMP)
#include <omp.h>

const char *pk_threads_backend(void) { return "openmp"; }

static void run(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
#pragma omp parallel num_threads(nthreads)
    {
        const int before = on_worker;
        on_worker |= omp_get_thread_num() > 0;
#pragma omp for schedule(dynamic, 1)
        for (size_t c = 0; c < chunks; c++)
            fn(arg, c);
        on_worker = before; /* the thread may call kernels of its own later */
    }
}

/* libgomp keeps idle workers.  A fork copies its records of them but not the threads, and the first
 * parallel region of the child waits for them for ever (GCC bug 60035).  So the workers are ended
 * before each fork; parent and child start new ones when they need them. */
#ifdef PK_FORKS
static void before_fork(void)
{
    if (!omp_in_parallel())
        omp_pause_resource_all(omp_pause_soft);
}
static void in_child(void) { atomic_store(&busy, 0); }
static void register_fork_handlers(void) { pthread_atfork(before_fork, NULL, in_child); }
#endif

#elif defined(PK_POOL)
#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("isb")
#else
#define relax() ((void)0)
#endif

/* How long workers spin after a job before they sleep.  Waking one takes about 50 microseconds, and
 * a recurrent layer has a job per time step. */
enum { SPIN_NS = 50000 };

/* Kernels need up to 600 KiB of stack on a worker; musl gives a thread 128 KiB. */
enum { STACK_SIZE = 1 << 20 };

/* A thread takes a bundle of consecutive chunks at a time.  The state of a job is one word, the
 * ticket: 22 bits for the number of the job, 8 for the limit of workers, 17 for the end of the
 * bundles that are left, 17 for the first of them.  A thread takes one by compare-and-swap, which
 * fails if the next job has begun.  Two words would be a race.
 *
 * The caller takes the first bundle.  If there are many, workers take the last: with two threads
 * each then finds in its L2 what it had there in the last job.  Otherwise they take the first, too:
 * what comes first is what a layer has used last.  The lowest bit of a job's number says which. */
enum { BUNDLE_BITS = 17, LIMIT_BITS = 8, JOB_BITS = 22, MAX_BUNDLES = (1 << BUNDLE_BITS) - 1 };
enum { MANY = 8 }; /* for each thread */
#define NEXT(t) ((size_t)((t) & MAX_BUNDLES))
#define END(t) ((size_t)((t) >> BUNDLE_BITS & MAX_BUNDLES))
#define LIMIT(t) ((int)((t) >> 2 * BUNDLE_BITS & (PK_MAX_THREADS - 1)))
#define JOB(t) ((uint32_t)((t) >> (2 * BUNDLE_BITS + LIMIT_BITS)))

static struct {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) atomic_size_t done; /* bundles */
    atomic_int sleepers;
    /* Only a thread that holds a bundle reads these, so the next job cannot be writing them. */
    chunk_function *fn;
    void *arg;
    size_t chunks, chunks_per_bundle;
    int workers;
} pool;
static lock asleep = LOCK_FREE;
static condition wake = CONDITION_FREE;

const char *pk_threads_backend(void) { return "pool"; }

static void take_bundles(uint32_t job)
{
    const int last = on_worker && job & 1;
    uint64_t t = atomic_load(&pool.ticket);
    while (JOB(t) == job && NEXT(t) < END(t)) {
        const uint64_t rest = last ? t - ((uint64_t)1 << BUNDLE_BITS) : t + 1;
        if (!atomic_compare_exchange_weak(&pool.ticket, &t, rest))
            continue;
        const size_t bundle = last ? END(t) - 1 : NEXT(t);
        const size_t first = bundle * pool.chunks_per_bundle, left = pool.chunks - first;
        const size_t count = left < pool.chunks_per_bundle ? left : pool.chunks_per_bundle;
        for (size_t c = first; c < first + count; c++)
            pool.fn(pool.arg, c);
        atomic_fetch_add(&pool.done, 1);
        t = atomic_load(&pool.ticket);
    }
}

static int is_latest(uint32_t job) { return JOB(atomic_load(&pool.ticket)) == job; }

static THREAD(work)
{
    const int id = (int)(intptr_t)self;
    uint32_t seen = UINT32_MAX; /* no job has this number */
    on_worker = 1;
    for (;;) {
        const int64_t stop = now_ns() + SPIN_NS;
        while (is_latest(seen) && now_ns() < stop)
            for (int i = 0; i < 16 && is_latest(seen); i++)
                relax();
        if (is_latest(seen)) {
            acquire(&asleep);
            atomic_fetch_add(&pool.sleepers, 1); /* before reading the ticket: see run */
            while (is_latest(seen))
                wait_for(&wake, &asleep);
            atomic_fetch_sub(&pool.sleepers, 1);
            release(&asleep);
        }
        const uint64_t t = atomic_load(&pool.ticket);
        seen = JOB(t);
        if (id < LIMIT(t))
            take_bundles(seen);
    }
    return 0;
}

static void run(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
    const size_t per_bundle = chunks / MAX_BUNDLES + (chunks % MAX_BUNDLES != 0);
    const size_t bundles = chunks / per_bundle + (chunks % per_bundle != 0);
    /* If not all of them can be started, the job runs on fewer threads. */
    if (pool.workers < nthreads - 1)
        pool.workers = start_threads(work, pool.workers, nthreads - 1, STACK_SIZE);
    pool.fn = fn;
    pool.arg = arg;
    pool.chunks = chunks;
    pool.chunks_per_bundle = per_bundle;
    atomic_store(&pool.done, 0);
    const uint32_t before = JOB(atomic_load(&pool.ticket)) | 1;
    const uint32_t many = bundles >= MANY * (size_t)nthreads;
    const uint32_t job = (before + 1 + many) & ((1 << JOB_BITS) - 1);
    const uint64_t head = (uint64_t)job << LIMIT_BITS | (uint64_t)(nthreads - 1);
    atomic_store(&pool.ticket, (head << BUNDLE_BITS | bundles) << BUNDLE_BITS);
    /* A worker first counts itself as a sleeper, then reads the ticket.  Here the ticket is written
     * first and sleepers are read then: at least one of the two sees what the other wrote. */
    if (atomic_load(&pool.sleepers)) {
        acquire(&asleep);
        tell_all(&wake);
        release(&asleep);
    }
    take_bundles(job);
    for (int spins = 0; atomic_load(&pool.done) < bundles; spins++) {
        if (spins < 2000)
            relax();
        else
            give_way();
    }
}

#ifdef PK_FORKS
/* The child of a fork has no workers.  A job that another thread was running has lost that thread:
 * its remaining bundles must not run. */
static void in_child(void)
{
    pool.workers = 0;
    atomic_store(&pool.ticket, 0);
    atomic_store(&pool.sleepers, 0);
    pthread_mutex_init(&asleep, NULL);
    pthread_cond_init(&wake, NULL);
    atomic_store(&busy, 0);
}
static void register_fork_handlers(void) { pthread_atfork(NULL, NULL, in_child); }
#endif

#else
const char *pk_threads_backend(void) { return "none"; }
#endif

void pk_parallel(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
#if defined(PK_POOL) || defined(PK_OPENMP)
    nthreads = within_limits(nthreads);
    if (nthreads > 1 && (size_t)nthreads > chunks)
        nthreads = (int)chunks;
#ifdef PK_FORKS
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (nthreads > 1) /* first, so that a child finds `busy` 0 */
        pthread_once(&once, register_fork_handlers);
#endif
    if (nthreads > 1 && !atomic_exchange(&busy, 1)) { /* the job is ours */
        run(fn, arg, chunks, nthreads);
        atomic_store(&busy, 0);
        return;
    }
#endif
    (void)nthreads;
    run_serially(fn, arg, chunks);
}
