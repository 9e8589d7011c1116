# The recurrent family of the binding. Sequences come time-major, [T, B, features], with any strides
# as long as the features of a row are adjacent; pyoptk/rnn.py sees to that.

cdef pk_sequence sequence_of(Py_buffer *view) noexcept:
    cdef pk_sequence s
    s.data = view.buf
    s.step, s.row = view.strides[0] // view.itemsize, view.strides[1] // view.itemsize
    return s


cdef Py_buffer *take_sequence(_Buffers arrays, str name, array, bint writable,
                              tuple shape) except NULL:
    cdef Py_buffer *view = arrays.take(name, array, writable, True)
    check_shape(view, name, shape)
    if view.shape[2] > 1 and view.strides[2] != view.itemsize:
        raise ValueError(f"{name}: expected the last axis to be adjacent in memory, got strides "
                         f"{strides_of(view)}")
    return view


# ---- checks of arguments that pyoptk/rnn.py takes ------------------------------------------------

def check_sizes(**sizes):
    for name, size in sizes.items():
        if not isinstance(size, (int, _np.integer)) or isinstance(size, bool):
            raise TypeError(f"{name}: expected an integer >= 1, got {size!r}")
        if size < 1:
            raise ValueError(f"{name}: expected an integer >= 1, got {size!r}")


def check_float_dtype(dtype):
    try:
        checked = _np.dtype(dtype) if dtype is not None else None
    except TypeError:
        checked = None
    if checked is None or checked not in (_np.float32, _np.float64) or not checked.isnative:
        raise TypeError(f"dtype: expected float32 or float64, got {dtype!r}")
    return checked


def check_sequence(str name, x, tuple axes, model):
    """Raise unless `x` has axes of these lengths, None standing for any, and model's dtype."""
    cdef _Buffers arrays = _Buffers()
    arrays.take("the weights", model, False)
    shape = shape_of(arrays.take(name, x, False, True))
    if len(shape) != 3 or any(n is not None and n != m for n, m in zip(axes, shape)):
        wanted = ", ".join("any" if n is None else str(n) for n in axes)
        raise ValueError(f"{name}: expected shape ({wanted}), got {shape}")


def check_pair(str name, pair, tuple shape, model):
    """Raise unless `pair` is two arrays of this shape and of the dtype of `model`."""
    cdef _Buffers arrays = _Buffers()
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{name}: expected a pair of arrays of shape {shape}, "
                        f"got {described(pair)}")
    arrays.take("the weights", model, False)
    for i in range(2):
        check_shape(arrays.take(f"{name}[{i}]", pair[i], False, True), f"{name}[{i}]", shape)


def check_lengths(lengths, B, T):
    """`lengths` as a contiguous int64 array [B] of numbers in 0..T."""
    try:
        checked = _np.asarray(lengths)
    except ValueError:
        raise ValueError(f"lengths: expected {B} integers, got a ragged sequence") from None
    if checked.size == 0 == B:
        checked = _np.zeros(0, _np.int64)
    if checked.dtype.kind not in "iu" or checked.shape != (B,):
        raise ValueError(f"lengths: expected {B} integers, got {described(checked)}")
    if checked.size and (checked.min() < 0 or checked.max() > T):
        raise ValueError(f"lengths: expected numbers in 0..{T}, "
                         f"got {checked.min()}..{checked.max()}")
    return _np.array(checked, _np.int64)


def check_switches(**switches):
    for name in switches:
        switch(switches, name)


def check_rng(rng):
    if rng is not None and not isinstance(rng, _np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator or None, got {type(rng).__name__}")


# ---- the LSTM -----------------------------------------------------------------------------------

_SAVES = {"full": PK_SAVE_FULL, "minimal": PK_SAVE_MINIMAL, "nothing": PK_SAVE_NOTHING}


cdef class LSTMPlan:
    """The memory of LSTM layers for T steps of B sequences, and both passes through them.

    `params` and `grads` are flat: weight_ih, weight_hh and, if there are biases, bias_ih and
    bias_hh of every direction of every layer. Weights are read anew in every call. A plan stays
    with the instruction set that was in use when it was made, and serves one thread at a time.
    """
    cdef pk_lstm *layers
    cdef const pk_rnn_kernels *kernels
    cdef size_t count, directions, T, B, I, H, itemsize
    cdef list owned
    cdef object params, grads
    cdef readonly size_t nbytes
    cdef _Buffers held  # params and grads, so that they stay where they are
    cdef pk_sequence *outputs  # of each level of layers, where the next cannot read `h`
    cdef pk_sequence slopes[2]  # the gradients between two levels, by turns

    def __cinit__(self):
        self.owned = []

    def __dealloc__(self):
        for at in self.owned:
            PyMem_Free(<void *> <uintptr_t> at)
        PyMem_Free(self.layers)
        PyMem_Free(self.outputs)

    def __init__(self, params, grads, sizes, bint bias, size_t T, size_t B, str save):
        self.held = _Buffers()
        cdef char *weights = <char *> self.held.take("params", params, True).buf
        cdef char *slopes = <char *> self.held.take("grads", grads, True).buf
        cdef pk_lstm_sizes need
        cdef pk_lstm *layer
        cdef size_t i, features
        self.params, self.grads = params, grads
        self.I, self.H, self.count, self.directions = sizes
        self.count *= self.directions
        self.T, self.B, self.itemsize = T, B, self.held.held[0].itemsize
        self.kernels = pk_rnn(dtype_of(&self.held.held[0]))
        self.layers = <pk_lstm *> PyMem_Calloc(self.count, sizeof(pk_lstm))
        self.outputs = <pk_sequence *> PyMem_Calloc(self.count, sizeof(pk_sequence))
        if self.layers == NULL or self.outputs == NULL:
            raise MemoryError
        features = self.H * self.directions
        for i in range(self.count):
            layer = &self.layers[i]
            layer.shape.T, layer.shape.B, layer.shape.H = T, B, self.H
            layer.shape.I = self.I if i < self.directions else features
            layer.shape.save, layer.shape.reverse = _SAVES[save], i % self.directions
            weights = self.place(&layer.weights, layer, weights, bias)
            slopes = self.place(&layer.grads, layer, slopes, bias)
            need = self.kernels.lstm_sizes(&layer.shape)
            layer.h, layer.c = self.get(need.h), self.get(need.c)
            layer.gates = self.get(need.gates)
        self.share_scratch()
        self.join_levels(save == "nothing")

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

    cdef char *place(self, pk_lstm_weights *w, pk_lstm *layer, char *at, bint bias) noexcept:
        """The parameters of a layer at `at`; returns where the next one begins."""
        cdef size_t rows = 4 * self.H * self.itemsize
        w.w_ih, at = at, at + rows * layer.shape.I
        w.w_hh, at = at, at + rows * self.H
        if bias:
            w.b_ih, w.b_hh, at = at, at + rows, at + 2 * rows
        return at

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

    cdef pk_sequence output_below(self, size_t i) noexcept:
        """What layer i > 0 reads: the state of the layer below where that is its output."""
        cdef pk_sequence s = self.outputs[i // self.directions - 1]
        cdef size_t P = self.kernels.padded(self.H)
        if s.data == NULL:
            s.step, s.row = self.B * P, P
            s.data = <char *> self.layers[i - self.directions].h + s.step * self.itemsize
        return s

    cdef int state(self, _Buffers arrays, str name, pair, bint writable,
                   void **h, void **c) except -1:
        """The two arrays [layers, B, H] of a state; NULL for None."""
        cdef Py_buffer *view
        h[0] = c[0] = NULL
        if pair is not None:
            for i in range(2):
                view = arrays.take(f"{name}[{i}]", pair[i], writable)
                check_shape(view, f"{name}[{i}]", (self.count, self.B, self.H))
                if i == 0:
                    h[0] = view.buf
                else:
                    c[0] = view.buf
        return 0

    cdef void *of_layer(self, const void *state, size_t i) noexcept:
        return NULL if state == NULL else <char *> state + i * self.B * self.H * self.itemsize

    def forward(self, x, y, first, last, lengths, bint repeat_last):
        """Change `y` [T, B, D * H] and the two arrays of `last` [L * D, B, H]; None: not wanted.

        `x` is [T, B, I]; `first`, the state before, is None or a pair like `last`; `lengths` is
        None or int64 [B].
        """
        cdef _Buffers arrays = _Buffers()
        cdef pk_sequence x_, y_
        cdef void *state[4]
        cdef pk_lstm *layer
        cdef size_t i, top = self.count - self.directions
        cdef int nthreads = pk_num_threads()
        arrays.take("the weights", self.params, False)
        x_ = sequence_of(take_sequence(arrays, "x", x, False, (self.T, self.B, self.I)))
        memset(&y_, 0, sizeof(y_))
        if y is not None:
            y_ = sequence_of(take_sequence(arrays, "y", y, True,
                                           (self.T, self.B, self.directions * self.H)))
        self.state(arrays, "state", first, False, &state[0], &state[1])
        self.state(arrays, "last", last, True, &state[2], &state[3])
        for i in range(self.count):
            layer = &self.layers[i]
            layer.shape.lengths = NULL
            if lengths is not None:
                layer.shape.lengths = <const int64_t *> <uintptr_t> lengths.ctypes.data
            layer.shape.repeat_last = repeat_last
            layer.x = x_ if i < self.directions else self.output_below(i)
            layer.y = y_ if i >= top else self.outputs[i // self.directions]
            layer.y = self.of_direction(layer.y, i)
            layer.h0, layer.c0 = self.of_layer(state[0], i), self.of_layer(state[1], i)
            layer.h_last, layer.c_last = self.of_layer(state[2], i), self.of_layer(state[3], i)
        with nogil:
            for i in range(self.count // self.directions):
                self.kernels.lstm_forward(&self.layers[i * self.directions], self.directions,
                                          nthreads)

    def backward(self, x, dy, dlast, dx, dfirst, bint accumulate):
        """Change `dx` [T, B, I], the two arrays of `dfirst` [L * D, B, H] and the gradients.

        `x` and `lengths` must be those of the forward before; `dy` and `dlast` are None, for zeros,
        or have the shapes of `y` and `last`; `dx` and `dfirst` are None where not wanted.
        """
        cdef _Buffers arrays = _Buffers()
        cdef pk_sequence dy_, dx_
        cdef void *state[4]
        cdef pk_lstm *layer
        cdef size_t i, level, top = self.count // self.directions - 1
        cdef int nthreads = pk_num_threads()
        arrays.take("the weights", self.params, False)
        arrays.take("grads", self.grads, True)
        take_sequence(arrays, "x", x, False, (self.T, self.B, self.I))
        memset(&dy_, 0, sizeof(dy_))
        memset(&dx_, 0, sizeof(dx_))
        if dy is not None:
            dy_ = sequence_of(take_sequence(arrays, "dy", dy, False,
                                            (self.T, self.B, self.directions * self.H)))
        if dx is not None:
            dx_ = sequence_of(take_sequence(arrays, "dx", dx, True, (self.T, self.B, self.I)))
        self.state(arrays, "dstate", dlast, False, &state[0], &state[1])
        self.state(arrays, "dfirst", dfirst, True, &state[2], &state[3])
        for i in range(self.count):
            layer, level = &self.layers[i], i // self.directions
            layer.dy = self.of_direction(dy_ if level == top else self.slopes[level % 2], i)
            layer.dx = dx_ if level == 0 else self.slopes[(level + 1) % 2]
            layer.dh_last, layer.dc_last = self.of_layer(state[0], i), self.of_layer(state[1], i)
            layer.dh0, layer.dc0 = self.of_layer(state[2], i), self.of_layer(state[3], i)
            layer.accumulate = accumulate
        with nogil:
            for i in range(top + 1):
                self.kernels.lstm_backward(&self.layers[(top - i) * self.directions],
                                           self.directions, nthreads)


cdef enum function:
    EXP
    SIGMOID
    TANH


cdef int elementwise(function f, x, y) except -1:
    """`y` may be `x` itself; else they must not overlap."""
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *of_x = arrays.take("x", x, x is y)
    cdef Py_buffer *of_y = of_x if x is y else arrays.take("y", y, True)
    check_like(of_y, "y", of_x, "x")
    kernels = pk_rnn(dtype_of(of_x))
    with nogil:
        if f == EXP:
            kernels.exp(of_x.buf, of_y.buf, size_of(of_x))
        elif f == SIGMOID:
            kernels.sigmoid(of_x.buf, of_y.buf, size_of(of_x))
        else:
            kernels.tanh(of_x.buf, of_y.buf, size_of(of_x))
    return 0


def exp(x, y):
    """y = e**x, to 1 ulp; changes `y`, which may be `x`. float32 or float64, C-contiguous."""
    elementwise(EXP, x, y)


def sigmoid(x, y):
    """y = 1 / (1 + e**-x), to 2.5 ulp; changes `y`, which may be `x`."""
    elementwise(SIGMOID, x, y)


def tanh(x, y):
    """y = tanh(x), to 1.5 ulp; changes `y`, which may be `x`."""
    elementwise(TANH, x, y)


def matmul(a, b, c, *, accumulate=False):
    """c = a @ b, or c += a @ b if `accumulate`; changes `c`.

    Parameters
    ----------
    a, b, c : arrays [M, K], [K, N], [M, N]
        float32 or float64, C-contiguous, c apart from the others.
    """
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *of_a = arrays.take("a", a, False)
    cdef Py_buffer *of_b = arrays.take("b", b, False)
    cdef Py_buffer *of_c = arrays.take("c", c, True)
    cdef size_t M, N, K
    cdef void *scratch
    cdef bint add = switch({"accumulate": accumulate}, "accumulate")
    if of_a.ndim != 2:
        raise ValueError(f"a: expected 2 axes, got shape {shape_of(of_a)}")
    if of_b.ndim != 2:
        raise ValueError(f"b: expected 2 axes, got shape {shape_of(of_b)}")
    M, K, N = of_a.shape[0], of_a.shape[1], of_b.shape[1]
    check_shape(of_b, "b", (K, N))
    check_shape(of_c, "c", (M, N))
    kernels = pk_rnn(dtype_of(of_a))
    scratch = PyMem_Malloc(kernels.matmul_scratch_size(N, K))
    if scratch == NULL:
        raise MemoryError
    with nogil:
        kernels.matmul(M, N, K, of_a.buf, K, of_b.buf, N, of_c.buf, N, add, scratch,
                       pk_num_threads())
    PyMem_Free(scratch)


def fma_roof(dtype, size_t rounds):
    """Do multiply-adds in registers on one core, which no product can beat; for benchmarks.

    Returns the number of floating-point operations.
    """
    cdef double out, flop
    kernels = pk_rnn(PK_F32 if check_float_dtype(dtype).itemsize == 4 else PK_F64)
    with nogil:
        flop = kernels.fma_roof(rounds, &out)
    return flop
