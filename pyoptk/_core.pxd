# What the other compiled modules take from _core: buffers, the kernel tables, threads.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uintptr_t

from .capi cimport (
    PK_F32, PK_F64, pk_cell_id, pk_cell_kernels, pk_dense_kernels, pk_dtype, pk_field, pk_math_kernels,
    pk_optim_kernels, pk_optimizer,
)

cdef const pk_optim_kernels *optim_table(pk_dtype dtype) noexcept nogil
cdef const pk_optimizer *optimizer_at(int which) noexcept nogil
cdef const pk_field *common_fields() noexcept nogil
cdef const pk_math_kernels *math_table(pk_dtype dtype) noexcept nogil
cdef const pk_dense_kernels *dense_table(pk_dtype dtype) noexcept nogil
cdef const pk_cell_kernels *cell_table(pk_cell_id cell, pk_dtype dtype) noexcept nogil
cdef int num_threads() noexcept nogil
cdef double clip_coefficient(double norm, double max_norm, double eps) noexcept nogil

cdef bint take_guard(int *guard) noexcept nogil
cdef void drop_guard(int *guard) noexcept nogil
cdef int acquire(object array, Py_buffer *view, str name, bint writable, bint strided) except -1
cdef object contiguous(array)
cdef tuple shape_of(Py_buffer *view)
cdef tuple strides_of(Py_buffer *view)
cdef str described_view(Py_buffer *view)
cdef int check_like(Py_buffer *view, str name, Py_buffer *model, str model_name) except -1
cdef int check_dtype(Py_buffer *view, str name, Py_buffer *model, str model_name) except -1
cdef int check_shape(Py_buffer *view, str name, tuple shape) except -1
cdef bint switch(str name, value) except -1
cdef int extent(Py_buffer *view, uintptr_t *begin, uintptr_t *end) noexcept
cdef bint overlap(Py_buffer *a, Py_buffer *b) except -1
cdef bint overlaps_itself(Py_buffer *view) noexcept


cdef inline pk_dtype dtype_of(Py_buffer *view) noexcept nogil:
    return PK_F32 if view.itemsize == 4 else PK_F64


cdef inline size_t size_of(Py_buffer *view) noexcept nogil:
    return view.len // view.itemsize


cdef enum: MOST_BUFFERS = 12  # Plan.backward of a layer takes 7


cdef class _Buffers:
    """The arrays of one call, released when it is over. All have the dtype of the first."""
    cdef Py_buffer held[MOST_BUFFERS]
    cdef bint written[MOST_BUFFERS]
    cdef int count
    cdef list names

    cdef int release(self, int count) except -1
    cdef Py_buffer *take(self, str name, array, bint writable, bint strided=*) except NULL
    cdef Py_buffer *add(self, str name, bint writable) except NULL
