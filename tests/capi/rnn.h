/* The recurrent part of test_capi.c. */
#ifndef RNN_H
#define RNN_H

#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { T = 3, B = 2, I = 3, H = 5, MOST_GATES = 4 };

/* All inputs of a layer, in one array of doubles, so that one loop can push at each of them.  A
 * cell with fewer gates uses the beginning of each array. */
typedef struct {
    double x[T * B * I], h0[B * H], c0[B * H];
    double w_ih[MOST_GATES * H * I], w_hh[MOST_GATES * H * H];
    double b_ih[MOST_GATES * H], b_hh[MOST_GATES * H], peepholes[3 * H], w_hr[H * H];
    double gain_ih[MOST_GATES * H], gain_hh[MOST_GATES * H], gain_c[H], b_c[H];
} rnn_values;
enum { N_VALUES = sizeof(rnn_values) / sizeof(double) };

/* A layer under test: the numbers of a cell and its memory, just as large as `sizes` says. */
typedef struct {
    const pk_cell_kernels *cell;
    pk_rnn_layer layer;
    pk_rnn_gradients gradients;
    double dy[T * B * H], dh_last[B * H], dc_last[B * H]; /* for as long as `gradients` is in use */
} rnn_case;

static pk_rnn_weights weights_of(rnn_values *v)
{
    return (pk_rnn_weights){v->w_ih, v->w_hh,    v->b_ih,    v->b_hh,   v->peepholes,
                            v->w_hr, v->gain_ih, v->gain_hh, v->gain_c, v->b_c};
}

static void fill(rnn_values *v, double scale)
{
    for (int i = 0; i < N_VALUES; i++)
        ((double *)v)[i] = scale * sin(1.7 * i + 0.3);
}

static rnn_case new_case(const pk_cell_kernels *cell, pk_rnn_shape shape, rnn_values *in)
{
    const pk_rnn_sizes size = cell->sizes(&shape);
    return (rnn_case){.cell = cell,
                      .layer = {.shape = shape,
                                .weights = in ? weights_of(in) : (pk_rnn_weights){0},
                                .x = {in ? in->x : NULL, B * I, I},
                                .h = malloc(size.h * sizeof(double)),
                                .c = size.c ? malloc(size.c * sizeof(double)) : NULL,
                                .gates = size.gates ? malloc(size.gates * sizeof(double)) : NULL,
                                .scratch = malloc(size.scratch)}};
}

static void free_case(rnn_case *c)
{
    free(c->layer.h), free(c->layer.c), free(c->layer.gates), free(c->layer.scratch);
}

static double weight_of_output(int i) { return 0.3 + 0.1 * (i % 7) - 0.2 * (i % 3); }

/* The sum of y and of the last state, each element times a number of its own. */
static double rnn_loss(rnn_case *c)
{
    double y[T * B * H] = {0}, h[B * H] = {0}, c_last[B * H] = {0}, loss = 0;
    c->layer.y = (pk_sequence){y, B * H, H};
    c->layer.h_last = h;
    c->layer.c_last = c_last;
    c->cell->forward(&c->layer, 1, 2);
    for (int i = 0; i < T * B * H; i++)
        loss += weight_of_output(i) * y[i];
    for (int i = 0; i < B * H; i++)
        loss += 0.5 * h[i] - 0.25 * c_last[i];
    return loss;
}

/* Its gradient, which is 0 where a cell has no such value. */
static void rnn_gradient(rnn_case *c, rnn_values *d)
{
    for (int i = 0; i < T * B * H; i++)
        c->dy[i] = weight_of_output(i);
    for (int i = 0; i < B * H; i++)
        c->dh_last[i] = 0.5, c->dc_last[i] = -0.25;
    memset(d, 0, sizeof *d);
    c->gradients = (pk_rnn_gradients){.dy = {c->dy, B * H, H},
                                      .dx = {d->x, B * I, I},
                                      .dh_last = c->dh_last,
                                      .dc_last = c->dc_last,
                                      .dh0 = d->h0,
                                      .dc0 = d->c0,
                                      .grads = weights_of(d)};
    rnn_loss(c);
    c->cell->backward(&c->layer, &c->gradients, 1, 2);
}

static void test_the_gradient_is_the_difference_quotient(const pk_cell_kernels *cell,
                                                         pk_rnn_shape shape)
{
    rnn_values in, gradient;
    double *values = (double *)&in, *d = (double *)&gradient;
    rnn_case c = new_case(cell, shape, &in);
    fill(&in, 1);
    c.layer.h0 = in.h0;
    c.layer.c0 = in.c0;
    rnn_gradient(&c, &gradient);
    for (int i = 0; i < N_VALUES; i++) {
        const double at = values[i], push = 1e-5;
        values[i] = at + push;
        const double above = rnn_loss(&c);
        values[i] = at - push;
        const double below = rnn_loss(&c);
        values[i] = at;
        CHECK(close_to(d[i], (above - below) / (2 * push), 1e-8)); /* push^2 and 1e-16/push */
    }
    free_case(&c);
}

/* An absent state is one of zeros, whose gradient may still be wanted; and a state's may not be. */
static void test_a_state_and_its_gradient_may_be_absent(const pk_cell_kernels *cell,
                                                        pk_rnn_shape shape)
{
    rnn_values in, all, some;
    rnn_case c = new_case(cell, shape, &in);
    fill(&in, 1);
    memset(in.h0, 0, sizeof in.h0);
    c.layer.c0 = in.c0;
    c.layer.h0 = in.h0;
    rnn_gradient(&c, &all);
    c.layer.h0 = NULL;
    rnn_gradient(&c, &some);
    CHECK(!memcmp(&some, &all, sizeof all));
    rnn_loss(&c);
    c.gradients.dh0 = NULL;
    memset(some.w_hh, 0, sizeof some.w_hh);
    c.cell->backward(&c.layer, &c.gradients, 1, 2);
    CHECK(!memcmp(some.w_hh, all.w_hh, sizeof all.w_hh));
    free_case(&c);
}

/* Each of two sequences gets its own answer; all in C, from the gradient of the loss to the
 * weights. */
static void test_a_tiny_layer_trains(const pk_cell_kernels *cell, pk_rnn_shape shape)
{
    enum { N = N_VALUES - T * B * I - 2 * B * H };
    rnn_values v, gradient = {0};
    double y[T * B * H], dy[T * B * H], m[N] = {0}, s[N] = {0}, first_loss = 0, loss = 0;
    rnn_case c = new_case(cell, shape, &v);
    pk_adam_config config = {
        .common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    config.common.lr = 0.02;
    fill(&v, 0.4);
    c.layer.y = (pk_sequence){y, B * H, H};
    c.gradients = (pk_rnn_gradients){.dy = {dy, B * H, H}, .grads = weights_of(&gradient)};
    for (int step = 1; step <= 200; step++) {
        cell->forward(&c.layer, 1, 1);
        memset(dy, 0, sizeof dy);
        loss = 0;
        for (int b = 0; b < B; b++) { /* mean squared error of one unit at the last step */
            double *slope = dy + ((T - 1) * B + b) * H;
            *slope = y[((T - 1) * B + b) * H] - (b ? 0.7 : 0.2);
            loss += *slope * *slope / 2;
        }
        if (step == 1)
            first_loss = loss;
        cell->backward(&c.layer, &c.gradients, 1, 1);
        pk_tensor all = {
            .param = v.w_ih, .grad = gradient.w_ih, .state = {m, s}, .n = N, .step = step};
        pk_optim(PK_F64)->step(PK_ADAM, &all, 1, &config, NULL, 1);
    }
    CHECK(first_loss > 0.01 && loss < 1e-3 * first_loss);
    free_case(&c);
}

/* Two directions with a dx each give what they add up in one that they share. */
static void test_layers_may_share_dx(const pk_cell_kernels *cell, pk_rnn_shape shape)
{
    enum { N = T * B * I };
    rnn_values v;
    double dy[T * B * H], dx[3][N];
    rnn_case cases[2] = {new_case(cell, shape, &v)};
    shape.reverse = 1;
    cases[1] = new_case(cell, shape, &v);
    fill(&v, 1);
    for (int i = 0; i < T * B * H; i++)
        dy[i] = weight_of_output(i);
    for (int shared = 0; shared < 2; shared++) {
        pk_rnn_layer layers[2] = {cases[0].layer, cases[1].layer};
        pk_rnn_gradients gradients[2];
        for (int i = 0; i < 2; i++)
            gradients[i] =
                (pk_rnn_gradients){.dy = {dy, B * H, H}, .dx = {dx[shared ? 2 : i], B * I, I}};
        memset(dx[shared * 2], 0xff, (2 - shared) * sizeof dx[0]); /* NaN */
        cell->forward(layers, 2, 2);
        cell->backward(layers, gradients, 2, 2);
    }
    for (int i = 0; i < N; i++)
        CHECK(close_to(dx[2][i], dx[0][i] + dx[1][i], 1e-14));
    free_case(&cases[0]);
    free_case(&cases[1]);
}

/* Steps taken one by one, c in place, arrive where forward does. */
static void test_steps_are_forward(const pk_cell_kernels *cell, pk_rnn_shape shape)
{
    rnn_values v;
    double h[2][B * H] = {{0}}, h_last[B * H] = {0}, c_last[B * H];
    rnn_case c = new_case(cell, shape, &v);
    pk_rnn_layer *layer = &c.layer;
    fill(&v, 1);
    layer->h0 = v.h0;
    layer->c0 = v.c0;
    layer->h_last = h_last;
    layer->c_last = c_last;
    cell->forward(layer, 1, 1);
    layer->c_last = v.c0;
    for (int t = 0; t < T; t++) {
        layer->x.data = v.x + t * B * I;
        layer->h_last = h[t % 2];
        cell->step(layer, 2);
        layer->h0 = h[t % 2];
    }
    for (int i = 0; i < B * H; i++)
        CHECK(close_to(h[(T - 1) % 2][i], h_last[i], 1e-14) &&
              (cell->states == 1 || close_to(v.c0[i], c_last[i], 1e-14)));
    free_case(&c);
}

/* Without inputs, what is left are the state and the biases. */
static void test_there_may_be_no_inputs_steps_or_rows(const pk_cell_kernels *cell,
                                                      pk_rnn_shape shape)
{
    rnn_values v;
    double y[T * B * H], dy[T * B * H] = {1}, dw[MOST_GATES * H * H];
    fill(&v, 1);
    for (int i = 0; i < 3; i++) {
        pk_rnn_shape small = shape;
        *(size_t *[]){&small.I, &small.T, &small.B}[i] = 0;
        if (i == 2)
            small.T = SIZE_MAX >> 4; /* of nothing: must not take long */
        rnn_case c = new_case(cell, small, &v);
        c.layer.y = (pk_sequence){y, B * H, H};
        c.gradients =
            (pk_rnn_gradients){.dy = {dy, B * H, H}, .dx = {v.x, B * I, I}, .grads = {.w_hh = dw}};
        dw[0] = 7;
        cell->forward(&c.layer, 1, 2);
        cell->backward(&c.layer, &c.gradients, 1, 2);
        CHECK(dw[0] != 7 && (i == 0 || dw[0] == 0));
        free_case(&c);
    }
}

static void test_sizes_saturate(const pk_cell_kernels *cell)
{
    const size_t huge = SIZE_MAX >> 14, large = (size_t)1 << 30;
    const pk_rnn_shape shapes[] = {{.T = 4, .B = huge, .I = 4, .H = large},
                                   {.T = 4, .B = 4, .I = huge, .H = large},
                                   {.T = huge, .B = large, .I = 4, .H = 4}};
    for (int i = 0; i < 3; i++) {
        pk_rnn_sizes size = cell->sizes(&shapes[i]);
        CHECK(size.h == SIZE_MAX || size.scratch == SIZE_MAX);
    }
}

/* The same call drops the same elements of what comes back. */
static void test_dropout_remembers_by_place(void)
{
    enum { ROWS = 150, N = 4 * ROWS * 70 }; /* enough for several threads */
    static float x[N], dx[N];
    const pk_dropout_config config = {.p = 0.25, .seed = 3, .stream = 4};
    const pk_sequence forward = {x, ROWS * 70, 70}, backward = {dx, ROWS * 70, 70};
    int dropped = 0, same = 1;
    for (int i = 0; i < N; i++) {
        x[i] = 3;
        dx[i] = 6;
    }
    pk_math(PK_F32)->dropout(4, ROWS, 70, forward, forward, &config, 1);
    pk_math(PK_F32)->dropout(4, ROWS, 70, backward, backward, &config, 3);
    for (int i = 0; i < N; i++) {
        dropped += x[i] == 0;
        same &= x[i] == 0 ? dx[i] == 0 : x[i] == 4 && dx[i] == 8;
    }
    CHECK(same);
    CHECK(fabs(dropped - 0.25 * N) < 5 * sqrt(N * 0.25 * 0.75)); /* of a binomial */
}

/* ---- a cell that sees whole rows ------------------------------------------------------------- */

/* The cells, compiled once more for the baseline with CELL_WHOLE_ROW. */
extern const pk_cell_kernels whole_row_lstm, whole_row_rnn, whole_row_gru;

/* One array of all results of a forward and a backward pass; returns how many numbers it has. */
static size_t all_results(const pk_cell_kernels *cell, pk_rnn_shape s, int nthreads, double **out)
{
    const size_t w = cell->gates * s.H, y = s.T * s.B * s.H, x = s.T * s.B * s.I, state = s.B * s.H;
    const size_t n_in = w * (s.I + s.H + 2) + x + y + 2 * state, n_out = n_in + y + 2 * state;
    double *in = malloc(n_in * sizeof *in), *d = *out = calloc(n_out, sizeof *d);
    rnn_case c = new_case(cell, s, NULL);
    for (size_t i = 0; i < n_in; i++)
        in[i] = 0.2 * sin(1.7 * (double)i + 0.3);
    double *in_at = in + w * (s.I + s.H + 2), *out_at = d + w * (s.I + s.H + 2);
    const ptrdiff_t y_row = (ptrdiff_t)s.H, x_row = (ptrdiff_t)s.I, rows = (ptrdiff_t)s.B;
    c.layer.weights = (pk_rnn_weights){
        .w_ih = in, .w_hh = in + w * s.I, .b_ih = in_at - 2 * w, .b_hh = in_at - w};
    c.gradients.grads = (pk_rnn_weights){
        .w_ih = d, .w_hh = d + w * s.I, .b_ih = out_at - 2 * w, .b_hh = out_at - w};
    c.layer.x = (pk_sequence){in_at, rows * x_row, x_row};
    c.gradients.dx = (pk_sequence){out_at, rows * x_row, x_row};
    in_at += x, out_at += x;
    c.gradients.dy = (pk_sequence){in_at, rows * y_row, y_row};
    c.layer.y = (pk_sequence){out_at, rows * y_row, y_row};
    in_at += y, out_at += y;
    c.layer.h0 = in_at, c.layer.c0 = in_at + state;
    c.gradients.dh_last = in_at + state, c.gradients.dc_last = in_at;
    c.layer.h_last = out_at, c.gradients.dh0 = out_at + state;
    if (cell->states == 2)
        c.layer.c_last = out_at + 2 * state, c.gradients.dc0 = out_at + 3 * state;
    cell->forward(&c.layer, 1, nthreads);
    if (s.save != PK_SAVE_NOTHING)
        cell->backward(&c.layer, &c.gradients, 1, nthreads);
    free_case(&c);
    free(in);
    return n_out;
}

/* Step by step with a whole row at hand gives the bits of panel by panel, with both ways to divide
 * the work between threads. */
static void test_whole_rows_give_the_same_bits(const pk_cell_kernels *cell,
                                               const pk_cell_kernels *whole)
{
    const int64_t lengths[] = {3, 0, 5, 2, 4};
    const uint8_t resets[3 * 40] = {[1] = 1, [8] = 1, [12] = 1, [47] = 1, [81] = 1};
    const size_t sizes[][4] = {{5, 5, 3, 9}, {3, 40, 7, 130}, {4, 5, 20, 300}, {3, 1, 2, 64}};
    int units = 0, rows = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int save = PK_SAVE_FULL; save <= PK_SAVE_NOTHING; save++)
            for (int nthreads = 1; nthreads <= 2; nthreads++) {
                pk_rnn_shape s = {.T = sizes[i][0],
                                  .B = sizes[i][1],
                                  .I = sizes[i][2],
                                  .H = sizes[i][3],
                                  .save = save,
                                  .relu = save == PK_SAVE_MINIMAL};
                double *expected, *got;
                s.lengths = i == 0 ? lengths : NULL;
                s.resets = i < 2 ? resets : NULL;
                s.reset_to_initial = i == 1;
                const pk_rnn_partition parts = cell->partition(&s, 1, nthreads);
                units |= parts.units > 1;
                rows |= parts.rows > 1;
                const size_t n = all_results(cell, s, nthreads, &expected);
                CHECK(all_results(whole, s, nthreads, &got) == n);
                CHECK(!memcmp(got, expected, n * sizeof *got));
                free(expected);
                free(got);
            }
    CHECK(units && rows);
}

/* ---- all ------------------------------------------------------------------------------------- */

static void test_a_cell(const pk_cell_kernels *cell, int relu, size_t R)
{
    pk_rnn_shape shape = {.T = T, .B = B, .I = I, .H = H, .R = R, .relu = relu}, other = shape;
    other.lengths = (const int64_t[]){1, 3};
    other.save = PK_SAVE_MINIMAL;
    other.reverse = other.repeat_last = 1;
    test_the_gradient_is_the_difference_quotient(cell, shape);
    test_the_gradient_is_the_difference_quotient(cell, other);
    other.resets = (const uint8_t[]){1, 0, 0, 1, 0, 1};
    other.reset_to_initial = relu;
    test_the_gradient_is_the_difference_quotient(cell, other);
    other = shape;
    other.save = PK_SAVE_MINIMAL;
    test_a_state_and_its_gradient_may_be_absent(cell, shape);
    test_a_state_and_its_gradient_may_be_absent(cell, other);
    test_a_tiny_layer_trains(cell, shape);
    test_layers_may_share_dx(cell, shape);
    test_layers_may_share_dx(cell, other);
    test_steps_are_forward(cell, shape);
    test_there_may_be_no_inputs_steps_or_rows(cell, shape);
    test_there_may_be_no_inputs_steps_or_rows(cell, other);
    test_sizes_saturate(cell);
}

static void test_recurrent_layers(void)
{
    for (int id = 0; id < PK_N_CELLS; id++)
        test_a_cell(pk_cell((pk_cell_id)id, PK_F64), 0, 0);
    test_a_cell(pk_cell(PK_RNN, PK_F64), 1, 0);
    test_a_cell(pk_cell(PK_LSTM, PK_F64), 0, 2);
    test_dropout_remembers_by_place();
    if (!strcmp(pk_isa(), "baseline")) {
        test_whole_rows_give_the_same_bits(pk_cell(PK_LSTM, PK_F64), &whole_row_lstm);
        test_whole_rows_give_the_same_bits(pk_cell(PK_RNN, PK_F64), &whole_row_rnn);
        test_whole_rows_give_the_same_bits(pk_cell(PK_GRU, PK_F64), &whole_row_gru);
    }
}

#endif
