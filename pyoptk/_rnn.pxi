# The recurrent family of the binding: sequences, and checks of arguments that pyoptk/rnn/ takes.

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


def steps_and_rows(x, size_t I, bint batch_first, model):
    """T and B of an input; raises unless it has the weights' dtype and I features."""
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *view
    arrays.take("the weights", model, False)
    view = arrays.take("x", x, False, True)
    if view.ndim != 3 or <size_t> view.shape[2] != I:
        raise ValueError(f"x: expected shape (any, any, {I}), got {shape_of(view)}")
    return view.shape[batch_first], view.shape[not batch_first]


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
