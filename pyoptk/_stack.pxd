# What _rnn cimports from _stack.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t

from ._arrays cimport Buffers
from .capi cimport (
    pk_cell_id, pk_cell_kernels, pk_dropout_config, pk_dtype, pk_math_kernels, pk_products,
    pk_rnn_gradients, pk_rnn_layer, pk_sequence,
)


cdef class Stack:
    cdef pk_rnn_layer *layers
    cdef pk_rnn_gradients *gradients
    cdef const pk_cell_kernels *kernels
    cdef const pk_math_kernels *math
    cdef const pk_products *products  # NULL: the kernels'
    cdef pk_cell_id cell
    cdef pk_dtype storage
    cdef size_t count, directions, T, B, I, H, itemsize, elements  # of all weights
    cdef size_t R  # features of h: H, or those of a projection
    cdef list owned
    cdef object dtype, flat_params, flat_grads
    cdef char *weights
    cdef char *grads
    cdef readonly size_t nbytes
    cdef bint keeps
    cdef bint resettable  # whether there is memory for resets
    cdef pk_sequence *outputs  # of each level, where the next cannot read `h`
    cdef pk_sequence between[2]  # the gradients between two levels, by turns
    cdef pk_sequence dropped  # the input of the level that is being computed, after dropout
    cdef pk_dropout_config config
    cdef bint drops  # in this forward, and so in the backward that follows
    cdef bint noisy  # whether training draws random numbers within the layers
    cdef uint64_t stream  # of the first layer, for these, in this forward

    cdef void *get(self, elements) except NULL
    cdef pk_sequence new_between(self) except *
    cdef int join_levels(self, bint forward_only) except -1
    cdef int share_scratch(self) except -1
    cdef int place_weights(self, bint bias, bint peepholes, size_t projection) except -1
    cdef int take_params(self, Buffers arrays) except -1
    cdef int take_grads(self, Buffers arrays, bint written) except -1
    cdef Py_buffer *read(self, Buffers arrays, str name, array, tuple shape,
                         bint whole) except NULL
    cdef int take_state(self, Buffers arrays, str name, given, size_t B, bint in_part,
                        void **at) except -1
    cdef object new_state(self, size_t B, void **at)
    cdef pk_sequence of_direction(self, pk_sequence s, size_t i) noexcept
    cdef pk_sequence output_below(self, size_t i) noexcept nogil
    cdef void drop(self, size_t level, pk_sequence x, pk_sequence y) noexcept nogil
    cdef void *of_layer(self, const void *state, size_t features, size_t i) noexcept
    cdef void place_forward(self, pk_sequence x, pk_sequence y, void **first, void **last, lengths,
                            bint repeat_last, resets, bint reset_to_initial) noexcept
    cdef void place_backward(self, pk_sequence dy, pk_sequence dx, void **last, void **first,
                             bint accumulate) noexcept
    cdef void run_forward(self) noexcept nogil
    cdef void run_backward(self) noexcept nogil
