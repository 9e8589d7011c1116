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
from libc.stdint cimport uint16_t
from libc.string cimport memcmp, memcpy, memset

from ._arrays cimport (
    Buffers, acquire, acquire_narrow, check_like, dtype_of, lend, shape_of, size_of,
)
from ._core cimport _Lock, optim_table
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_BF16, PK_F16, PK_F32, PK_MAX_STATES, PK_NATIVE,
    PyArray_CHKFLAGS, PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArray_STRIDES,
    PyArrayObject, pk_tensor,
)

cdef object _geterrobj = getattr(_np, "geterrobj", None), _seterr = _np.seterr  # NumPy 1 has them
cdef object _seterrobj = getattr(_np, "seterrobj", None)
cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")
cdef str _ALL = "float32, float64, float16 or bfloat16"


# ---- NumPy's warnings ---------------------------------------------------------------------------

def quietly(function, *arguments):
    """Return function(*arguments), without NumPy's warnings and floating-point errors.

    Always restores the caller's error state; `numpy.errstate` does not if a signal arrives late.
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


cdef void *data_of(array) noexcept:
    return PyArray_DATA(<PyArrayObject *> <PyObject *> array)


# ---- numbers of 16 bits -------------------------------------------------------------------------

NARROW = {"float16": <int> PK_F16, "bfloat16": <int> PK_BF16}  # name in NumPy, storage in C


def wide(array, kind, low=None):
    """An array of 16 bits as float32; `low`: the lower halves, which are added."""
    cdef pk_tensor tensor
    found = _np.empty(array.shape, _f32)
    array = _np.array(array, order="C")
    memset(&tensor, 0, sizeof(tensor))
    tensor.param, tensor.n = data_of(array), array.size
    tensor.stored.param = kind
    if low is not None:
        tensor.low = <uint16_t *> data_of(low)
    optim_table(PK_F32).read_param(&tensor, <float *> data_of(found))
    return found


# ---- parameters ---------------------------------------------------------------------------------

cdef class Held(Buffers):
    """The buffers of some parameters.

    Parameters
    ----------
    keys : list or None
        How params and grads are indexed: dict keys, 0..n-1, or None for a single array.
    arrays : list of arrays
    given : object
        The caller's argument. If it is a dict or a list, no entry may be replaced later.
    tree : dict, list or None
        Its structure, if it is nested; see `_checks.gathered`.
    narrow : dict
        The 16-bit dtypes that arrays may have besides float32: {name: storage in C}.
    """

    def __cinit__(self, keys, list arrays, given, tree, dict narrow not None):
        cdef Py_ssize_t i
        self.keys, self.arrays = keys, arrays
        self.entries, self.mapping = arrays, isinstance(given, _checks.Mapping)
        self.tree = tree
        self.count = len(arrays)
        self.reserve(self.count * (3 + 2 * PK_MAX_STATES))
        self.narrow, self.seen = narrow, {_f32: PK_NATIVE, _f64: PK_NATIVE}
        self.kinds = [self.kind_of(array) for array in arrays]
        self.itemsize = 4 if any(self.kinds) else 0
        for i in range(self.count):
            if narrow and not self.kinds[i] and getattr(arrays[i], "dtype", None) == "uint16":
                raise TypeError(f"{self.label('params', i)}: expected {_ALL}, got "
                                f"{_checks.described(arrays[i])}; dtype='bfloat16' takes it as "
                                f"bfloat16")
            self.hold(arrays[i], self.label("params", i), None, self.kinds[i],
                      _ALL if narrow else "float32 or float64")
        self.check_apart()
        self.dtype = PK_F32 if self.itemsize else dtype_of(self.held)
        self.takes = ("float64" if self.dtype != PK_F32 else
                      "float32, float16 or bfloat16" if narrow else "float32")
        self.descr = <void *> <PyObject *> (_f32 if self.dtype == PK_F32 else _f64)
        self.descrs = [array.dtype if kind else None for array, kind in zip(arrays, self.kinds)]
        if self.mapping or isinstance(given, list) or tree is not None:
            self.watched = given
            try:
                if not self.has_same_entries():
                    self.watched = None  # a mapping that makes entries on access
            except TypeError:  # an iterator, or another object that can be read only once
                self.watched = None

    cdef str label(self, str what, Py_ssize_t i):
        return what if self.keys is None else f"{what}[{self.keys[i]!r}]"

    cdef int kind_of(self, array):
        """The storage of an array in C; PK_NATIVE for what is not narrow.

        The name of a dtype is a function in Python, where an exception may arrive: called once.
        """
        if not isinstance(array, _ndarray):
            return PK_NATIVE
        kind = self.seen.get(array.dtype)
        if kind is None:
            kind = self.seen[array.dtype] = self.narrow.get(array.dtype.name, PK_NATIVE)
        return kind

    def wide(self, array):
        """A parameter or a gradient, converted to float32 if it has 16 bits."""
        cdef int kind = self.kind_of(array)
        return wide(array, kind) if kind else array

    cdef Py_buffer *hold(self, array, str name, scale=None, bint narrow=False,
                         str kinds="float32 or float64") except NULL:
        """Acquire an array that a step writes, and the scales of its blocks if there are any."""
        if scale is not None:
            self.hold(scale, f"{name}_scale")
        if narrow:
            acquire_narrow(array, self.next(), name, array.shape, name, "a step")
        else:
            acquire(array, self.next(), name, True, False, kinds)
        return self.add(name, True)

    cdef int add_master(self, Py_ssize_t i, pk_tensor *tensor, str master, dict states) except -1:
        """Let the tensor of a narrow parameter be stepped as `master` says.

        "float32": a copy is stepped, and the parameter is written from it; "remainder": the lower
        halves are a state; "stochastic": the parameter is rounded by chance.
        """
        cdef void *memory
        if master == "float32":
            memory = self.hold(states["master"][i], self.label("master", i)).buf
            optim_table(PK_F32).read_param(tensor, <float *> memory)
            tensor.copy, tensor.stored.copy = tensor.param, tensor.stored.param
            tensor.param, tensor.stored.param = memory, PK_NATIVE
        elif master == "remainder":
            tensor.low = <uint16_t *> self.hold(
                states["remainder"][i], self.label("remainder", i), None, True).buf
        else:
            tensor.stored.by_chance = 1
        return 0

    cdef void begin_average(self, pk_tensor *t) noexcept:
        """Set the moving average of a parameter to the value of the parameter."""
        if t.stored.param:
            optim_table(PK_F32).read_param(t, <float *> t.ema)
        else:
            memcpy(t.ema, t.param, t.n * (4 if self.dtype == PK_F32 else 8))

    cdef int lend_like(self, Py_ssize_t i, array, int flags, Py_buffer *view) noexcept:
        """Fast path for a gradient of parameter i; returns its storage, or -1 if unsuitable."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
        cdef int kind = PK_NATIVE
        cdef Py_ssize_t n = size_of(&self.held[i])
        if not self.is_like(i, array, flags, self.descr):
            kind = self.kinds[i]
            if not kind or not self.is_like(i, array, flags, <void *> self.descrs[i]):
                return -1
        memcpy(view, &self.held[i], sizeof(Py_buffer))
        lend(view, array)
        view.buf, view.strides = PyArray_DATA(a), PyArray_STRIDES(a)
        view.itemsize = 2 if kind else 4 if self.dtype == PK_F32 else 8
        view.len = n * view.itemsize
        return kind

    cdef int take_narrow(self, Py_ssize_t i, grad, Py_buffer *view, str name,
                         bint zeroed) except -1:
        """Take a gradient of 16 bits, copied if it is not contiguous; returns its storage.

        PK_NATIVE: it does not have 16 bits, and nothing was taken.
        """
        cdef int kind = self.kind_of(grad) if self.dtype == PK_F32 else PK_NATIVE
        if kind:
            acquire_narrow(grad, view, name, shape_of(&self.held[i]), <str> self.names[i],
                           "zero_grad" if zeroed else None)
        return kind

    cpdef list in_order(self, grads):
        """The gradients as a list in the order of the parameters."""
        cdef list listed
        if self.keys is None:
            return [grads]
        if self.tree is not None:
            return _checks.gathered(self.tree, grads, "grads")
        if not self.mapping and isinstance(grads, (list, tuple)):
            listed = list(grads)  # whose length is right, even if len() of a subclass is not
            if len(listed) == self.count:
                return listed
        elif self.mapping and isinstance(grads, dict) and len(grads) == self.count:
            try:
                return [grads[key] for key in self.keys]
            except KeyError:
                pass
        return _checks.in_order(self.keys, self.mapping, grads)

    cdef _Lock lock(self, str what, bint within_averaged=False):
        """Lock the parameters and the state; raise if another thread has locked them."""
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError(f"{what}: this optimizer is stepping in another thread already")
        if self.averaging and not within_averaged:
            raise RuntimeError(f"{what}: expected the parameters, got their averages, because this "
                               f"is within averaged()")
        return lock

    def locked(self, str what, bint known=False, bint within_averaged=False):
        """`lock` for Python, a context manager; `look`s unless nobody else has the arrays."""
        cdef _Lock lock = self.lock(what, within_averaged)
        known or self.look()
        return lock

    def look(self, bytes given=None):
        """Raise if a parameter was replaced or resized, or, if its byte is 1, is read-only."""
        cdef Py_ssize_t i
        self.check_entries()
        for i in range(self.count):
            self.check_array(i, given is not None and given[i])

    cdef entries_now(self):
        """The caller's dict or list; if it is nested, a flat dict of its arrays."""
        if self.tree is None:
            if isinstance(self.watched, (dict, list)):
                return self.watched
            return dict(self.watched)  # a copy of another mapping
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

    cdef bint is_like(self, Py_ssize_t i, array, int flags, void *descr) noexcept:
        """Whether `array` is an ndarray of this dtype, of the shape of parameter i, with flags."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
        cdef Py_buffer *model = &self.held[i]
        return (type(array) is _ndarray and PyArray_CHKFLAGS(a, flags)
                and (PyArray_DESCR(a) == descr
                     or <object> PyArray_DESCR(a) == <object> descr)  # an equal copy, unpickled
                and PyArray_NDIM(a) == model.ndim
                and not (model.ndim and memcmp(PyArray_DIMS(a), model.shape,
                                               model.ndim * sizeof(Py_ssize_t))))

    def addresses(self, list arrays not None, to, bint writable=False):
        """Write to `to` (intp) the addresses of arrays like the parameters, C-contiguous and, if
        asked for, writable; 0 for others. Returns whether all are."""
        cdef Py_ssize_t *found = <Py_ssize_t *> data_of(to)
        cdef Py_ssize_t i
        cdef bint all_are = len(arrays) == self.count
        for i in range(self.count if all_are else 0):
            found[i] = 0
            if self.is_like(i, arrays[i], NPY_ARRAY_CARRAY_RO | writable * NPY_ARRAY_WRITEABLE,
                            self.descr):
                found[i] = <Py_ssize_t> data_of(arrays[i])
            else:
                all_are = False
        return all_are

    cdef int check_array(self, Py_ssize_t i, bint writable) except -1:
        """Raise if parameter i was given another dtype or shape in place, or is not `writable`."""
        cdef Py_buffer view
        cdef void *descr = <void *> self.descrs[i] if self.kinds[i] else self.descr
        array = self.arrays[i]
        if (self.is_like(i, array, NPY_ARRAY_CARRAY_RO | writable * NPY_ARRAY_WRITEABLE, descr)
                and data_of(array) == self.held[i].buf):
            return 0
        if self.kinds[i]:
            if self.kind_of(array) != self.kinds[i]:
                raise TypeError(f"{self.names[i]}: expected {self.descrs[i].name} as it was at "
                                f"first, got {_checks.described(array)}")
            acquire_narrow(array, &view, self.names[i], array.shape, "",
                           "a step" if writable else None)
        else:
            acquire(array, &view, self.names[i], writable, False)
        try:
            check_like(&view, self.names[i], &self.held[i], "it was at first")
            if view.buf != self.held[i].buf:
                raise ValueError(f"{self.names[i]}: expected the memory that it had when the "
                                 f"optimizer was made, got other memory")
        finally:
            PyBuffer_Release(&view)
        return 0


cdef class Averaged:
    """Context manager: within it the parameters have the values of `others`, and no step runs.

    `whole`: of whose parameters they are parts; all of these are restored.
    """
    cdef Held held, whole
    cdef Buffers averages
    cdef list saved

    def __cinit__(self, Held held not None, list others, Held whole=None):
        self.held, self.whole = held, held if whole is None else whole
        if len(others) != held.count:
            raise ValueError("averages: expected one for each parameter")
        self.averages = self.taken(others)

    cdef Buffers taken(self, list arrays):
        cdef Buffers taken = Buffers()
        cdef Py_buffer model
        taken.reserve(self.held.count)
        for i in range(self.held.count):
            model = self.held.held[i]
            model.itemsize = model.itemsize if model.itemsize > 2 else 4
            check_like(taken.take("averages", arrays[i], False), "averages", &model,
                       self.held.names[i])
        return taken

    def __enter__(self):
        _lock = self.held.lock("averaged")
        self.whole.check_entries()
        for i in range(self.whole.count):
            self.whole.check_array(i, True)
        self.saved = [_np.array(array) for array in self.whole.arrays]
        self.held.averaging = self.whole.averaging = True
        self.fill(self.averages)

    def __exit__(self, *error):
        cdef Py_ssize_t i
        cdef Held whole = self.whole
        if self.saved is not None:
            for i in range(whole.count):
                memcpy(whole.held[i].buf, data_of(self.saved[i]), whole.held[i].len)
            self.held.averaging, whole.averaging, self.saved = False, False, None

    def __del__(self):
        self.__exit__()

    cdef int fill(self, Buffers values) except -1:
        """Copy values into the parameters, even if they have been made read-only meanwhile."""
        cdef Py_ssize_t i
        cdef pk_tensor tensor
        memset(&tensor, 0, sizeof(tensor))
        for i in range(self.held.count):
            tensor.param, tensor.n = self.held.held[i].buf, size_of(&self.held.held[i])
            tensor.stored.param = self.held.kinds[i]
            if tensor.stored.param:
                optim_table(PK_F32).write_param(&tensor, <float *> values.held[i].buf)
            else:
                memcpy(tensor.param, values.held[i].buf, self.held.held[i].len)
        return 0
