# What _plan cimports from _pieces: the step of a rank.

from .capi cimport pk_optim_kernels, pk_tensor, pk_watched, pk_which


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
