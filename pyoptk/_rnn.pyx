"""Forward and backward of recurrent layers, for a batch of sequences.

A layer (pyoptk/rnn/layer.py) has `Passes`, which makes a `Plan` for each T and B. A call takes the
buffers of its arguments, compares them with the plan, and makes its results. For a short sequence
the same checks in Python would take longer than the arithmetic.
"""
import numpy as _np

from ._checks import check_choice, check_lengths, described
from ._stack import partition  # for whoever asks this family  # no-cython-lint

from cpython.buffer cimport (
    Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release, PyBUF_STRIDES, PyObject_GetBuffer,
)
from libc.string cimport memset

from ._core cimport (
    _Buffers, check_shape, drop_guard, dtype_of, math_table, num_threads, shape_of, switch,
    take_guard,
)
from ._stack cimport Stack, check_adjacent, check_flat, is_adjacent, sequence_of
from .capi cimport NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, pk_sequence

cdef object _empty = _np.empty


cdef class Plan(Stack):
    """The memory of a layer for T steps of B sequences, and both passes.

    The plan knows the shapes and dtypes of all arguments, so that a call only compares. Every call
    reads the weights again. A plan is for one thread at a time.
    """
    cdef object lengths, flat_params, flat_grads
    cdef size_t states
    cdef readonly bint due  # whether forward has run and backward may follow
    cdef bint batch_first
    cdef tuple of_x, of_y, of_state  # shapes, in the caller's order of axes
    cdef _Buffers held  # params and grads, which must not move; then the arguments of a call
    cdef Py_buffer x  # held if due

    def __dealloc__(self):
        if self.due:
            PyBuffer_Release(&self.x)

    def __cinit__(self, layer, size_t T, size_t B, str save):
        self.held, self.batch_first = _Buffers(), layer.batch_first
        self.flat_params, self.flat_grads = layer.flat_params, layer.flat_grads
        self.states = self.kernels.states
        self.of_x = (B, T, self.I) if self.batch_first else (T, B, self.I)
        self.of_y = (*self.of_x[:2], self.H * self.directions)
        self.of_state = (self.count, B, self.H)
        self.check_params()
        self.check_grads()
        self.held.take("the weights", self.flat_params, False)
        self.held.take("grads", self.flat_grads, True)
        self.place_weights(<char *> self.held.held[0].buf, <char *> self.held.held[1].buf)

    cdef bint check_params(self) except -1:
        return check_flat(self.flat_params, &self.held.held[0], self.dtype, self.elements,
                          "flat_params", NPY_ARRAY_CARRAY_RO)

    cdef bint check_grads(self) except -1:
        return check_flat(self.flat_grads, &self.held.held[1], self.dtype, self.elements,
                          "flat_grads", NPY_ARRAY_CARRAY_RO | NPY_ARRAY_WRITEABLE)

    cdef bint serves(self, x) except -1:
        """Whether `x` has the T and B of this plan, and the instruction set has not changed."""
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
        """The argument as [T, B, features], whether batch-first or not."""
        cdef pk_sequence s = sequence_of(view)
        if self.batch_first:
            s.t_stride, s.b_stride = s.b_stride, s.t_stride
        return s

    cdef pk_sequence new(self, array) except *:
        """The same for an array that this call has made."""
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
            if type(past_end) is not str or past_end != "zeros":
                check_choice("past_end", past_end, ("zeros", "repeat"))
            self.check_params()
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
            # From here on no Python code runs, so no exception can come between.
            self.lengths = lengths
            self.place_forward(x_, y_, first, last, lengths, repeat_last)
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
            self.check_params()
            self.check_grads()
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
            self.state("dstate", dstate, last, True)
            dinitial = None
            if self.layers[0].h0 != NULL:  # forward was given a state
                dinitial = self.new_state(first)
            self.place_backward(dy_, dx_, last, first, switch("accumulate", accumulate))
            self.due = False  # the gates are about to be overwritten
            with nogil:
                self.run_backward()
            PyBuffer_Release(&self.x)
        finally:
            memset(&self.held.held[2], 0, sizeof(Py_buffer))  # x was only lent
            self.held.release(2)
        return dx, dinitial


# ---- the calls of a layer ------------------------------------------------------------------------

cdef class Passes:
    """The plans of a layer, one for training and one for inference.

    A call is one compiled function, so that an exception from outside, such as Ctrl-C, finds the
    layer in the state before the call or after it, and not locked. Two calls at once are refused.
    """
    cdef Plan train, infer
    cdef int busy  # a guard: see take_guard

    cdef int lock(self) except -1:
        if not take_guard(&self.busy):
            raise RuntimeError("this layer is in use in another thread already")
        return 0

    def forward(self, layer, x, state, lengths, past_end, train, out):
        cdef bint training = switch("train", train)
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
            drop_guard(&self.busy)

    def backward(self, dy, dstate, accumulate, need_dx, out):
        self.lock()
        try:
            if self.train is None or not self.train.due:
                raise RuntimeError("backward: expected a forward before it, got none since the "
                                   "last backward")
            return self.train.backward(dy, dstate, accumulate, need_dx, out)
        finally:
            drop_guard(&self.busy)

    cdef Plan new_plan(self, layer, x, bint training):
        """A plan for the shape of `x`, in the place of the last one that is not due any more.

        A call that is refused uses nothing up: one that is due stays until the new one has run.
        """
        cdef _Buffers arrays = _Buffers()
        cdef Py_buffer *view
        cdef bint batch_first = layer.batch_first
        view = arrays.take("x", x, False, True)
        if view.itemsize != layer.dtype.itemsize:
            raise TypeError(f"x: expected {layer.dtype} like the weights, got {x.dtype}; "
                            f"its .astype({str(layer.dtype)!r}) is one")
        if view.ndim != 3 or view.shape[2] != layer.input_size:
            raise ValueError(f"x: expected shape (any, any, {layer.input_size}), "
                             f"got {shape_of(view)}")
        if training and self.train is not None and not self.train.due:
            self.train = None
        elif not training:
            self.infer = None
        return Plan(layer, view.shape[batch_first], view.shape[not batch_first],
                    layer.save if training else "nothing")
