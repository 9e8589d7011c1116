# The recurrent family of the binding. Sequences come time-major, [T, B, features], with any strides
# as long as the features of a row are adjacent; pyoptk/rnn/layer.py sees to that.

cdef pk_sequence sequence_of(Py_buffer *view) noexcept:
    cdef pk_sequence s
    s.data = view.buf
    s.step, s.row = view.strides[0] // view.itemsize, view.strides[1] // view.itemsize
    return s


cdef int check_adjacent(Py_buffer *view, str name) except -1:
    cdef int last = view.ndim - 1
    if view.shape[last] > 1 and view.strides[last] != view.itemsize:
        raise ValueError(f"{name}: expected the last axis to be adjacent in memory, got strides "
                         f"{strides_of(view)}")
    return 0


cdef Py_buffer *take_sequence(_Buffers arrays, str name, array, bint writable,
                              tuple shape) except NULL:
    cdef Py_buffer *view = arrays.take(name, array, writable, True)
    check_shape(view, name, shape)
    check_adjacent(view, name)
    return view


# ---- checks of arguments that pyoptk/rnn/ takes --------------------------------------------------

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
    cdef Py_buffer view, weights
    cdef bint fits
    cdef int i
    acquire(model, &weights, "the weights", False, False)
    try:
        acquire(x, &view, name, False, True)
        try:
            check_dtype(&view, name, &weights, "the weights")
            fits = view.ndim == 3
            for i in range(3 if fits else 0):
                fits &= axes[i] is None or axes[i] == view.shape[i]
            if not fits:
                wanted = ", ".join(["any" if n is None else str(n) for n in axes])
                raise ValueError(f"{name}: expected shape ({wanted}), got {shape_of(&view)}")
        finally:
            PyBuffer_Release(&view)
    finally:
        PyBuffer_Release(&weights)


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
    if isinstance(lengths, _np.ma.MaskedArray):
        raise TypeError(f"lengths: expected {B} integers, got a masked array, whose mask would "
                        f"have no effect")
    try:
        checked = _np.asarray(lengths)
    except ValueError:
        raise ValueError(f"lengths: expected {B} integers, got a ragged sequence") from None
    if checked.size == 0:  # of a list, whatever dtype NumPy gives it
        checked = checked.astype(_np.int64)
    if checked.dtype.kind not in "iu":
        raise TypeError(f"lengths: expected {B} integers, got {described(checked)}")
    if checked.shape != (B,):
        raise ValueError(f"lengths: expected {B} integers, got {described(checked)}")
    if checked.size and (checked.min() < 0 or checked.max() > T):
        raise ValueError(f"lengths: expected numbers in 0..{T}, "
                         f"got {checked.min()}..{checked.max()}")
    return _np.array(checked, _np.int64)


cdef uint64_t uint64(str name, value) except? 0:
    if not isinstance(value, (int, _np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer in 0..2**64-1, got {value!r}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: expected an integer in 0..2**64-1, got {value!r}")
    return value


def check_uint64(str name, value):
    uint64(name, value)


def check_dropout(p, seed, num_layers):
    """`p` as a float; `seed` is None or a number that dropout takes."""
    p = fraction({"dropout": p}, "dropout")
    if p > 0 and num_layers == 1:
        raise ValueError(f"dropout: expected 0 for one layer, as it acts between layers, got {p}")
    if seed is not None:
        uint64("seed", seed)
    return p


def check_switches(**switches):
    for name in switches:
        switch(switches, name)


def check_rng(rng):
    if rng is not None and not isinstance(rng, _np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator or None, got {type(rng).__name__}")


# ---- the LSTM -----------------------------------------------------------------------------------

_SAVES = {"full": PK_SAVE_FULL, "minimal": PK_SAVE_MINIMAL, "nothing": PK_SAVE_NOTHING}


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
    cdef pk_sequence dropped  # what is left for the level that is being worked on
    cdef pk_dropout_config config
    cdef bint drops  # in this forward, and so in the backward that follows

    def __cinit__(self):
        self.owned = []

    def __dealloc__(self):
        for at in self.owned:
            PyMem_Free(<void *> <uintptr_t> at)
        PyMem_Free(self.layers)
        PyMem_Free(self.outputs)

    def __init__(self, params, grads, sizes, bint bias, size_t T, size_t B, str save,
                 bint dropout=False):
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
            weights = place_weights(&layer.weights, &layer.shape, weights, bias, self.itemsize)
            slopes = place_weights(&layer.grads, &layer.shape, slopes, bias, self.itemsize)
            need = self.kernels.lstm_sizes(&layer.shape)
            layer.h, layer.c = self.get(need.h), self.get(need.c)
            layer.gates = self.get(need.gates)
        self.share_scratch()
        self.join_levels(save == "nothing")
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
                             pk_num_threads())

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

    def forward(self, x, y, first, last, lengths, bint repeat_last, dropout=None):
        """Change `y` [T, B, D * H] and the two arrays of `last` [L * D, B, H]; None: not wanted.

        `x` is [T, B, I]; `first`, the state before, is None or a pair like `last`; `lengths` is
        None or int64 [B]; `dropout` is None or (p, seed, stream): level n takes stream + n.
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
            y_ = sequence_of(take_sequence(arrays, "out", y, True,
                                           (self.T, self.B, self.directions * self.H)))
        self.state(arrays, "state", first, False, &state[0], &state[1])
        self.state(arrays, "last", last, True, &state[2], &state[3])
        self.drops = dropout is not None
        if self.drops:
            self.config.p, self.config.seed, self.config.stream = dropout
        for i in range(self.count):
            layer = &self.layers[i]
            layer.shape.lengths = NULL
            if lengths is not None:
                layer.shape.lengths = <const int64_t *> <uintptr_t> lengths.ctypes.data
            layer.shape.repeat_last = repeat_last
            layer.x = x_
            if i >= self.directions:
                layer.x = self.dropped if self.drops else self.output_below(i)
            layer.y = y_ if i >= top else self.outputs[i // self.directions]
            layer.y = self.of_direction(layer.y, i)
            layer.h0, layer.c0 = self.of_layer(state[0], i), self.of_layer(state[1], i)
            layer.h_last, layer.c_last = self.of_layer(state[2], i), self.of_layer(state[3], i)
        with nogil:
            for i in range(self.count // self.directions):
                if i > 0 and self.drops:
                    self.drop(i, self.output_below(i * self.directions), self.dropped)
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
            dx_ = sequence_of(take_sequence(arrays, "out", dx, True, (self.T, self.B, self.I)))
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
                level = top - i
                layer = &self.layers[level * self.directions]
                if self.drops and 0 < level < top:  # the top's are still there
                    self.drop(level, self.output_below(level * self.directions), self.dropped)
                self.kernels.lstm_backward(layer, self.directions, nthreads)
                if self.drops and level > 0:
                    self.drop(level, layer.dx, layer.dx)
