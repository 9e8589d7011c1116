# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: embedsignature=True, embedsignature.format=python, binding=True
# cython: autotestdict=False, auto_pickle=False
"""Recurrent layers: the memory of a batch of sequences, and calls of both passes.

A layer (pyoptk/rnn/layer.py) has `Passes`, which make a `Plan` for each T and B. A call takes its
buffers, compares them with what was settled when the plan was made, and makes its results: a short
sequence takes less time than a handful of checks in Python would.
"""
import numpy as _np

from ._checks import check_choice, check_float_dtype, check_lengths, check_switch, described

from cpython.buffer cimport (
    Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyBUF_STRIDES, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t, uintptr_t
from libc.string cimport memset

from ._core cimport (
    _Buffers, cell_table, check_shape, dtype_of, math_table, num_threads, shape_of, strides_of,
)
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_F32, PK_F64, PK_LSTM, PK_RNN, PK_SAVE_FULL,
    PK_SAVE_MINIMAL, PK_SAVE_NOTHING, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DESCR, PyArray_DIMS,
    PyArray_NDIM, PyArrayObject, pk_cell_id, pk_cell_kernels, pk_dropout_config, pk_math_kernels,
    pk_rnn_gradients, pk_rnn_layer, pk_rnn_partition, pk_rnn_shape, pk_rnn_sizes, pk_rnn_weights,
    pk_sequence,
)

cdef extern from *:  # of the compiler
    bint __atomic_test_and_set(void *flag, int order) nogil
    void __atomic_clear(void *flag, int order) nogil
    enum:
        __ATOMIC_ACQUIRE
        __ATOMIC_RELEASE

cdef object _empty = _np.empty

_CELLS = {"lstm": PK_LSTM, "rnn": PK_RNN}
_SAVES = {"full": PK_SAVE_FULL, "minimal": PK_SAVE_MINIMAL, "nothing": PK_SAVE_NOTHING}


# ---- sequences and weights, for the other modules, too -------------------------------------------

cdef pk_cell_id cell_of(layer) except *:
    return _CELLS[layer.cell]


cdef pk_sequence sequence_of(Py_buffer *view) noexcept:
    cdef pk_sequence s
    s.data = view.buf
    s.t_stride, s.b_stride = (view.strides[0] // view.itemsize,
                              view.strides[1] // view.itemsize)
    return s


cdef bint is_adjacent(Py_buffer *view) noexcept:
    cdef int last = view.ndim - 1
    return view.shape[last] <= 1 or view.strides[last] == view.itemsize


cdef int check_adjacent(Py_buffer *view, str name) except -1:
    if not is_adjacent(view):
        raise ValueError(f"{name}: expected the last axis to be adjacent in memory, got strides "
                         f"{strides_of(view)}")
    return 0


cdef size_t elements_of(pk_rnn_shape *shape, size_t gates, bint bias) noexcept:
    """Parameters of one direction of one layer."""
    return gates * shape.H * (shape.I + shape.H + (2 if bias else 0))


cdef char *place_weights(pk_rnn_weights *w, pk_rnn_shape *shape, char *at, size_t gates, bint bias,
                         size_t itemsize) noexcept:
    """The parameters of a layer at `at`; returns where the next one begins."""
    cdef size_t rows = gates * shape.H * itemsize
    w.w_ih, at = at, at + rows * shape.I
    w.w_hh, at = at, at + rows * shape.H
    if bias:
        w.b_ih, w.b_hh, at = at, at + rows, at + 2 * rows
    return at


cdef bint check_flat(array, void *data, dtype, Py_ssize_t size, str name, int flags) except -1:
    """Raise if somebody changed the dtype, the shape or the flags of flat weights in place."""
    cdef PyArrayObject *flat = <PyArrayObject *> array
    if (PyArray_DATA(flat) == data and PyArray_DESCR(flat) == <void *> dtype
            and PyArray_NDIM(flat) == 1 and PyArray_DIMS(flat)[0] == size
            and PyArray_CHKFLAGS(flat, flags)):
        return True
    raise ValueError(f"{name}: expected {dtype} ({size},) as it was made, got {described(array)} "
                     f"with strides {array.strides}"
                     f"{'' if array.flags.writeable else ', read-only'}")


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


# ---- a batch of sequences ------------------------------------------------------------------------

cdef class Plan:
    """The memory of a layer for T steps of B sequences, and both passes through it.

    Its flat weights hold weight_ih, weight_hh and, if there are biases, bias_ih and bias_hh of
    every direction of every level. They are read anew in every call. A plan stays with the
    instruction set that was in use when it was made, and serves one thread at a time.

    What an array must look like is settled here, once; a call takes buffers and compares.
    """
    cdef pk_rnn_layer *layers
    cdef pk_rnn_gradients *gradients
    cdef const pk_cell_kernels *kernels
    cdef const pk_math_kernels *math
    cdef size_t count, directions, T, B, I, H, itemsize, states
    cdef list owned
    cdef object dtype, lengths, flat_params, flat_grads
    cdef readonly size_t nbytes
    cdef readonly bint due  # whether there was a forward that backward can follow
    cdef bint batch_first, keeps
    cdef tuple of_x, of_y, of_state  # shapes, in the caller's order of axes
    cdef _Buffers held  # params and grads, so that they stay where they are; and those of a call
    cdef Py_buffer x  # if due
    cdef pk_sequence *outputs  # of each level, where the next cannot read `h`
    cdef pk_sequence between[2]  # the gradients between two levels, by turns
    cdef pk_sequence dropped  # the input of the level that is being computed, after dropout
    cdef pk_dropout_config config
    cdef bint drops  # in this forward, and so in the backward that follows

    def __dealloc__(self):
        for at in self.owned or ():
            PyMem_Free(<void *> <uintptr_t> at)
        PyMem_Free(self.layers)
        PyMem_Free(self.gradients)
        PyMem_Free(self.outputs)
        if self.due:
            PyBuffer_Release(&self.x)

    def __cinit__(self, layer, size_t T, size_t B, str save):
        self.owned, self.held = [], _Buffers()
        self.flat_params, self.flat_grads = layer.flat_params, layer.flat_grads
        cdef char *weights = <char *> self.held.take("the weights", self.flat_params, False).buf
        cdef char *d_weights = <char *> self.held.take("grads", self.flat_grads, True).buf
        cdef pk_rnn_sizes need
        cdef pk_rnn_layer *one
        cdef size_t i, features, elements = 0
        cdef bint bias = layer.bias
        self.dtype, self.batch_first = layer.dtype, layer.batch_first
        self.keeps = save != "nothing"
        self.I, self.H, self.directions = layer.input_size, layer.hidden_size, layer.directions
        self.count = layer.num_layers * self.directions
        self.T, self.B, self.itemsize = T, B, self.dtype.itemsize
        dtype = PK_F32 if self.itemsize == 4 else PK_F64
        self.kernels, self.math = cell_table(cell_of(layer), dtype), math_table(dtype)
        self.states = self.kernels.states
        self.layers = <pk_rnn_layer *> PyMem_Calloc(self.count, sizeof(pk_rnn_layer))
        self.gradients = <pk_rnn_gradients *> PyMem_Calloc(self.count, sizeof(pk_rnn_gradients))
        self.outputs = <pk_sequence *> PyMem_Calloc(self.count, sizeof(pk_sequence))
        if self.layers == NULL or self.gradients == NULL or self.outputs == NULL:
            raise MemoryError
        features = self.H * self.directions
        self.of_x = (B, T, self.I) if self.batch_first else (T, B, self.I)
        self.of_y = (*self.of_x[:2], features)
        self.of_state = (self.count, B, self.H)
        for i in range(self.count):
            one = &self.layers[i]
            one.shape.T, one.shape.B, one.shape.H, one.shape.relu = T, B, self.H, layer.relu
            one.shape.I = self.I if i < self.directions else features
            one.shape.save, one.shape.reverse = _SAVES[save], i % self.directions
            elements += elements_of(&one.shape, self.kernels.gates, bias)
        self.check_flats(elements)
        for i in range(self.count):
            one = &self.layers[i]
            weights = place_weights(&one.weights, &one.shape, weights, self.kernels.gates, bias,
                                    self.itemsize)
            d_weights = place_weights(&self.gradients[i].grads, &one.shape, d_weights,
                                      self.kernels.gates, bias, self.itemsize)
            need = self.kernels.sizes(&one.shape)
            one.h = self.get(need.h)
            one.c = self.get(need.c) if need.c else NULL
            one.gates = self.get(need.gates) if need.gates else NULL
        self.share_scratch()
        self.join_levels(not self.keeps)
        if self.keeps and layer.dropout > 0 and self.count > self.directions:
            self.dropped = self.new_between()

    cdef int check_flats(self, size_t elements) except -1:
        check_flat(self.flat_params, self.held.held[0].buf, self.dtype, elements, "flat_params",
                   NPY_ARRAY_CARRAY_RO)
        check_flat(self.flat_grads, self.held.held[1].buf, self.dtype, elements, "flat_grads",
                   NPY_ARRAY_CARRAY_RO | NPY_ARRAY_WRITEABLE)
        return 0

    cdef int join_levels(self, bint forward_only) except -1:
        """What goes from one level to the next, and back."""
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
        """Memory of our own, on a cache line, uninitialized. `elements` is an int of any size."""
        size = elements * self.itemsize + 64
        cdef void *raw = PyMem_Malloc(size) if size < 2**63 else NULL
        if raw == NULL:
            raise MemoryError(f"no {size} bytes for T {self.T}, B {self.B}, I {self.I} and "
                              f"H {self.H}")
        self.owned.append(<uintptr_t> raw)
        self.nbytes += size
        return <char *> raw + (64 - <uintptr_t> raw % 64)

    cdef pk_sequence new_between(self) except *:
        cdef pk_sequence s
        s.b_stride = self.directions * self.H
        s.t_stride = self.B * s.b_stride
        s.data = self.get(<object> self.T * <object> s.t_stride)
        return s

    cdef int share_scratch(self) except -1:
        """Directions run at once and need scratch memory each; levels do not."""
        cdef size_t most = 0, i
        for i in range(self.count):
            most = max(most, self.kernels.sizes(&self.layers[i].shape).scratch)
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
            s.t_stride, s.b_stride = self.B * P, P
            s.data = <char *> self.layers[i - self.directions].h + s.t_stride * self.itemsize
        return s

    cdef void drop(self, size_t level, pk_sequence x, pk_sequence y) noexcept nogil:
        """What a level reads, or the gradient of it: every level has a stream of its own."""
        cdef pk_dropout_config config = self.config
        config.stream += level
        self.math.dropout(self.T, self.B, self.directions * self.H, x, y, &config, num_threads())

    cdef void *of_layer(self, const void *state, size_t i) noexcept:
        return NULL if state == NULL else <char *> state + i * self.B * self.H * self.itemsize

    cdef bint serves(self, x) except -1:
        """Whether `x` has the T and B of this plan, and the instruction set is still its own."""
        cdef Py_buffer view
        cdef bint fits
        try:
            PyObject_GetBuffer(x, &view, PyBUF_STRIDES)
        except (TypeError, ValueError, BufferError):
            return False
        fits = (view.ndim == 3 and <size_t> view.shape[self.batch_first] == self.T
                and <size_t> view.shape[not self.batch_first] == self.B
                and self.math == math_table(dtype_of(&self.held.held[0])))
        PyBuffer_Release(&view)
        return fits

    cdef pk_sequence sequence(self, Py_buffer *view) noexcept:
        """[T, B, features], whichever of the two the caller puts first."""
        cdef pk_sequence s = sequence_of(view)
        if self.batch_first:
            s.t_stride, s.b_stride = s.b_stride, s.t_stride
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

    cdef int state(self, str name, given, void **at, bint in_part) except -1:
        """Where the arrays [L * D, B, H] of a state are; NULL for None, also for one of two if
        `in_part`."""
        cdef size_t k
        at[0] = at[1] = NULL
        if given is None:
            return 0
        if self.states == 1:
            at[0] = self.read(name, given, self.of_state, True).buf
            return 0
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            raise TypeError(f"{name}: expected a pair of arrays of shape {self.of_state}, "
                            f"got {described(given)}")
        for k in range(2):
            if not (in_part and given[k] is None):
                at[k] = self.read(f"{name}[{k}]", given[k], self.of_state, True).buf
        return 0

    cdef object new_state(self, void **at):
        """An array, or a pair, as the cell has states, and where they are."""
        h = _empty(self.of_state, self.dtype)
        at[0], at[1] = self.new(h).data, NULL
        if self.states == 1:
            return h
        c = _empty(self.of_state, self.dtype)
        at[1] = self.new(c).data
        return h, c

    cdef tuple forward(self, x, state, lengths, past_end, out, layer):
        """`y` and the state, new arrays or `out`, as Layer.forward documents them.

        `layer` counts the calls that drop; level n of layers takes stream n of this call.
        """
        cdef pk_sequence x_, y_
        cdef void *first[2]
        cdef void *last[2]
        cdef Py_buffer *view
        cdef size_t level
        cdef int nthreads
        cdef bint repeat_last
        self.held.written[1] = False
        try:
            if past_end != "zeros":
                check_choice("past_end", past_end, ("zeros", "repeat"))
            check_flat(self.flat_params, self.held.held[0].buf, self.dtype,
                       self.held.held[0].len // self.itemsize, "flat_params", NPY_ARRAY_CARRAY_RO)
            view = self.read("x", x, self.of_x, False)
            x_ = self.sequence(view)
            if lengths is not None:
                lengths = check_lengths(lengths, self.B, self.T)
            self.state("state", state, first, False)
            y = _empty(self.of_y, self.dtype) if out is None else out
            y_ = self.new(y) if out is None else self.write(out, self.of_y)
            new_state = self.new_state(last)
            self.drops = self.dropped.data != NULL
            if self.drops:
                self.config.p, self.config.seed = layer.dropout, layer.seed
                self.config.stream = layer.dropout_calls * layer.num_layers % 2**64
            repeat_last = past_end == "repeat"
            # From here on no Python runs, and so nothing can come in between.
            self.lengths = lengths
            self.place_forward(x_, y_, first, last, repeat_last)
            if self.drops:
                layer.__dict__["dropout_calls"] += 1
            if self.due:
                PyBuffer_Release(&self.x)
            self.due = self.keeps
            if self.due:
                self.x = view[0]
                memset(view, 0, sizeof(Py_buffer))  # handed over: nothing to release below
            with nogil:
                nthreads = num_threads()
                for level in range(self.count // self.directions):
                    if self.drops and level > 0:
                        self.drop(level, self.output_below(level * self.directions), self.dropped)
                    self.kernels.forward(&self.layers[level * self.directions], self.directions,
                                         nthreads)
        finally:
            self.held.release(2)
        return y, new_state

    cdef void place_forward(self, pk_sequence x, pk_sequence y, void **first, void **last,
                            bint repeat_last) noexcept:
        cdef pk_rnn_layer *one
        cdef size_t i, top = self.count - self.directions
        cdef const int64_t *lengths_ = NULL
        if self.lengths is not None:
            lengths_ = <const int64_t *> PyArray_DATA(<PyArrayObject *> self.lengths)
        for i in range(self.count):
            one = &self.layers[i]
            one.shape.lengths, one.shape.repeat_last = lengths_, repeat_last
            one.x = x
            if i >= self.directions:
                one.x = self.dropped if self.drops else self.output_below(i)
            one.y = y if i >= top else self.outputs[i // self.directions]
            one.y = self.of_direction(one.y, i)
            one.h0, one.c0 = self.of_layer(first[0], i), self.of_layer(first[1], i)
            one.h_last, one.c_last = self.of_layer(last[0], i), self.of_layer(last[1], i)

    cdef tuple backward(self, dy, dstate, accumulate, need_dx, out):
        """`dx` and the gradient of the state, or None, as Layer.backward documents them; changes
        the gradients of the weights."""
        cdef pk_sequence dy_, dx_
        cdef void *last[2]
        cdef void *first[2]
        first[0] = first[1] = NULL
        memset(&dy_, 0, sizeof(dy_))
        memset(&dx_, 0, sizeof(dx_))
        self.held.written[1] = True
        try:
            self.check_flats(self.held.held[0].len // self.itemsize)
            self.held.held[2] = self.x
            self.held.add("x", False)
            if dy is not None:
                dy_ = self.sequence(self.read("dy", dy, self.of_y, False))
            dx = out
            if not check_switch("need_dx", need_dx):
                if out is not None:
                    raise ValueError("out: expected None without need_dx, got an array")
            elif out is None:
                dx = _empty(self.of_x, self.dtype)
                dx_ = self.new(dx)
            else:
                dx_ = self.write(out, self.of_x)
            self.state("dstate", dstate, last, True)
            dinitial = None
            if self.layers[0].h0 != NULL:  # forward was given a state
                dinitial = self.new_state(first)
            self.place_backward(dy_, dx_, last, first, check_switch("accumulate", accumulate))
            self.due = False  # the gates are about to be overwritten
            with nogil:
                self.run_backward()
            PyBuffer_Release(&self.x)
        finally:
            memset(&self.held.held[2], 0, sizeof(Py_buffer))  # x was only lent
            self.held.release(2)
        return dx, dinitial

    cdef void place_backward(self, pk_sequence dy, pk_sequence dx, void **last, void **first,
                             bint accumulate) noexcept:
        cdef pk_rnn_gradients *one
        cdef size_t i, level, top = self.count // self.directions - 1
        for i in range(self.count):
            one, level = &self.gradients[i], i // self.directions
            one.dy = self.of_direction(dy if level == top else self.between[level % 2], i)
            one.dx = dx if level == 0 else self.between[(level + 1) % 2]
            one.dh_last, one.dc_last = self.of_layer(last[0], i), self.of_layer(last[1], i)
            one.dh0, one.dc0 = self.of_layer(first[0], i), self.of_layer(first[1], i)
            one.accumulate = accumulate

    cdef void run_backward(self) noexcept nogil:
        cdef size_t i, at, level, top = self.count // self.directions - 1
        cdef int nthreads = num_threads()
        for i in range(top + 1):
            level = top - i
            at = level * self.directions
            if self.drops and 0 < level < top:  # the top's are still there
                self.drop(level, self.output_below(at), self.dropped)
            self.kernels.backward(&self.layers[at], &self.gradients[at], self.directions, nthreads)
            if self.drops and level > 0:
                self.drop(level, self.gradients[at].dx, self.gradients[at].dx)


# ---- the calls of a layer ------------------------------------------------------------------------

cdef class Passes:
    """What a layer keeps between calls: a plan for training and one for inference.

    A call is one compiled function, so that an exception that comes from outside, as Ctrl-C, finds
    the layer before the call or after it, and never locked. Two calls at once are refused.
    """
    cdef Plan train, infer
    cdef char busy

    cdef int lock(self) except -1:
        if __atomic_test_and_set(&self.busy, __ATOMIC_ACQUIRE):
            raise RuntimeError("this layer is in use in another thread already")
        return 0

    def forward(self, layer, x, state, lengths, past_end, train, out):
        cdef bint training = check_switch("train", train) if train is not True else True
        cdef Plan plan
        self.lock()
        try:
            plan = self.train if training else self.infer
            if plan is None or not plan.serves(x):
                plan = None  # its memory may be used again
                plan = self.new_plan(layer, x, training)
            results = plan.forward(x, state, lengths, past_end, out, layer)
            if training:
                self.train = plan
            else:
                self.infer = plan
            return results
        finally:
            __atomic_clear(&self.busy, __ATOMIC_RELEASE)

    def backward(self, dy, dstate, accumulate, need_dx, out):
        self.lock()
        try:
            if self.train is None or not self.train.due:
                raise RuntimeError("backward: expected a forward before it, got none since the "
                                   "last backward")
            return self.train.backward(dy, dstate, accumulate, need_dx, out)
        finally:
            __atomic_clear(&self.busy, __ATOMIC_RELEASE)

    cdef Plan new_plan(self, layer, x, bint training):
        """A plan for the shape of `x`, in the place of the last one that is not due any more.

        A call that is refused uses nothing up: one that is due stays until the new one has run.
        """
        cdef _Buffers arrays = _Buffers()
        cdef Py_buffer *view
        cdef bint batch_first = layer.batch_first
        arrays.take("the weights", layer.flat_params, False)
        view = arrays.take("x", x, False, True)
        if view.ndim != 3 or view.shape[2] != layer.input_size:
            raise ValueError(f"x: expected shape (any, any, {layer.input_size}), "
                             f"got {shape_of(view)}")
        if training and self.train is not None and not self.train.due:
            self.train = None
        elif not training:
            self.infer = None
        return Plan(layer, view.shape[batch_first], view.shape[not batch_first],
                    layer.save if training else "nothing")
