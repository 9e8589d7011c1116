"""The bare kernels of linear layers, normalization and losses.

Each function takes its arrays and its numbers, then calls a kernel: csrc/include/pyoptk_dense.h has
the formulas.
"""
from ._checks import check_choice, check_integer, number
from ._targets import check_labels, check_weights, is_distribution

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libc.float cimport FLT_MAX, FLT_MIN
from libc.stdint cimport int64_t
from libc.string cimport memset

from ._arrays cimport Buffers, check_like, check_shape, dtype_of, shape_of, size_of, switch
from ._core cimport dense_table, num_threads
from .capi cimport (
    PK_ABSOLUTE, PK_GELU, PK_HUBER, PK_LOGISTIC, PK_SQUARED, PyArray_DATA, PyArrayObject,
    pk_activation, pk_cross_entropy, pk_elementwise_loss, pk_layer_norm, pk_layer_norm_gradients,
    pk_linear, pk_linear_gradients, pk_loss,
)

# In the order of pk_activation.
ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu",
               "softplus")


cdef void *like(Buffers arrays, str name, array, bint writable, tuple shape) except? NULL:
    """The data of an array of this shape; NULL for None."""
    cdef Py_buffer *view
    if array is None:
        return NULL
    view = arrays.take(name, array, writable)
    check_shape(view, name, shape)
    return view.buf


cdef void *needed(Buffers arrays, str name, array, bint writable, tuple shape) except? NULL:
    if array is None:
        raise TypeError(f"{name}: expected an array, got None")
    return like(arrays, name, array, writable, shape)


cdef double at_least_zero(str name, value) except? -1:
    return number(name, value, 0, FLT_MAX, "a number >= 0 that float32 can hold")


cdef Py_buffer *rows_of(Buffers arrays, array, bint writable) except NULL:
    """`x`, a matrix of at least one column."""
    cdef Py_buffer *x = arrays.matrix("x", array, writable)
    if x.shape[1] == 0:
        raise ValueError(f"x: expected at least 1 column, got shape {shape_of(x)}")
    return x


# ---- linear layers ------------------------------------------------------------------------------

cdef int layer_of(Buffers arrays, pk_linear *layer, x, w, activation, slope) except -1:
    cdef Py_buffer *of_x = arrays.matrix("x", x, False)
    cdef Py_buffer *of_w = arrays.matrix("w", w, False)
    memset(layer, 0, sizeof(layer[0]))
    layer.M, layer.I, layer.O = of_x.shape[0], of_x.shape[1], of_w.shape[0]
    check_shape(of_w, "w", (layer.O or 1, layer.I))
    layer.x, layer.w, layer.ldx, layer.ldy = of_x.buf, of_w.buf, layer.I, layer.O
    check_choice("activation", activation, ACTIVATIONS)
    layer.activation = <pk_activation> <int> ACTIVATIONS.index(activation)
    layer.slope = at_least_zero("slope", slope)
    return 0


def linear_forward(x, w, b, y, z=None, *, activation="none", slope=0.01):
    """y = f(x @ w.T + b), f the activation; changes `y`, and `z` if it is given.

    Parameters
    ----------
    x, w, b, y : arrays [M, I], [O, I], [O], [M, O]
        float32 or float64, C-contiguous, y apart from the others. `b` may be None.
    z : array [M, O], optional
        Takes the argument of f. `linear_backward` needs it after "gelu", "gelu_tanh", "silu" and
        "softplus".
    activation : str
        "none", "relu", "leaky_relu" (slope * z below 0), "tanh", "sigmoid", "gelu" (z times the
        normal distribution function), "gelu_tanh" (its approximation; Hendrycks & Gimpel 2016),
        "silu" (z * sigmoid(z)) or "softplus" (log(1 + e**z)).
    slope : float
        Of "leaky_relu", >= 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_linear layer
    layer_of(arrays, &layer, x, w, activation, slope)
    layer.b = like(arrays, "b", b, False, (layer.O,))
    layer.y = needed(arrays, "y", y, True, (layer.M, layer.O))
    layer.z = like(arrays, "z", z, True, (layer.M, layer.O))
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    layer.scratch = arrays.scratch(kernels.linear_scratch_size(&layer))
    with nogil:
        kernels.linear_forward(&layer, num_threads())


def linear_backward(dy, x, w, y=None, z=None, *, dx=None, dw=None, db=None, activation="none",
                    slope=0.01, accumulate=False):
    """The gradients of `linear_forward`, from `dy`; changes those of `dx`, `dw`, `db` given.

    Parameters
    ----------
    dy : array [M, O]
        The gradient of `y`.
    x, w, y, z : arrays
        As in `linear_forward`. `z` is needed where that says so, `y` after the other activations.
    dx, dw, db : arrays [M, I], [O, I], [O], optional
        Apart from all others.
    accumulate : bool
        Add to `dw` and `db` instead of overwriting them.

    Raises
    ------
    TypeError, ValueError
        As `linear_forward`.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_linear layer
    cdef pk_linear_gradients grads
    layer_of(arrays, &layer, x, w, activation, slope)
    cdef tuple shape = (layer.M, layer.O)
    cdef bint of_z = layer.activation >= PK_GELU
    layer.y = like(arrays, "y", y, False, shape)
    layer.z = like(arrays, "z", z, False, shape)
    if layer.activation and (layer.z if of_z else layer.y) == NULL:
        raise TypeError(f"{'z' if of_z else 'y'}: expected an array, as activation="
                        f"{activation!r} needs it, got None")
    grads.dy = needed(arrays, "dy", dy, False, shape)
    grads.dx = like(arrays, "dx", dx, True, (layer.M, layer.I))
    grads.dw = like(arrays, "dw", dw, True, (layer.O, layer.I))
    grads.db = like(arrays, "db", db, True, (layer.O,))
    grads.lddy, grads.lddx, grads.accumulate = layer.O, layer.I, switch("accumulate", accumulate)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    layer.scratch = arrays.scratch(kernels.linear_scratch_size(&layer))
    with nogil:
        kernels.linear_backward(&layer, &grads, num_threads())


# ---- normalization ------------------------------------------------------------------------------

cdef int norm_of(Buffers arrays, pk_layer_norm *norm, x, gain, mean, scale, bint forward,
                 bint rms) except -1:
    cdef Py_buffer *of_x = rows_of(arrays, x, False)
    memset(norm, 0, sizeof(norm[0]))
    norm.M, norm.N, norm.x, norm.rms = of_x.shape[0], of_x.shape[1], of_x.buf, rms
    norm.gain = like(arrays, "gain", gain, False, (norm.N,))
    if not rms:
        norm.mean = needed(arrays, "mean", mean, forward, (norm.M,))
    norm.scale = needed(arrays, "scale", scale, forward, (norm.M,))
    return 0


cdef int norm_forward(x, gain, bias, y, mean, scale, eps, bint rms) except -1:
    cdef Buffers arrays = Buffers()
    cdef pk_layer_norm norm
    norm_of(arrays, &norm, x, gain, mean, scale, True, rms)
    norm.bias = like(arrays, "bias", bias, False, (norm.N,))
    norm.y = needed(arrays, "y", y, True, (norm.M, norm.N))
    norm.eps = at_least_zero("eps", eps)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    with nogil:
        kernels.layer_norm_forward(&norm, num_threads())
    return 0


cdef int norm_backward(dy, x, gain, mean, scale, dx, dgain, dbias, accumulate, bint rms) except -1:
    cdef Buffers arrays = Buffers()
    cdef pk_layer_norm norm
    cdef pk_layer_norm_gradients grads
    norm_of(arrays, &norm, x, gain, mean, scale, False, rms)
    grads.dy = needed(arrays, "dy", dy, dx is dy, (norm.M, norm.N))
    grads.dx = (<void *> grads.dy if dx is dy else
                like(arrays, "dx", dx, True, (norm.M, norm.N)))
    grads.dgain = like(arrays, "dgain", dgain, True, (norm.N,))
    grads.dbias = like(arrays, "dbias", dbias, True, (norm.N,))
    grads.accumulate = switch("accumulate", accumulate)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    grads.scratch = arrays.scratch(kernels.layer_norm_scratch_size(&norm))
    with nogil:
        kernels.layer_norm_backward(&norm, &grads, num_threads())
    return 0


def layer_norm_forward(x, gain, bias, y, mean, scale, *, eps=1e-5):
    """y = (x - mean) * scale * gain + bias, row by row; changes `y`, `mean` and `scale`.

    `mean` is that of a row, `scale` is ``1 / sqrt(variance + eps)`` with the variance divided by N
    (Ba et al. 2016).

    Parameters
    ----------
    x, y : arrays [M, N]
        float32 or float64, C-contiguous, y apart from the others.
    gain, bias : arrays [N] or None
    mean, scale : arrays [M]
        `layer_norm_backward` needs them.
    eps : float
        >= 0; 1e-5 as in PyTorch (Keras has 1e-3).

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    norm_forward(x, gain, bias, y, mean, scale, eps, False)


def layer_norm_backward(dy, x, gain, mean, scale, *, dx=None, dgain=None, dbias=None,
                        accumulate=False):
    """The gradients of `layer_norm_forward`, from `dy`; changes those of the last three given.

    Parameters
    ----------
    dy : array [M, N]
        The gradient of `y`.
    x, gain, mean, scale : arrays
        As `layer_norm_forward` left them.
    dx, dgain, dbias : arrays [M, N], [N], [N], optional
        `dx` may be `dy`.
    accumulate : bool
        Add to `dgain` and `dbias` instead of overwriting them.

    Raises
    ------
    TypeError, ValueError
        As `layer_norm_forward`.
    """
    norm_backward(dy, x, gain, mean, scale, dx, dgain, dbias, accumulate, False)


def rms_norm_forward(x, gain, y, scale, *, eps=1e-5):
    """y = x * scale * gain, scale = 1 / sqrt(mean(x**2) + eps) of a row; changes `y` and `scale`.

    Zhang & Sennrich (2019); else as `layer_norm_forward`.
    """
    norm_forward(x, gain, None, y, None, scale, eps, True)


def rms_norm_backward(dy, x, gain, scale, *, dx=None, dgain=None, accumulate=False):
    """The gradients of `rms_norm_forward`; else as `layer_norm_backward`."""
    norm_backward(dy, x, gain, None, scale, dx, dgain, None, accumulate, True)


# ---- losses -------------------------------------------------------------------------------------

cdef const void *weights_of(Buffers arrays, str name, array, size_t n) except? NULL:
    cdef const void *weights = like(arrays, name, array, False, (n,))
    if weights != NULL:
        check_weights(name, array)
    return weights


cdef double scale_of(scale) except? -1:
    return number("scale", scale, -FLT_MAX, FLT_MAX, "a number that float32 can hold")


def softmax_cross_entropy(x, target, dx=None, *, weights=None, class_weights=None,
                          label_smoothing=0.0, ignore_index=-100, scale=1.0):
    """The mean cross entropy of softmax(x) and `target`; `dx` takes its gradient times `scale`.

    Parameters
    ----------
    x : array [M, C]
        Scores of M rows and C classes: float32 or float64, C-contiguous.
    target : array of integers [M], or array [M, C] like x
        Labels in 0..C-1, or a distribution over the classes for each row.
    dx : array [M, C], optional
        May be `x`.
    weights : array [M], optional
        Weights of the rows, >= 0. A row of weight 0 is not read, and its gradient is 0.
    class_weights : array [C], optional
        Each class's term is multiplied by it. With labels, so is the weight by which is divided,
        as in PyTorch.
    label_smoothing : float
        In [0, 1): the target is mixed with as much of 1/C for every class (Szegedy et al. 2016).
    ignore_index : int
        Rows with this label have weight 0.
    scale : float
        Factor of `dx`.

    Returns
    -------
    float
        The sum of weight * loss, divided by the sum of the weights; 0 if all weights are 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_cross_entropy loss
    cdef Py_buffer *of_x = rows_of(arrays, x, dx is x)
    cdef double mean
    memset(&loss, 0, sizeof(loss))
    loss.M, loss.C, loss.x = of_x.shape[0], of_x.shape[1], of_x.buf
    loss.ignore_index = check_integer("ignore_index", ignore_index, -2**63, 2**63 - 1, "an int")
    if is_distribution(target):
        loss.targets = like(arrays, "target", target, False, (loss.M, loss.C))
    else:
        labels = check_labels(target, loss.M, loss.C, loss.ignore_index)
        loss.labels = <const int64_t *> PyArray_DATA(<PyArrayObject *> <PyObject *> labels)
    loss.weights = weights_of(arrays, "weights", weights, loss.M)
    loss.class_weights = weights_of(arrays, "class_weights", class_weights, loss.C)
    loss.dx = of_x.buf if dx is x else like(arrays, "dx", dx, True, (loss.M, loss.C))
    loss.smoothing = number("label_smoothing", label_smoothing, 0, 1, "a number in [0, 1)")
    loss.scale = scale_of(scale)
    arrays.check_apart()
    kernels = dense_table(dtype_of(of_x))
    loss.scratch = <double *> arrays.scratch(loss.M * sizeof(double))
    with nogil:
        mean = kernels.cross_entropy(&loss, num_threads())
    return mean


cdef double elementwise(pk_loss which, x, target, dx, weights, delta, scale) except *:
    cdef Buffers arrays = Buffers()
    cdef pk_elementwise_loss loss
    cdef Py_buffer *of_x = arrays.take("x", x, dx is x)
    cdef Py_buffer *of_target = arrays.take("target", target, False)
    cdef double mean
    check_like(of_target, "target", of_x, "x", True)
    loss.M = of_x.shape[0] if of_x.ndim else 1
    loss.N = size_of(of_x) // (loss.M or 1)
    loss.x, loss.target, loss.loss, loss.delta = of_x.buf, of_target.buf, which, delta
    loss.weights = weights_of(arrays, "weights", weights, loss.M)
    loss.dx = of_x.buf if dx is x else like(arrays, "dx", dx, True, shape_of(of_x))
    loss.scale = scale_of(scale)
    arrays.check_apart()
    kernels = dense_table(dtype_of(of_x))
    loss.scratch = <double *> arrays.scratch(loss.M * sizeof(double))
    with nogil:
        mean = kernels.elementwise_loss(&loss, num_threads())
    return mean


def mse(x, target, dx=None, *, weights=None, scale=1.0):
    """The mean of (x - target)**2; `dx` takes its gradient times `scale`.

    Parameters
    ----------
    x, target : arrays [M, ...]
        float32 or float64, C-contiguous, of one shape.
    dx : array like x, optional
        May be `x`.
    weights : array [M], optional
        Weights of the rows, >= 0. A row of weight 0 is not read, and its gradient is 0.
    scale : float
        Factor of `dx`.

    Returns
    -------
    float
        The sum of weight * loss over all elements, divided by that of the weights; 0 if it is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    return elementwise(PK_SQUARED, x, target, dx, weights, 0, scale)


def mae(x, target, dx=None, *, weights=None, scale=1.0):
    """The mean of abs(x - target), gradient 0 where they are equal; else as `mse`."""
    return elementwise(PK_ABSOLUTE, x, target, dx, weights, 0, scale)


def huber(x, target, dx=None, *, delta=1.0, weights=None, scale=1.0):
    """The mean of r**2 / 2 if abs(r) <= delta, else delta * (abs(r) - delta / 2), r = x - target.

    Huber (1964); delta > 0. Else as `mse`.
    """
    delta = number("delta", delta, FLT_MIN, FLT_MAX, "a number > 0 that float32 can hold")
    return elementwise(PK_HUBER, x, target, dx, weights, delta, scale)


def bce_with_logits(x, target, dx=None, *, pos_weight=1.0, weights=None, scale=1.0):
    """The mean binary cross entropy of sigmoid(x) and `target`, in [0, 1]; else as `mse`.

    ``-(pos_weight * target * log(s) + (1 - target) * log(1 - s)), s = sigmoid(x)``, without
    overflow; `pos_weight` is a number >= 0.
    """
    return elementwise(PK_LOGISTIC, x, target, dx, weights,
                       at_least_zero("pos_weight", pos_weight), scale)
