# What other compiled modules cimport from _core: the functions of libpyoptk, memory, guards.

from .capi cimport (
    pk_cell_id, pk_cell_kernels, pk_dense_kernels, pk_dtype, pk_field, pk_math_kernels,
    pk_optim_kernels, pk_optimizer, pk_products,
)

cdef const pk_optim_kernels *(*optim_table)(pk_dtype) noexcept nogil
cdef const pk_math_kernels *(*math_table)(pk_dtype) noexcept nogil
cdef const pk_dense_kernels *(*dense_table)(pk_dtype) noexcept nogil
cdef const pk_cell_kernels *(*cell_table)(pk_cell_id, pk_dtype) noexcept nogil
cdef const pk_products *(*bf16_products)() noexcept nogil
cdef double (*clip_coefficient)(double norm, double max_norm, double eps) noexcept nogil
cdef int (*num_threads)() noexcept nogil
cdef void (*parallel)(void (*fn)(void *, size_t) noexcept nogil, void *, size_t, int) noexcept nogil
cdef const pk_optimizer **optimizers
cdef const pk_field *common_fields

cdef void *(*take_memory)(size_t size) noexcept nogil
cdef void (*give_memory)(void *memory) noexcept nogil
cdef size_t (*room_of)(size_t size) noexcept nogil
cdef void *(*aligned)(void *begin, size_t size) noexcept nogil
cpdef object new_array(tuple shape, dtype)
cpdef object new_like(like)
cdef object new_matrix(Py_ssize_t rows, Py_ssize_t columns, dtype)


cdef class _Lock:
    cdef int *guard

    cdef bint take(self, int *guard) noexcept
    cdef void drop(self) noexcept
