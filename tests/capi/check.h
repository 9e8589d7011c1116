/* CHECK, which counts failures, and comparison of numbers; for the C tests only. */
#ifndef CHECK_H
#define CHECK_H

#include "pyoptk.h"

#include <stdatomic.h>
#include <stdio.h>

static atomic_int passed, failed;

/* assert() would vanish with NDEBUG. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (condition) {                                                                           \
            passed++;                                                                              \
        } else {                                                                                   \
            failed++;                                                                              \
            fprintf(stderr, "%s:%d: %s [%s]\n", __FILE__, __LINE__, #condition, pk_isa());         \
        }                                                                                          \
    } while (0)

static int close_to(double got, double expected, double tolerance)
{
    return fabs(got - expected) <= tolerance * (1 + fabs(expected));
}

#endif
