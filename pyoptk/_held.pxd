# What _plan cimports from _held.

from cpython.buffer cimport Py_buffer

from ._arrays cimport Buffers
from ._core cimport _Lock
from .capi cimport pk_dtype, pk_tensor


cdef void *data_of(array) noexcept


cdef class Held(Buffers):
    cdef readonly list keys        # None for a single array
    cdef list arrays
    cdef list entries              # of `watched`: `arrays`, or views that replaced them
    cdef object watched            # the caller's dict or list, or None
    cdef bint mapping
    cdef object tree               # the structure of nested parameters, or None
    cdef Py_ssize_t count          # of the parameters; other arrays that a step writes follow them
    cdef pk_dtype dtype
    cdef void *descr               # NumPy's for it
    cdef readonly dict narrow      # which dtypes of 16 bits there may be
    cdef dict seen                 # from dtype to storage in C
    cdef readonly list kinds
    cdef list descrs               # of the narrow ones
    cdef str takes                 # the dtypes of gradients
    cdef int busy                  # a guard: see _Lock
    cdef bint averaging

    cdef str label(self, str what, Py_ssize_t i)
    cdef int kind_of(self, array)
    cdef Py_buffer *hold(self, array, str name, scale=*, bint narrow=*, str kinds=*) except NULL
    cdef int add_master(self, Py_ssize_t i, pk_tensor *tensor, str master, dict states) except -1
    cdef void begin_average(self, pk_tensor *t) noexcept
    cdef int lend_like(self, Py_ssize_t i, array, int flags, Py_buffer *view) noexcept
    cdef int take_narrow(self, Py_ssize_t i, grad, Py_buffer *view, str name,
                         bint zeroed) except -1
    cpdef list in_order(self, grads)
    cdef _Lock lock(self, str what, bint within_averaged=*)
    cdef entries_now(self)
    cdef bint has_same_entries(self) except -1
    cdef int check_entries(self) except -1
    cdef bint is_like(self, Py_ssize_t i, array, int flags, void *descr) noexcept
    cdef int check_array(self, Py_ssize_t i, bint writable) except -1
