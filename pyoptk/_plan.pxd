# What _wrap takes from _plan.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport int64_t

from ._held cimport Held
from ._optim cimport Row
from ._sparse cimport _Touched
from .capi cimport pk_common, pk_dtype, pk_tensor


cdef class Plan:
    cdef readonly Held held
    cdef Row row
    cdef char *configs     # one for each group, then room for as many that are new
    cdef size_t n_groups, config_size, count, scratch_size
    cdef pk_dtype dtype
    cdef double max_norm, norm
    cdef bint knows_norm, zero_grad
    cdef str on_nonfinite
    cdef pk_tensor *tensors
    cdef Py_buffer *taken  # the gradients of the step under way
    cdef void **known      # where gradients were when they were last seen not to overlap
    cdef void *scratch
    cdef _Touched touched  # the tensors of a step with SparseRows, in place of `tensors`
    cdef tuple names
    cdef list copies       # of gradients in 16 bits, until the step is done
    cdef readonly object settings
    cdef readonly dict states
    cdef public int64_t calls, skipped

    cdef tuple names_of(self, dict hyper)
    cdef pk_common *common(self, size_t group) noexcept
    cdef int add_states(self, list start) except -1
    cdef list checked(self, grads)
    cdef bint take_at_once(self, Py_ssize_t i, grad) noexcept
    cdef int take(self, Py_ssize_t i, grad) except -1
    cdef int take_narrow(self, Py_ssize_t i, grad, str name) except -1
    cdef int check_gradients_apart(self) except -1
    cdef int look_for_nonfinite(self, const pk_tensor *tensors, size_t count,
                                bint skips) except -1
    cdef bint run_step(self, list ordered, double factor, bint skips) except -1
