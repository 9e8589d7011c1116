"""Arrays as C reads them: their buffers, and the checks that need C. Others are in _checks.py.

Every compiled module that takes arrays calls this one. No arithmetic on elements happens in any of
them: they take arrays, check them, release the GIL and call a kernel.
"""
import sys as _sys

import numpy as _np

from ._checks import advice, check_narrow, check_switch, check_uint64, described

from cpython.buffer cimport (
    Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyBUF_FORMAT, PyBUF_STRIDES,
    PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memset

from ._core cimport give_memory, take_memory
from .capi cimport (
    NPY_ARRAY_ALIGNED, NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE,
    PyArray_CHKFLAGS, PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArray_STRIDES,
    PyArrayObject, pk_sequence,
)

cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")
cdef object _TooHard = getattr(_np, "exceptions", _np).TooHardError
cdef char NATIVE = c"<" if _sys.byteorder == "little" else c">"


# ---- one array ----------------------------------------------------------------------------------

cdef tuple shape_of(Py_buffer *view):
    return tuple([view.shape[i] for i in range(view.ndim)])


cdef tuple strides_of(Py_buffer *view):
    return tuple([view.strides[i] for i in range(view.ndim)])


cdef str dtype_name(Py_buffer *view):
    return f"float{8 * view.itemsize}" if view.itemsize > 2 else "numbers of 16 bits"


cdef str described_view(Py_buffer *view):
    """`described` for an acquired buffer."""
    return f"{dtype_name(view)} {shape_of(view)}"


cdef bint is_aligned(Py_buffer *view) noexcept:
    cdef int i
    cdef Py_ssize_t below = view.itemsize - 1  # a power of 2 less 1: no slow division
    for i in range(view.ndim):
        if view.strides[i] & below and view.shape[i] > 1:
            return False
    return (<Py_ssize_t> view.buf & below) == 0


cdef bint is_float(Py_buffer *view) noexcept:
    """Whether these are aligned float32 or float64 in native byte order, in any spelling."""
    cdef const char *code = view.format
    if code != NULL and code[0] in (c"=", c"@", NATIVE):
        code += 1
    return code != NULL and code[0] in (c"f", c"d") and code[1] == 0 and is_aligned(view)


cdef bint borrow(array, Py_buffer *view, bint writable, bint strided) noexcept:
    """Fast path of `acquire` for the duration of one call; False if the array is not suitable.

    The shape is NumPy's own memory, which a program may change after the call.
    """
    cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
    cdef int i, flags = NPY_ARRAY_ALIGNED if strided else NPY_ARRAY_CARRAY_RO
    if type(array) is not _ndarray or not PyArray_CHKFLAGS(
            a, flags | (NPY_ARRAY_WRITEABLE if writable else 0)):
        return False
    if PyArray_DESCR(a) == <void *> _f32:
        view.itemsize = 4
    elif PyArray_DESCR(a) == <void *> _f64:
        view.itemsize = 8
    else:
        return False
    view.buf, view.ndim = PyArray_DATA(a), PyArray_NDIM(a)
    view.shape, view.strides, view.suboffsets = PyArray_DIMS(a), PyArray_STRIDES(a), NULL
    if not is_aligned(view):  # stricter than what the processor needs
        return False
    view.len = view.itemsize
    for i in range(view.ndim):
        view.len *= view.shape[i]
    lend(view, array)
    return True


cdef int acquire(array, Py_buffer *view, str name, bint writable, bint strided,
                 str kinds="float32 or float64") except -1:
    """Take the buffer of a float32 or float64 array; release it with PyBuffer_Release.

    `strided`: any strides are accepted; else the array must be C-contiguous. `kinds`: what messages
    name, where others are taken or not taken elsewhere.
    """
    try:
        PyObject_GetBuffer(array, view, PyBUF_FORMAT | PyBUF_STRIDES)
    except (TypeError, ValueError, BufferError):
        raise TypeError(f"{name}: expected a {kinds} array, "
                        f"got {described(array)}{advice(array)}") from None
    if view.strides == NULL and view.ndim:  # arrays of ctypes have none, even if asked for
        PyBuffer_Release(view)
        return acquire(_np.asarray(array), view, name, writable, strided, kinds)
    try:
        if type(array) is not _ndarray and isinstance(array, _np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a plain array, got a masked one, whose mask would "
                            f"have no effect")
        if not is_float(view):
            raise TypeError(f"{name}: expected {kinds} in native byte order, aligned, "
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


cdef int acquire_narrow(array, Py_buffer *view, str name, tuple shape, str like,
                        str writer) except -1:
    """The same of 16-bit numbers, as integers: NumPy's buffers have no bfloat16.

    `writer` names what writes the array; None: it is only read, may have any strides, and is
    copied if it is not C-contiguous.
    """
    check_narrow(array, name, shape, like, writer)
    array = array if writer else _np.require(array, requirements="CA")
    PyObject_GetBuffer(array.view("u2"), view, PyBUF_STRIDES)
    return 0


cdef str remedy(str name, Py_buffer *model):
    """What an array of the other dtype needs, if it is only read; NumPy's results are float64."""
    return f"; {name}.astype(numpy.{dtype_name(model)}) has that dtype"


cdef int check_like(Py_buffer *view, str name, Py_buffer *model, str model_name,
                    bint only_read=False) except -1:
    """Raise unless `view` has the dtype and the shape of `model`."""
    cdef bint same = view.ndim == model.ndim
    cdef int i
    for i in range(view.ndim if same else 0):
        same &= view.shape[i] == model.shape[i]
    if same and view.itemsize == model.itemsize:
        return 0
    if view.itemsize == model.itemsize:
        raise ValueError(f"{name}: expected {described_view(model)} like {model_name}, "
                         f"got {described_view(view)}")
    raise TypeError(f"{name}: expected {described_view(model)} like {model_name}, "
                    f"got {described_view(view)}{remedy(name, model) if only_read else ''}")


cdef int check_shape(Py_buffer *view, str name, tuple shape) except -1:
    cdef bint fits = view.ndim == len(shape)
    cdef int i
    for i in range(view.ndim if fits else 0):
        fits &= view.shape[i] == <Py_ssize_t> shape[i]
    if not fits:
        raise ValueError(f"{name}: expected shape {shape}, got {shape_of(view)}")
    return 0


cdef bint is_adjacent(Py_buffer *view) noexcept:
    cdef int last = view.ndim - 1
    return view.len == 0 or view.shape[last] <= 1 or view.strides[last] == view.itemsize


cdef int check_adjacent(Py_buffer *view, str name) except -1:
    if not is_adjacent(view):
        raise ValueError(f"{name}: expected the last axis to be adjacent in memory, got strides "
                         f"{strides_of(view)}")
    return 0


cdef pk_sequence sequence_of(Py_buffer *view) noexcept:
    cdef pk_sequence s
    s.data = view.buf
    s.t_stride, s.b_stride = (view.strides[0] // view.itemsize,
                              view.strides[1] // view.itemsize)
    return s


cdef object contiguous(array):
    """The array itself, or a C-contiguous copy where it is strided and nothing else is wrong."""
    cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
    if (isinstance(array, _ndarray) and PyArray_CHKFLAGS(a, NPY_ARRAY_ALIGNED)
            and not PyArray_CHKFLAGS(a, NPY_ARRAY_CARRAY_RO)
            and not isinstance(array, _np.ma.MaskedArray)):
        return _np.ascontiguousarray(array)
    return array


cdef bint overlaps(Py_buffer *a, Py_buffer *b) except -1:
    """Whether two arrays, whose address ranges overlap, have an element in common.

    Interleaved arrays, such as columns of a matrix, may have none.
    """
    if PyBuffer_IsContiguous(a, c"A") and PyBuffer_IsContiguous(b, c"A"):
        return True
    try:
        return _np.shares_memory(_np.asarray(<object> a.obj), _np.asarray(<object> b.obj), 10000)
    except _TooHard:
        return True


cdef bint overlaps_itself(Py_buffer *view) noexcept:
    """Whether the stride of an axis is less than what axes of smaller strides span."""
    cdef bint used[64]  # PyBUF_MAX_NDIM
    cdef Py_ssize_t reach = view.itemsize
    cdef int i, axis
    if PyBuffer_IsContiguous(view, c"A"):
        return False
    memset(used, 0, sizeof(used))
    while view.len:
        axis = -1  # the one with the smallest stride of those left
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


cdef uint64_t uint64(str name, value) except? 0:
    return value if type(value) is int and 0 <= value < 2**63 else check_uint64(name, value)


# ---- several arrays -----------------------------------------------------------------------------

cdef int by_address(const void *a, const void *b) noexcept nogil:
    return ((<const span *> a).begin > (<const span *> b).begin) - (
        (<const span *> a).begin < (<const span *> b).begin)


cdef class Buffers:
    """The buffers of arrays of one dtype, released together with this object."""
    def __cinit__(self, *_):
        self.held, self.spans, self.room, self.names = self.few, self.few_spans, FEW, [None] * FEW

    def __dealloc__(self):
        cdef void *block
        self.release()
        if self.held != self.few:
            PyMem_Free(self.held)
        while self.blocks != NULL:
            block, self.blocks = self.blocks, (<void **> self.blocks)[0]
            give_memory(block)

    cdef int reserve(self, Py_ssize_t room) except -1:
        """Make room for so many arrays; call this before the first is taken."""
        if room > FEW:
            self.held = <Py_buffer *> PyMem_Calloc(room, sizeof(Py_buffer) + sizeof(span))
            if self.held == NULL:
                raise MemoryError
            self.spans = <span *> (self.held + room)
            self.room, self.names = room, [None] * room
        return 0

    cdef void pop(self) noexcept:
        self.n_held -= 1
        PyBuffer_Release(&self.held[self.n_held])

    cdef void release(self) noexcept:
        while self.n_held:
            self.pop()

    cdef Py_buffer *next(self) except NULL:
        """The memory for the next buffer, which `add` then counts."""
        if self.n_held == self.room:
            raise RuntimeError(f"more than {self.room} arrays in one call")
        return &self.held[self.n_held]

    cdef Py_buffer *add(self, str name, bint writable) except NULL:
        cdef Py_buffer *view = &self.held[self.n_held]
        put_name(self.names, self.n_held, name)
        self.n_held += 1
        view.readonly = not writable
        if view.itemsize != (self.itemsize or self.held.itemsize) and view.itemsize != 2:
            like = f"{dtype_name(self.held)} like {self.names[0]}"
            like = "float32 where others have 16 bits" if self.itemsize else like
            raise TypeError(f"{name}: expected {like}, got {dtype_name(view)}"
                            f"{'' if writable else remedy(name, self.held)}")
        if writable and overlaps_itself(view):
            raise ValueError(f"{name}: expected memory of its own for every element, got an array "
                             f"that overlaps itself, {shape_of(view)} with strides "
                             f"{strides_of(view)}")
        return view

    cdef Py_buffer *take(self, str name, array, bint writable, bint strided=False) except NULL:
        """Take an argument. `strided`: any strides are accepted."""
        cdef Py_buffer *view = self.next()
        if not borrow(array, view, writable, strided):
            acquire(array, view, name, writable, strided)
        return self.add(name, writable)

    cdef Py_buffer *matrix(self, str name, array, bint writable,
                           Py_ssize_t least_columns=0) except NULL:
        cdef Py_buffer *view = self.take(name, array, writable)
        if view.ndim != 2:
            raise ValueError(f"{name}: expected 2 axes, got shape {shape_of(view)}")
        if view.shape[1] < least_columns:
            raise ValueError(f"{name}: expected at least {least_columns} column, "
                             f"got shape {shape_of(view)}")
        return view

    cdef void *like(self, str name, array, bint writable, Py_ssize_t n,
                    Py_ssize_t columns=-1) except? NULL:
        """Take an array [n] or, if columns >= 0, [n, columns]; returns its data, NULL for None."""
        cdef Py_buffer *view
        cdef int axes = 1 if columns < 0 else 2
        if array is None:
            return NULL
        view = self.take(name, array, writable)
        if (view.ndim != axes or view.shape[0] != n
                or axes == 2 and view.shape[1] != columns):  # without making a tuple
            check_shape(view, name, tuple([n, columns][:axes]))
        return view.buf

    cdef int check_apart(self, str why="") except -1:
        """Raise if an array that is written shares an element with another; set `spans`."""
        cdef Py_ssize_t i, first, second, n = 0
        cdef int axis
        cdef Py_buffer *view
        for i in range(self.n_held):
            view = &self.held[i]
            if view.len:
                self.spans[n].owner = i
                self.spans[n].begin = <char *> view.buf
                self.spans[n].end = self.spans[n].begin + view.itemsize
                for axis in range(view.ndim):
                    if view.strides[axis] < 0:
                        self.spans[n].begin += (view.shape[axis] - 1) * view.strides[axis]
                    else:
                        self.spans[n].end += (view.shape[axis] - 1) * view.strides[axis]
                n += 1
        if not few_sorted(self.spans, n):
            qsort(self.spans, n, sizeof(span), by_address)
        self.n_spans = n
        for n in range(self.n_spans):
            for i in range(n + 1, self.n_spans):
                if self.spans[i].begin >= self.spans[n].end:
                    break
                first = min(self.spans[n].owner, self.spans[i].owner)
                second = max(self.spans[n].owner, self.spans[i].owner)
                if (not (self.held[first].readonly and self.held[second].readonly)
                        and overlaps(&self.held[first], &self.held[second])):
                    raise ValueError(f"{self.names[second]}: expected memory of its own{why}, got "
                                     f"an array that overlaps {self.names[first]}")
        return 0

    cdef Py_ssize_t owner(self, const void *begin, Py_ssize_t length) noexcept:
        """The index of the array in `spans` that contains any of these bytes, or -1."""
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

    cdef void *scratch(self, size_t size, bint zeroed=True) except NULL:
        """Memory that is freed with these arrays."""
        cdef size_t whole = size + 16
        cdef char *block = NULL
        if whole > size:  # a kernel says SIZE_MAX if it would be more
            block = <char *> take_memory(whole)
        if block == NULL:
            raise MemoryError(f"no {size} bytes of scratch memory")
        if zeroed:
            memset(block, 0, whole)
        (<void **> block)[0], self.blocks = self.blocks, block
        return block + 16
