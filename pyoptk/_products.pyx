"""The bare kernels that are functions of arrays, and the roof of the benchmarks."""
from ._checks import check_float_dtype, check_fraction

from cpython.buffer cimport Py_buffer

from ._arrays cimport (
    Buffers, check_adjacent, check_like, check_shape, dtype_of, sequence_of, shape_of, size_of,
    switch, uint64,
)
from ._core cimport bf16_products, math_table, num_threads
from .capi cimport PK_F32, PK_F64, pk_dropout_config, pk_sequence


cdef enum function:
    EXP
    SIGMOID
    TANH


cdef int elementwise(function f, x, y) except -1:
    """`y` may be `x` itself; else they must not overlap."""
    cdef Buffers arrays = Buffers()
    cdef Py_buffer *of_x = arrays.take("x", x, x is y)
    cdef Py_buffer *of_y = of_x if x is y else arrays.take("y", y, True)
    check_like(of_y, "y", of_x, "x")
    arrays.check_apart()
    kernels = math_table(dtype_of(of_x))
    with nogil:
        if f == EXP:
            kernels.exp(of_x.buf, of_y.buf, size_of(of_x))
        elif f == SIGMOID:
            kernels.sigmoid(of_x.buf, of_y.buf, size_of(of_x))
        else:
            kernels.tanh(of_x.buf, of_y.buf, size_of(of_x))
    return 0


def exp(x, y):
    """y = e**x, to 1 ulp; changes `y`, which may be `x`. float32 or float64, C-contiguous."""
    elementwise(EXP, x, y)


def sigmoid(x, y):
    """y = 1 / (1 + e**-x), to 2.5 ulp; changes `y`, which may be `x`."""
    elementwise(SIGMOID, x, y)


def tanh(x, y):
    """y = tanh(x), to 1.5 ulp; changes `y`, which may be `x`."""
    elementwise(TANH, x, y)


def matmul(a, b, c, *, accumulate=False):
    """c = a @ b, or c += a @ b if `accumulate`; changes `c`.

    Parameters
    ----------
    a, b, c : arrays [M, K], [K, N], [M, N]
        float32 or float64, C-contiguous, c apart from the others.
    """
    cdef Buffers arrays = Buffers()
    cdef Py_buffer *of_a = arrays.matrix("a", a, False)
    cdef Py_buffer *of_b = arrays.matrix("b", b, False)
    cdef Py_buffer *of_c = arrays.take("c", c, True)
    cdef size_t M, N, K
    cdef void *scratch
    cdef bint add = switch("accumulate", accumulate)
    M, K, N = of_a.shape[0], of_a.shape[1], of_b.shape[1]
    check_shape(of_b, "b", (K, N))
    check_shape(of_c, "c", (M, N))
    arrays.check_apart()
    kernels = math_table(dtype_of(of_a))
    scratch = arrays.scratch(kernels.matmul_scratch_size(N, K), False)
    with nogil:
        kernels.matmul(M, N, K, of_a.buf, K, of_b.buf, N, of_c.buf, N, add, scratch,
                       num_threads())


def dropout(x, y, p, *, seed, stream=0):
    """Drop elements of `x` with probability `p`, scale the others; changes `y`, which may be `x`.

    y = x / (1 - p) or 0 (Srivastava et al. 2014). Which it is depends on an element's index, `seed`
    and `stream` alone (Philox4x32-10, Salmon et al. 2011): the gradient takes the same call.

    Parameters
    ----------
    x, y : arrays [T, B, H]
        float32 or float64; elements of the last axis adjacent.
    p : float
        In [0, 1); rounded to a multiple of 2**-16, which must not be 1.
    seed, stream : int
        In 0..2**64-1. Another seed, or another stream of the same, is another mask.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_dropout_config config
    cdef Py_buffer *of_x
    cdef Py_buffer *of_y
    cdef pk_sequence x_, y_
    cdef size_t T, B, H
    config.p = p if type(p) is float and 0 <= p < 0.9999 else check_fraction("p", p)
    config.seed, config.stream = uint64("seed", seed), uint64("stream", stream)
    of_x = arrays.take("x", x, x is y, True)
    if of_x.ndim != 3:
        raise ValueError(f"x: expected 3 axes, got shape {shape_of(of_x)}")
    check_adjacent(of_x, "x")
    of_y = of_x if x is y else arrays.take("y", y, True, True)
    check_like(of_y, "y", of_x, "x")
    check_adjacent(of_y, "y")
    arrays.check_apart()
    T, B, H = of_x.shape[0], of_x.shape[1], of_x.shape[2]
    x_, y_ = sequence_of(of_x), sequence_of(of_y)
    kernels = math_table(dtype_of(of_x))
    with nogil:
        kernels.dropout(T, B, H, x_, y_, &config, num_threads())


def fma_roof(dtype, size_t rounds):
    """Do multiply-adds in registers on one core, which no product can beat; for benchmarks.

    `dtype` may be "bfloat16": those of ``compute="bfloat16"``. Returns the number of floating-point
    operations.
    """
    cdef double out, flop
    cdef double (*roof)(size_t, double *) noexcept nogil
    if dtype == "bfloat16":
        roof = bf16_products().roof
    else:
        roof = math_table(PK_F32 if check_float_dtype(dtype).itemsize == 4 else PK_F64).fma_roof
    with nogil:
        flop = roof(rounds, &out)
    return flop
