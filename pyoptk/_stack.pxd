# What _rnn, _rnn_step and _products take from _stack.

from cpython.buffer cimport Py_buffer

from .capi cimport (
    pk_cell_id, pk_cell_kernels, pk_dropout_config, pk_math_kernels, pk_rnn_gradients,
    pk_rnn_layer, pk_rnn_shape, pk_rnn_weights, pk_sequence,
)

cdef pk_cell_id cell_of(layer) except *
cdef pk_sequence sequence_of(Py_buffer *view) noexcept
cdef bint is_adjacent(Py_buffer *view) noexcept
cdef int check_adjacent(Py_buffer *view, str name) except -1
cdef size_t elements_of(pk_rnn_shape *shape, size_t gates, bint bias) noexcept
cdef char *place_weights(pk_rnn_weights *w, pk_rnn_shape *shape, char *at, size_t gates, bint bias,
                         size_t itemsize) noexcept
cdef bint check_flat(array, Py_buffer *held, dtype, Py_ssize_t size, str name, int flags) except -1


cdef class Stack:
    cdef pk_rnn_layer *layers
    cdef pk_rnn_gradients *gradients
    cdef const pk_cell_kernels *kernels
    cdef const pk_math_kernels *math
    cdef size_t count, directions, T, B, I, H, itemsize, elements  # of all weights
    cdef list owned
    cdef object dtype
    cdef readonly size_t nbytes
    cdef bint bias, keeps
    cdef pk_sequence *outputs  # of each level, where the next cannot read `h`
    cdef pk_sequence between[2]  # the gradients between two levels, by turns
    cdef pk_sequence dropped  # the input of the level that is being computed, after dropout
    cdef pk_dropout_config config
    cdef bint drops  # in this forward, and so in the backward that follows

    cdef void place_weights(self, char *weights, char *grads) noexcept
    cdef int join_levels(self, bint forward_only) except -1
    cdef void *get(self, elements) except NULL
    cdef pk_sequence new_between(self) except *
    cdef int share_scratch(self) except -1
    cdef pk_sequence of_direction(self, pk_sequence s, size_t i) noexcept
    cdef pk_sequence output_below(self, size_t i) noexcept nogil
    cdef void drop(self, size_t level, pk_sequence x, pk_sequence y) noexcept nogil
    cdef void *of_layer(self, const void *state, size_t i) noexcept
    cdef void place_forward(self, pk_sequence x, pk_sequence y, void **first, void **last, lengths,
                            bint repeat_last) noexcept
    cdef void place_backward(self, pk_sequence dy, pk_sequence dx, void **last, void **first,
                             bint accumulate) noexcept
    cdef void run_backward(self) noexcept nogil
