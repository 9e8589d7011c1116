"""The bare kernels of losses and normalization; pyoptk_dense.h has the formulas.

pyoptk/kernels.py shows them; losses.py, which takes sequences, and layers call them.
"""
import numpy as _np

from ._checks import as_rows, check_integer, number
from ._targets import check_labels, check_weights, is_distribution

from cpython.buffer cimport Py_buffer
from cpython.object cimport PyObject
from libc.float cimport FLT_MAX, FLT_MIN
from libc.stdint cimport int64_t
from libc.string cimport memset

from ._arrays cimport Buffers, check_like, dtype_of, size_of, switch
from ._core cimport dense_table, num_threads
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, PK_ABSOLUTE, PK_HUBER, PK_LOGISTIC, PK_SQUARED, PyArray_CHKFLAGS,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArrayObject, pk_cross_entropy,
    pk_elementwise_loss, pk_layer_norm, pk_layer_norm_gradients, pk_loss,
)

cdef object _ndarray = _np.ndarray, _i64 = _np.dtype("i8")


cdef void *needed(Buffers arrays, str name, array, bint writable, Py_ssize_t n,
                  Py_ssize_t columns=-1) except? NULL:
    if array is None:
        raise TypeError(f"{name}: expected an array, got None")
    return arrays.like(name, array, writable, n, columns)


cdef double at_least_zero(str name, value) except? -1:
    if type(value) is float and 0 <= <double> value < FLT_MAX:
        return value
    return number(name, value, 0, FLT_MAX, "a number >= 0 that float32 can hold")


cpdef object rows_of(str name, x, dtype, Py_ssize_t columns):
    """x [..., columns] as a contiguous matrix, of this dtype."""
    cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> x
    if (type(x) is _ndarray and PyArray_DESCR(a) == <void *> dtype and PyArray_NDIM(a) == 2
            and PyArray_DIMS(a)[1] == columns and PyArray_CHKFLAGS(a, NPY_ARRAY_CARRAY_RO)):
        return x
    return as_rows(name, x, dtype, columns)


cdef const void *weights_of(Buffers arrays, str name, array, size_t n) except? NULL:
    cdef const void *weights = arrays.like(name, array, False, n)
    if weights != NULL:
        check_weights(name, array)
    return weights


cdef bint is_labels(target) noexcept:
    """Whether these are contiguous integer labels, the usual case, without a call of Python."""
    cdef PyArrayObject *given = <PyArrayObject *> <PyObject *> target
    return (type(target) is _ndarray and PyArray_DESCR(given) == <void *> _i64
            and PyArray_NDIM(given) == 1)


cdef object labels_of(target, size_t M, size_t C, int64_t ignored):
    """The checked labels as a new array, int64 [M]."""
    cdef const int64_t *labels
    cdef size_t i
    cdef bint fits = is_labels(target) and <size_t> PyArray_DIMS(
        <PyArrayObject *> <PyObject *> target)[0] == M
    if fits:
        copied = target.copy()
        labels = <const int64_t *> PyArray_DATA(<PyArrayObject *> <PyObject *> copied)
        for i in range(M):
            fits &= 0 <= labels[i] and <size_t> labels[i] < C or labels[i] == ignored
    return copied if fits else check_labels(target, M, C, ignored)


cdef double scale_of(scale) except? -1:
    if type(scale) is float and -FLT_MAX < <double> scale < FLT_MAX:
        return scale
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
        Factors of the terms of the classes. With labels, also of the weights of the rows in the
        sum by which is divided, as in PyTorch.
    label_smoothing : float
        s in [0, 1): the target is (1 - s) * target + s / C (Szegedy et al. 2016).
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
    cdef Py_buffer *of_x = arrays.matrix("x", x, dx is x, 1)
    cdef double mean
    memset(&loss, 0, sizeof(loss))
    loss.M, loss.C, loss.x = of_x.shape[0], of_x.shape[1], of_x.buf
    if type(ignore_index) is int and -2**31 <= ignore_index < 2**31:
        loss.ignore_index = ignore_index
    else:
        loss.ignore_index = check_integer("ignore_index", ignore_index, -2**63, 2**63, "an int64")
    if not is_labels(target) and is_distribution(target):
        loss.targets = arrays.like("target", target, False, loss.M, loss.C)
    else:
        labels = labels_of(target, loss.M, loss.C, loss.ignore_index)
        loss.labels = <const int64_t *> PyArray_DATA(<PyArrayObject *> <PyObject *> labels)
    loss.weights = weights_of(arrays, "weights", weights, loss.M)
    loss.class_weights = weights_of(arrays, "class_weights", class_weights, loss.C)
    loss.dx = of_x.buf if dx is x else arrays.like("dx", dx, True, loss.M, loss.C)
    if type(label_smoothing) is float and 0 <= <double> label_smoothing < 1:
        loss.smoothing = label_smoothing
    else:
        loss.smoothing = number("label_smoothing", label_smoothing, 0, 1, "a number in [0, 1)")
    loss.scale = scale_of(scale)
    arrays.check_apart()
    kernels = dense_table(dtype_of(of_x))
    loss.scratch = <double *> arrays.scratch(loss.M * sizeof(double), False)
    with nogil:
        mean = kernels.cross_entropy(&loss, num_threads())
    return mean


cdef double elementwise(pk_loss which, x, target, dx, weights, delta, scale) except *:
    cdef Buffers arrays = Buffers()
    cdef pk_elementwise_loss loss
    cdef Py_buffer *of_x = arrays.take("x", x, dx is x)
    cdef Py_buffer *of_target = arrays.take("target", target, False)
    cdef Py_buffer *of_dx
    cdef double mean
    check_like(of_target, "target", of_x, "x", True)
    loss.M = of_x.shape[0] if of_x.ndim else 1
    loss.N = size_of(of_x) // (loss.M or 1)
    loss.x, loss.target, loss.loss, loss.delta = of_x.buf, of_target.buf, which, delta
    loss.weights = weights_of(arrays, "weights", weights, loss.M)
    loss.dx = of_x.buf
    if dx is None:
        loss.dx = NULL
    elif dx is not x:
        of_dx = arrays.take("dx", dx, True)
        check_like(of_dx, "dx", of_x, "x")
        loss.dx = of_dx.buf
    loss.scale = scale_of(scale)
    arrays.check_apart()
    kernels = dense_table(dtype_of(of_x))
    loss.scratch = <double *> arrays.scratch(loss.M * sizeof(double), False)
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
    pos_weight = number("pos_weight", pos_weight, 0, FLT_MAX, "a number >= 0 that float32 can hold")
    return elementwise(PK_LOGISTIC, x, target, dx, weights, pos_weight, scale)


# ---- normalization ------------------------------------------------------------------------------

cdef int norm_of(Buffers arrays, pk_layer_norm *norm, x, gain, mean, scale, bint forward,
                 bint rms) except -1:
    cdef Py_buffer *of_x = arrays.matrix("x", x, False, 1)
    memset(norm, 0, sizeof(norm[0]))
    norm.M, norm.N, norm.x, norm.rms = of_x.shape[0], of_x.shape[1], of_x.buf, rms
    norm.gain = arrays.like("gain", gain, False, norm.N)
    if not rms:
        norm.mean = needed(arrays, "mean", mean, forward, norm.M)
    norm.scale = needed(arrays, "scale", scale, forward, norm.M)
    return 0


cdef int norm_forward(x, gain, bias, y, mean, scale, eps, bint rms) except -1:
    cdef Buffers arrays = Buffers()
    cdef pk_layer_norm norm
    norm_of(arrays, &norm, x, gain, mean, scale, True, rms)
    norm.bias = arrays.like("bias", bias, False, norm.N)
    norm.y = needed(arrays, "y", y, True, norm.M, norm.N)
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
    grads.dy = needed(arrays, "dy", dy, dx is dy, norm.M, norm.N)
    grads.dx = (<void *> grads.dy if dx is dy else
                arrays.like("dx", dx, True, norm.M, norm.N))
    grads.dgain = arrays.like("dgain", dgain, True, norm.N)
    grads.dbias = arrays.like("dbias", dbias, True, norm.N)
    grads.accumulate = switch("accumulate", accumulate)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    grads.scratch = arrays.scratch(kernels.layer_norm_scratch_size(&norm), False)
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
    """The gradients of `layer_norm_forward`, from `dy`; changes `dx`, `dgain`, `dbias` if given.

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
