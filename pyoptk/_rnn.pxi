# The recurrent family of the binding. Sequences come time-major, [T, B, features], with any strides
# as long as the features of a row are adjacent; pyoptk/rnn.py sees to that.

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


cdef class _Layer:
    """The arguments that forward and backward of one LSTM layer share, taken and checked."""
    cdef _Buffers arrays
    cdef pk_rnn_shape shape
    cdef pk_lstm_weights weights
    cdef pk_lstm_saved saved
    cdef pk_sequence x
    cdef pk_dtype dtype
    cdef const pk_rnn_kernels *kernels
    cdef void *scratch
    cdef tuple dims

    cdef int setup(self, size_t H, int layer, x, weights, saved, lengths, scratch) except -1:
        cdef Py_buffer *view
        cdef size_t P
        self.arrays = _Buffers()
        T, B, I = x.shape
        self.dims = (T, B, I, H)
        self.shape.T, self.shape.B, self.shape.I, self.shape.H = T, B, I, H
        view = take_sequence(self.arrays, "x", x, False, (T, B, I))
        self.x = sequence_of(view)
        self.dtype = dtype_of(view)
        self.kernels = pk_rnn(self.dtype)
        P = self.kernels.padded(H)
        self.take_weights(&self.weights, weights, "params", layer, False)
        self.saved.h = self.take("h", saved[0], (T + 1, B, P))
        self.saved.c = self.take("c", saved[1], (T + 1, B, P))
        self.saved.gates = self.take("gates", saved[2], (T * B * 4 * P,))
        view = self.arrays.take("scratch", scratch, True)
        size = self.kernels.lstm_scratch_size(&self.shape)
        if <size_t> view.len < size:
            raise ValueError(f"scratch: expected {size} bytes, got {view.len}")
        self.scratch = view.buf
        self.shape.lengths = NULL
        if lengths is not None:
            self.shape.lengths = <const int64_t *> <uintptr_t> lengths.ctypes.data
        return 0

    cdef void *take(self, str name, array, tuple shape) except? NULL:
        cdef Py_buffer *view = self.arrays.take(name, array, True)
        check_shape(view, name, shape)
        return view.buf

    cdef int take_weights(self, pk_lstm_weights *out, arrays, str whose, int layer,
                          bint writable) except -1:
        cdef Py_buffer *view
        cdef void *data[4]
        cdef int i
        _, _, I, H = self.dims
        shapes = ((4 * H, I), (4 * H, H), (4 * H,), (4 * H,))
        for i, what in enumerate(("weight_ih", "weight_hh", "bias_ih", "bias_hh")):
            data[i] = NULL
            if arrays[i] is not None or (i < 2 and not writable):  # only a bias may be absent
                name = f"{whose}['{what}_l{layer}']"
                view = self.arrays.take(name, arrays[i], writable)
                check_shape(view, name, shapes[i])
                data[i] = view.buf
        out.w_ih, out.w_hh, out.b_ih, out.b_hh = data[0], data[1], data[2], data[3]
        return 0


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

def lstm_forward(size_t H, int layer, x, weights, y, saved, lengths, scratch):
    """LSTM layer number `layer` of H units; changes `y` [T, B, H], unless None, and `saved`.

    `weights` is (w_ih, w_hh, b_ih, b_hh), the biases may be None; `saved` is (h, c, gates), the
    initial state being in h[0] and c[0]; `lengths` is None or int64 [B].
    """
    cdef _Layer job = _Layer()
    cdef pk_sequence out
    job.setup(H, layer, x, weights, saved, lengths, scratch)
    T, B, _, _ = job.dims
    memset(&out, 0, sizeof(out))
    if y is not None:
        out = sequence_of(take_sequence(job.arrays, "y", y, True, (T, B, H)))
    with nogil:
        job.kernels.lstm_forward(&job.shape, &job.weights, job.x, out, &job.saved, job.scratch,
                                 pk_num_threads())


def lstm_backward(size_t H, int layer, x, weights, saved, dy, dh, dc, dx, grads, bint accumulate,
                  lengths, scratch):
    """The gradients of `lstm_forward`; changes `dh`, `dc`, `dx`, `grads` and the gates in `saved`.

    `dy` and `dx` may be None; `dh` and `dc` [B, H] are those of the last state and become those of
    the initial one; `grads` is (dw_ih, dw_hh, db_ih, db_hh), each may be None.
    """
    cdef _Layer job = _Layer()
    cdef pk_sequence dy_, dx_
    cdef pk_lstm_weights grads_
    cdef void *dh_
    cdef void *dc_
    job.setup(H, layer, x, weights, saved, lengths, scratch)
    T, B, I, _ = job.dims
    memset(&dy_, 0, sizeof(dy_))
    memset(&dx_, 0, sizeof(dx_))
    if dy is not None:
        dy_ = sequence_of(take_sequence(job.arrays, "dy", dy, False, (T, B, H)))
    if dx is not None:
        dx_ = sequence_of(take_sequence(job.arrays, "dx", dx, True, (T, B, I)))
    dh_ = job.take("dh", dh, (B, H))
    dc_ = job.take("dc", dc, (B, H))
    job.take_weights(&grads_, grads, "grads", layer, True)
    with nogil:
        job.kernels.lstm_backward(&job.shape, &job.weights, job.x, &job.saved, dy_, dh_, dc_, dx_,
                                  &grads_, accumulate, job.scratch, pk_num_threads())


def lstm_sizes(size_t T, size_t B, size_t I, size_t H, dtype):
    """(H rounded up to whole vectors, bytes of scratch) for a layer of this shape."""
    cdef pk_rnn_shape shape
    memset(&shape, 0, sizeof(shape))
    shape.T, shape.B, shape.I, shape.H = T, B, I, H
    kernels = pk_rnn(PK_F32 if dtype.itemsize == 4 else PK_F64)
    return kernels.padded(H), kernels.lstm_scratch_size(&shape)


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
