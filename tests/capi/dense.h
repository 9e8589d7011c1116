/* The dense part of test_capi.c: gradients against difference quotients, rows that lie apart,
 * memory around every array, numbers of threads. */
#ifndef DENSE_H
#define DENSE_H

#include "check.h"

#include <stdlib.h>
#include <string.h>

/* ---- arrays with guards ---------------------------------------------------------------------- */

enum { GUARDS = 8, MOST_ARRAYS = 12 };
static const double GUARD = -77.25;

typedef struct {
    double *blocks[MOST_ARRAYS];
    size_t lengths[MOST_ARRAYS], count;
} memory;

/* n numbers, sin(i + phase), between guards */
static double *numbers(memory *m, size_t n, double phase)
{
    double *const block = malloc((n + 2 * GUARDS) * sizeof *block);
    m->blocks[m->count] = block;
    m->lengths[m->count++] = n;
    for (size_t i = 0; i < n + 2 * GUARDS; i++)
        block[i] = i < GUARDS || i >= n + GUARDS ? GUARD : sin((double)(i + 1) + phase);
    return block + GUARDS;
}

static void check_and_free(memory *m)
{
    for (size_t k = 0; k < m->count; k++) {
        int whole = 1;
        for (size_t i = 0; i < GUARDS; i++)
            whole &= m->blocks[k][i] == GUARD && m->blocks[k][m->lengths[k] + GUARDS + i] == GUARD;
        CHECK(whole);
        free(m->blocks[k]);
    }
}

/* `gradient` against difference quotients of `loss` in every `step`-th of n values */
static void check_quotients(double *values, const double *gradient, size_t n, size_t step,
                            double (*loss)(void *), void *arg)
{
    for (size_t i = 0; i < n; i += step) {
        const double at = values[i], push = 1e-5;
        values[i] = at + push;
        const double above = loss(arg);
        values[i] = at - push;
        const double below = loss(arg);
        values[i] = at;
        CHECK(close_to(gradient[i], (above - below) / (2 * push), 2e-8)); /* 1e-16/push, sums */
    }
}

/* ---- linear layers --------------------------------------------------------------------------- */

enum { APART = 3 }; /* numbers between the rows of x, y, dy and dx */

typedef struct {
    pk_linear layer;
    pk_linear_gradients gradients;
    double *x, *w, *b, *dx, *dw, *db, *dy;
    int nthreads;
} linear_case;

static double linear_loss(void *arg)
{
    linear_case *c = arg;
    const pk_linear *l = &c->layer;
    double sum = 0;
    pk_dense(PK_F64)->linear_forward(l, c->nthreads);
    for (size_t r = 0; r < l->M; r++)
        for (size_t j = 0; j < l->O; j++)
            sum += ((double *)l->y)[r * l->ldy + j] * c->dy[r * c->gradients.lddy + j];
    return sum;
}

/* Forward and backward, in arrays as large as they must be. */
static linear_case linear_both_ways(memory *m, const size_t size[3], pk_activation f, int nthreads)
{
    const size_t rows = size[0], in = size[1], out = size[2];
    linear_case c = {.layer = {.M = rows, .I = in, .O = out, .activation = f, .slope = 0.2}};
    c.nthreads = nthreads;
    c.layer.ldx = c.gradients.lddx = in + APART;
    c.layer.ldy = c.gradients.lddy = out + APART;
    c.layer.x = c.x = numbers(m, rows * (in + APART), 0.5);
    c.layer.w = c.w = numbers(m, out * in, 1.5);
    c.layer.b = c.b = numbers(m, out, 2.5);
    c.layer.y = numbers(m, rows * (out + APART), 0);
    c.layer.z = f >= PK_GELU ? numbers(m, rows * out, 0) : NULL;
    const size_t bytes = pk_dense(PK_F64)->linear_scratch_size(&c.layer);
    c.layer.scratch = numbers(m, (bytes + sizeof(double) - 1) / sizeof(double), 0);
    c.gradients.dy = c.dy = numbers(m, rows * (out + APART), 3.5);
    c.gradients.dx = c.dx = numbers(m, rows * (in + APART), 0);
    c.gradients.dw = c.dw = numbers(m, out * in, 0);
    c.gradients.db = c.db = numbers(m, out, 0);
    pk_dense(PK_F64)->linear_forward(&c.layer, nthreads);
    pk_dense(PK_F64)->linear_backward(&c.layer, &c.gradients, nthreads);
    return c;
}

static void test_linear_gradients_are_difference_quotients(void)
{
    const size_t sizes[][3] = {{1, 1, 1}, {5, 6, 7}, {3, 40, 33}, {14, 35, 37}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (pk_activation f = PK_IDENTITY; f < PK_N_ACTIVATIONS; f++) {
            const size_t rows = sizes[s][0], in = sizes[s][1], out = sizes[s][2];
            memory m = {.count = 0};
            linear_case c = linear_both_ways(&m, sizes[s], f, 2);
            for (size_t r = 0; r < rows; r++)
                check_quotients(c.x + r * c.layer.ldx, c.dx + r * c.gradients.lddx, in, s + 1,
                                linear_loss, &c);
            check_quotients(c.w, c.dw, out * in, 1 + 10 * s, linear_loss, &c);
            check_quotients(c.b, c.db, out, 1, linear_loss, &c);
            check_and_free(&m);
        }
}

static void test_threads_do_not_change_the_bits_of_a_linear_layer(void)
{
    const size_t size[] = {120, 90, 67}; /* 2^19 multiply-adds: enough for two threads */
    memory one = {.count = 0}, four = {.count = 0};
    linear_both_ways(&one, size, PK_SILU, 1);
    linear_both_ways(&four, size, PK_SILU, 4);
    for (size_t k = 0; k < one.count; k++)
        if (k != 5) /* the scratch memory */
            CHECK(!memcmp(one.blocks[k], four.blocks[k], one.lengths[k] * sizeof(double)));
    check_and_free(&one);
    check_and_free(&four);
}

/* ---- normalization --------------------------------------------------------------------------- */

typedef struct {
    pk_layer_norm norm;
    double *x, *gain, *bias, *dy;
} norm_case;

static double norm_loss(void *arg)
{
    norm_case *c = arg;
    double sum = 0;
    pk_dense(PK_F64)->layer_norm_forward(&c->norm, 2);
    for (size_t i = 0; i < c->norm.M * c->norm.N; i++)
        sum += ((double *)c->norm.y)[i] * c->dy[i];
    return sum;
}

static void test_normalization_gradients_are_difference_quotients(int rms)
{
    const size_t rows = 35, n = 11;
    memory m = {.count = 0};
    norm_case c = {.norm = {.M = rows, .N = n, .rms = rms, .eps = 1e-5}};
    c.norm.x = c.x = numbers(&m, rows * n, 0.5);
    c.norm.gain = c.gain = numbers(&m, n, 1.5);
    c.norm.bias = c.bias = numbers(&m, n, 2.5);
    c.norm.y = numbers(&m, rows * n, 0);
    c.norm.mean = rms ? NULL : numbers(&m, rows, 0);
    c.norm.scale = numbers(&m, rows, 0);
    c.dy = numbers(&m, rows * n, 3.5);
    pk_layer_norm_gradients g = {.dy = c.dy, .dx = numbers(&m, rows * n, 0)};
    double *const dgain = numbers(&m, n, 0), *const dbias = numbers(&m, n, 0);
    g.dgain = dgain, g.dbias = dbias;
    const size_t bytes = pk_dense(PK_F64)->layer_norm_scratch_size(&c.norm);
    g.scratch = numbers(&m, bytes / sizeof(double), 0);
    norm_loss(&c);
    pk_dense(PK_F64)->layer_norm_backward(&c.norm, &g, 2);
    check_quotients(c.x, g.dx, rows * n, 7, norm_loss, &c);
    check_quotients(c.gain, dgain, n, 1, norm_loss, &c);
    check_quotients(c.bias, dbias, n, 1, norm_loss, &c);
    check_and_free(&m);
}

/* ---- losses ---------------------------------------------------------------------------------- */

typedef struct {
    pk_cross_entropy softmax;
    pk_elementwise_loss single;
    int elementwise;
} loss_case;

static double value_of_loss(void *arg)
{
    loss_case *c = arg;
    return c->elementwise ? pk_dense(PK_F64)->elementwise_loss(&c->single, 2)
                          : pk_dense(PK_F64)->cross_entropy(&c->softmax, 2);
}

/* Cross entropy, then each loss of single elements; a row of weight 0 is not read. */
static void test_gradients_of_losses_are_difference_quotients(int which, int with_labels)
{
    enum { ROWS = 4, WIDTH = 19, IGNORED = -1 };
    const int64_t labels[ROWS] = {3, IGNORED, 18, 0};
    memory m = {.count = 0};
    double *const x = numbers(&m, ROWS * WIDTH, 0.5), *const target = numbers(&m, ROWS * WIDTH, 1);
    double *const dx = numbers(&m, ROWS * WIDTH, 0), *const weights = numbers(&m, ROWS, 0);
    double *const of_classes = numbers(&m, WIDTH, 0), *const sums = numbers(&m, ROWS, 0);
    for (int i = 0; i < ROWS * WIDTH; i++)
        target[i] *= target[i];
    for (int i = 0; i < WIDTH; i++)
        of_classes[i] *= of_classes[i];
    for (int i = 0; i < ROWS; i++)
        weights[i] = i + 1;
    loss_case c = {.elementwise = which >= 0};
    c.softmax = (pk_cross_entropy){ROWS,
                                   WIDTH,
                                   x,
                                   with_labels ? labels : NULL,
                                   with_labels ? NULL : target,
                                   of_classes,
                                   weights,
                                   dx,
                                   0.1,
                                   1,
                                   IGNORED,
                                   sums};
    c.single =
        (pk_elementwise_loss){ROWS, WIDTH, (pk_loss)which, x, target, weights, dx, 0.3, 1, sums};
    value_of_loss(&c);
    double gradient[ROWS * WIDTH];
    memcpy(gradient, dx, sizeof gradient);
    c.softmax.dx = c.single.dx = NULL;
    check_quotients(x, gradient, ROWS * WIDTH, 1, value_of_loss, &c);
    weights[2] = 0;
    x[2 * WIDTH] = NAN;
    c.softmax.dx = c.single.dx = dx;
    CHECK(value_of_loss(&c) > 0 && dx[2 * WIDTH] == 0 && dx[2 * WIDTH + 1] == 0);
    check_and_free(&m);
}

static void test_dense_kernels(void)
{
    test_linear_gradients_are_difference_quotients();
    test_threads_do_not_change_the_bits_of_a_linear_layer();
    test_normalization_gradients_are_difference_quotients(0);
    test_normalization_gradients_are_difference_quotients(1);
    test_gradients_of_losses_are_difference_quotients(-1, 0);
    test_gradients_of_losses_are_difference_quotients(-1, 1);
    for (int loss = 0; loss < PK_N_LOSSES; loss++)
        test_gradients_of_losses_are_difference_quotients(loss, 0);
}

#endif
