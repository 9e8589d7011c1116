/* Products of bfloat16, for test_capi.c: one step of a plain RNN with relu from a state of zeros is
 * max(0, x w^T), whose bits are known. */
#ifndef ROUNDED_H
#define ROUNDED_H

#include "check.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 7, INPUTS = 37, OUTPUTS = 21 };

/* To the nearest, ties to even: a multiple of the spacing of the numbers. */
static float nearest_bf16(float x)
{
    int exponent;
    if (!isfinite(x) || fabsf(x) < FLT_MIN)
        return isfinite(x) ? 0 : x;
    frexpf(x, &exponent);
    const float spacing = ldexpf(1, exponent - 8);
    return (float)(nearbyint((double)x / spacing) * spacing);
}

static void multiply_rounded(const float *x, const float *w, float *y)
{
    const pk_cell_kernels *cell = pk_cell(PK_RNN, PK_F32);
    pk_rnn_layer layer = {.shape = {.T = 1,
                                    .B = ROWS,
                                    .I = INPUTS,
                                    .H = OUTPUTS,
                                    .relu = 1,
                                    .save = PK_SAVE_NOTHING,
                                    .products = pk_bf16_products()},
                          .x = {(void *)x, ROWS * INPUTS, INPUTS},
                          .y = {y, ROWS * OUTPUTS, OUTPUTS}};
    const pk_rnn_sizes size = cell->sizes(&layer.shape);
    float *const w_hh = calloc(OUTPUTS * OUTPUTS, sizeof *w_hh);
    layer.weights = (pk_rnn_weights){.w_ih = (void *)w, .w_hh = w_hh};
    layer.h = malloc(size.h * sizeof(float));
    layer.scratch = malloc(size.scratch);
    cell->forward(&layer, 1, 1);
    free(w_hh), free(layer.h), free(layer.scratch);
}

/* A sum of exact products, each added with one rounding, in order, but for the set that adds them
 * block by block. */
static void test_rounded_products(void)
{
    float x[ROWS * INPUTS], w[OUTPUTS * INPUTS], y[ROWS * OUTPUTS];
    for (int i = 0; i < ROWS * INPUTS; i++)
        x[i] = (float)sin(1.7 * i + 0.3);
    for (int i = 0; i < OUTPUTS * INPUTS; i++)
        w[i] = (float)cos(2.9 * i) * 1e-3f;
    x[0] = 1 + 0x1p-8f, x[1] = 1 + 0x3p-8f; /* ties */
    x[2] = FLT_MIN / 2, w[2] = 1e30f;       /* denormal: 0 */
    multiply_rounded(x, w, y);
    const float tolerance = strcmp(pk_isa(), "amx") ? 0 : 1e-6f;
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUTPUTS; o++) {
            float sum = 0;
            for (int k = 0; k < INPUTS; k++)
                sum = fmaf(nearest_bf16(x[r * INPUTS + k]), nearest_bf16(w[o * INPUTS + k]), sum);
            CHECK(fabsf(y[r * OUTPUTS + o] - fmaxf(sum, 0)) <= tolerance);
        }
}

static void test_rounding_keeps_what_is_not_finite(void)
{
    float x[ROWS * INPUTS], w[OUTPUTS * INPUTS], y[ROWS * OUTPUTS];
    const uint32_t narrow_nan = 0x7f800001; /* its upper half alone is infinity */
    for (int i = 0; i < ROWS * INPUTS; i++)
        x[i] = 1;
    for (int i = 0; i < OUTPUTS * INPUTS; i++)
        w[i] = 1;
    memcpy(x, &narrow_nan, sizeof narrow_nan);
    x[INPUTS + 1] = INFINITY;
    x[2 * INPUTS + INPUTS - 1] = FLT_MAX; /* rounds to infinity */
    multiply_rounded(x, w, y);
    CHECK(isnan(y[0]) && isinf(y[OUTPUTS]) && isinf(y[2 * OUTPUTS + OUTPUTS - 1]));
    CHECK(y[3 * OUTPUTS] == INPUTS);
}

#endif
