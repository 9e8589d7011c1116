"""`Held`: the buffers of some parameters, acquired once, and the checks of every step on them.

`Params` (pyoptk/params.py) makes a Held. An optimizer's plan (_plan.pyx) adds its states to it, so
that a gradient that overlaps a parameter or a state is found.
"""
import numpy as _np

from . import _checks

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Size
from cpython.list cimport PyList_GetItem, PyList_Size
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t
from libc.string cimport memcmp, memcpy

from ._core cimport acquire, check_dtype, check_like, drop_guard, dtype_of, take_guard
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_F32, PK_F64, PK_MAX_STATES, PyArray_CHKFLAGS,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArrayObject,
)

cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")


cdef class Held:
    """The buffers of some parameters.

    Parameters
    ----------
    keys : list or None
        How params and grads are indexed: dict keys, 0..n-1, or None for a single array.
    arrays : list of arrays
    given : object
        What the caller handed in. If it is a dict or a list, no entry may be replaced later.
    """

    def __cinit__(self, keys, list arrays, given):
        cdef Py_ssize_t i
        self.keys, self.arrays, self.labels = keys, arrays, []
        self.entries, self.mapping = arrays, isinstance(given, _checks.Mapping)
        self.count = len(arrays)
        self.slots = self.count * (2 + PK_MAX_STATES) + 1
        self.held = <Py_buffer *> PyMem_Calloc(self.slots, sizeof(Py_buffer))
        self.spans = <span *> PyMem_Calloc(self.slots, sizeof(span))
        if self.held == NULL or self.spans == NULL:
            raise MemoryError
        for i in range(self.count):
            self.hold(arrays[i], self.label("params", i))
            check_dtype(&self.held[i], self.labels[i], &self.held[0], self.labels[0])
        self.sort_spans()
        self.dtype = dtype_of(&self.held[0]) if self.count else PK_F64
        self.descr = <void *> <PyObject *> (_f32 if self.dtype == PK_F32 else _f64)
        if isinstance(given, (dict, list)):
            self.watched = given
            if not self.has_same_entries():  # a subclass that makes entries on access
                self.watched = None

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_held):
            PyBuffer_Release(&self.held[i])
        PyMem_Free(self.held)
        PyMem_Free(self.spans)

    cdef str label(self, str what, Py_ssize_t i):
        return what if self.keys is None else f"{what}[{self.keys[i]!r}]"

    cdef Py_ssize_t hold(self, array, str name) except -1:
        if self.n_held == self.slots:
            raise RuntimeError("more arrays than PK_MAX_STATES allows")
        acquire(array, &self.held[self.n_held], name, True, False)
        self.n_held += 1
        self.labels.append(name)
        return self.n_held - 1

    cdef int sort_spans(self) except -1:
        """Set `spans`; raise if two arrays overlap."""
        cdef Py_ssize_t i, k
        order = sorted([(<uintptr_t> self.held[i].buf, i) for i in range(self.n_held)
                        if self.held[i].len])
        for k, (_, i) in enumerate(order):
            self.spans[k].begin = <char *> self.held[i].buf
            self.spans[k].end = self.spans[k].begin + self.held[i].len
            self.spans[k].owner = i
            if k and self.spans[k].begin < self.spans[k - 1].end:
                first, second = sorted((self.spans[k - 1].owner, i))
                raise ValueError(f"{self.labels[second]}: expected an array of its own, "
                                 f"got one that overlaps {self.labels[first]}")
        self.n_spans = len(order)
        return 0

    cdef Py_ssize_t owner(self, const void *begin, Py_ssize_t length) noexcept:
        """The index of the array that contains any of these bytes, or -1."""
        cdef Py_ssize_t low = 0, high = self.n_spans, middle
        while low < high:  # find the first span that ends after `begin`
            middle = (low + high) // 2
            if self.spans[middle].end <= <const char *> begin:
                low = middle + 1
            else:
                high = middle
        if (length and low < self.n_spans
                and self.spans[low].begin < <const char *> begin + length):
            return self.spans[low].owner
        return -1

    cdef list in_order(self, grads):
        """The gradients as a list in the order of the parameters."""
        cdef list listed
        if self.keys is None:
            return [grads]
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

    cdef int lock(self, str what) except -1:
        """Take the parameters for `what`, until `unlock`; raise if another thread has them."""
        if not take_guard(&self.busy):
            raise RuntimeError(f"{what}: this optimizer is stepping in another thread already")
        return 0

    cdef void unlock(self) noexcept:
        drop_guard(&self.busy)

    cdef int enter(self, str what) except -1:
        """The same; raise if averages are in the place of the parameters, too."""
        self.lock(what)
        if self.averaging:
            self.unlock()
            raise RuntimeError(f"{what}: expected the parameters, got their averages, because this "
                               f"is within averaged()")
        return 0

    def begin(self, str what):
        """`enter`, for Python; until `end`. Raise if a parameter is not what it was at first."""
        cdef Py_ssize_t i
        self.enter(what)
        try:
            self.check_entries()
            for i in range(self.count):
                self.check_array(i, False)
        except BaseException:
            self.unlock()
            raise

    def end(self):
        self.unlock()

    cdef bint has_same_entries(self) except -1:
        """Whether the caller's dict or list still contains the same arrays."""
        cdef Py_ssize_t i
        if self.watched is None:
            return True
        if isinstance(self.watched, list):
            if PyList_Size(self.watched) != self.count:
                return False
            for i in range(self.count):
                if PyList_GetItem(self.watched, i) != <PyObject *> self.entries[i]:
                    return False
            return True
        if PyDict_Size(self.watched) != self.count:
            return False
        for i in range(self.count):
            if (PyDict_GetItemWithError(self.watched, self.keys[i])
                    != <PyObject *> self.entries[i]):
                return False
        return True

    cdef int check_entries(self) except -1:
        """Raise if an entry was replaced: the optimizer would go on changing the old array."""
        if not self.has_same_entries():
            self.entries = _checks.check_entries(self.watched, self.keys, self.entries)
        return 0

    cdef bint is_like(self, Py_ssize_t i, array, int flags) noexcept:
        """Whether `array` is an ndarray with the dtype and shape of parameter i and these flags."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
        cdef Py_buffer *model = &self.held[i]
        return (type(array) is _ndarray and PyArray_CHKFLAGS(a, flags)
                and PyArray_DESCR(a) == self.descr and PyArray_NDIM(a) == model.ndim
                and not (model.ndim and memcmp(PyArray_DIMS(a), model.shape,
                                               model.ndim * sizeof(Py_ssize_t))))

    cdef int check_array(self, Py_ssize_t i, bint writable) except -1:
        """Raise if parameter i was given another dtype or shape in place, or is not `writable`."""
        cdef Py_buffer view
        array = self.arrays[i]
        if (self.is_like(i, array, NPY_ARRAY_CARRAY_RO | writable * NPY_ARRAY_WRITEABLE)
                and PyArray_DATA(<PyArrayObject *> <PyObject *> array) == self.held[i].buf):
            return 0
        acquire(array, &view, self.labels[i], writable, False)
        try:
            check_like(&view, self.labels[i], &self.held[i], "it was at first")
            if view.buf != self.held[i].buf:
                raise ValueError(f"{self.labels[i]}: expected the memory that it had when the "
                                 f"optimizer was made, got other memory")
        finally:
            PyBuffer_Release(&view)
        return 0


cdef class Averaged:
    """``with averaged:`` the parameters have the values of `others`, and no step can be taken."""
    cdef Held held
    cdef list others, saved

    def __cinit__(self, Held held not None, list others):
        cdef Py_ssize_t i
        self.held, self.others = held, list(others)
        if len(self.others) != held.count:
            raise ValueError("averages: expected one for each parameter")
        for i, other in enumerate(self.others):
            if not held.is_like(i, other, NPY_ARRAY_CARRAY_RO):
                raise ValueError(f"averages: expected an array like {held.labels[i]}, "
                                 f"got {_checks.described(other)}")

    def __enter__(self):
        cdef Py_ssize_t i
        self.held.enter("averaged")
        try:
            self.held.check_entries()
            for i in range(self.held.count):
                self.held.check_array(i, True)
            self.saved = [_np.array(array) for array in self.held.arrays]
            self.held.averaging = True
            self.fill(self.others)
        finally:
            self.held.unlock()

    def __exit__(self, *error):
        if self.saved is not None:
            self.fill(self.saved)
            self.held.averaging, self.saved = False, None

    def __del__(self):
        self.__exit__()

    cdef int fill(self, list arrays) except -1:
        """Copy bytes into the parameters, even if they have been made read-only meanwhile."""
        cdef Py_ssize_t i
        for i in range(self.held.count):
            memcpy(self.held.held[i].buf, PyArray_DATA(<PyArrayObject *> <PyObject *> arrays[i]),
                   self.held.held[i].len)
        return 0
