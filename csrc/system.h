/* What threads.c asks of the operating system: how many cores there are and the size of their L2, a
 * clock, a lock with a condition, and threads.  POSIX and Windows. */
#ifndef PK_SYSTEM_H
#define PK_SYSTEM_H

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#define PK_FORKS /* a process may fork */
#endif
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- cores ----------------------------------------------------------------------------------- */

#ifdef _WIN32
/* The cores of this process within its processor group: at most 64. */
static inline int available_cores(void)
{
    DWORD_PTR ours, all;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &ours, &all) || !ours)
        return 1;
    return __builtin_popcountll(ours);
}

#else
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

static inline int available_cores(void)
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
#endif

/* The bytes of the L2 cache of a core; 0 if the C library does not say. */
static inline long l2_size(void)
{
#ifdef _SC_LEVEL2_CACHE_SIZE
    return sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
    return 0;
#endif
}

#if defined(PK_POOL) || defined(PK_OPENMP)
/* ---- a clock, a lock, a condition ------------------------------------------------------------ */

#ifdef _WIN32
static inline int64_t now_ns(void)
{
    LARGE_INTEGER t, per_second;
    QueryPerformanceCounter(&t);
    QueryPerformanceFrequency(&per_second);
    return (int64_t)((double)t.QuadPart * 1e9 / (double)per_second.QuadPart);
}

static inline void give_way(void) { SwitchToThread(); }

typedef SRWLOCK lock;
typedef CONDITION_VARIABLE condition;
#define LOCK_FREE SRWLOCK_INIT
#define CONDITION_FREE CONDITION_VARIABLE_INIT

static inline void acquire(lock *l) { AcquireSRWLockExclusive(l); }
static inline void release(lock *l) { ReleaseSRWLockExclusive(l); }
static inline void wait_for(condition *c, lock *l) { SleepConditionVariableSRW(c, l, INFINITE, 0); }
static inline void tell_all(condition *c) { WakeAllConditionVariable(c); }

#else
static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void give_way(void) { sched_yield(); }

typedef pthread_mutex_t lock;
typedef pthread_cond_t condition;
#define LOCK_FREE PTHREAD_MUTEX_INITIALIZER
#define CONDITION_FREE PTHREAD_COND_INITIALIZER

static inline void acquire(lock *l) { pthread_mutex_lock(l); }
static inline void release(lock *l) { pthread_mutex_unlock(l); }
static inline void wait_for(condition *c, lock *l) { pthread_cond_wait(c, l); }
static inline void tell_all(condition *c) { pthread_cond_broadcast(c); }
#endif

/* ---- threads --------------------------------------------------------------------------------- */

/* THREAD(name) { ... self ... } defines what a thread runs; `self` is its number.  start_threads
 * starts detached threads with the numbers `first` to end-1.  Returns the number of the first one
 * that could not be started, or `end`. */
#ifdef _WIN32
#define THREAD(name) DWORD WINAPI name(LPVOID self)
typedef THREAD(thread_function);

static inline int start_threads(thread_function *function, int first, int end, size_t stack)
{
    for (HANDLE thread; first < end; first++) {
        thread = CreateThread(NULL, stack, function, (LPVOID)(intptr_t)first,
                              STACK_SIZE_PARAM_IS_A_RESERVATION, NULL);
        if (!thread)
            break;
        CloseHandle(thread);
    }
    return first;
}

#else
#define THREAD(name) void *name(void *self)
typedef THREAD(thread_function);

static inline int start_threads(thread_function *function, int first, int end, size_t stack)
{
    sigset_t blocked, before;
    pthread_attr_t detached;
    if (first >= end || pthread_attr_init(&detached))
        return first;
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&detached, stack);
    /* Signals go to the program's own threads, except faults, which must end the process. */
    sigfillset(&blocked);
    for (const int *fault = (const int[]){SIGSEGV, SIGBUS, SIGFPE, SIGILL, 0}; *fault; fault++)
        sigdelset(&blocked, *fault);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    for (pthread_t thread; first < end; first++)
        if (pthread_create(&thread, &detached, function, (void *)(intptr_t)first))
            break;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&detached);
    return first;
}
#endif
#endif
#endif
