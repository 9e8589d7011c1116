/* pk_parallel, the one way to use several cores, and how many.  Three backends, chosen by the
 * build: a pool of our own (PK_POOL), OpenMP (PK_OPENMP), or none.
 *
 * Why a pool: the caller takes chunks like any worker and at the end waits only for chunks that
 * somebody has begun.  A worker that the system does not let run, because the threads of a BLAS
 * still spin after a product, then costs a missing hand; at OpenMP's barrier it stalls all. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "pyoptk.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

/* ---- how many threads ------------------------------------------------------------------------ */

static int within_limits(long n)
{
    return n < 0 ? 0 : n > PK_MAX_THREADS ? PK_MAX_THREADS : (int)n;
}

/* The first number of a variable such as "4" or "4,2"; 0 if there is none. */
static int count_from(const char *variable)
{
    const char *text = getenv(variable);
    return within_limits(text ? strtol(text, NULL, 10) : 0);
}

#ifdef __linux__
/* Reads one or two numbers from a file; how many it found there. */
static int read_numbers(const char *directory, const char *name, long long *a, long long *b)
{
    char path[1200];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    const int found = fscanf(file, "%lld %lld", a, b);
    fclose(file);
    return found;
}

/* Lowers *cores to the quota of one control group: cpu.max of version 2, cpu.cfs_* of version 1. */
static void apply_quota(const char *directory, int *cores)
{
    long long quota = -1, period = 0;
    if (read_numbers(directory, "cpu.max", &quota, &period) != 2) {
        if (read_numbers(directory, "cpu.cfs_quota_us", &quota, &period) < 1 ||
            read_numbers(directory, "cpu.cfs_period_us", &period, &period) < 1)
            return;
    }
    if (quota <= 0 || period <= 0)
        return;
    const long long allowed = quota / period + (quota % period != 0);
    if (allowed < *cores)
        *cores = (int)allowed;
}

static int lists_cpu(const char *controllers)
{
    for (const char *word = controllers; word; word = strchr(word, ',')) {
        word += *word == ',';
        if (strcspn(word, ",") == 3 && !strncmp(word, "cpu", 3))
            return 1;
    }
    return 0;
}

/* Every group from ours up to the root may set a limit.  A container often sees its own group as
 * the root while /proc names the path outside: what does not exist is passed over. */
static void apply_quotas(int *cores)
{
    char line[1024], directory[1100];
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) { /* number:controllers:path */
        char *controllers = strchr(line, ':');
        char *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        const char *base = "/sys/fs/cgroup";
        if (*++controllers) { /* none in version 2 */
            if (!lists_cpu(controllers))
                continue;
            base = "/sys/fs/cgroup/cpu";
        }
        const size_t root = strlen(base);
        snprintf(directory, sizeof directory, "%s%s", base, path);
        for (;;) {
            apply_quota(directory, cores);
            char *slash = strrchr(directory, '/');
            if (slash < directory + root)
                break;
            *slash = 0;
        }
    }
    fclose(file);
}
#endif

static int available_cores(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int cores = online < 1 ? 1 : (int)online;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = CPU_COUNT(&set);
    apply_quotas(&cores);
#endif
    return cores < 1 ? 1 : cores;
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

/* ---- the backends ---------------------------------------------------------------------------- */

typedef void chunk_function(void *arg, size_t chunk);

static void run_serially(chunk_function *fn, void *arg, size_t chunks)
{
    for (size_t c = 0; c < chunks; c++)
        fn(arg, c);
}

#if defined(PK_POOL) || defined(PK_OPENMP)
#include <pthread.h>

static atomic_int busy; /* one job at a time */
#endif

#if defined(PK_OPENMP)
#include <omp.h>

const char *pk_threads_backend(void) { return "openmp"; }

static void run(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
#pragma omp parallel for schedule(dynamic, 1) num_threads(nthreads)
    for (size_t c = 0; c < chunks; c++)
        fn(arg, c);
}

/* libgomp keeps its idle workers.  A fork copies its book-keeping but not them, and the child's
 * first region waits for them for ever (GCC bug 60035).  So they are sent home before each fork;
 * both sides hire new ones when they next need some. */
static void before_fork(void)
{
    if (!omp_in_parallel())
        omp_pause_resource_all(omp_pause_soft);
}
static void in_child(void) { atomic_store(&busy, 0); }
static void register_fork_handlers(void) { pthread_atfork(before_fork, NULL, in_child); }

#elif defined(PK_POOL)
#include <sched.h>
#include <signal.h>
#include <time.h>

#if defined(__x86_64__) || defined(__i386__)
#define relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define relax() __asm__ volatile("isb")
#else
#define relax() ((void)0)
#endif

/* After a job workers look out for the next one this long before they sleep: waking costs some 50
 * microseconds, and a recurrent layer has a job per time step. */
enum { SPIN_NS = 50000 };

/* Kernels need up to 192 KiB of stack on a worker; some C libraries give a thread 128. */
enum { STACK_SIZE = 1 << 20 };

/* The whole state of a job is one word, the ticket: 20 bits job number, 8 bits worker limit, 18
 * bits number of pieces, 18 bits next piece.  A piece is taken by compare-and-swap, so that a late
 * worker can never take one of another job; in two words that is a race. */
enum { PIECE_BITS = 18, LIMIT_BITS = 8, JOB_BITS = 20, MAX_PIECES = (1 << PIECE_BITS) - 1 };
#define NEXT(t) ((size_t)((t) & MAX_PIECES))
#define PIECES(t) ((size_t)((t) >> PIECE_BITS & MAX_PIECES))
#define LIMIT(t) ((int)((t) >> 2 * PIECE_BITS & (PK_MAX_THREADS - 1)))
#define JOB(t) ((uint32_t)((t) >> (2 * PIECE_BITS + LIMIT_BITS)))

static struct {
    _Alignas(64) _Atomic uint64_t ticket;
    _Alignas(64) atomic_size_t done; /* pieces */
    atomic_int sleepers;
    /* Read only by who holds a piece, so never while the next job writes them. */
    chunk_function *fn;
    void *arg;
    size_t chunks, chunks_per_piece;
    int workers;
} pool;
static pthread_mutex_t asleep = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

const char *pk_threads_backend(void) { return "pool"; }

static void take_pieces(uint32_t job)
{
    uint64_t t = atomic_load(&pool.ticket);
    while (JOB(t) == job && NEXT(t) < PIECES(t)) {
        if (!atomic_compare_exchange_weak(&pool.ticket, &t, t + 1))
            continue;
        const size_t first = NEXT(t) * pool.chunks_per_piece, left = pool.chunks - first;
        const size_t count = left < pool.chunks_per_piece ? left : pool.chunks_per_piece;
        for (size_t c = first; c < first + count; c++)
            pool.fn(pool.arg, c);
        atomic_fetch_add(&pool.done, 1);
        t = atomic_load(&pool.ticket);
    }
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int is_last(uint32_t job) { return JOB(atomic_load(&pool.ticket)) == job; }

static void *work(void *self)
{
    const int id = (int)(intptr_t)self;
    uint32_t seen = UINT32_MAX; /* no job has this number */
    for (;;) {
        const int64_t stop = now_ns() + SPIN_NS;
        while (is_last(seen) && now_ns() < stop)
            for (int i = 0; i < 16 && is_last(seen); i++)
                relax();
        if (is_last(seen)) {
            pthread_mutex_lock(&asleep);
            atomic_fetch_add(&pool.sleepers, 1); /* before the look at the ticket: see run */
            while (is_last(seen))
                pthread_cond_wait(&wake, &asleep);
            atomic_fetch_sub(&pool.sleepers, 1);
            pthread_mutex_unlock(&asleep);
        }
        const uint64_t t = atomic_load(&pool.ticket);
        seen = JOB(t);
        if (id < LIMIT(t))
            take_pieces(seen);
    }
    return NULL;
}

/* With fewer workers than wanted, or none, the job still gets done. */
static void hire(int wanted)
{
    sigset_t blocked, before;
    pthread_attr_t detached;
    if (pool.workers >= wanted || pthread_attr_init(&detached))
        return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, STACK_SIZE);
    /* The program's handlers run on the program's threads; a worker's own faults stay visible. */
    sigfillset(&blocked);
    for (const int *fault = (const int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, 0}; *fault; fault++)
        sigdelset(&blocked, *fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    for (pthread_t thread; pool.workers < wanted; pool.workers++)
        if (pthread_create(&thread, &detached, work, (void *)(intptr_t)pool.workers))
            break;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
}

static void run(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
    const size_t per_piece = chunks / MAX_PIECES + (chunks % MAX_PIECES != 0);
    const size_t pieces = chunks / per_piece + (chunks % per_piece != 0);
    hire(nthreads - 1);
    pool.fn = fn;
    pool.arg = arg;
    pool.chunks = chunks;
    pool.chunks_per_piece = per_piece;
    atomic_store(&pool.done, 0);
    const uint32_t job = (JOB(atomic_load(&pool.ticket)) + 1) & ((1 << JOB_BITS) - 1);
    const uint64_t head = (uint64_t)job << LIMIT_BITS | (uint64_t)(nthreads - 1);
    atomic_store(&pool.ticket, (head << PIECE_BITS | pieces) << PIECE_BITS);
    /* A worker counts itself a sleeper, then looks at the ticket; here it is the other way round,
     * so at least one of the two sees the other. */
    if (atomic_load(&pool.sleepers)) {
        pthread_mutex_lock(&asleep);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&asleep);
    }
    take_pieces(job);
    for (int spins = 0; atomic_load(&pool.done) < pieces; spins++) {
        if (spins < 2000)
            relax();
        else
            sched_yield();
    }
}

/* No worker came along to the child; neither did a thread that was inside a job, so what is left
 * of its pieces must never be taken. */
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

#else
const char *pk_threads_backend(void) { return "none"; }
#endif

void pk_parallel(chunk_function *fn, void *arg, size_t chunks, int nthreads)
{
#if defined(PK_POOL) || defined(PK_OPENMP)
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    nthreads = within_limits(nthreads);
    if (nthreads > 1 && (size_t)nthreads > chunks)
        nthreads = (int)chunks;
    /* The exchange is last: whoever gets past it owns the job. */
    if (nthreads > 1 && !atomic_exchange(&busy, 1)) {
        pthread_once(&once, register_fork_handlers);
        run(fn, arg, chunks, nthreads);
        atomic_store(&busy, 0);
        return;
    }
#endif
    (void)nthreads;
    run_serially(fn, arg, chunks);
}
