# What _rnn_step and _products take from _rnn.

from cpython.buffer cimport Py_buffer

from .capi cimport pk_lstm_weights, pk_rnn_shape, pk_sequence

cdef pk_sequence sequence_of(Py_buffer *view) noexcept
cdef bint is_adjacent(Py_buffer *view) noexcept
cdef int check_adjacent(Py_buffer *view, str name) except -1
cdef char *place_weights(pk_lstm_weights *w, pk_rnn_shape *shape, char *at, bint bias,
                         size_t itemsize) noexcept
