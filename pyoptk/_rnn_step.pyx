"""Single steps of a stack of layers, for inference on a stream, where the call is much of the cost.
"""
import numpy as _np

from ._checks import described

from cpython.buffer cimport Py_buffer, PyBuffer_Release, PyBUF_WRITABLE, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.string cimport memcpy

from ._core cimport (
    acquire, check_dtype, check_shape, contiguous, dtype_of, num_threads, rnn_table, shape_of,
)
from ._rnn cimport place_weights
from .capi cimport pk_lstm, pk_sequence

cdef object _empty = _np.empty


cdef class LSTMStepper:
    """Steps of a stack of layers, on weights whose addresses it keeps: each step reads them anew.

    `params` is flat, and `sizes` (I, H, L), as for LSTMPlan.
    """
    cdef Py_buffer params
    cdef pk_lstm *layers
    cdef size_t I, H, L
    cdef object dtype

    def __cinit__(self, params, sizes, bint bias):
        cdef size_t i
        cdef char *at
        acquire(params, &self.params, "params", False, False)
        self.dtype = params.dtype
        self.I, self.H, self.L = sizes
        self.layers = <pk_lstm *> PyMem_Calloc(self.L, sizeof(pk_lstm))
        if self.layers == NULL:
            raise MemoryError
        at = <char *> self.params.buf
        for i in range(self.L):
            self.layers[i].shape.I, self.layers[i].shape.H = self.H if i else self.I, self.H
            at = place_weights(&self.layers[i].weights, &self.layers[i].shape, at, bias,
                               self.params.itemsize)

    def __dealloc__(self):
        PyMem_Free(self.layers)
        if self.params.buf != NULL:
            PyBuffer_Release(&self.params)

    def step(self, x, state):
        """y [B, H] and (h, c) [L, B, H], new arrays, from x [B, I] and a state or None."""
        cdef Py_buffer of[6]  # x; y and the new h and c; h and c
        cdef int taken = 0
        cdef tuple shape
        try:
            acquire(x, &of[0], "x", False, True)
            taken = 1
            check_dtype(&of[0], "x", &self.params, "the weights")
            if of[0].ndim != 2 or <size_t> of[0].shape[1] != self.I:
                raise ValueError(f"x: expected shape (any, {self.I}), got {shape_of(&of[0])}")
            if self.I > 1 and of[0].strides[1] != of[0].itemsize:
                return self.step(_np.ascontiguousarray(x), state)
            shape = self.L, of[0].shape[0], self.H
            y = _empty(shape[1:], self.dtype)
            h, c = _empty(shape, self.dtype), _empty(shape, self.dtype)
            for array in (y, h, c):
                PyObject_GetBuffer(array, &of[taken], PyBUF_WRITABLE)
                taken += 1
            of[4].buf = of[5].buf = NULL
            if state is not None:
                if not isinstance(state, (tuple, list)) or len(state) != 2:
                    raise TypeError(f"state: expected a pair of arrays of shape {shape}, "
                                    f"got {described(state)}")
                acquire(contiguous(state[0]), &of[4], "state[0]", False, False)
                taken = 5
                self.check_state("state[0]", &of[4], shape)
                acquire(contiguous(state[1]), &of[5], "state[1]", False, False)
                taken = 6
                self.check_state("state[1]", &of[5], shape)
            self.run(of)
        finally:
            while taken:
                taken -= 1
                PyBuffer_Release(&of[taken])
        return y, (h, c)

    cdef int check_state(self, str name, Py_buffer *view, tuple shape) except -1:
        check_dtype(view, name, &self.params, "the weights")
        if (view.ndim != 3 or <size_t> view.shape[0] != self.L or view.shape[1] != shape[1]
                or <size_t> view.shape[2] != self.H):
            check_shape(view, name, shape)
        return 0

    cdef int run(self, Py_buffer *of) except -1:
        cdef size_t i, at = 0, size = of[1].len
        cdef pk_lstm layer
        cdef pk_sequence below
        cdef int nthreads = num_threads()
        kernels = rnn_table(dtype_of(&self.params))
        below.data, below.row = of[0].buf, of[0].strides[0] // of[0].itemsize
        below.step = 0
        with nogil:
            for i in range(self.L):
                layer = self.layers[i]
                layer.shape.B = of[0].shape[0]
                layer.x = below
                if of[4].buf != NULL:
                    layer.h0, layer.c0 = <char *> of[4].buf + at, <char *> of[5].buf + at
                layer.h_last, layer.c_last = <char *> of[2].buf + at, <char *> of[3].buf + at
                kernels.lstm_step(&layer, nthreads)
                below.data, below.row, at = layer.h_last, self.H, at + size
            memcpy(of[1].buf, below.data, size)
        return 0
