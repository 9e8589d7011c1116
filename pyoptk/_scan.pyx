"""The bare kernels of linear recurrences; pyoptk/scan.py has what is built on them."""
import numpy as _np

from ._sequences import check_resets

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject

from ._arrays cimport (
    Buffers, check_adjacent, check_like, check_shape, dtype_of, sequence_of, shape_of, switch,
)
from ._core cimport _Lock, math_table, num_threads
from .capi cimport PyArray_DATA, PyArrayObject, pk_scan, pk_sequence


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
    """Change `flat` to `fresh`, or add that, and forget what forward has kept for backward.

    Compiled, so that no exception arrives between the two.
    """
    if accumulate:
        _np.add(flat, fresh, flat)
    else:
        _np.positive(fresh, flat)
    attributes["_kept"] = None


def put_all(moves, left):
    """Put new entries into dicts and objects, and make the arrays `left` read-only.

    `moves` is a list of them, each with a dict of what is put there. Compiled, as `put_gradients`.
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
    """Lets one call of a layer at a time in.

    Compiled, so that whatever exception ends a call, the layer is not locked afterwards.
    """
    cdef int busy  # see _Lock

    def call(self, function, *arguments):
        """The result of a function, while nobody else is in."""
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError("this layer is in use in another thread already")
        return function(*arguments)
