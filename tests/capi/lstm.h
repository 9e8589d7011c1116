/* The recurrent part of test_capi.c. */
#ifndef LSTM_H
#define LSTM_H

#include "check.h"

#include <stdlib.h>
#include <string.h>

enum { T = 3, B = 2, I = 3, H = 5 };

/* Everything an LSTM reads, in one array of doubles, so that one loop can push at each of them. */
typedef struct {
    double x[T * B * I], h0[B * H], c0[B * H];
    double w_ih[4 * H * I], w_hh[4 * H * H], b_ih[4 * H], b_hh[4 * H];
} lstm_values;
enum { N_VALUES = sizeof(lstm_values) / sizeof(double) };

static pk_lstm_weights weights_of(lstm_values *v)
{
    return (pk_lstm_weights){v->w_ih, v->w_hh, v->b_ih, v->b_hh};
}

/* A layer with memory of its own, as large as lstm_sizes says and not a byte more. */
static pk_lstm new_layer(pk_rnn_shape shape)
{
    const pk_lstm_sizes size = pk_rnn(PK_F64)->lstm_sizes(&shape);
    return (pk_lstm){.shape = shape,
                     .h = malloc(size.h * sizeof(double)),
                     .c = malloc(size.c * sizeof(double)),
                     .gates = malloc(size.gates * sizeof(double)),
                     .scratch = malloc(size.scratch)};
}

static void free_layer(pk_lstm *layer)
{
    free(layer->h), free(layer->c), free(layer->gates), free(layer->scratch);
}

static double weight_of_output(int i) { return 0.3 + 0.1 * (i % 7) - 0.2 * (i % 3); }

/* sum of y and the last state, each times a number of its own. */
static double lstm_loss(pk_lstm *layer)
{
    double y[T * B * H], h[B * H], c[B * H], loss = 0;
    layer->y = (pk_sequence){y, B * H, H};
    layer->h_last = h;
    layer->c_last = c;
    pk_rnn(PK_F64)->lstm_forward(layer, 1, 2);
    for (int i = 0; i < T * B * H; i++)
        loss += weight_of_output(i) * y[i];
    for (int i = 0; i < B * H; i++)
        loss += 0.5 * h[i] - 0.25 * c[i];
    return loss;
}

static void test_lstm_gradient_is_the_difference_quotient(pk_rnn_shape shape)
{
    lstm_values in, gradient;
    double *values = (double *)&in, *slopes = (double *)&gradient, dy[T * B * H];
    double dh[B * H], dc[B * H];
    pk_lstm layer = new_layer(shape);
    for (int i = 0; i < N_VALUES; i++)
        values[i] = sin(1.7 * i + 0.3);
    for (int i = 0; i < T * B * H; i++)
        dy[i] = weight_of_output(i);
    for (int i = 0; i < B * H; i++) {
        dh[i] = 0.5;
        dc[i] = -0.25;
    }
    layer.weights = weights_of(&in);
    layer.x = (pk_sequence){in.x, B * I, I};
    layer.h0 = in.h0;
    layer.c0 = in.c0;
    layer.dy = (pk_sequence){dy, B * H, H};
    layer.dh_last = dh;
    layer.dc_last = dc;
    layer.dx = (pk_sequence){gradient.x, B * I, I};
    layer.dh0 = gradient.h0;
    layer.dc0 = gradient.c0;
    layer.grads = weights_of(&gradient);
    lstm_loss(&layer);
    pk_rnn(PK_F64)->lstm_backward(&layer, 1, 2);
    for (int i = 0; i < N_VALUES; i++) {
        const double at = values[i], push = 1e-5;
        values[i] = at + push;
        const double above = lstm_loss(&layer);
        values[i] = at - push;
        const double below = lstm_loss(&layer);
        values[i] = at;
        CHECK(close_to(slopes[i], (above - below) / (2 * push), 1e-8)); /* push^2 and 1e-16/push */
    }
    free_layer(&layer);
}

static void lstm_slopes(pk_lstm *layer, const double *dy, lstm_values *gradient)
{
    layer->dy = (pk_sequence){(void *)dy, B * H, H};
    layer->dx = (pk_sequence){gradient->x, B * I, I};
    layer->dc0 = gradient->c0;
    layer->grads = weights_of(gradient);
    lstm_loss(layer);
    pk_rnn(PK_F64)->lstm_backward(layer, 1, 2);
}

/* No state is one of zeros, whose gradient may still be wanted; and a state's gradient may not be. */
static void test_a_state_and_its_gradient_may_be_absent(pk_save save)
{
    lstm_values in, all, some;
    double *values = (double *)&in, dy[T * B * H];
    pk_lstm layer = new_layer((pk_rnn_shape){.T = T, .B = B, .I = I, .H = H, .save = save});
    for (int i = 0; i < N_VALUES; i++)
        values[i] = sin(1.7 * i + 0.3);
    for (int i = 0; i < T * B * H; i++)
        dy[i] = weight_of_output(i);
    layer.weights = weights_of(&in);
    layer.x = (pk_sequence){in.x, B * I, I};
    layer.c0 = in.c0;
    layer.h0 = in.h0;
    layer.dh0 = all.h0;
    lstm_slopes(&layer, dy, &all);
    layer.dh0 = NULL;
    lstm_slopes(&layer, dy, &some);
    memcpy(some.h0, all.h0, sizeof some.h0);
    for (int i = 0; i < N_VALUES; i++)
        CHECK(((double *)&some)[i] == ((double *)&all)[i]);
    memset(in.h0, 0, sizeof in.h0);
    layer.dh0 = all.h0;
    lstm_slopes(&layer, dy, &all);
    layer.h0 = NULL;
    layer.dh0 = some.h0;
    lstm_slopes(&layer, dy, &some);
    for (int i = 0; i < N_VALUES; i++)
        CHECK(((double *)&some)[i] == ((double *)&all)[i]);
    free_layer(&layer);
}

/* Each of two sequences gets its own answer; all in C, from the loss's gradient to the weights. */
static void test_a_tiny_lstm_trains(void)
{
    enum { N = N_VALUES - T * B * I - 2 * B * H };
    lstm_values v, gradient;
    double y[T * B * H], dy[T * B * H], m[N] = {0}, s[N] = {0}, first_loss = 0, loss = 0;
    pk_lstm layer = new_layer((pk_rnn_shape){.T = T, .B = B, .I = I, .H = H});
    pk_adam_config config = {
        .common = PK_COMMON_DEFAULTS, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8};
    config.common.lr = 0.02;
    for (int i = 0; i < N_VALUES; i++)
        ((double *)&v)[i] = 0.4 * sin(1.7 * i + 0.3);
    layer.weights = weights_of(&v);
    layer.grads = weights_of(&gradient);
    layer.x = (pk_sequence){v.x, B * I, I};
    layer.y = (pk_sequence){y, B * H, H};
    layer.dy = (pk_sequence){dy, B * H, H};
    for (int step = 1; step <= 200; step++) {
        pk_rnn(PK_F64)->lstm_forward(&layer, 1, 1);
        memset(dy, 0, sizeof dy);
        loss = 0;
        for (int b = 0; b < B; b++) { /* mean squared error of one unit at the last step */
            double *slope = dy + ((T - 1) * B + b) * H;
            *slope = y[((T - 1) * B + b) * H] - (b ? 0.7 : -0.7);
            loss += *slope * *slope / 2;
        }
        if (step == 1)
            first_loss = loss;
        pk_rnn(PK_F64)->lstm_backward(&layer, 1, 1);
        pk_tensor all = {
            .param = v.w_ih, .grad = gradient.w_ih, .state = {m, s}, .n = N, .step = step};
        pk_optim(PK_F64)->step(PK_ADAM, &all, 1, &config, NULL, 1);
    }
    CHECK(first_loss > 0.1 && loss < 1e-3 * first_loss);
    free_layer(&layer);
}

/* Two directions with a dx each give what they add up in one that they share. */
static void test_layers_may_share_dx(pk_save save)
{
    enum { N = T * B * I };
    lstm_values v;
    double dy[T * B * H], dx[3][N];
    pk_rnn_shape shape = {.T = T, .B = B, .I = I, .H = H, .save = save};
    pk_lstm layers[2] = {new_layer(shape)};
    shape.reverse = 1;
    layers[1] = new_layer(shape);
    for (int i = 0; i < N_VALUES; i++)
        ((double *)&v)[i] = sin(1.7 * i + 0.3);
    for (int i = 0; i < T * B * H; i++)
        dy[i] = weight_of_output(i);
    for (int shared = 0; shared < 2; shared++) {
        for (int i = 0; i < 2; i++) {
            layers[i].weights = weights_of(&v);
            layers[i].x = (pk_sequence){v.x, B * I, I};
            layers[i].dy = (pk_sequence){dy, B * H, H};
            layers[i].dx = (pk_sequence){dx[shared ? 2 : i], B * I, I};
        }
        memset(dx[shared * 2], 0xff, (2 - shared) * sizeof dx[0]); /* NaN */
        pk_rnn(PK_F64)->lstm_forward(layers, 2, 2);
        pk_rnn(PK_F64)->lstm_backward(layers, 2, 2);
    }
    for (int i = 0; i < N; i++)
        CHECK(close_to(dx[2][i], dx[0][i] + dx[1][i], 1e-14));
    free_layer(&layers[0]);
    free_layer(&layers[1]);
}

/* Steps taken one by one, c in place, arrive where forward does. */
static void test_steps_are_forward(void)
{
    lstm_values v;
    double h[2][B * H], h_last[B * H], c_last[B * H];
    pk_lstm layer = new_layer((pk_rnn_shape){.T = T, .B = B, .I = I, .H = H});
    for (int i = 0; i < N_VALUES; i++)
        ((double *)&v)[i] = sin(1.7 * i + 0.3);
    layer.weights = weights_of(&v);
    layer.x = (pk_sequence){v.x, B * I, I};
    layer.h0 = v.h0;
    layer.c0 = v.c0;
    layer.h_last = h_last;
    layer.c_last = c_last;
    pk_rnn(PK_F64)->lstm_forward(&layer, 1, 1);
    layer.c_last = v.c0;
    for (int t = 0; t < T; t++) {
        layer.x.data = v.x + t * B * I;
        layer.h_last = h[t % 2];
        pk_rnn(PK_F64)->lstm_step(&layer, 2);
        layer.h0 = h[t % 2];
    }
    for (int i = 0; i < B * H; i++)
        CHECK(close_to(h[(T - 1) % 2][i], h_last[i], 1e-14) && close_to(v.c0[i], c_last[i], 1e-14));
    free_layer(&layer);
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
    pk_rnn(PK_F32)->dropout(4, ROWS, 70, forward, forward, &config, 1);
    pk_rnn(PK_F32)->dropout(4, ROWS, 70, backward, backward, &config, 3);
    for (int i = 0; i < N; i++) {
        dropped += x[i] == 0;
        same &= x[i] == 0 ? dx[i] == 0 : x[i] == 4 && dx[i] == 8;
    }
    CHECK(same);
    CHECK(fabs(dropped - 0.25 * N) < 5 * sqrt(N * 0.25 * 0.75)); /* of a binomial */
}

static void test_lstm(void)
{
    pk_rnn_shape shape = {.T = T, .B = B, .I = I, .H = H};
    test_lstm_gradient_is_the_difference_quotient(shape);
    shape.lengths = (const int64_t[]){1, 3};
    shape.save = PK_SAVE_MINIMAL;
    shape.reverse = shape.repeat_last = 1;
    test_lstm_gradient_is_the_difference_quotient(shape);
    test_a_state_and_its_gradient_may_be_absent(PK_SAVE_FULL);
    test_a_state_and_its_gradient_may_be_absent(PK_SAVE_MINIMAL);
    test_a_tiny_lstm_trains();
    test_layers_may_share_dx(PK_SAVE_FULL);
    test_layers_may_share_dx(PK_SAVE_MINIMAL);
    test_steps_are_forward();
    test_dropout_remembers_by_place();
}

#endif
