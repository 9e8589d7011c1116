"""`Held`: the buffers of some parameters, acquired once, and the checks of every step on them.

`Params` (pyoptk/params.py) makes a Held. An optimizer's plan (_plan.pyx) adds its states to it, so
that a gradient that overlaps a parameter or a state is found.
"""
from contextvars import copy_context as _copy_context

import numpy as _np

from . import _checks

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Size
from cpython.list cimport PyList_GetItem, PyList_Size
from cpython.object cimport PyObject
from libc.string cimport memcmp, memcpy

from ._arrays cimport Buffers, acquire, check_like, dtype_of
from ._core cimport _Lock
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_F32, PK_MAX_STATES, PyArray_CHKFLAGS,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArrayObject,
)

cdef object _geterrobj = getattr(_np, "geterrobj", None), _seterr = _np.seterr  # NumPy 1 has them
cdef object _seterrobj = getattr(_np, "seterrobj", None)
cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")


# ---- what NumPy warns of ------------------------------------------------------------------------

def quietly(function, *arguments):
    """function(*arguments), while NumPy neither warns of what it computes nor raises.

    However it ends, the caller's error state is what it was: `numpy.errstate` loses it if an
    exception arrives as it ends.
    """
    if _seterrobj is None:  # the state is a context variable
        return _copy_context().run(_ignoring, function, arguments)
    before = _geterrobj()
    _seterrobj([before[0], 0, None])
    try:
        return function(*arguments)
    finally:
        _seterrobj(before)


def _ignoring(function, arguments):
    _seterr(all="ignore")
    return function(*arguments)


# ---- parameters ---------------------------------------------------------------------------------

cdef class Held(Buffers):
    """The buffers of some parameters.

    Parameters
    ----------
    keys : list or None
        How params and grads are indexed: dict keys, 0..n-1, or None for a single array.
    arrays : list of arrays
    given : object
        What the caller handed in. If it is a dict or a list, no entry may be replaced later.
    tree : dict, list or None
        Its structure, if it is nested; see `_checks.gathered`.
    """

    def __cinit__(self, keys, list arrays, given, tree):
        cdef Py_ssize_t i
        self.keys, self.arrays = keys, arrays
        self.entries, self.mapping = arrays, isinstance(given, _checks.Mapping)
        self.tree = tree
        self.count = len(arrays)
        self.reserve(self.count * (2 + 2 * PK_MAX_STATES))
        for i in range(self.count):
            self.hold(arrays[i], self.label("params", i))
        self.check_apart()
        self.dtype = dtype_of(self.held)
        self.descr = <void *> <PyObject *> (_f32 if self.dtype == PK_F32 else _f64)
        if self.mapping or isinstance(given, list) or tree is not None:
            self.watched = given
            try:
                if not self.has_same_entries():
                    self.watched = None  # one that makes entries on access
            except TypeError:  # an iterator, or another that one cannot ask twice
                self.watched = None

    cdef str label(self, str what, Py_ssize_t i):
        return what if self.keys is None else f"{what}[{self.keys[i]!r}]"

    cdef Py_buffer *hold(self, array, str name, scale=None) except NULL:
        """Acquire what a step writes, and the scales of its blocks if it has them."""
        if scale is not None:
            self.hold(scale, f"{name}_scale")
        acquire(array, self.next(), name, True, False)
        return self.add(name, True)

    cpdef list in_order(self, grads):
        """The gradients as a list in the order of the parameters."""
        cdef list listed
        if self.keys is None:
            return [grads]
        if self.tree is not None:
            return _checks.gathered(self.tree, grads, "grads")
        if not self.mapping and isinstance(grads, (list, tuple)):
            listed = list(grads)  # its length is right, whatever len() of a subclass says
            if len(listed) == self.count:
                return listed
        elif self.mapping and isinstance(grads, dict) and len(grads) == self.count:
            try:
                return [grads[key] for key in self.keys]
            except KeyError:
                pass
        return _checks.in_order(self.keys, self.mapping, grads)

    cdef _Lock lock(self, str what, bint within_averaged=False):
        """The right to change the parameters or the state; raise if another thread has it."""
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError(f"{what}: this optimizer is stepping in another thread already")
        if self.averaging and not within_averaged:
            raise RuntimeError(f"{what}: expected the parameters, got their averages, because this "
                               f"is within averaged()")
        return lock

    def locked(self, str what):
        """`lock` for Python, a context manager; raises if a parameter is not what it was at first.
        """
        cdef Py_ssize_t i
        cdef _Lock lock = self.lock(what)
        self.check_entries()
        for i in range(self.count):
            self.check_array(i, False)
        return lock

    cdef entries_now(self):
        """The caller's dict or list; if it is nested, a dict of what stands in it."""
        if self.tree is None:
            if isinstance(self.watched, (dict, list)):
                return self.watched
            return dict(self.watched)  # of another mapping
        return dict(zip(self.keys, _checks.gathered(self.tree, self.watched, "params")))

    cdef bint has_same_entries(self) except -1:
        """Whether the caller's dict or list still contains the same arrays."""
        cdef Py_ssize_t i
        if self.watched is None:
            return True
        watched = self.entries_now()
        if isinstance(watched, list):
            if PyList_Size(watched) != self.count:
                return False
            for i in range(self.count):
                if PyList_GetItem(watched, i) != <PyObject *> self.entries[i]:
                    return False
            return True
        if PyDict_Size(watched) != self.count:
            return False
        for i in range(self.count):
            if (PyDict_GetItemWithError(watched, self.keys[i])
                    != <PyObject *> self.entries[i]):
                return False
        return True

    cdef int check_entries(self) except -1:
        """Raise if an entry was replaced: the optimizer would go on changing the old array."""
        if not self.has_same_entries():
            self.entries = _checks.check_entries(self.entries_now(), self.keys, self.entries)
        return 0

    cdef bint is_like(self, Py_ssize_t i, array, int flags) noexcept:
        """Whether `array` is an ndarray with the dtype and shape of parameter i and these flags."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
        cdef Py_buffer *model = &self.held[i]
        return (type(array) is _ndarray and PyArray_CHKFLAGS(a, flags)
                and PyArray_DESCR(a) == self.descr and PyArray_NDIM(a) == model.ndim
                and not (model.ndim and memcmp(PyArray_DIMS(a), model.shape,
                                               model.ndim * sizeof(Py_ssize_t))))

    def addresses(self, list arrays not None, to, bint writable=False):
        # Writes to `to`, intp, where arrays lie that are like the parameters, C-contiguous and, if
        # asked for, writable; 0 for another. Returns whether all are.
        cdef Py_ssize_t *found = numbers(to)
        cdef Py_ssize_t i
        cdef bint all_are = len(arrays) == self.count
        for i in range(self.count if all_are else 0):
            found[i] = 0
            if self.is_like(i, arrays[i], NPY_ARRAY_CARRAY_RO | writable * NPY_ARRAY_WRITEABLE):
                found[i] = <Py_ssize_t> PyArray_DATA(<PyArrayObject *> <PyObject *> arrays[i])
            else:
                all_are = False
        return all_are

    cdef int check_array(self, Py_ssize_t i, bint writable) except -1:
        """Raise if parameter i was given another dtype or shape in place, or is not `writable`."""
        cdef Py_buffer view
        array = self.arrays[i]
        if (self.is_like(i, array, NPY_ARRAY_CARRAY_RO | writable * NPY_ARRAY_WRITEABLE)
                and PyArray_DATA(<PyArrayObject *> <PyObject *> array) == self.held[i].buf):
            return 0
        acquire(array, &view, self.names[i], writable, False)
        try:
            check_like(&view, self.names[i], &self.held[i], "it was at first")
            if view.buf != self.held[i].buf:
                raise ValueError(f"{self.names[i]}: expected the memory that it had when the "
                                 f"optimizer was made, got other memory")
        finally:
            PyBuffer_Release(&view)
        return 0


# ---- pieces of arrays, by address ---------------------------------------------------------------

cdef extern from *:
    """
    typedef struct { void *at; size_t size; } pk_span; /* struct iovec */
    #ifdef __linux__
    #include <sys/syscall.h>
    #include <unistd.h>
    static long pk_read_process(long pid, const pk_span *to, const pk_span *from, long count)
    {
        return syscall(SYS_process_vm_readv, pid, to, count, from, count, 0L);
    }
    #else
    #define pk_read_process(pid, to, from, count) (-1L)
    #endif
    """
    ctypedef struct pk_span:
        void *at
        size_t size
    long pk_read_process(long pid, const pk_span *to, const pk_span *from_, long count)


cdef Py_ssize_t *numbers(array) noexcept:
    return <Py_ssize_t *> PyArray_DATA(<PyArrayObject *> <PyObject *> array)


def move(table, rows, to, Py_ssize_t room, Py_ssize_t process):
    # Copies pieces of arrays to others, or into one room, or from there if `rows` is None.
    # `table` is intp [n, 4]: of each piece its array, its first byte there and in the room, bytes.
    # `rows` and `to`, intp, are the addresses of the arrays; those of `rows` may be in another
    # `process`, 0 for this one. Raises OSError if that cannot be read; else nothing is checked.
    cdef pk_span here[64]
    cdef pk_span there[64]
    cdef Py_ssize_t *piece = numbers(table)
    cdef Py_ssize_t k = 0, total = 0
    cdef void *source
    cdef void *target
    for _ in range(len(table)):
        source = target = <void *> (room + piece[2])
        if rows is not None:
            source = <void *> (numbers(rows)[piece[0]] + piece[1])
        if to is not None:
            target = <void *> (numbers(to)[piece[0]] + piece[1])
        if process == 0:
            memcpy(target, source, piece[3])
        else:
            if k == 64:
                k = read_spans(process, here, there, k, total)
                total = 0
            here[k].at, there[k].at = target, source
            here[k].size = there[k].size = piece[3]
            total += piece[3]
            k += 1
        piece += 4
    read_spans(process, here, there, k, total)


cdef Py_ssize_t read_spans(Py_ssize_t process, pk_span *here, pk_span *there, Py_ssize_t count,
                           Py_ssize_t total) except -1:
    if count and pk_read_process(process, here, there, count) != total:
        raise OSError("the memory of another process cannot be read")
    return 0


cdef class Averaged:
    """``with averaged:`` the parameters have the values of `others`, and no step can be taken."""
    cdef Held held
    cdef Buffers averages, saved

    def __cinit__(self, Held held not None, list others):
        self.held = held
        if len(others) != held.count:
            raise ValueError("averages: expected one for each parameter")
        self.averages = self.taken(others)

    cdef Buffers taken(self, list arrays):
        cdef Buffers taken = Buffers()
        taken.reserve(self.held.count)
        for i in range(self.held.count):
            check_like(taken.take("averages", arrays[i], False), "averages", &self.held.held[i],
                       self.held.names[i])
        return taken

    def __enter__(self):
        _lock = self.held.lock("averaged")
        self.held.check_entries()
        for i in range(self.held.count):
            self.held.check_array(i, True)
        self.saved = self.taken([_np.array(array) for array in self.held.arrays])
        self.held.averaging = True
        self.fill(self.averages)

    def __exit__(self, *error):
        if self.saved is not None:
            self.fill(self.saved)
            self.held.averaging, self.saved = False, None

    def __del__(self):
        self.__exit__()

    cdef int fill(self, Buffers values) except -1:
        """Copy bytes into the parameters, even if they have been made read-only meanwhile."""
        cdef Py_ssize_t i
        for i in range(self.held.count):
            memcpy(self.held.held[i].buf, values.held[i].buf, self.held.held[i].len)
        return 0
