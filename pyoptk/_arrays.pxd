# What other compiled modules cimport from _arrays.

from cpython.buffer cimport Py_buffer
from cpython.list cimport PyList_SetItem
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint64_t

from .capi cimport PK_F32, PK_F64, pk_dtype, pk_sequence

cdef extern from *:
    """
    /* Cython would first release the old content of the field, which may be garbage. */
    static inline void lend(Py_buffer *view, PyObject *array) { view->obj = Py_NewRef(array); }
    """
    void lend(Py_buffer *view, object array) noexcept

cdef bint borrow(array, Py_buffer *view, bint writable, bint strided) noexcept
cdef int acquire(array, Py_buffer *view, str name, bint writable, bint strided,
                 str kinds=*) except -1
cdef int acquire_narrow(array, Py_buffer *view, str name, tuple shape, str like,
                        str writer) except -1
cdef object contiguous(array)
cdef tuple shape_of(Py_buffer *view)
cdef str described_view(Py_buffer *view)
cdef int check_like(Py_buffer *view, str name, Py_buffer *model, str model_name,
                    bint only_read=*) except -1
cdef int check_shape(Py_buffer *view, str name, tuple shape) except -1
cdef bint is_adjacent(Py_buffer *view) noexcept
cdef int check_adjacent(Py_buffer *view, str name) except -1
cdef pk_sequence sequence_of(Py_buffer *view) noexcept
cdef bint switch(str name, value) except -1
cdef uint64_t uint64(str name, value) except? 0


cdef inline pk_dtype dtype_of(Py_buffer *view) noexcept nogil:
    return PK_F32 if view.itemsize == 4 else PK_F64


cdef inline size_t size_of(Py_buffer *view) noexcept nogil:
    return view.len // view.itemsize


cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Buffers.held


cdef enum: FEW = 8  # a backward pass takes 7


cdef inline bint few_sorted(span *spans, Py_ssize_t n) noexcept nogil:
    """Sort a few by address, without calls of a comparison; False, and nothing done, if many."""
    cdef Py_ssize_t i, k
    cdef span one
    for i in range(1, n if n <= FEW else 1):
        one, k = spans[i], i
        while k > 0 and spans[k - 1].begin > one.begin:
            spans[k] = spans[k - 1]
            k -= 1
        spans[k] = one
    return n <= FEW


cdef inline void put_name(list names, Py_ssize_t i, str name) noexcept:
    """names[i] = name, without a number of Python's, which the limited API would make."""
    Py_INCREF(name)
    PyList_SetItem(names, i, name)


cdef class Buffers:
    cdef Py_buffer few[FEW]      # memory of `held` and `spans`, if these are enough
    cdef span few_spans[FEW]
    cdef Py_buffer *held   # `readonly` is set here to whether the caller only reads it
    cdef span *spans       # the same, by address, once `check_apart` has been called
    cdef Py_ssize_t n_held, n_spans, room
    cdef Py_ssize_t itemsize  # 4 where there are arrays of 16 bits, too, else 0
    cdef list names
    cdef void *blocks      # of `scratch`, each with the address of the next

    cdef int reserve(self, Py_ssize_t room) except -1
    cdef void pop(self) noexcept
    cdef void release(self) noexcept
    cdef Py_buffer *next(self) except NULL
    cdef Py_buffer *add(self, str name, bint writable) except NULL
    cdef Py_buffer *take(self, str name, array, bint writable, bint strided=*) except NULL
    cdef Py_buffer *matrix(self, str name, array, bint writable,
                           Py_ssize_t least_columns=*) except NULL
    cdef void *like(self, str name, array, bint writable, Py_ssize_t n,
                    Py_ssize_t columns=*) except? NULL
    cdef int check_apart(self, str why=*) except -1
    cdef Py_ssize_t owner(self, const void *begin, Py_ssize_t length) noexcept
    cdef void *scratch(self, size_t size, bint zeroed=*) except NULL
