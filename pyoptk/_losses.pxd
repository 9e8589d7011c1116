# What _dense cimports from _losses.

from ._arrays cimport Buffers

cdef void *needed(Buffers arrays, str name, array, bint writable, Py_ssize_t n,
                  Py_ssize_t columns=*) except? NULL
cdef double at_least_zero(str name, value) except? -1
cpdef object rows_of(str name, x, dtype, Py_ssize_t columns)
