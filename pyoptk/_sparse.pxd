# What _plan cimports from _sparse.

from cpython.buffer cimport Py_buffer

from .capi cimport pk_optim_kernels, pk_rows, pk_tensor


cdef class SparseRows:
    cdef readonly object indices, values
    cdef readonly tuple shape
    cdef Py_buffer held  # the indices, as immutable bytes
    cdef pk_rows rows    # all but the values, which are taken at each step

    cdef int check_values(self, tuple rows) except -1


cdef class _Touched:
    """A step's tensors: one for each touched row, and those with dense gradients as they are."""
    cdef pk_tensor *tensors
    cdef size_t count, tensors_size, scratch_size
    cdef void *scratch

    cdef int list_rows(self, const pk_optim_kernels *kernels, const pk_tensor *whole,
                       list grads) except -1


cdef int check_rows_like(Py_buffer *values, str name, SparseRows grad, Py_buffer *param,
                         str param_name) except -1
cdef void *room_for(void **block, size_t *size, size_t wanted) except NULL
