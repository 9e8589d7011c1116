"""Single steps of a recurrent layer, for inference on a stream, where the call is much of the cost.
"""
import numpy as _np

from ._checks import described

from cpython.buffer cimport Py_buffer, PyBuffer_Release, PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy

from ._core cimport (
    acquire, cell_table, check_dtype, check_shape, contiguous, dtype_of, num_threads, shape_of,
)
from ._stack cimport cell_of, check_flat, elements_of, place_weights
from .capi cimport NPY_ARRAY_CARRAY_RO, pk_cell_id, pk_rnn_layer, pk_sequence

cdef object _empty = _np.empty


cdef class Stepper:
    """Steps of a layer, on weights whose addresses it keeps: each step reads them anew."""
    cdef Py_buffer params
    cdef pk_rnn_layer *layers
    cdef pk_cell_id cell
    cdef size_t I, H, L, states, elements
    cdef object flat_params, dtype

    def __cinit__(self, layer):
        cdef size_t i, gates, elements = 0
        cdef char *at
        cdef bint bias = layer.bias
        self.flat_params, self.dtype, self.cell = layer.flat_params, layer.dtype, cell_of(layer)
        acquire(self.flat_params, &self.params, "flat_params", False, False)
        self.I, self.H, self.L = layer.input_size, layer.hidden_size, layer.num_layers
        self.layers = <pk_rnn_layer *> PyMem_Calloc(self.L, sizeof(pk_rnn_layer))
        if self.layers == NULL:
            raise MemoryError
        kernels = cell_table(self.cell, dtype_of(&self.params))
        gates, self.states = kernels.gates, kernels.states
        at = <char *> self.params.buf
        for i in range(self.L):
            self.layers[i].shape.I, self.layers[i].shape.H = self.H if i else self.I, self.H
            self.layers[i].shape.relu = layer.relu
            elements += elements_of(&self.layers[i].shape, gates, bias)
            at = place_weights(&self.layers[i].weights, &self.layers[i].shape, at, gates, bias,
                               self.params.itemsize)
        self.elements = elements
        self.check_params()

    def __dealloc__(self):
        PyMem_Free(self.layers)
        if self.params.buf != NULL:
            PyBuffer_Release(&self.params)

    cdef bint check_params(self) except -1:
        return check_flat(self.flat_params, &self.params, self.dtype, self.elements, "flat_params",
                          NPY_ARRAY_CARRAY_RO)

    def step(self, x, state):
        """y [B, H] and the state, arrays [L, B, H], all new, from x [B, I] and a state or None."""
        cdef Py_buffer of[6]  # x; y and the new h and c; h and c
        cdef int taken = 0
        cdef tuple shape
        self.check_params()
        try:
            acquire(x, &of[0], "x", False, True)
            taken = 1
            if of[0].itemsize != self.params.itemsize:
                raise TypeError(f"x: expected {self.dtype} like the weights, got {x.dtype}; its "
                                f".astype({str(self.dtype)!r}) is one")
            if of[0].ndim != 2 or <size_t> of[0].shape[1] != self.I:
                raise ValueError(f"x: expected shape (any, {self.I}), got {shape_of(&of[0])}")
            if self.I > 1 and of[0].strides[1] != of[0].itemsize:
                return self.step(_np.ascontiguousarray(x), state)
            shape = self.L, of[0].shape[0], self.H
            y, h = _empty(shape[1:], self.dtype), _empty(shape, self.dtype)
            c = _empty(shape, self.dtype) if self.states == 2 else h
            for array in (y, h, c):
                PyObject_GetBuffer(array, &of[taken], PyBUF_WRITABLE)
                taken += 1
            of[4].buf = of[5].buf = NULL
            if state is not None and self.states == 1:
                taken += self.take_state("state", state, &of[4], shape)
            elif state is not None:
                if not isinstance(state, (tuple, list)) or len(state) != 2:
                    raise TypeError(f"state: expected a pair of arrays of shape {shape}, "
                                    f"got {described(state)}")
                taken += self.take_state("state[0]", state[0], &of[4], shape)
                taken += self.take_state("state[1]", state[1], &of[5], shape)
            self.run(of)
        finally:
            while taken:
                taken -= 1
                PyBuffer_Release(&of[taken])
        return y, ((h, c) if self.states == 2 else h)

    cdef int take_state(self, str name, array, Py_buffer *view, tuple shape) except -1:
        acquire(contiguous(array), view, name, False, False)
        try:
            check_dtype(view, name, &self.params, "the weights")
            if (view.ndim != 3 or <size_t> view.shape[0] != self.L or view.shape[1] != shape[1]
                    or <size_t> view.shape[2] != self.H):
                check_shape(view, name, shape)
        except BaseException:
            PyBuffer_Release(view)
            raise
        return 1

    cdef int run(self, Py_buffer *of) except -1:
        cdef size_t i, at = 0, size = of[1].len
        cdef pk_rnn_layer layer
        cdef pk_sequence below
        cdef int nthreads = num_threads()
        kernels = cell_table(self.cell, dtype_of(&self.params))
        below.data, below.b_stride = of[0].buf, of[0].strides[0] // of[0].itemsize
        below.t_stride = 0
        with nogil:
            for i in range(self.L):
                layer = self.layers[i]
                layer.shape.B = of[0].shape[0]
                layer.x = below
                if of[4].buf != NULL:
                    layer.h0 = <char *> of[4].buf + at
                if of[5].buf != NULL:
                    layer.c0 = <char *> of[5].buf + at
                layer.h_last, layer.c_last = <char *> of[2].buf + at, <char *> of[3].buf + at
                kernels.step(&layer, nthreads)
                below.data, below.b_stride, at = layer.h_last, self.H, at + size
            memcpy(of[1].buf, below.data, size)
        return 0
