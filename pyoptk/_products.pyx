"""The bare kernels that are functions of arrays, with linear recurrences (pyoptk/scan.py builds on
them), and the roof of the benchmarks. For layers in Python: changes of several objects that no
exception can interrupt.
"""
import numpy as _np

from ._checks import check_float_dtype, check_fraction
from ._sequences import check_resets

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject

from ._arrays cimport (
    Buffers, check_adjacent, check_like, check_shape, dtype_of, sequence_of, shape_of, size_of,
    switch, uint64,
)
from ._core cimport _Lock, bf16_products, math_table, num_threads
from .capi cimport (
    PK_F32, PK_F64, PyArray_DATA, PyArrayObject, pk_dropout_config, pk_scan, pk_sequence,
)


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
    """Do multiply-adds in registers on one core: an upper bound of speed, for benchmarks.

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


# ---- linear recurrences -------------------------------------------------------------------------

cdef class _Scan(Buffers):
    """The arrays of one call; the first is `a`."""
    cdef pk_scan scan
    cdef object resets  # the memory of scan.resets

    cdef pk_sequence begin(self, a, bint writable, reverse, resets) except *:
        cdef Py_buffer *of_a = self.take("a", a, writable, True)
        if of_a.ndim != 3:
            raise ValueError(f"a: expected 3 axes, got shape {shape_of(of_a)}")
        check_adjacent(of_a, "a")
        self.scan.T, self.scan.B, self.scan.D = of_a.shape[0], of_a.shape[1], of_a.shape[2]
        self.scan.a = sequence_of(of_a)
        self.scan.reverse = switch("reverse", reverse)
        self.scan.resets = NULL
        if resets is not None:
            self.resets = check_resets(resets, of_a.shape[0], of_a.shape[1], False)
            self.scan.resets = <const unsigned char *> PyArray_DATA(
                <PyArrayObject *> <PyObject *> self.resets)
        return self.scan.a

    cdef pk_sequence sequence(self, str name, array, bint writable) except *:
        cdef Py_buffer *view = self.take(name, array, writable, True)
        check_like(view, name, self.held, "a", not writable)
        check_adjacent(view, name)
        return sequence_of(view)

    cdef void *state(self, str name, array, bint writable) except? NULL:
        cdef Py_buffer *view
        if array is None:
            return NULL
        view = self.take(name, array, writable)
        check_shape(view, name, (self.scan.B, self.scan.D))
        return view.buf


def linear_scan_forward(a, b, h, h0=None, *, reverse=False, resets=None):
    """h_t = a_t h_{t-1} + b_t over time, element by element; changes `h`, which may be `a` or `b`.

    The state before the first step is `h0`. Where the state before a step is zero, because there is
    no `h0` or because of `resets`, h_t is b_t, and a_t is not read.

    Parameters
    ----------
    a, b, h : arrays [T, B, D]
        float32 or float64; elements of the last axis adjacent.
    h0 : array [B, D], optional
        C-contiguous. Zeros by default.
    reverse : bool
        Steps go from T-1 to 0.
    resets : bool array [T, B], optional
        Where True, the state before step t is zero.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef _Scan arrays = _Scan()
    cdef pk_sequence a_ = arrays.begin(a, h is a, reverse, resets), b_, h_
    cdef void *start
    b_ = a_ if b is a else arrays.sequence("b", b, h is b)
    h_ = a_ if h is a else b_ if h is b else arrays.sequence("h", h, True)
    start = arrays.state("h0", h0, False)
    arrays.check_apart()
    kernels = math_table(dtype_of(arrays.held))
    with nogil:
        kernels.linear_scan_forward(&arrays.scan, b_, start, h_, num_threads())


def linear_scan_backward(a, h, dh, da, db, h0=None, dh0=None, *, reverse=False, resets=None):
    """The gradients of `linear_scan_forward`; changes `da`, `db` and `dh0`.

    u_t = dh_t + a_{t+1} u_{t+1}, da_t = u_t h_{t-1}, db_t = u_t, dh0 = a_1 u_1. Where the state
    before a step is zero, da_t is 0 and nothing goes on to earlier steps.

    Parameters
    ----------
    a, h0, reverse, resets
        As given to `linear_scan_forward`.
    h : array [T, B, D]
        Its result.
    dh : array [T, B, D]
        Gradient of `h`.
    da, db : arrays [T, B, D]
        `da` may be `a`, `db` may be `dh`.
    dh0 : array [B, D], optional
        C-contiguous; only with `h0`.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef _Scan arrays = _Scan()
    cdef pk_sequence a_ = arrays.begin(a, da is a, reverse, resets), h_, dh_, da_, db_
    cdef void *start
    cdef void *of_start
    h_ = a_ if h is a else arrays.sequence("h", h, False)
    dh_ = arrays.sequence("dh", dh, db is dh)
    da_ = a_ if da is a else arrays.sequence("da", da, True)
    db_ = dh_ if db is dh else arrays.sequence("db", db, True)
    start, of_start = arrays.state("h0", h0, False), arrays.state("dh0", dh0, True)
    if start == NULL and of_start != NULL:
        raise ValueError("dh0: expected None without h0, got an array")
    arrays.check_apart()
    kernels = math_table(dtype_of(arrays.held))
    with nogil:
        kernels.linear_scan_backward(&arrays.scan, start, h_, dh_, da_, db_, of_start,
                                     num_threads())


def put_gradients(dict attributes, flat, fresh, bint accumulate):
    """Copy `fresh` to `flat`, or add it, and forget what forward has kept for backward.

    Compiled, so that no exception arrives between the two.
    """
    if accumulate:
        _np.add(flat, fresh, flat)
    else:
        _np.positive(fresh, flat)
    attributes["_kept"] = None


def put_all(moves, left):
    """Update dicts and set attributes of objects, then make the arrays `left` read-only.

    `moves` is a list of pairs: a dict or object, its new entries. Compiled, as `put_gradients`.
    """
    for into, entries in moves:
        if isinstance(into, dict):
            dict.update(into, entries)
            continue
        for name, value in entries.items():
            object.__setattr__(into, name, value)
    for array in left:
        array.setflags(False)


def finish(dict attributes, function, *arguments, **options):
    """Call a compiled function, and forget what forward has kept for backward.

    Compiled, as `put_gradients`.
    """
    function(*arguments, **options)
    attributes["_kept"] = None


cdef class Guard:
    """Lets in one call of a layer at a time.

    Compiled, so that whatever exception ends a call, the layer is not locked afterwards.
    """
    cdef int busy  # see _Lock

    def call(self, function, *arguments):
        """Call a function while no other call runs; returns its result."""
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError("this layer is in use in another thread already")
        return function(*arguments)
