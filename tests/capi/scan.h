/* The linear recurrences of test_capi.c: by hand, and against difference quotients. */
#ifndef SCAN_H
#define SCAN_H

#include "check.h"

#include <string.h>

enum { SCAN_T = 5, SCAN_B = 2, SCAN_D = 9, SCAN_N = SCAN_T * SCAN_B * SCAN_D };

typedef struct {
    double a[SCAN_N], b[SCAN_N], h0[SCAN_B * SCAN_D];
} scan_values;

static pk_sequence scan_sequence(double *data)
{
    return (pk_sequence){data, SCAN_B * SCAN_D, SCAN_D};
}

static void scan_into(double *h, scan_values *in, pk_scan scan, int nthreads)
{
    scan.a = scan_sequence(in->a);
    pk_math(PK_F64)->linear_scan_forward(&scan, scan_sequence(in->b), in->h0, scan_sequence(h),
                                         nthreads);
}

/* The sum of h, each element times dh. */
static double scan_loss(scan_values *in, pk_scan scan, const double *dh)
{
    double h[SCAN_N], sum = 0;
    scan_into(h, in, scan, 1);
    for (int i = 0; i < SCAN_N; i++)
        sum += h[i] * dh[i];
    return sum;
}

static void test_scan_gradients(pk_scan scan)
{
    enum { VALUES = sizeof(scan_values) / sizeof(double) };
    scan_values in, gradients;
    double h[SCAN_N], dh[SCAN_N], *value = (double *)&in;
    for (int i = 0; i < VALUES; i++)
        value[i] = sin(1.7 * i + 0.3);
    for (int i = 0; i < SCAN_N; i++)
        dh[i] = cos(0.9 * i);
    scan_into(h, &in, scan, 1);
    scan.a = scan_sequence(in.a);
    pk_math(PK_F64)->linear_scan_backward(&scan, in.h0, scan_sequence(h), scan_sequence(dh),
                                          scan_sequence(gradients.a), scan_sequence(gradients.b),
                                          gradients.h0, 2);
    for (int i = 0; i < VALUES; i++) {
        const double was = value[i], step = 1e-6;
        value[i] = was + step;
        const double high = scan_loss(&in, scan, dh);
        value[i] = was - step;
        const double low = scan_loss(&in, scan, dh);
        value[i] = was;
        CHECK(close_to(((double *)&gradients)[i], (high - low) / (2 * step), 1e-8));
    }
}

static void test_scans(void)
{
    static const unsigned char resets[SCAN_T * SCAN_B] = {0, 0, 0, 1, 0, 0, 1, 0, 0, 0};
    pk_scan scan = {.T = SCAN_T, .B = SCAN_B, .D = SCAN_D};
    test_scan_gradients(scan);
    scan.reverse = 1;
    test_scan_gradients(scan);
    scan.resets = resets;
    test_scan_gradients(scan);

    double a[3] = {2, 3, 4}, b[3] = {1, 1, 1}, h0 = 5;
    pk_scan small = {.T = 3, .B = 1, .D = 1, .a = {a, 1, 1}};
    const pk_sequence in_place = {b, 1, 1};
    pk_math(PK_F64)->linear_scan_forward(&small, in_place, &h0, in_place, 1);
    CHECK(b[0] == 11 && b[1] == 34 && b[2] == 137);
}

#endif
