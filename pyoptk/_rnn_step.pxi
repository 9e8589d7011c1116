# Single steps of a stack of layers, for inference on a stream, where the call is much of the cost.

cdef class LSTMStepper:
    """Steps of a stack of layers, on weights whose addresses it keeps: each step reads them anew."""
    cdef Py_buffer flat
    cdef pk_lstm_weights *layers
    cdef size_t L, I, H
    cdef object dtype

    def __cinit__(self, flat, list layers, size_t I, size_t H):
        """`layers`: (w_ih, w_hh, b_ih, b_hh) of each, views into `flat`; biases may be None."""
        cdef _Buffers arrays
        cdef void *data[4]
        cdef size_t layer
        cdef int i
        self.L, self.I, self.H, self.dtype = len(layers), I, H, flat.dtype
        acquire(flat, &self.flat, "flat", False, False)
        self.layers = <pk_lstm_weights *> PyMem_Calloc(self.L, sizeof(pk_lstm_weights))
        if self.layers == NULL:
            raise MemoryError
        for layer in range(self.L):
            arrays = _Buffers()
            for i in range(4):
                data[i] = NULL
                if layers[layer][i] is not None:
                    data[i] = arrays.take("layers", layers[layer][i], False).buf
            self.layers[layer] = pk_lstm_weights(data[0], data[1], data[2], data[3])

    def __dealloc__(self):
        PyMem_Free(self.layers)
        if self.flat.buf != NULL:
            PyBuffer_Release(&self.flat)

    def step(self, x, state):
        """y [B, H] and (h, c) [L, B, H], new arrays, from x [B, I] and a state or None."""
        cdef Py_buffer of[6]  # x, h, c; y and the new h and c
        cdef int taken = 0
        cdef tuple shape
        try:
            acquire(x, &of[0], "x", False, True)
            taken = 1
            check_dtype(&of[0], "x", &self.flat, "the weights")
            if of[0].ndim != 2 or <size_t> of[0].shape[1] != self.I:
                raise ValueError(f"x: expected shape (any, {self.I}), got {shape_of(&of[0])}")
            if self.I > 1 and of[0].strides[1] != of[0].itemsize:
                return self.step(_np.ascontiguousarray(x), state)
            shape = self.L, of[0].shape[0], self.H
            if state is None:
                zeros = _np.zeros(shape, self.dtype)
                state = zeros, zeros
            elif not isinstance(state, (tuple, list)) or len(state) != 2:
                raise TypeError(f"state: expected a pair of arrays of shape {shape}, "
                                f"got {described(state)}")
            for name, array in zip(("state[0]", "state[1]"), state):
                acquire(contiguous(array), &of[taken], name, False, False)
                taken += 1
                check_dtype(&of[taken - 1], name, &self.flat, "the weights")
                check_shape(&of[taken - 1], name, shape)
            y, h, c = _empty(shape[1:], self.dtype), _empty(shape, self.dtype), _empty(shape, self.dtype)
            for array in (y, h, c):
                PyObject_GetBuffer(array, &of[taken], PyBUF_WRITABLE)
                taken += 1
            self.run(of)
        finally:
            while taken:
                taken -= 1
                PyBuffer_Release(&of[taken])
        return y, (h, c)

    cdef int run(self, Py_buffer *of) except -1:
        cdef size_t layer, at = 0, size = of[3].len
        cdef const void *below = of[0].buf
        cdef ptrdiff_t row = of[0].strides[0] // of[0].itemsize
        kernels = pk_rnn(dtype_of(&self.flat))
        with nogil:
            for layer in range(self.L):
                kernels.lstm_step(of[0].shape[0], self.H if layer else self.I, self.H,
                                  &self.layers[layer], below, row,
                                  <char *> of[1].buf + at, <char *> of[2].buf + at,
                                  <char *> of[4].buf + at, <char *> of[5].buf + at, pk_num_threads())
                below, row, at = <char *> of[4].buf + at, self.H, at + size
            memcpy(of[3].buf, below, size)
        return 0
