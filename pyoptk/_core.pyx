"""Buffers, instruction sets and threads: what every compiled module of the package needs.

libpyoptk is linked into this module alone; the others call its kernels through the tables that
_core.pxd declares. No arithmetic on elements happens in any of them: they take buffers, check them,
release the GIL and call a kernel. Checks that need no C are in _checks.py.
"""
import os as _os
import sys as _sys

import numpy as _np

from ._checks import advice, check_integer, check_switch, described

from cpython.buffer cimport (
    Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyBUF_FORMAT, PyBUF_STRIDES,
    PyObject_GetBuffer,
)
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from .capi cimport (
    PK_ISA_UNKNOWN, PK_ISA_UNUSABLE, PK_MAX_THREADS, pk_cell, pk_cell_id, pk_cell_kernels,
    pk_clip_coefficient, pk_common_fields, pk_dense, pk_dense_kernels, pk_dtype, pk_field, pk_isa, pk_isa_at, pk_math,
    pk_math_kernels, pk_num_threads, pk_optim, pk_optim_kernels, pk_optimizer, pk_optimizers,
    pk_set_num_threads, pk_threads_backend, pk_use_isa,
)

cdef extern from *:  # GCC's and Clang's
    int __ATOMIC_RELAXED, __ATOMIC_ACQUIRE, __ATOMIC_RELEASE
    int __atomic_load_n(int *at, int order) nogil
    void __atomic_store_n(int *at, int value, int order) nogil
    bint __atomic_compare_exchange_n(int *at, int *expected, int wanted, bint weak, int success,
                                     int failure) nogil

cdef object _ndarray = _np.ndarray
cdef object _TooHard = getattr(_np, "exceptions", _np).TooHardError
cdef char NATIVE = c"<" if _sys.byteorder == "little" else c">"


# ---- buffers ------------------------------------------------------------------------------------

cdef str described_view(Py_buffer *view):
    """The same for a buffer that was taken."""
    return f"{'float32' if view.itemsize == 4 else 'float64'} {shape_of(view)}"


cdef tuple shape_of(Py_buffer *view):
    return tuple([view.shape[i] for i in range(view.ndim)])


cdef tuple strides_of(Py_buffer *view):
    return tuple([view.strides[i] for i in range(view.ndim)])


cdef bint is_float(Py_buffer *view) noexcept:
    """Whether these are aligned float32 or float64 in native byte order, however that is spelt."""
    cdef const char *code = view.format
    cdef int i
    if code != NULL and code[0] in (c"=", c"@", NATIVE):
        code += 1
    if code == NULL or code[0] not in (c"f", c"d") or code[1] != 0:
        return False
    for i in range(view.ndim):
        if view.strides[i] % view.itemsize != 0 and view.shape[i] > 1:
            return False
    return <uintptr_t> view.buf % view.itemsize == 0


cdef int acquire(object array, Py_buffer *view, str name, bint writable, bint strided) except -1:
    """Take the buffer of a float32 or float64 array; release it with PyBuffer_Release.

    `strided`: any strides will do, else the array must be C-contiguous.
    """
    try:
        PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"{name}: expected a float32 or float64 array, "
                        f"got {described(array)}{advice(array)}") from None
    if view.strides == NULL and view.ndim:  # as of ctypes's arrays, whatever one asks for
        PyBuffer_Release(view)
        return acquire(_np.asarray(array), view, name, writable, strided)
    try:
        if type(array) is not _ndarray and isinstance(array, _np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a plain array, got a masked one, whose mask would "
                            f"have no effect")
        if not is_float(view):
            raise TypeError(f"{name}: expected float32 or float64 in native byte order, aligned, "
                            f"got {described(array)}")
        if writable and view.readonly:
            raise ValueError(f"{name}: expected a writable array, got a read-only one (a copy can "
                             f"be written)")
        if not strided and not PyBuffer_IsContiguous(view, c"C"):
            raise ValueError(f"{name}: expected a C-contiguous array, got strides "
                             f"{strides_of(view)} for {described(array)}")
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


cdef int check_like(Py_buffer *view, str name, Py_buffer *model, str model_name) except -1:
    """Raise unless `view` has the dtype and the shape of `model`."""
    cdef bint same = view.ndim == model.ndim
    cdef int i
    if same:
        for i in range(view.ndim):
            same &= view.shape[i] == model.shape[i]
    if same and view.itemsize == model.itemsize:
        return 0
    error = ValueError if view.itemsize == model.itemsize else TypeError
    raise error(f"{name}: expected {described_view(model)} like {model_name}, "
                f"got {described_view(view)}")


cdef int check_dtype(Py_buffer *view, str name, Py_buffer *model, str model_name) except -1:
    if view.itemsize != model.itemsize:
        raise TypeError(f"{name}: expected {'float32' if model.itemsize == 4 else 'float64'} like "
                        f"{model_name}, got {'float32' if view.itemsize == 4 else 'float64'}")
    return 0


cdef int check_shape(Py_buffer *view, str name, tuple shape) except -1:
    cdef bint fits = view.ndim == len(shape)
    cdef int i
    for i in range(view.ndim if fits else 0):
        fits &= view.shape[i] == <Py_ssize_t> shape[i]
    if not fits:
        raise ValueError(f"{name}: expected shape {shape}, got {shape_of(view)}")
    return 0


cdef object contiguous(array):
    """The array itself, or a C-contiguous copy where it is strided."""
    if isinstance(array, _ndarray) and not array.flags.c_contiguous:
        return _np.ascontiguousarray(array)
    return array


cdef class _Buffers:
    """The arrays of one call, released when it is over. All have the dtype of the first."""
    def __cinit__(self):
        self.names = []

    def __dealloc__(self):
        while self.count:
            self.count -= 1
            PyBuffer_Release(&self.held[self.count])

    cdef int release(self, int count) except -1:
        """All but the first `count`."""
        del self.names[count:]
        while self.count > count:
            self.count -= 1
            PyBuffer_Release(&self.held[self.count])
        return 0

    cdef Py_buffer *take(self, str name, array, bint writable, bint strided=False) except NULL:
        """`writable` arrays must overlap nothing that was taken before."""
        if self.count == MOST_BUFFERS:
            raise RuntimeError("more arrays in one call than MOST_BUFFERS")
        acquire(array, &self.held[self.count], name, writable, strided)
        return self.add(name, writable)

    cdef Py_buffer *add(self, str name, bint writable) except NULL:
        """The same with the buffer that stands next in `held`."""
        cdef Py_buffer *view = &self.held[self.count]
        cdef int i
        self.written[self.count] = writable
        self.names.append(name)
        self.count += 1
        check_dtype(view, name, &self.held[0], self.names[0])
        if writable and overlaps_itself(view):
            raise ValueError(f"{name}: expected memory of its own for every element, got an array "
                             f"that overlaps itself, {shape_of(view)} with strides "
                             f"{strides_of(view)}")
        for i in range(self.count - 1):
            if (writable or self.written[i]) and overlap(&self.held[i], view):
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps "
                                 f"{self.names[i]}")
        return view


cdef int extent(Py_buffer *view, uintptr_t *begin, uintptr_t *end) noexcept:
    """The addresses of the first byte and behind the last."""
    cdef int i
    begin[0] = <uintptr_t> view.buf
    end[0] = begin[0] + (view.itemsize if view.len else 0)
    for i in range(view.ndim if view.len else 0):
        if view.strides[i] < 0:
            begin[0] += (view.shape[i] - 1) * view.strides[i]
        else:
            end[0] += (view.shape[i] - 1) * view.strides[i]
    return 0


cdef bint overlap(Py_buffer *a, Py_buffer *b) except -1:
    """Whether two arrays share an element. Interleaved ones need not: columns of a matrix."""
    cdef uintptr_t a_begin, a_end, b_begin, b_end
    extent(a, &a_begin, &a_end)
    extent(b, &b_begin, &b_end)
    if not (a_begin < b_end and b_begin < a_end):
        return False
    if PyBuffer_IsContiguous(a, c"A") and PyBuffer_IsContiguous(b, c"A"):
        return True
    try:
        return _np.shares_memory(_np.asarray(<object> a.obj), _np.asarray(<object> b.obj), 10000)
    except _TooHard:
        return True


cdef bint overlaps_itself(Py_buffer *view) noexcept:
    """Whether an axis steps less far than those of smaller strides reach: elements may coincide."""
    cdef bint used[64]  # PyBUF_MAX_NDIM
    cdef Py_ssize_t reach = view.itemsize
    cdef int i, axis
    if PyBuffer_IsContiguous(view, c"A"):
        return False
    memset(used, 0, sizeof(used))
    while view.len:
        axis = -1  # of the smallest stride that is left
        for i in range(view.ndim):
            if (not used[i] and view.shape[i] > 1
                    and (axis < 0 or abs(view.strides[i]) < abs(view.strides[axis]))):
                axis = i
        if axis < 0:
            return False
        if abs(view.strides[axis]) < reach:
            return True
        reach += (view.shape[axis] - 1) * abs(view.strides[axis])
        used[axis] = True
    return False


cdef bint switch(str name, value) except -1:
    return value if value is True or value is False else check_switch(name, value)


# ---- the C library, for the other modules --------------------------------------------------------

cdef const pk_optim_kernels *optim_table(pk_dtype dtype) noexcept nogil:
    return pk_optim(dtype)


cdef const pk_optimizer *optimizer_at(int which) noexcept nogil:
    return pk_optimizers[which]


cdef const pk_field *common_fields() noexcept nogil:
    return pk_common_fields


cdef const pk_math_kernels *math_table(pk_dtype dtype) noexcept nogil:
    return pk_math(dtype)


cdef const pk_dense_kernels *dense_table(pk_dtype dtype) noexcept nogil:
    return pk_dense(dtype)


cdef const pk_cell_kernels *cell_table(pk_cell_id cell, pk_dtype dtype) noexcept nogil:
    return pk_cell(cell, dtype)


cdef int num_threads() noexcept nogil:
    return pk_num_threads()


cdef double clip_coefficient(double norm, double max_norm, double eps) noexcept nogil:
    return pk_clip_coefficient(norm, max_norm, eps)


# ---- instruction sets ---------------------------------------------------------------------------

def isa():
    """Name of the instruction set whose kernels are in use."""
    return pk_isa().decode("ascii")


def isas():
    """The instruction sets of this build, best first: {name: whether this CPU has it}."""
    cdef int i = 0, usable = 0
    cdef const char *name
    sets = {}
    while (name := pk_isa_at(i, &usable)) != NULL:
        sets[name.decode("ascii")] = bool(usable)
        i += 1
    return sets


def use_isa(name=None):
    """Use the kernels of the named instruction set, or of the best one.

    Changes what every later call runs. Not to be called while a kernel runs in another thread.

    Parameters
    ----------
    name : {"baseline", "avx2", "avx512"}, optional
        One of `isas()`. Also read from the environment variable ``PYOPTK_ISA`` at import.

    Raises
    ------
    ValueError
        If this build or this CPU lacks it; nothing has changed then.
    """
    cdef const char *wanted = NULL
    cdef int outcome
    if name is not None:
        encoded = str(name).replace("\0", "?").encode()
        wanted = encoded
    outcome = pk_use_isa(wanted)
    if outcome == PK_ISA_UNKNOWN:
        raise ValueError(f"name: expected one of {', '.join(isas())}, got {name!r}")
    if outcome == PK_ISA_UNUSABLE:
        raise ValueError(f"name: this CPU cannot run {name!r}, "
                         f"only {', '.join(n for n, usable in isas().items() if usable)}")


try:
    use_isa(_os.environ.get("PYOPTK_ISA") or None)
except ValueError as _error:
    raise ImportError(f"PYOPTK_ISA: {_error}") from None


# ---- threads ------------------------------------------------------------------------------------

cdef int _process = 1  # one more in each forked child


cdef bint take_guard(int *guard) noexcept nogil:
    """Whether the caller has the guard now, which is 0 when it is free.

    A guard that another thread had when the process forked is free in the child: no thread is left
    there that would drop it. Correct without the GIL, too.
    """
    cdef int seen = __atomic_load_n(guard, __ATOMIC_RELAXED)
    return seen != _process and __atomic_compare_exchange_n(
        guard, &seen, _process, False, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)


cdef void drop_guard(int *guard) noexcept nogil:
    __atomic_store_n(guard, 0, __ATOMIC_RELEASE)


def _count_child():
    global _process
    _process += 1


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_count_child)


def get_num_threads():
    """Number of threads that kernels use at most."""
    return pk_num_threads()


def set_num_threads(n=None):
    """Let kernels use at most `n` threads, or the default number again if `n` is None.

    The default is ``PYOPTK_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the number of cores that
    CPU affinity and cgroup limits leave to this process. Results do not depend on it.
    """
    if n is None:
        pk_set_num_threads(0)
        return
    pk_set_num_threads(check_integer("n", n, 1, PK_MAX_THREADS + 1,
                                     f"an integer in 1..{PK_MAX_THREADS} or None"))


def threads_backend():
    """What runs the threads: "pool", "openmp" or "none", chosen when the package was built."""
    return pk_threads_backend().decode("ascii")
