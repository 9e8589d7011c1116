# What _plan cimports from _optim: the descriptions of the optimizers, and how they make a config.

from ._held cimport Held
from .capi cimport pk_dtype, pk_optim_kernels, pk_optimizer, pk_tensor, pk_which


cdef class Row:
    cdef const pk_optimizer *row
    cdef pk_which which
    cdef readonly str name
    cdef readonly tuple common_fields, fields, starts, states, rules
    cdef readonly bint cautious, sparse_rows, narrow_states
    cdef readonly dict fallbacks, needed_by

    cdef int configure(self, char *config, dict hyper, pk_dtype dtype) except -1
    cdef list start_of(self, dict start, pk_dtype dtype)


cdef class Watch:
    cdef object rows, parts
    cdef dict __dict__  # told: other threads may read it

    cdef int prepare(self, Held held, const pk_optim_kernels *kernels, const pk_tensor *tensors,
                     size_t count, double scale) except -1
    cdef void *memory(self) noexcept
    cdef void *scratch(self) noexcept


cdef Row row_named(str name)
cdef double at_least_zero(given, str name) except? -1
cdef double limit(dict hyper, str name) except? -1
cdef void *param_of(const pk_tensor *tensor) noexcept
cdef void set_narrow(pk_tensor *tensor, int slot, words, scale) noexcept
cdef int check_fits(str name, double value, pk_dtype dtype) except -1
