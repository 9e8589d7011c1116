"""LSTM layers: the memory of a batch of sequences, and calls of both passes.

`LSTM` (pyoptk/rnn/lstm.py) makes a plan for each T and B. A call takes its buffers, compares them
with what was settled when the plan was made, and makes its results: a short sequence takes less
time than a handful of checks in Python would.
"""
import numpy as _np

from ._checks import check_choice, check_lengths, described

from cpython.buffer cimport (
    Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyBUF_STRIDES, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from ._core cimport (
    _Buffers, check_shape, dtype_of, num_threads, rnn_table, shape_of, strides_of, switch,
)
from .capi cimport (
    PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING, pk_dropout_config, pk_lstm, pk_lstm_sizes,
    pk_lstm_weights, pk_rnn_kernels, pk_rnn_shape, pk_sequence,
)

cdef object _empty = _np.empty

_SAVES = {"full": PK_SAVE_FULL, "minimal": PK_SAVE_MINIMAL, "nothing": PK_SAVE_NOTHING}


cdef pk_sequence sequence_of(Py_buffer *view) noexcept:
    cdef pk_sequence s
    s.data = view.buf
    s.step, s.row = view.strides[0] // view.itemsize, view.strides[1] // view.itemsize
    return s


cdef bint is_adjacent(Py_buffer *view) noexcept:
    cdef int last = view.ndim - 1
    return view.shape[last] <= 1 or view.strides[last] == view.itemsize


cdef int check_adjacent(Py_buffer *view, str name) except -1:
    if not is_adjacent(view):
        raise ValueError(f"{name}: expected the last axis to be adjacent in memory, got strides "
                         f"{strides_of(view)}")
    return 0


cdef char *place_weights(pk_lstm_weights *w, pk_rnn_shape *shape, char *at, bint bias,
                         size_t itemsize) noexcept:
    """The parameters of a layer at `at`; returns where the next one begins."""
    cdef size_t rows = 4 * shape.H * itemsize
    w.w_ih, at = at, at + rows * shape.I
    w.w_hh, at = at, at + rows * shape.H
    if bias:
        w.b_ih, w.b_hh, at = at, at + rows, at + 2 * rows
    return at


cdef class LSTMPlan:
    """The memory of LSTM layers for T steps of B sequences, and both passes through them.

    `params` and `grads` are flat: weight_ih, weight_hh and, if there are biases, bias_ih and
    bias_hh of every direction of every layer. Weights are read anew in every call. A plan stays
    with the instruction set that was in use when it was made, and serves one thread at a time.
    With `dropout` it can drop what goes from one level of layers to the next.

    What an array must look like is settled here, once; a call takes buffers and compares.
    """
    cdef pk_lstm *layers
    cdef const pk_rnn_kernels *kernels
    cdef size_t count, directions, T, B, I, H, itemsize
    cdef list owned
    cdef object dtype, lengths
    cdef readonly size_t nbytes
    cdef readonly bint due  # whether there was a forward that backward can follow
    cdef bint batch_first, keeps
    cdef tuple of_x, of_y, of_state  # shapes, in the caller's order of axes
    cdef _Buffers held  # params and grads, so that they stay where they are; and those of a call
    cdef Py_buffer x  # if due
    cdef pk_sequence *outputs  # of each level of layers, where the next cannot read `h`
    cdef pk_sequence slopes[2]  # the gradients between two levels, by turns
    cdef pk_sequence dropped  # what is left for the level that is being worked on
    cdef pk_dropout_config config
    cdef bint drops  # in this forward, and so in the backward that follows

    def __dealloc__(self):
        for at in self.owned or ():
            PyMem_Free(<void *> <uintptr_t> at)
        PyMem_Free(self.layers)
        PyMem_Free(self.outputs)
        if self.due:
            PyBuffer_Release(&self.x)

    def __cinit__(self, params, grads, sizes, bint bias, bint batch_first, size_t T, size_t B,
                  str save, bint dropout=False):
        self.owned, self.held = [], _Buffers()
        cdef char *weights = <char *> self.held.take("the weights", params, False).buf
        cdef char *slopes = <char *> self.held.take("grads", grads, True).buf
        cdef pk_lstm_sizes need
        cdef pk_lstm *layer
        cdef size_t i, features
        self.dtype, self.batch_first, self.keeps = params.dtype, batch_first, save != "nothing"
        self.I, self.H, self.count, self.directions = sizes
        self.count *= self.directions
        self.T, self.B, self.itemsize = T, B, self.held.held[0].itemsize
        self.kernels = rnn_table(dtype_of(&self.held.held[0]))
        self.layers = <pk_lstm *> PyMem_Calloc(self.count, sizeof(pk_lstm))
        self.outputs = <pk_sequence *> PyMem_Calloc(self.count, sizeof(pk_sequence))
        if self.layers == NULL or self.outputs == NULL:
            raise MemoryError
        features = self.H * self.directions
        self.of_x = (B, T, self.I) if batch_first else (T, B, self.I)
        self.of_y = (*self.of_x[:2], features)
        self.of_state = (self.count, B, self.H)
        for i in range(self.count):
            layer = &self.layers[i]
            layer.shape.T, layer.shape.B, layer.shape.H = T, B, self.H
            layer.shape.I = self.I if i < self.directions else features
            layer.shape.save, layer.shape.reverse = _SAVES[save], i % self.directions
            weights = place_weights(&layer.weights, &layer.shape, weights, bias, self.itemsize)
            slopes = place_weights(&layer.grads, &layer.shape, slopes, bias, self.itemsize)
            need = self.kernels.lstm_sizes(&layer.shape)
            layer.h, layer.c = self.get(need.h), self.get(need.c)
            layer.gates = self.get(need.gates)
        self.share_scratch()
        self.join_levels(not self.keeps)
        if dropout and self.count > self.directions:
            self.dropped = self.between()

    cdef int join_levels(self, bint forward_only) except -1:
        """What goes from one level of layers to the next, and back."""
        cdef size_t level, levels = self.count // self.directions
        for level in range(levels - 1):
            if forward_only and level > 1:
                self.outputs[level] = self.outputs[level - 2]
            elif forward_only or self.directions > 1:
                self.outputs[level] = self.between()
        for level in range(0 if forward_only else min(levels - 1, 2)):
            self.slopes[level] = self.between()
        return 0

    cdef void *get(self, size_t elements) except NULL:
        """Memory of our own, on a cache line, uninitialized."""
        cdef size_t size = elements * self.itemsize + 64
        cdef void *raw = PyMem_Malloc(size)
        if raw == NULL:
            raise MemoryError
        self.owned.append(<uintptr_t> raw)
        self.nbytes += size
        return <char *> raw + (64 - <uintptr_t> raw % 64)

    cdef pk_sequence between(self) except *:
        cdef pk_sequence s
        s.row = self.directions * self.H
        s.step = self.B * s.row
        s.data = self.get(self.T * s.step)
        return s

    cdef int share_scratch(self) except -1:
        """Directions run at once and need scratch memory each; layers do not."""
        cdef size_t most = 0, i
        for i in range(self.count):
            most = max(most, self.kernels.lstm_sizes(&self.layers[i].shape).scratch)
        for i in range(self.count):
            if i < self.directions:
                self.layers[i].scratch = self.get(most // self.itemsize + 1)
            else:
                self.layers[i].scratch = self.layers[i % self.directions].scratch
        return 0

    cdef pk_sequence of_direction(self, pk_sequence s, size_t i) noexcept:
        """The features of layer i where those of all directions stand side by side."""
        if s.data != NULL:
            s.data = <char *> s.data + i % self.directions * self.H * self.itemsize
        return s

    cdef pk_sequence output_below(self, size_t i) noexcept nogil:
        """What layer i > 0 reads: the state of the layer below where that is its output."""
        cdef pk_sequence s = self.outputs[i // self.directions - 1]
        cdef size_t P = self.kernels.padded(self.H)
        if s.data == NULL:
            s.step, s.row = self.B * P, P
            s.data = <char *> self.layers[i - self.directions].h + s.step * self.itemsize
        return s

    cdef void drop(self, size_t level, pk_sequence x, pk_sequence y) noexcept nogil:
        """What a level reads, or the gradient of it: every level has a stream of its own."""
        cdef pk_dropout_config config = self.config
        config.stream += level
        self.kernels.dropout(self.T, self.B, self.directions * self.H, x, y, &config,
                             num_threads())

    cdef void *of_layer(self, const void *state, size_t i) noexcept:
        return NULL if state == NULL else <char *> state + i * self.B * self.H * self.itemsize

    def serves(self, x):
        """Whether `x` has the T and B of this plan, and the instruction set is still its own."""
        cdef Py_buffer view
        cdef bint fits
        try:
            PyObject_GetBuffer(x, &view, PyBUF_STRIDES)
        except (TypeError, ValueError, BufferError):
            return False
        fits = (view.ndim == 3 and <size_t> view.shape[self.batch_first] == self.T
                and <size_t> view.shape[not self.batch_first] == self.B
                and self.kernels == rnn_table(dtype_of(&self.held.held[0])))
        PyBuffer_Release(&view)
        return fits

    cdef pk_sequence sequence(self, Py_buffer *view) noexcept:
        """[T, B, features], whichever of the two the caller puts first."""
        cdef pk_sequence s = sequence_of(view)
        if self.batch_first:
            s.step, s.row = s.row, s.step
        return s

    cdef pk_sequence new(self, array) except *:
        """The same for an array that was made for this call: nobody else knows it."""
        cdef Py_buffer view
        PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
        cdef pk_sequence s = self.sequence(&view)
        PyBuffer_Release(&view)  # the caller of this keeps the array
        return s

    cdef Py_buffer *read(self, str name, array, tuple shape, bint whole) except NULL:
        """An array of this shape, or a copy of it: `whole`, or with the last axis adjacent."""
        cdef Py_buffer *view = self.held.take(name, array, False, True)
        check_shape(view, name, shape)
        if not (PyBuffer_IsContiguous(view, c"C") if whole else is_adjacent(view)):
            self.held.release(self.held.count - 1)
            view = self.held.take(name, _np.ascontiguousarray(array), False)
        return view

    cdef pk_sequence write(self, out, tuple shape) except *:
        cdef Py_buffer *view = self.held.take("out", out, True, True)
        check_shape(view, "out", shape)
        check_adjacent(view, "out")
        return self.sequence(view)

    cdef int state(self, str name, pair, void **h, void **c) except -1:
        """Where the two arrays [L * D, B, H] of a state are; NULL for None."""
        h[0] = c[0] = NULL
        if pair is None:
            return 0
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name}: expected a pair of arrays of shape {self.of_state}, "
                            f"got {described(pair)}")
        h[0] = self.read(f"{name}[0]", pair[0], self.of_state, True).buf
        c[0] = self.read(f"{name}[1]", pair[1], self.of_state, True).buf
        return 0

    def forward(self, x, state, lengths, past_end, out, dropout):
        """`y` and (h, c), new arrays or `out`, as LSTM.forward documents them.

        `dropout` is None or (p, seed, stream): level n of layers takes stream + n.
        """
        cdef pk_sequence x_, y_
        cdef void *first[2]
        cdef Py_buffer *view
        self.held.written[1] = False
        try:
            if past_end != "zeros":
                check_choice("past_end", past_end, ("zeros", "repeat"))
            view = self.read("x", x, self.of_x, False)
            x_ = self.sequence(view)
            if lengths is not None:
                lengths = check_lengths(lengths, self.B, self.T)
            self.state("state", state, &first[0], &first[1])
            y = _empty(self.of_y, self.dtype) if out is None else out
            y_ = self.new(y) if out is None else self.write(out, self.of_y)
            h, c = _empty(self.of_state, self.dtype), _empty(self.of_state, self.dtype)
            self.place_forward(x_, y_, first, self.new(h).data, self.new(c).data, lengths,
                               past_end == "repeat", dropout)
            if self.due:
                PyBuffer_Release(&self.x)
            self.due = self.keeps
            if self.due:
                self.x = view[0]
                memset(view, 0, sizeof(Py_buffer))  # handed over: nothing to release below
            with nogil:
                self.run_forward()
        finally:
            self.held.release(2)
        return y, (h, c)

    cdef int place_forward(self, pk_sequence x, pk_sequence y, void **first, void *h, void *c,
                           lengths, bint repeat_last, dropout) except -1:
        cdef pk_lstm *layer
        cdef size_t i, top = self.count - self.directions
        cdef const int64_t *lengths_ = NULL
        self.lengths = lengths
        if lengths is not None:
            lengths_ = <const int64_t *> <uintptr_t> lengths.ctypes.data
        self.drops = dropout is not None
        if self.drops:
            self.config.p, self.config.seed, self.config.stream = dropout
        for i in range(self.count):
            layer = &self.layers[i]
            layer.shape.lengths, layer.shape.repeat_last = lengths_, repeat_last
            layer.x = x
            if i >= self.directions:
                layer.x = self.dropped if self.drops else self.output_below(i)
            layer.y = y if i >= top else self.outputs[i // self.directions]
            layer.y = self.of_direction(layer.y, i)
            layer.h0, layer.c0 = self.of_layer(first[0], i), self.of_layer(first[1], i)
            layer.h_last, layer.c_last = self.of_layer(h, i), self.of_layer(c, i)
        return 0

    cdef void run_forward(self) noexcept nogil:
        cdef size_t i
        cdef int nthreads = num_threads()
        for i in range(self.count // self.directions):
            if i > 0 and self.drops:
                self.drop(i, self.output_below(i * self.directions), self.dropped)
            self.kernels.lstm_forward(&self.layers[i * self.directions], self.directions, nthreads)

    def backward(self, dy, dstate, accumulate, need_dx, out):
        """`dx` and (dh0, dc0) or None, as LSTM.backward documents them; changes the gradients.

        After `check_due`.
        """
        cdef pk_sequence dy_, dx_
        cdef void *last[2]
        cdef void *first[2]
        first[0] = first[1] = NULL
        memset(&dy_, 0, sizeof(dy_))
        memset(&dx_, 0, sizeof(dx_))
        self.held.written[1] = True
        try:
            self.held.held[2] = self.x
            self.held.add("x", False)
            if dy is not None:
                dy_ = self.sequence(self.read("dy", dy, self.of_y, False))
            dx = out
            if not switch("need_dx", need_dx):
                if out is not None:
                    raise ValueError("out: expected None without need_dx, got an array")
            elif out is None:
                dx = _empty(self.of_x, self.dtype)
                dx_ = self.new(dx)
            else:
                dx_ = self.write(out, self.of_x)
            self.state("dstate", dstate, &last[0], &last[1])
            dinitial = None
            if self.layers[0].h0 != NULL:  # forward was given a state
                dh, dc = _empty(self.of_state, self.dtype), _empty(self.of_state, self.dtype)
                first[0], first[1] = self.new(dh).data, self.new(dc).data
                dinitial = dh, dc
            self.place_backward(dy_, dx_, last, first, switch("accumulate", accumulate))
            self.due = False  # the gates are about to be overwritten
            with nogil:
                self.run_backward()
            PyBuffer_Release(&self.x)
        finally:
            memset(&self.held.held[2], 0, sizeof(Py_buffer))  # x was only lent
            self.held.release(2)
        return dx, dinitial

    cdef void place_backward(self, pk_sequence dy, pk_sequence dx, void **last,
                             void **first, bint accumulate) noexcept:
        cdef pk_lstm *layer
        cdef size_t i, level, top = self.count // self.directions - 1
        for i in range(self.count):
            layer, level = &self.layers[i], i // self.directions
            layer.dy = self.of_direction(dy if level == top else self.slopes[level % 2], i)
            layer.dx = dx if level == 0 else self.slopes[(level + 1) % 2]
            layer.dh_last, layer.dc_last = self.of_layer(last[0], i), self.of_layer(last[1], i)
            layer.dh0, layer.dc0 = self.of_layer(first[0], i), self.of_layer(first[1], i)
            layer.accumulate = accumulate

    cdef void run_backward(self) noexcept nogil:
        cdef pk_lstm *layer
        cdef size_t i, level, top = self.count // self.directions - 1
        cdef int nthreads = num_threads()
        for i in range(top + 1):
            level = top - i
            layer = &self.layers[level * self.directions]
            if self.drops and 0 < level < top:  # the top's are still there
                self.drop(level, self.output_below(level * self.directions), self.dropped)
            self.kernels.lstm_backward(layer, self.directions, nthreads)
            if self.drops and level > 0:
                self.drop(level, layer.dx, layer.dx)


def check_due(LSTMPlan plan):
    """The plan, if there was a forward that backward can follow."""
    if plan is None or not plan.due:
        raise RuntimeError("backward: expected a forward before it, got none since the last "
                           "backward")
    return plan


def steps_and_rows(x, size_t I, bint batch_first, model):
    """T and B of an input; raises unless it has the weights' dtype and I features."""
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *view
    arrays.take("the weights", model, False)
    view = arrays.take("x", x, False, True)
    if view.ndim != 3 or <size_t> view.shape[2] != I:
        raise ValueError(f"x: expected shape (any, any, {I}), got {shape_of(view)}")
    return view.shape[batch_first], view.shape[not batch_first]
