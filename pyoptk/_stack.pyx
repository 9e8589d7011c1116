"""A stack of recurrent layers as the structs of the C API, with the memory that they need.

`Plan` and `Stepper` (_rnn.pyx) derive from it. It also reads the arrays of a call for both.
"""
import numpy as _np

from ._checks import check_float_dtype, described

from cpython.buffer cimport Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from libc.string cimport memset

from ._arrays cimport Buffers, borrow, check_shape, is_adjacent, size_of
from ._core cimport aligned, bf16_products, cell_table, math_table, new_array, num_threads, room_of
from .capi cimport (
    PK_F32, PK_F64, PK_GRU, PK_GRU_BEFORE, PK_GRU_NORMED, PK_LSTM, PK_LSTM_COUPLED, PK_LSTM_NORMED,
    PK_RNN, PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING, PyArray_DATA, PyArrayObject,
    pk_dropout_config, pk_rnn_gradients, pk_rnn_layer, pk_rnn_partition, pk_rnn_shape, pk_rnn_sizes,
    pk_rnn_weights, pk_sequence,
)

_CELLS = {
    "lstm": PK_LSTM, "rnn": PK_RNN, "gru": PK_GRU, "gru_before": PK_GRU_BEFORE,
    "lstm_coupled": PK_LSTM_COUPLED, "lstm_normed": PK_LSTM_NORMED, "gru_normed": PK_GRU_NORMED,
}
_SAVES = {"full": PK_SAVE_FULL, "minimal": PK_SAVE_MINIMAL, "nothing": PK_SAVE_NOTHING}


def partition(str cell, dtype, size_t T, size_t B, size_t I, size_t H, size_t directions=1,
              nthreads=None):
    """How a call divides the work of each direction: (shares of rows, shares of units, threads)."""
    cdef pk_rnn_shape shape
    cdef int threads = num_threads() if nthreads is None else nthreads
    memset(&shape, 0, sizeof(shape))
    shape.T, shape.B, shape.I, shape.H = T, B, I, H
    kernels = cell_table(_CELLS[cell],
                         PK_F32 if check_float_dtype(dtype).itemsize == 4 else PK_F64)
    cdef pk_rnn_partition parts = kernels.partition(&shape, directions, threads)
    return parts.rows, parts.units, parts.nthreads


cdef char *place(pk_rnn_weights *w, char *at, size_t rows, size_t I, size_t R, bint bias,
                 size_t peepholes, size_t projection, size_t gains, size_t of_c) noexcept:
    """The parameters of a layer at `at`; returns where the next one begins. All sizes are
    in bytes; `of_c`: of a gain of c."""
    w.w_ih, at = at, at + rows * I
    w.w_hh, at = at, at + rows * R
    if bias:
        w.b_ih, w.b_hh, at = at, at + rows, at + 2 * rows
    if peepholes:
        w.peepholes, at = at, at + peepholes
    if projection:
        w.w_hr, at = at, at + projection
    if gains:
        w.gain_ih, w.gain_hh, at = at, at + gains, at + 2 * gains
    if of_c:
        w.gain_c, at = at, at + of_c
    if of_c and bias:
        w.b_c, at = at, at + of_c
    return at


cdef int take_flat(Buffers arrays, str name, str flat, array, dtype, size_t size, const void *at,
                   bint written) except -1:
    """Take flat weights; raise if their dtype or shape was changed in place since the layer made
    them. `at`: their address then, or NULL."""
    cdef Py_buffer *view = arrays.next()
    cdef Py_ssize_t itemsize = dtype.itemsize
    if borrow(array, view, written, False):
        if ((at == NULL or at == view.buf) and view.ndim == 1 and size_of(view) == size
                and view.itemsize == itemsize):
            arrays.add(name, written)
            return 0
        PyBuffer_Release(view)
    raise ValueError(f"{flat}: expected {dtype} ({size},) as it was made, got {described(array)} "
                     f"with strides {array.strides}"
                     f"{'' if array.flags.writeable else ', read-only'}")


cdef class Stack:
    """Layers for T steps of B sequences. A level is the directions of one layer, which run at once.

    Its flat weights hold weight_ih, weight_hh and, if there are biases, bias_ih and bias_hh of
    every direction of every level. A stack always uses the instruction set that was in use when it
    was made.
    """
    def __dealloc__(self):
        for at in self.owned or ():
            PyMem_Free(<void *> <uintptr_t> at)
        PyMem_Free(self.layers)
        PyMem_Free(self.gradients)
        PyMem_Free(self.outputs)

    def __cinit__(self, layer, size_t T=0, size_t B=0, str save="nothing", bint resettable=False):
        cdef uint8_t any_mask = 0
        cdef pk_rnn_sizes need
        cdef pk_rnn_layer *one
        cdef size_t i
        self.owned, self.keeps, self.dtype = [], save != "nothing", layer.dtype
        self.resettable, self.noisy = resettable, self.keeps and layer.is_noisy
        self.flat_params, self.flat_grads = layer.flat_params, layer.flat_grads
        self.I, self.H, self.directions = layer.input_size, layer.hidden_size, layer.directions
        self.R = layer.proj_size or self.H
        self.count = layer.num_layers * self.directions
        self.T, self.B, self.itemsize = T, B, self.dtype.itemsize
        self.cell, self.storage = _CELLS[layer.cell], PK_F32 if self.itemsize == 4 else PK_F64
        self.kernels, self.math = cell_table(self.cell, self.storage), math_table(self.storage)
        self.products = bf16_products() if layer.compute == "bfloat16" else NULL
        self.layers = <pk_rnn_layer *> PyMem_Calloc(self.count, sizeof(pk_rnn_layer))
        self.gradients = <pk_rnn_gradients *> PyMem_Calloc(self.count, sizeof(pk_rnn_gradients))
        self.outputs = <pk_sequence *> PyMem_Calloc(self.count, sizeof(pk_sequence))
        if self.layers == NULL or self.gradients == NULL or self.outputs == NULL:
            raise MemoryError
        for i in range(self.count):
            one = &self.layers[i]
            one.shape.T, one.shape.B, one.shape.H, one.shape.relu = T, B, self.H, layer.relu
            one.shape.cell_clip, one.shape.products = layer.cell_clip or 0, self.products
            one.shape.recurrent_dropout = layer.recurrent_dropout
            one.shape.drop_candidate = layer.recurrent_dropout_of == "candidate"
            one.shape.zoneout_c, one.shape.zoneout_h = layer.zoneout_rates
            one.shape.R = layer.proj_size
            one.shape.I = self.I if i < self.directions else self.R * self.directions
            one.shape.save, one.shape.reverse = _SAVES[save], i % self.directions
            one.shape.resets = &any_mask if resettable else NULL  # for `sizes`; a call sets its own
            need = self.kernels.sizes(&one.shape)
            one.h = self.get(need.h)
            one.c = self.get(need.c) if need.c else NULL
            one.gates = self.get(need.gates) if need.gates else NULL
        self.place_weights(layer.bias, layer.peepholes, layer.proj_size * self.H)
        self.share_scratch()
        self.join_levels(not self.keeps)
        if self.keeps and layer.dropout > 0 and self.count > self.directions:
            self.dropped = self.new_between()

    cdef int place_weights(self, bint bias, bint peepholes, size_t projection) except -1:
        """Set the pointers to the flat arrays."""
        cdef Buffers arrays = Buffers()
        cdef size_t i, rows = self.kernels.gates * self.H
        cdef size_t of_c = self.kernels.peepholes * self.H if peepholes else 0
        cdef size_t gains = rows if self.kernels.normed else 0
        cdef size_t gain_c = self.H if gains and self.kernels.states == 2 else 0
        cdef char *at
        cdef char *grads
        for i in range(self.count):
            self.elements += rows * (self.layers[i].shape.I + self.R + (2 if bias else 0))
            self.elements += of_c + projection + 2 * gains + gain_c * (2 if bias else 1)
        self.take_params(arrays)
        self.take_grads(arrays, self.keeps)
        at = self.weights = <char *> arrays.held[0].buf
        grads = self.grads = <char *> arrays.held[1].buf
        rows, of_c = rows * self.itemsize, of_c * self.itemsize
        projection, gains, gain_c = (projection * self.itemsize, gains * self.itemsize,
                                     gain_c * self.itemsize)
        for i in range(self.count):
            at = place(&self.layers[i].weights, at, rows, self.layers[i].shape.I, self.R, bias,
                       of_c, projection, gains, gain_c)
            grads = place(&self.gradients[i].grads, grads, rows, self.layers[i].shape.I, self.R,
                          bias, of_c, projection, gains, gain_c)
        return 0

    cdef int join_levels(self, bint forward_only) except -1:
        """Connect the output of each level with the input of the next, and their gradients."""
        cdef size_t level, levels = self.count // self.directions
        for level in range(levels - 1):
            if forward_only and level > 1:
                self.outputs[level] = self.outputs[level - 2]
            elif forward_only or self.directions > 1:
                self.outputs[level] = self.new_between()
        for level in range(0 if forward_only else min(levels - 1, 2)):
            self.between[level] = self.new_between()
        return 0

    cdef void *get(self, elements) except NULL:
        """New memory on a cache line, not initialized. `elements` is an int of any size."""
        size = elements * self.itemsize
        cdef void *raw = PyMem_Malloc(size + room_of(size)) if size < 2**62 else NULL
        if raw == NULL:
            raise MemoryError(f"no {size} bytes for T {self.T}, B {self.B}, I {self.I} and "
                              f"H {self.H}")
        self.owned.append(<uintptr_t> raw)
        self.nbytes += size
        return aligned(raw, size)

    cdef pk_sequence new_between(self) except *:
        cdef pk_sequence s
        s.b_stride = self.directions * self.R
        s.t_stride = self.B * s.b_stride
        s.data = self.get(<object> self.T * <object> s.t_stride)
        return s

    cdef int share_scratch(self) except -1:
        """Scratch memory for each direction of a level, because they run at the same time."""
        cdef size_t most = 0, i
        for i in range(self.count):
            most = max(most, self.kernels.sizes(&self.layers[i].shape).scratch)
        for i in range(self.count):
            if i < self.directions:
                self.layers[i].scratch = self.get(most // self.itemsize + 1)
            else:
                self.layers[i].scratch = self.layers[i % self.directions].scratch
        return 0

    # ---- the arrays of a call --------------------------------------------------------------------

    cdef int take_params(self, Buffers arrays) except -1:
        return take_flat(arrays, "the weights", "flat_params", self.flat_params, self.dtype,
                         self.elements, self.weights, False)

    cdef int take_grads(self, Buffers arrays, bint written) except -1:
        return take_flat(arrays, "grads", "flat_grads", self.flat_grads, self.dtype,
                         self.elements, self.grads, written)

    cdef Py_buffer *read(self, Buffers arrays, str name, array, tuple shape,
                         bint whole) except NULL:
        """Take an array of this shape, copied unless its last axis, or with `whole` all of it, is
        contiguous."""
        cdef Py_buffer *view = arrays.take(name, array, False, True)
        check_shape(view, name, shape)
        if not (PyBuffer_IsContiguous(view, c"C") if whole else is_adjacent(view)):
            arrays.pop()
            view = arrays.take(name, _np.ascontiguousarray(array), False)
        return view

    cdef int take_state(self, Buffers arrays, str name, given, size_t B, bint in_part,
                        void **at) except -1:
        """Take the arrays of a state; NULL for None, which one of two may be if `in_part`."""
        cdef size_t k
        at[0] = at[1] = NULL
        if given is None:
            return 0
        shape = self.count, B, self.R
        if self.kernels.states == 1:
            at[0] = self.read(arrays, name, given, shape, True).buf
            return 0
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise TypeError(f"{name}: expected a pair of arrays of shape {shape}, "
                            f"got {described(given)}")
        for k in range(2):
            if not (in_part and given[k] is None):
                at[k] = self.read(arrays, f"{name}[{k}]", given[k], shape, True).buf
            shape = self.count, B, self.H
        return 0

    cdef object new_state(self, size_t B, void **at):
        """A new array, or a pair if the cell has two states; sets `at` to their memory."""
        h = new_array((self.count, B, self.R), self.dtype)
        at[0], at[1] = PyArray_DATA(<PyArrayObject *> h), NULL
        if self.kernels.states == 1:
            return h
        c = new_array((self.count, B, self.H), self.dtype)
        at[1] = PyArray_DATA(<PyArrayObject *> c)
        return h, c

    # ---- the kernels' arguments ------------------------------------------------------------------

    cdef pk_sequence of_direction(self, pk_sequence s, size_t i) noexcept:
        """The features of layer i in a sequence with those of both directions side by side."""
        if s.data != NULL:
            s.data = <char *> s.data + i % self.directions * self.R * self.itemsize
        return s

    cdef pk_sequence output_below(self, size_t i) noexcept nogil:
        """The input of layer i > 0: the states of the layer below, if these are its output."""
        cdef pk_sequence s = self.outputs[i // self.directions - 1]
        cdef size_t P = self.kernels.padded(self.R)
        if s.data == NULL:
            s.t_stride, s.b_stride = self.B * P, P
            s.data = <char *> self.layers[i - self.directions].h + s.t_stride * self.itemsize
        return s

    cdef void drop(self, size_t level, pk_sequence x, pk_sequence y) noexcept nogil:
        """Dropout of the input of a level, or of its gradient; each level has its own stream."""
        cdef pk_dropout_config config = self.config
        config.stream += level
        self.math.dropout(self.T, self.B, self.directions * self.R, x, y, &config, num_threads())

    cdef void *of_layer(self, const void *state, size_t features, size_t i) noexcept:
        return NULL if state == NULL else <char *> state + i * self.B * features * self.itemsize

    cdef void place_forward(self, pk_sequence x, pk_sequence y, void **first, void **last,
                            lengths, bint repeat_last, resets, bint reset_to_initial) noexcept:
        cdef pk_rnn_layer *one
        cdef size_t i, top = self.count - self.directions, R = self.R, H = self.H
        cdef const int64_t *lengths_ = NULL
        cdef const uint8_t *resets_ = NULL
        if lengths is not None:
            lengths_ = <const int64_t *> PyArray_DATA(<PyArrayObject *> lengths)
        if resets is not None:
            resets_ = <const uint8_t *> PyArray_DATA(<PyArrayObject *> resets)
        for i in range(self.count):
            one = &self.layers[i]
            one.shape.lengths, one.shape.repeat_last = lengths_, repeat_last
            one.shape.resets, one.shape.reset_to_initial = resets_, reset_to_initial
            one.shape.seed, one.shape.stream = self.config.seed, self.stream + i
            one.x = x
            if i >= self.directions:
                one.x = self.dropped if self.drops else self.output_below(i)
            one.y = y if i >= top else self.outputs[i // self.directions]
            one.y = self.of_direction(one.y, i)
            one.h0, one.c0 = self.of_layer(first[0], R, i), self.of_layer(first[1], H, i)
            one.h_last, one.c_last = self.of_layer(last[0], R, i), self.of_layer(last[1], H, i)

    cdef void place_backward(self, pk_sequence dy, pk_sequence dx, void **last, void **first,
                             bint accumulate) noexcept:
        cdef pk_rnn_gradients *one
        cdef size_t i, level, top = self.count // self.directions - 1, R = self.R, H = self.H
        for i in range(self.count):
            one, level = &self.gradients[i], i // self.directions
            one.dy = self.of_direction(dy if level == top else self.between[level % 2], i)
            one.dx = dx if level == 0 else self.between[(level + 1) % 2]
            one.dh_last, one.dc_last = self.of_layer(last[0], R, i), self.of_layer(last[1], H, i)
            one.dh0, one.dc0 = self.of_layer(first[0], R, i), self.of_layer(first[1], H, i)
            one.accumulate = accumulate

    cdef void run_forward(self) noexcept nogil:
        cdef size_t level, at
        cdef int nthreads = num_threads()
        for level in range(self.count // self.directions):
            at = level * self.directions
            if self.drops and level > 0:
                self.drop(level, self.output_below(at), self.dropped)
            self.kernels.forward(&self.layers[at], self.directions, nthreads)

    cdef void run_backward(self) noexcept nogil:
        cdef size_t i, at, level, top = self.count // self.directions - 1
        cdef int nthreads = num_threads()
        for i in range(top + 1):
            level = top - i
            at = level * self.directions
            if self.drops and 0 < level < top:  # those of the top level are still in memory
                self.drop(level, self.output_below(at), self.dropped)
            self.kernels.backward(&self.layers[at], &self.gradients[at], self.directions, nthreads)
            if self.drops and level > 0:
                self.drop(level, self.gradients[at].dx, self.gradients[at].dx)
