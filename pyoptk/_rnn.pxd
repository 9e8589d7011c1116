# What _rnn_step and _products take from _rnn.

from cpython.buffer cimport Py_buffer

from .capi cimport pk_cell_id, pk_rnn_shape, pk_rnn_weights, pk_sequence

cdef pk_cell_id cell_of(layer) except *
cdef bint check_flat(array, void *data, dtype, Py_ssize_t size, str name, int flags) except -1
cdef size_t elements_of(pk_rnn_shape *shape, size_t gates, bint bias) noexcept
cdef char *place_weights(pk_rnn_weights *w, pk_rnn_shape *shape, char *at, size_t gates, bint bias,
                         size_t itemsize) noexcept
cdef pk_sequence sequence_of(Py_buffer *view) noexcept
cdef bint is_adjacent(Py_buffer *view) noexcept
cdef int check_adjacent(Py_buffer *view, str name) except -1
