# Dropout by position: see pk_dropout_config in pyoptk.h.

cdef uint64_t uint64(str name, value) except? 0:
    if not isinstance(value, (int, _np.integer)) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer in 0..2**64-1, got {value!r}")
    if not 0 <= value < 2**64:
        raise ValueError(f"{name}: expected an integer in 0..2**64-1, got {value!r}")
    return value


def dropout(x, y, p, *, seed, stream=0):
    """Drop elements of `x` with probability `p`, scale the others; changes `y`, which may be `x`.

    y = x / (1 - p) or 0 (Srivastava et al. 2014). Which it is depends on an element's index, `seed`
    and `stream` alone (Philox4x32-10, Salmon et al. 2011): the gradient takes the same call.

    Parameters
    ----------
    x, y : arrays [T, B, H]
        float32 or float64; elements of the last axis adjacent.
    p : float
        In [0, 1); rounded to a multiple of 2**-16.
    seed, stream : int
        In 0..2**64-1. Another seed, or another stream of the same, is another mask.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef _Buffers arrays = _Buffers()
    cdef pk_dropout_config config
    cdef Py_buffer *of_x
    cdef Py_buffer *of_y
    cdef pk_sequence x_, y_
    cdef size_t T, B, H
    config.p = fraction({"p": p}, "p")
    config.seed, config.stream = uint64("seed", seed), uint64("stream", stream)
    of_x = arrays.take("x", x, x is y, True)
    if of_x.ndim != 3:
        raise ValueError(f"x: expected 3 axes, got shape {shape_of(of_x)}")
    check_adjacent(of_x, "x")
    of_y = of_x if x is y else arrays.take("y", y, True, True)
    check_like(of_y, "y", of_x, "x")
    check_adjacent(of_y, "y")
    T, B, H = of_x.shape[0], of_x.shape[1], of_x.shape[2]
    x_, y_ = sequence_of(of_x), sequence_of(of_y)
    kernels = pk_rnn(dtype_of(of_x))
    with nogil:
        kernels.dropout(T, B, H, x_, y_, &config, pk_num_threads())
