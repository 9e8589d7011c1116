"""Forward and backward of recurrent layers, and single steps.

A layer (pyoptk/rnn/layer.py) has `Passes`, which makes a `Plan` for each T and B, and a `Stepper`.
A call takes the arrays of its arguments, compares them with the plan, and makes its results. For a
short sequence the same checks in Python would take longer than the arithmetic.
"""
import numpy as _np

from ._checks import check_choice
from ._sequences import check_lengths, check_resets
from ._stack import partition  # importers take it from here  # no-cython-lint

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.object cimport PyObject
from libc.string cimport memcpy, memset

from ._arrays cimport (
    Buffers, borrow, check_adjacent, check_shape, is_adjacent, sequence_of, shape_of, switch,
)
from ._core cimport _Lock, bf16_products, cell_table, math_table, new_array, num_threads
from ._stack cimport Stack
from .capi cimport (
    PyArray_DATA, PyArray_DIMS, PyArray_NDIM, PyArrayObject, pk_cell_kernels, pk_rnn_layer,
    pk_rnn_shape, pk_sequence,
)

cdef object _ndarray = _np.ndarray


cdef class Plan(Stack):
    """The memory of a layer for T steps of B sequences, and both passes.

    The plan knows the shapes and dtypes of all arguments, so that a call only compares. Every call
    reads the weights again. A plan is for one thread at a time.
    """
    cdef object lengths, resets, x  # of the last forward
    cdef readonly bint due  # whether forward has run and backward may follow
    cdef bint batch_first
    cdef tuple of_x, of_y  # shapes, in the caller's order of axes

    def __cinit__(self, layer, size_t T, size_t B, str save, bint resettable):
        self.batch_first = layer.batch_first
        self.of_x = (B, T, self.I) if self.batch_first else (T, B, self.I)
        self.of_y = (*self.of_x[:2], self.R * self.directions)

    cdef bint serves(self, x, bint resets):
        """Whether `x` has the T and B of this plan, resets have memory, and the instruction set has
        not changed."""
        cdef PyArrayObject *array = <PyArrayObject *> <PyObject *> x
        return (isinstance(x, _ndarray) and PyArray_NDIM(array) == 3
                and <size_t> PyArray_DIMS(array)[self.batch_first] == self.T
                and <size_t> PyArray_DIMS(array)[not self.batch_first] == self.B
                and (self.resettable or not resets) and self.math == math_table(self.storage)
                and (self.products == NULL or self.products == bf16_products()))

    cdef pk_sequence sequence(self, Py_buffer *view) noexcept:
        """The argument as [T, B, features], also if it is batch-first."""
        cdef pk_sequence s = sequence_of(view)
        if self.batch_first:
            s.t_stride, s.b_stride = s.b_stride, s.t_stride
        return s

    cdef object result(self, Buffers arrays, out, tuple shape, pk_sequence *at):
        """The array for a result, `out` or a new one; sets *at to it."""
        cdef Py_buffer view
        if out is None:
            out = new_array(shape, self.dtype)
            borrow(out, &view, True, False)
            at[0] = self.sequence(&view)
            PyBuffer_Release(&view)  # the caller holds a reference to the array
        else:
            taken = arrays.take("out", out, True, True)
            check_shape(taken, "out", shape)
            check_adjacent(taken, "out")
            at[0] = self.sequence(taken)
        return out

    cdef tuple forward(self, x, state, lengths, past_end, resets, reset_to, out, layer):
        """`y` and the state, new arrays or `out`, as Layer.forward documents them.

        `layer` counts the calls with dropout; level n uses stream n of the call.
        """
        cdef Buffers arrays = Buffers()
        cdef pk_sequence x_, y_
        cdef void *first[2]
        cdef void *last[2]
        cdef bint repeat_last, reset_to_initial
        if type(past_end) is not str or past_end != "zeros":
            check_choice("past_end", past_end, ("zeros", "repeat"))
        if type(reset_to) is not str or reset_to != "zeros":
            check_choice("reset_to", reset_to, ("zeros", "initial"))
        repeat_last, reset_to_initial = past_end == "repeat", reset_to == "initial"
        self.take_params(arrays)
        view = self.read(arrays, "x", x, self.of_x, False)
        x, x_ = <object> view.obj, self.sequence(view)
        if lengths is not None:
            lengths = check_lengths(lengths, self.B, self.T)
        if resets is not None:
            resets = check_resets(resets, self.T, self.B, self.batch_first)
        self.take_state(arrays, "state", state, self.B, False, first)
        y = self.result(arrays, out, self.of_y, &y_)
        if out is not None:
            self.take_grads(arrays, False)
            arrays.check_apart()
        new_state = self.new_state(self.B, last)
        self.drops = self.dropped.data != NULL
        if self.drops:
            self.config.p, self.config.seed = layer.dropout, layer.seed
            self.config.stream = layer.dropout_calls * layer.num_layers % 2**64
        if self.noisy:
            self.config.seed, self.stream = layer.seed, layer.dropout_calls * self.count % 2**61
        # From here on no Python code runs, so that no exception can arrive.
        self.x, self.due = x if self.keeps else None, self.keeps
        self.lengths, self.resets = lengths, resets
        self.place_forward(x_, y_, first, last, lengths, repeat_last, resets, reset_to_initial)
        if self.drops or self.noisy:
            layer.__dict__["dropout_calls"] = (layer.dropout_calls + 1) % 2**64
        with nogil:
            self.run_forward()
        return y, new_state

    cdef tuple backward(self, dy, dstate, accumulate, need_dx, out):
        """`dx` and the gradient of the state, or None, as Layer.backward documents them; changes
        the gradients of the weights."""
        cdef Buffers arrays = Buffers()
        cdef pk_sequence dy_, dx_
        cdef void *last[2]
        cdef void *first[2]
        cdef bint adds = switch("accumulate", accumulate)
        first[0] = first[1] = NULL
        memset(&dy_, 0, sizeof(dy_))
        memset(&dx_, 0, sizeof(dx_))
        self.take_params(arrays)
        self.take_grads(arrays, True)
        view = arrays.take("x", self.x, False, True)
        if view.buf != self.layers[0].x.data or shape_of(view) != self.of_x:
            raise ValueError("x: expected to be as it was in forward, got other memory or another "
                             "shape")
        if dy is not None:
            dy_ = self.sequence(self.read(arrays, "dy", dy, self.of_y, False))
        self.take_state(arrays, "dstate", dstate, self.B, True, last)
        dx = None
        if switch("need_dx", need_dx):
            dx = self.result(arrays, out, self.of_x, &dx_)
        elif out is not None:
            raise ValueError("out: expected None without need_dx, got an array")
        arrays.check_apart()
        dinitial = None
        if self.layers[0].h0 != NULL:  # forward was given a state
            dinitial = self.new_state(self.B, first)
        self.place_backward(dy_, dx_, last, first, adds)
        self.due = False  # the gates are about to be overwritten
        with nogil:
            self.run_backward()
        self.x = None
        return dx, dinitial

    cdef object copy(self, const void *at, size_t n):
        array = new_array((n,), self.dtype)
        if n:  # without c there is nothing to copy from
            memcpy(PyArray_DATA(<PyArrayObject *> array), at, n * self.itemsize)
        return array

    cdef list kept(self):
        """Copies of the memory of each layer: gates, h and c, in the order of the kernels."""
        cdef size_t i
        cdef pk_rnn_layer *one
        cdef list found = []
        for i in range(self.count):
            one = &self.layers[i]
            need = self.kernels.sizes(&one.shape)
            found.append((self.copy(one.gates, need.gates), self.copy(one.h, need.h),
                          self.copy(one.c, need.c)))
        return found


cdef class Passes:
    """The plans of a layer, one for training and one for inference.

    A call is one compiled function, so that an exception from outside, such as Ctrl-C, finds the
    layer in the state before the call or after it, and not locked. Two calls at once are refused.
    """
    cdef Plan train, infer
    cdef int busy  # a guard: see _Lock

    cdef _Lock lock(self):
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError("this layer is in use in another thread already")
        return lock

    def alone(self, function, *arguments):
        """Call a function while no pass runs; returns its result."""
        _lock = self.lock()
        return function(*arguments)

    def forward(self, layer, x, state, lengths, past_end, resets, reset_to, train, out):
        cdef bint training = switch("train", train)
        cdef Plan plan
        _lock = self.lock()
        plan = self.train if training else self.infer
        if plan is None or not plan.serves(x, resets is not None):
            plan = None  # its memory may be used again
            plan = self.new_plan(layer, x, training, resets is not None)
        results = plan.forward(x, state, lengths, past_end, resets, reset_to, out, layer)
        if training:
            self.train = plan
        else:
            self.infer = plan
        return results

    def backward(self, dy, dstate, accumulate, need_dx, out):
        _lock = self.lock()
        if self.train is None or not self.train.due:
            raise RuntimeError("backward: expected a forward with train=True before it, got none "
                               "since the last backward")
        return self.train.backward(dy, dstate, accumulate, need_dx, out)

    def kept(self):
        """The results of the last pass: the memory of each layer, lengths or None, T, B, elements
        of a vector, and whether the gates are still those of forward."""
        cdef Plan plan
        _lock = self.lock()
        plan = self.train
        if plan is None:
            raise RuntimeError("stats: expected a forward with train=True before it, got none")
        lanes = plan.kernels.padded(1)
        return plan.kept(), plan.lengths, plan.T, plan.B, lanes, plan.due

    cdef Plan new_plan(self, layer, x, bint training, bint resettable):
        """A plan for the shape of `x`. It replaces the last one that no backward needs any more.

        A plan that a backward may need stays until the new one has run, so that a refused call
        loses nothing.
        """
        cdef Buffers arrays = Buffers()
        cdef Py_buffer *view
        cdef bint batch_first = layer.batch_first
        view = arrays.take("x", x, False, True)
        if view.itemsize != layer.dtype.itemsize:
            raise TypeError(f"x: expected {layer.dtype} like the weights, got {x.dtype}; "
                            f"x.astype(numpy.{layer.dtype}) has that dtype")
        if view.ndim != 3 or view.shape[2] != layer.input_size:
            raise ValueError(f"x: expected shape (any, any, {layer.input_size}), "
                             f"got {shape_of(view)}")
        if training and self.train is not None and not self.train.due:
            self.train = None
        elif not training:
            self.infer = None
        return Plan(layer, view.shape[batch_first], view.shape[not batch_first],
                    layer.save if training else "nothing", resettable)


cdef class Stepper(Stack):
    """Single steps of a layer, for inference on a stream, where the call itself costs much.

    Each step reads the weights again. Several threads may step at once.
    """
    def __cinit__(self, layer):
        if self.directions > 1:
            raise RuntimeError("step: expected a layer of one direction, got a bidirectional one")

    def step(self, x, state):
        """y and the state, all new, from x [B, I] and a state or None."""
        cdef Buffers arrays = Buffers()
        cdef void *first[2]
        cdef void *last[2]
        self.take_params(arrays)
        view = arrays.take("x", x, False, True)
        if view.ndim != 2 or <size_t> view.shape[1] != self.I:
            raise ValueError(f"x: expected shape (any, {self.I}), got {shape_of(view)}")
        if not is_adjacent(view):
            return self.step(_np.ascontiguousarray(x), state)
        self.take_state(arrays, "state", state, view.shape[0], False, first)
        y = new_array((view.shape[0], self.R), self.dtype)
        new = self.new_state(view.shape[0], last)
        kernels = cell_table(self.cell, self.storage)  # use_isa may have been called
        scratch = self.scratch(kernels, view.shape[0])
        self.run(kernels, view, PyArray_DATA(<PyArrayObject *> y), first, last,
                 NULL if scratch is None else PyArray_DATA(<PyArrayObject *> scratch))
        return y, new

    cdef object scratch(self, const pk_cell_kernels *kernels, size_t B):
        """Memory for a step of B rows, or None."""
        cdef pk_rnn_shape shape = self.layers[0].shape
        shape.B = B
        cdef size_t size = kernels.step_scratch_size(&shape)
        return new_array((size,), "u1") if size else None

    cdef void run(self, const pk_cell_kernels *kernels, Py_buffer *x, void *y, void **first,
                  void **last, void *scratch) noexcept:
        cdef size_t i, at = 0, size = x.shape[0] * self.R * self.itemsize
        cdef size_t of_c = x.shape[0] * self.H * self.itemsize
        cdef pk_rnn_layer layer
        cdef pk_sequence below
        cdef int nthreads = num_threads()
        below.data, below.t_stride, below.b_stride = x.buf, 0, x.strides[0] // x.itemsize
        with nogil:
            for i in range(self.count):
                layer = self.layers[i]
                layer.shape.B, layer.x = x.shape[0], below
                if first[0] != NULL:
                    layer.h0 = <char *> first[0] + at
                if first[1] != NULL:
                    layer.c0 = <char *> first[1] + i * of_c
                layer.h_last = <char *> last[0] + at
                layer.c_last = <char *> last[1] + i * of_c if last[1] != NULL else NULL
                layer.scratch = scratch
                kernels.step(&layer, nthreads)
                below.data, below.b_stride, at = layer.h_last, self.R, at + size
            memcpy(y, below.data, size)
