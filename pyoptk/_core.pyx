"""libpyoptk, its instruction sets and threads; memory of results.

The C library is linked into this module alone; the other compiled ones call it through the pointers
that _core.pxd declares, and take the guards of their objects with `_Lock`.
"""
import os as _os

import numpy as _np

from ._checks import check_integer

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF

from .capi cimport (
    PK_ISA_UNKNOWN, PK_ISA_UNUSABLE, PK_MAX_THREADS, PK_VERSION, PyArray_DESCR,
    PyArray_DIMS, PyArray_NDIM, PyArrayObject, pk_bf16_products, pk_cell,
    pk_clip_coefficient, pk_common_fields, pk_dense, pk_isa, pk_isa_at, pk_math, pk_num_threads,
    pk_optim, pk_optimizers, pk_parallel, pk_set_num_threads, pk_threads_backend, pk_use_isa,
)

cdef extern from "numpy/arrayobject.h":
    int _import_array() except -1
    object PyArray_Empty(int axes, Py_ssize_t *shape, void *dtype, int fortran)  # takes the dtype

cdef extern from *:  # GCC's and Clang's
    int __ATOMIC_RELAXED, __ATOMIC_ACQUIRE, __ATOMIC_RELEASE
    int __atomic_load_n(int *at, int order) nogil
    void __atomic_store_n(int *at, int value, int order) nogil
    bint __atomic_compare_exchange_n(int *at, int *expected, int wanted, bint weak, int success,
                                     int failure) nogil

optim_table, math_table, dense_table = pk_optim, pk_math, pk_dense
cell_table, bf16_products = pk_cell, pk_bf16_products
clip_coefficient, num_threads, parallel = pk_clip_coefficient, pk_num_threads, pk_parallel
optimizers, common_fields = pk_optimizers, pk_common_fields


_import_array()


cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, dtype):
    """A small new array; its elements are not set. `numpy.empty` takes three times as long."""
    cdef Py_ssize_t shape[2]
    shape[0], shape[1] = rows, columns
    Py_INCREF(dtype)
    return PyArray_Empty(2, shape, <void *> <PyObject *> dtype, 0)


# ---- instruction sets ---------------------------------------------------------------------------

VERSION = PK_VERSION.decode("ascii")


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
    name : {"baseline", "avx2", "avx512", "avx512bf16", "amx"}, optional
        One of `isas()`; the last two differ from "avx512" only in ``compute="bfloat16"``. Also
        read from the environment variable ``PYOPTK_ISA`` at import.

    Raises
    ------
    ValueError
        If this build or this CPU lacks it; then nothing has changed.
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


cdef class _Lock:
    """Holds the guard of an object, an int that is 0 when free, until this _Lock is gone.

    A compiled function has it in a local variable: however the function ends, the guard is
    released. A guard that another thread held when the process forked counts as free in the child,
    which does not have that thread. Also correct without the GIL.
    """
    cdef bint take(self, int *guard) noexcept:
        """Take the guard; returns whether it was free."""
        cdef int seen = __atomic_load_n(guard, __ATOMIC_RELAXED)
        if seen == _process or not __atomic_compare_exchange_n(
                guard, &seen, _process, False, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED):
            return False
        self.guard = guard
        return True

    def __enter__(self):
        pass

    def __exit__(self, *error):
        self.drop()

    def __dealloc__(self):
        self.drop()

    cdef void drop(self) noexcept:
        if self.guard != NULL:
            __atomic_store_n(self.guard, 0, __ATOMIC_RELEASE)
            self.guard = NULL


def _count_child():
    global _process
    _process += 1


if hasattr(_os, "register_at_fork"):
    _os.register_at_fork(after_in_child=_count_child)


def get_num_threads():
    """The largest number of threads that a kernel uses."""
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


# ---- memory of large results, which later ones take again ---------------------------------------

cdef extern from "../memory.h":  # beside the headers of the C API
    enum: PK_LARGE
    void *pk_take_memory(size_t size) noexcept nogil
    void pk_give_memory(void *memory) noexcept nogil
    size_t pk_release_memory(Py_ssize_t most) noexcept nogil
    size_t pk_room_of(size_t size) noexcept nogil
    void *pk_aligned(void *begin, size_t size) noexcept nogil

cdef extern from *:
    """
    #include <numpy/arrayobject.h>
    static PyDataMem_Handler pk_handler = {
        "pyoptk", 1, {NULL, pk_malloc, pk_calloc, pk_realloc, pk_free}};
    """
    void *pk_handler
    PyObject *PyDataMem_DefaultHandler
    object PyDataMem_SetHandler(object handler)

take_memory, give_memory = pk_take_memory, pk_give_memory
room_of, aligned = pk_room_of, pk_aligned
cdef object _handler = PyCapsule_New(&pk_handler, b"mem_handler", NULL)
cdef object _ndarray = _np.ndarray, _f64 = _np.dtype("f8")
cdef object _empty = _np.empty, _empty_like = _np.empty_like


cpdef object new_array(tuple shape, dtype):
    """A new array; its elements are not set. The memory of a large one was that of a result."""
    cdef double size = 8 if dtype is _f64 else 4
    for n in shape:
        size *= <double> n
    if size < PK_LARGE:
        return _empty(shape, dtype)
    before = PyDataMem_SetHandler(_handler)
    try:
        if before is not <object> PyDataMem_DefaultHandler:  # the caller's
            PyDataMem_SetHandler(before)
        return _empty(shape, dtype)
    except ValueError:  # more bytes than there are addresses
        raise MemoryError(f"no array of {_np.dtype(dtype)} {shape}") from None
    finally:
        PyDataMem_SetHandler(before)


cpdef object new_like(like):
    """A new array of the shape and dtype of a C-contiguous one."""
    cdef PyArrayObject *array = <PyArrayObject *> <PyObject *> like
    cdef Py_ssize_t size
    cdef int i
    if type(like) is not _ndarray:
        return _empty_like(like)
    size = 8 if PyArray_DESCR(array) == <void *> _f64 else 4
    for i in range(PyArray_NDIM(array)):
        size *= PyArray_DIMS(array)[i]
    return _empty_like(like) if size < PK_LARGE else new_array(like.shape, like.dtype)


def release_memory():
    """Give back to the system's allocator the memory that is kept for results; its bytes.

    A result of a layer or of a loss of 16 KiB or more takes the memory of one of that size that
    nothing refers to any more, if there is one. At most 64 MiB and 64 pieces are kept.
    """
    return pk_release_memory(0)
