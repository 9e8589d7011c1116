# What _plan and _wrap take from _held.

from cpython.buffer cimport Py_buffer

from .capi cimport pk_dtype

cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Held.labels


cdef class Held:
    cdef readonly list keys        # None for a single array
    cdef list arrays, labels
    cdef list entries              # of `watched`: `arrays`, or views that came in their places
    cdef object watched            # the caller's dict or list, or None
    cdef bint mapping
    cdef Py_ssize_t count, n_held, n_spans, slots
    cdef pk_dtype dtype
    cdef void *descr               # NumPy's for it
    cdef Py_buffer *held           # the parameters, then what else a step writes
    cdef span *spans               # the same, by address
    cdef int busy                  # a guard: see take_guard
    cdef bint averaging

    cdef str label(self, str what, Py_ssize_t i)
    cdef Py_ssize_t hold(self, array, str name) except -1
    cdef int sort_spans(self) except -1
    cdef Py_ssize_t owner(self, const void *begin, Py_ssize_t length) noexcept
    cdef list in_order(self, grads)
    cdef int lock(self, str what) except -1
    cdef void unlock(self) noexcept
    cdef int enter(self, str what) except -1
    cdef bint has_same_entries(self) except -1
    cdef int check_entries(self) except -1
    cdef bint is_like(self, Py_ssize_t i, array, int flags) noexcept
    cdef int check_array(self, Py_ssize_t i, bint writable) except -1
