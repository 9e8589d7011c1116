# What _losses cimports from _dense.

from ._arrays cimport Buffers

cdef void *needed(Buffers arrays, str name, array, bint writable, Py_ssize_t n,
                  Py_ssize_t columns=*) except? NULL
cdef double at_least_zero(str name, value) except? -1
