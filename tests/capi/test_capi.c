/* The test of the library without Python.  Results are checked against formulas written out here or
 * against difference quotients; the Python tests compare them with NumPy. */
#include "dense.h"
#include "rnn.h"
#include "rounded.h"
#include "scan.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef _WIN32
#include <sys/wait.h>
#include <unistd.h>
#endif

#ifdef __SANITIZE_THREAD__
/* By default the sanitizer kills a child of a process with threads when it starts a thread.  With
 * this the child goes on; GCC reports no races in it.  A race in the parent ends the parent. */
const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
    return "die_after_fork=0:halt_on_error=1";
}
#endif

/* ---- instruction sets ------------------------------------------------------------------------ */

static void test_tables_are_there_before_any_call(void)
{
    CHECK(pk_optim(PK_F32) && pk_optim(PK_F64) && pk_math(PK_F32) && pk_math(PK_F64));
    CHECK(pk_dense(PK_F32) && pk_dense(PK_F64));
    CHECK(pk_optim(PK_F32) != pk_optim(PK_F64));
    for (int cell = 0; cell < PK_N_CELLS; cell++)
        CHECK(pk_cell(cell, PK_F32) && pk_cell(cell, PK_F64));
}

static void test_every_set_can_be_chosen_or_says_why_not(void)
{
    int usable, count = 0, best_seen = 0;
    const char *name;
    for (; (name = pk_isa_at(count, &usable)); count++) {
        CHECK(pk_use_isa(name) == (usable ? 0 : PK_ISA_UNUSABLE));
        CHECK(!usable || !strcmp(pk_isa(), name));
        if (usable && !best_seen) {
            best_seen = 1;
            pk_use_isa("baseline");
            CHECK(pk_use_isa(NULL) == 0 && !strcmp(pk_isa(), name));
        }
    }
#ifdef BASELINE_ONLY
    CHECK(count == 1);
#elif defined(__x86_64__) && defined(_WIN32) /* all but amx */
    CHECK(count == 4);
#elif defined(__x86_64__)
    CHECK(count == 5);
#else
    CHECK(count >= 1);
#endif
    CHECK(!strcmp(pk_isa_at(count - 1, &usable), "baseline") && usable);
    CHECK(!pk_isa_at(-1, &usable) && !pk_isa_at(count, &usable));
    pk_use_isa("baseline");
    CHECK(pk_use_isa("sse9") == PK_ISA_UNKNOWN && !strcmp(pk_isa(), "baseline"));
    pk_use_isa(NULL);
}

/* ---- threads --------------------------------------------------------------------------------- */

enum { MANY = 1000003 }; /* more chunks than the field of a pool ticket can count */
static atomic_uchar visits[MANY];

static void visit(void *arg, size_t chunk) { ((atomic_uchar *)arg)[chunk]++; }

static int each_visited_once(size_t chunks)
{
    int good = 1;
    for (size_t c = 0; c < chunks; c++)
        good &= atomic_exchange(&visits[c], 0) == 1;
    return good;
}

static void test_every_chunk_runs_once(void)
{
    const size_t chunks[] = {0, 1, 2, 7, 1000, (1 << 18) - 1, 1 << 18, MANY};
    const int threads[] = {-1, 0, 1, 2, 3, 8};
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
        for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
            pk_parallel(visit, visits, chunks[c], threads[t]);
            CHECK(each_visited_once(chunks[c]));
        }
}

static void test_more_threads_than_anybody_has(void)
{
    pk_parallel(visit, visits, 1000, 100000);
    CHECK(each_visited_once(1000));
}

typedef struct {
    pthread_t caller;
    atomic_int inner, strangers;
} nest;

static void inner_chunk(void *arg, size_t chunk)
{
    nest *n = arg;
    (void)chunk;
    n->inner++;
    n->strangers += !pthread_equal(n->caller, pthread_self());
}

static void outer_chunk(void *arg, size_t chunk)
{
    nest n = {.caller = pthread_self()};
    pk_parallel(inner_chunk, &n, 50, 4);
    CHECK(n.inner == 50 && n.strangers == 0);
    visit(arg, chunk);
}

static void test_nested_call_stays_on_its_thread(void)
{
    pk_parallel(outer_chunk, visits, 40, 4);
    CHECK(each_visited_once(40));
}

static void *many_calls(void *arg)
{
    for (int i = 0; i < 300; i++) {
        pk_parallel(visit, arg, 64, 3);
        for (int c = 0; c < 64; c++)
            CHECK(atomic_exchange((atomic_uchar *)arg + c, 0) == 1);
    }
    return NULL;
}

static void test_two_threads_may_call_at_once(void)
{
    pthread_t callers[2];
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&callers[i], NULL, many_calls, visits + 1000 * i) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(callers[i], NULL);
}

#ifndef _WIN32 /* which has no fork */
static int child_works(void)
{
    const pid_t child = fork();
    if (child == 0) {
        alarm(20); /* ends a child that hangs */
        pk_parallel(visit, visits, 1000, 4);
        _exit(!each_visited_once(1000));
    }
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static atomic_int calling;

static void *call_until_told(void *arg)
{
    while (calling)
        pk_parallel(visit, arg, 64, 3);
    return NULL;
}

static void test_a_forked_child_can_go_on(void)
{
    pk_parallel(visit, visits, 1000, 4);
    CHECK(each_visited_once(1000));
    CHECK(child_works());
    pk_parallel(visit, visits, 1000, 4);
    CHECK(each_visited_once(1000));

    pthread_t caller;
    calling = 1;
    CHECK(pthread_create(&caller, NULL, call_until_told, visits + 2000) == 0);
    for (int i = 0; i < 10; i++)
        CHECK(child_works());
    calling = 0;
    pthread_join(caller, NULL);
    memset(visits + 2000, 0, 64);
}
#endif

static void test_number_of_threads(void)
{
    const int preset = pk_num_threads();
    CHECK(pk_l2_share() == PK_L2_SHARE || pk_l2_share() == 3 * PK_L2_SHARE / 2);
    CHECK(preset >= 1);
    pk_set_num_threads(3);
    CHECK(pk_num_threads() == 3);
    pk_set_num_threads(0);
    CHECK(pk_num_threads() == preset);
    CHECK(strstr("pool openmp none", pk_threads_backend()));
}

static void test_cuts_cover_huge_ranges(void)
{
    const size_t sizes[] = {0, 1, 7, (SIZE_MAX >> 12) + 3, SIZE_MAX / 2 + 2, SIZE_MAX};
    const size_t parts[] = {1, 2, 3, 1000, 100003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
            const size_t n = sizes[i], share = n / parts[j];
            size_t begin = pk_chunk_begin(n, 0, parts[j]);
            int even = begin == 0;
            for (size_t c = 1; c <= parts[j]; c++) {
                const size_t length = pk_chunk_begin(n, c, parts[j]) - begin;
                begin += length;
                even &= length == share || length == share + 1; /* so chunks never overlap */
            }
            CHECK(even && begin == n);
        }
}

/* ---- kernels --------------------------------------------------------------------------------- */

static void test_a_watched_step_has_the_same_bits(void)
{
    const float g[3] = {3, -4, 0};
    float p[3] = {1, 2, 3}, q[3] = {1, 2, 3};
    pk_sgd_config config = {.common = PK_COMMON_DEFAULTS};
    config.common.lr = 0.5;
    pk_tensor t = {.param = p, .grad = g, .n = 3, .step = 1}, u = t;
    u.param = q;
    pk_watched watched = {0};
    const pk_optim_kernels *const kernels = pk_optim(PK_F32);
    void *const scratch = malloc(kernels->watched_scratch_size(&u, 1));
    kernels->step(PK_SGD, &t, 1, &config, NULL, 1);
    kernels->watched_step(PK_SGD, &u, 1, &config, NULL, &watched, scratch, 1);
    free(scratch);
    CHECK(!memcmp(p, q, sizeof p));
    CHECK(watched.grad_norm == 5 && watched.update_norm == 2.5 && watched.largest_grad == 4);
    CHECK(watched.zeros == 1.0 / 3 && watched.clipped == 0 && watched.nonfinite == 0);
    CHECK(watched.rates[0] == 0.5 && watched.rates[1] == 0.5 && isnan(watched.rates[2]));
}

static void test_adam_by_hand(void)
{
    const double g[5] = {0.5, -1.25, 0.0, 3.0, -1e-3}, lr = 1e-2, b1 = 0.9, b2 = 0.99, eps = 1e-8;
    const float g32[5] = {0.5f, -1.25f, 0.0f, 3.0f, -1e-3f};
    double p[5] = {1, 2, 3, 4, 5}, m[5] = {0}, v[5] = {0};
    float p32[5] = {1, 2, 3, 4, 5}, m32[5] = {0}, v32[5] = {0};
    double want[5] = {1, 2, 3, 4, 5}, want_m[5] = {0}, want_v[5] = {0};
    pk_adam_config config = {.common = PK_COMMON_DEFAULTS, .beta1 = b1, .beta2 = b2, .eps = eps};
    config.common.lr = lr;
    for (int step = 1; step <= 3; step++) {
        pk_tensor t = {.param = p, .grad = g, .state = {m, v}, .n = 5, .step = step};
        pk_optim(PK_F64)->step(PK_ADAM, &t, 1, &config, NULL, 1);
        pk_tensor t32 = {.param = p32, .grad = g32, .state = {m32, v32}, .n = 5, .step = step};
        pk_optim(PK_F32)->step(PK_ADAM, &t32, 1, &config, NULL, 1);
        for (int i = 0; i < 5; i++) {
            want_m[i] = b1 * want_m[i] + (1 - b1) * g[i];
            want_v[i] = b2 * want_v[i] + (1 - b2) * g[i] * g[i];
            const double m_hat = want_m[i] / (1 - pow(b1, step));
            const double v_hat = want_v[i] / (1 - pow(b2, step));
            want[i] -= lr * m_hat / (sqrt(v_hat) + eps);
            CHECK(close_to(p[i], want[i], 1e-14) && close_to(p32[i], want[i], 1e-6));
            CHECK(close_to(m[i], want_m[i], 1e-14) && close_to(v[i], want_v[i], 1e-14));
        }
    }
}

enum { LONG = 50001 };
static float long_p[2][LONG], long_m[2][LONG], long_v[2][LONG], long_g[LONG];

static void test_threads_do_not_change_the_bits(void)
{
    pk_adam_config config = {
        .common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    for (int i = 0; i < LONG; i++) {
        long_g[i] = sinf((float)i);
        long_p[0][i] = long_p[1][i] = cosf((float)i);
    }
    memset(long_m, 0, sizeof long_m);
    memset(long_v, 0, sizeof long_v);
    for (int step = 1; step <= 6; step++)
        for (int k = 0; k < 2; k++) {
            config.common.cautious = step > 3;
            pk_tensor t = {.param = long_p[k],
                           .grad = long_g,
                           .state = {long_m[k], long_v[k]},
                           .n = LONG,
                           .step = step};
            pk_optim(PK_F32)->step(PK_ADAM, &t, 1, &config, NULL, k ? 4 : 1);
        }
    CHECK(!memcmp(long_p[0], long_p[1], sizeof long_g));
    CHECK(!memcmp(long_v[0], long_v[1], sizeof long_g));
}

static void test_touched_rows_come_once_and_in_order(void)
{
    double p[4][2] = {{0}}, m[4][2] = {{0}};
    const double values[5][2] = {{1, 2}, {3, 4}, {5, 6}, {7, 8}, {9, 10}};
    const int64_t indices[5] = {3, 0, 3, 1, 3};
    const pk_tensor whole = {.param = p, .state = {m}, .n = 8, .step = 7, .group = 1};
    const pk_rows rows = {.indices = indices, .values = values, .count = 5, .width = 2};
    pk_tensor touched[5];
    void *scratch = malloc(pk_optim(PK_F64)->touched_scratch_size(&rows));
    CHECK(pk_optim(PK_F64)->touched_rows(&whole, &rows, touched, scratch) == 3);
    const int row[3] = {3, 0, 1};
    const double want[3][2] = {{15, 18}, {3, 4}, {7, 8}};
    for (int i = 0; i < 3; i++) {
        const pk_tensor *t = &touched[i];
        CHECK(t->param == p[row[i]] && t->state[0] == m[row[i]] && !t->state[1] && !t->ema);
        CHECK(t->n == 2 && t->step == 7 && t->group == 1);
        CHECK(!memcmp(t->grad, want[i], sizeof want[i]));
    }
    CHECK(touched[1].grad == values[1]); /* a row that occurs once is not copied */
    free(scratch);
}

/* ---- layers ---------------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) /* which need stack themselves */
enum { PROMISED_STACK = 4 << 20 };
#else
enum { PROMISED_STACK = 64 << 10 };
#endif

static void *layers_in_a_thread(void *unused)
{
    test_recurrent_layers();
    test_dense_kernels();
    test_rounded_products();
    return unused;
}

static void test_layers_with_the_stack_they_ask_for(void)
{
    pthread_t thread;
    pthread_attr_t attr;
#ifdef PTHREAD_STACK_MIN /* 128 KiB on aarch64 and ppc64le */
    const size_t least = (size_t)PTHREAD_STACK_MIN;
#else
    const size_t least = 0;
#endif
    pthread_attr_init(&attr);
    CHECK(!pthread_attr_setstacksize(&attr, PROMISED_STACK > least ? PROMISED_STACK : least));
    CHECK(!pthread_create(&thread, &attr, layers_in_a_thread, NULL));
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attr);
}

static void test_arrays_are_added_in_place_too(void)
{
    enum { N = 53 };
    float x[N], y[N];
    for (size_t n = 0; n <= N; n++) {
        for (size_t i = 0; i < N; i++)
            x[i] = (float)i, y[i] = 0.5f;
        pk_math(PK_F32)->add(x, y, x, n);
        for (size_t i = 0; i < N; i++)
            CHECK(x[i] == (float)i + (i < n ? 0.5f : 0));
    }
}

int main(void)
{
    test_tables_are_there_before_any_call();
    test_every_set_can_be_chosen_or_says_why_not();
    test_every_chunk_runs_once();
    test_nested_call_stays_on_its_thread();
    test_two_threads_may_call_at_once();
#ifndef _WIN32
    test_a_forked_child_can_go_on();
#endif
    test_number_of_threads();
    test_cuts_cover_huge_ranges();

    int usable;
    const char *isa;
    for (int i = 0; (isa = pk_isa_at(i, &usable)); i++) {
        if (!usable) {
            printf("%s is not for this CPU\n", isa);
            continue;
        }
        pk_use_isa(isa);
        test_adam_by_hand();
        test_a_watched_step_has_the_same_bits();
        test_threads_do_not_change_the_bits();
        test_touched_rows_come_once_and_in_order();
        test_scans();
        test_arrays_are_added_in_place_too();
        test_rounding_keeps_what_is_not_finite();
        test_layers_with_the_stack_they_ask_for();
    }
    test_more_threads_than_anybody_has(); /* last, because its threads stay alive */
    printf("%d passed, %d failed\n", (int)passed, (int)failed);
    return failed != 0;
}
