# What other compiled modules cimport from _core: the functions of libpyoptk, guards, the step of a
# rank.

from .capi cimport (
    pk_cell_id, pk_cell_kernels, pk_dense_kernels, pk_dtype, pk_field, pk_math_kernels,
    pk_optim_kernels, pk_optimizer, pk_products, pk_tensor, pk_watched, pk_which,
)

cdef const pk_optim_kernels *(*optim_table)(pk_dtype) noexcept nogil
cdef const pk_math_kernels *(*math_table)(pk_dtype) noexcept nogil
cdef const pk_dense_kernels *(*dense_table)(pk_dtype) noexcept nogil
cdef const pk_cell_kernels *(*cell_table)(pk_cell_id, pk_dtype) noexcept nogil
cdef const pk_products *(*bf16_products)() noexcept nogil
cdef double (*clip_coefficient)(double norm, double max_norm, double eps) noexcept nogil
cdef int (*num_threads)() noexcept nogil
cdef const pk_optimizer **optimizers
cdef const pk_field *common_fields


cdef class _Lock:
    cdef int *guard

    cdef bint take(self, int *guard) noexcept
    cdef void drop(self) noexcept


ctypedef struct piece:
    Py_ssize_t array, begin, size, item, at


ctypedef struct sweep:  # what `Pieces` is given, and what a call does
    const piece *pieces
    const Py_ssize_t *ends
    const Py_ssize_t *merges
    const Py_ssize_t *processes
    const Py_ssize_t *places
    const Py_ssize_t *params
    const Py_ssize_t *writers
    const Py_ssize_t *targets
    Py_ssize_t n_parts, n_leaves, n_arrays, n_others, item, chunks, room_size
    char *rooms  # one for each chunk: a row for sums of a part, others for terms
    char *whole  # where sums come instead, or NULL
    bint adds, pushes, failed
    void (*add)(const void *, const void *, void *, size_t) noexcept nogil
    const pk_optim_kernels *kernels  # NULL: no step
    pk_which which
    pk_tensor *tensors
    const void *configs
    pk_watched *told
    void *watched
    int inner    # threads of the step of a part


cdef class Pieces:
    cdef sweep w
    cdef tuple kept
    cdef char *memory
    cdef Py_ssize_t n_rooms, elements

    cdef int run(self, pk_watched *told) except -1
    cdef int step(self, const pk_optim_kernels *kernels, pk_which which, pk_tensor *tensors,
                  const void *configs, pk_watched *told, void *watched) except -1
