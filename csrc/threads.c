/* pk_parallel, through which kernels use several cores, and the number of threads.  The build
 * chooses one of three backends: our own pool (PK_POOL), OpenMP (PK_OPENMP), or none.  Kernels call
 * pk_parallel; the binding calls the rest.  You may change a backend without touching another file.
 *
 * Why a pool: the caller takes chunks as workers do, and at the end waits only for chunks that have
 * begun.  If the threads of a BLAS still spin on a worker's core, that worker just takes no chunk.
 * OpenMP's threads wait for each other at the end, so that one without a core delays them all. */
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

/* The first number of a variable such as "4" or "4,2" (OpenMP: one per level of nesting); 0 if it
 * is not set or anything else, which OpenMP ignores, too. */
static int count_from(const char *variable)
{
    const char *text = getenv(variable);
    char *end = "";
    const long n = text ? strtol(text, &end, 10) : 0;
    end += strspn(end, " \t\r\n");
    return *end && *end != ',' ? 0 : within_limits(n);
}

#ifdef __linux__
/* Reads one or two numbers from a file; returns how many there were. */
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

/* Limits *cores to the quota of a control group: cpu.max of version 2, cpu.cfs_* of version 1. */
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

/* Each group from ours up to the root may set a limit.  In a container the root is often our own
 * group, while /proc names its path outside: directories that do not exist are skipped. */
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

static _Thread_local int on_worker; /* 1 in a thread that a backend has started */

int pk_on_worker(void) { return on_worker; }

static void run_serially(chunk_function *fn, void *arg, size_t chunks)
{
    for (size_t c = 0; c < chunks; c++)
        fn(arg, c);
}

#if defined(PK_POOL) || defined(PK_OPENMP)
#include <pthread.h>

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

/* How long workers spin after a job before they sleep.  Waking one takes about 50 microseconds, and
 * a recurrent layer has a job per time step. */
enum { SPIN_NS = 50000 };

/* Kernels need up to 600 KiB of stack on a worker; musl gives a thread 128 KiB. */
enum { STACK_SIZE = 1 << 20 };

/* A worker takes a bundle of consecutive chunks at a time.  The state of a job is one word, the
 * ticket: 20 bits for the number of the job, 8 for the limit of workers, 18 for the number of
 * bundles, 18 for the next bundle.  A worker takes a bundle by compare-and-swap, which fails if the
 * next job has begun.  Two words would be a race. */
enum { BUNDLE_BITS = 18, LIMIT_BITS = 8, JOB_BITS = 20, MAX_BUNDLES = (1 << BUNDLE_BITS) - 1 };
#define NEXT(t) ((size_t)((t) & MAX_BUNDLES))
#define BUNDLES(t) ((size_t)((t) >> BUNDLE_BITS & MAX_BUNDLES))
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
static pthread_mutex_t asleep = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;

const char *pk_threads_backend(void) { return "pool"; }

static void take_bundles(uint32_t job)
{
    uint64_t t = atomic_load(&pool.ticket);
    while (JOB(t) == job && NEXT(t) < BUNDLES(t)) {
        if (!atomic_compare_exchange_weak(&pool.ticket, &t, t + 1))
            continue;
        const size_t first = NEXT(t) * pool.chunks_per_bundle, left = pool.chunks - first;
        const size_t count = left < pool.chunks_per_bundle ? left : pool.chunks_per_bundle;
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

static int is_latest(uint32_t job) { return JOB(atomic_load(&pool.ticket)) == job; }

static void *work(void *self)
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
            pthread_mutex_lock(&asleep);
            atomic_fetch_add(&pool.sleepers, 1); /* before reading the ticket: see run */
            while (is_latest(seen))
                pthread_cond_wait(&wake, &asleep);
            atomic_fetch_sub(&pool.sleepers, 1);
            pthread_mutex_unlock(&asleep);
        }
        const uint64_t t = atomic_load(&pool.ticket);
        seen = JOB(t);
        if (id < LIMIT(t))
            take_bundles(seen);
    }
    return NULL;
}

/* Starts workers up to `wanted`.  If it cannot, the job still runs, on fewer threads. */
static void hire(int wanted)
{
    sigset_t blocked, before;
    pthread_attr_t detached;
    if (pool.workers >= wanted || pthread_attr_init(&detached))
        return;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, STACK_SIZE);
    /* Signals go to the program's own threads, except faults, which must end the process. */
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
    const size_t per_bundle = chunks / MAX_BUNDLES + (chunks % MAX_BUNDLES != 0);
    const size_t bundles = chunks / per_bundle + (chunks % per_bundle != 0);
    hire(nthreads - 1);
    pool.fn = fn;
    pool.arg = arg;
    pool.chunks = chunks;
    pool.chunks_per_bundle = per_bundle;
    atomic_store(&pool.done, 0);
    const uint32_t job = (JOB(atomic_load(&pool.ticket)) + 1) & ((1 << JOB_BITS) - 1);
    const uint64_t head = (uint64_t)job << LIMIT_BITS | (uint64_t)(nthreads - 1);
    atomic_store(&pool.ticket, (head << BUNDLE_BITS | bundles) << BUNDLE_BITS);
    /* A worker first counts itself as a sleeper, then reads the ticket.  Here the ticket is written
     * first and sleepers are read then: at least one of the two sees what the other wrote. */
    if (atomic_load(&pool.sleepers)) {
        pthread_mutex_lock(&asleep);
        pthread_cond_broadcast(&wake);
        pthread_mutex_unlock(&asleep);
    }
    take_bundles(job);
    for (int spins = 0; atomic_load(&pool.done) < bundles; spins++) {
        if (spins < 2000)
            relax();
        else
            sched_yield();
    }
}

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
    if (nthreads > 1) /* first, so that a child finds `busy` 0 */
        pthread_once(&once, register_fork_handlers);
    if (nthreads > 1 && !atomic_exchange(&busy, 1)) { /* the job is ours */
        run(fn, arg, chunks, nthreads);
        atomic_store(&busy, 0);
        return;
    }
#endif
    (void)nthreads;
    run_serially(fn, arg, chunks);
}
