"""The bare kernels of linear layers, and the passes of `layers.Linear`.

pyoptk/kernels.py shows the kernels; pyoptk_dense.h has the formulas.
"""
import cython
import numpy as _np

from ._checks import NO_FORWARD as _NO_FORWARD, check_choice, check_compute
from ._elsewhere import refuse_call

from cpython.buffer cimport Py_buffer
from cpython.list cimport PyList_GetItem
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GetItem, PyTuple_Size
from libc.float cimport FLT_MAX
from libc.string cimport memset

from ._arrays cimport Buffers, check_shape, dtype_of, switch
from ._core cimport bf16_products, dense_table, new_array, new_like, new_matrix, num_threads
from ._losses cimport at_least_zero, needed, rows_of
from .capi cimport (
    METH_FASTCALL, METH_KEYWORDS, NPY_ARRAY_CARRAY_RO, NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE,
    PK_F32, PK_F64, PK_GELU, PyArray_CHKFLAGS, PyArray_CLEARFLAGS, PyArray_DATA, PyArray_DESCR,
    PyArray_DIMS, PyArray_ENABLEFLAGS, PyArray_NDIM, PyArrayObject, PyDescr_NewMethod,
    PyMethodDef, PyObject_GenericGetDict, PyTypeObject, pk_activation, pk_dense_kernels, pk_dtype,
    pk_is_unshared, pk_linear, pk_linear_gradients, pk_room,
)

cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")

# In the order of pk_activation.
ACTIVATIONS = ("none", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu",
               "softplus")
NEED_Z = ("gelu", "gelu_tanh", "silu", "softplus")  # for backward
cdef dict CODES = {name: code for code, name in enumerate(ACTIVATIONS)}


cdef int layer_of(Buffers arrays, pk_linear *layer, x, w, activation, slope,
                  compute) except -1:
    cdef Py_buffer *of_x = arrays.matrix("x", x, False)
    cdef Py_buffer *of_w = arrays.matrix("w", w, False)
    memset(layer, 0, sizeof(layer[0]))
    layer.M, layer.I, layer.O = of_x.shape[0], of_x.shape[1], of_w.shape[0]
    if layer.O == 0 or <size_t> of_w.shape[1] != layer.I:
        check_shape(of_w, "w", (layer.O or 1, layer.I))
    layer.x, layer.w, layer.ldx, layer.ldy = of_x.buf, of_w.buf, layer.I, layer.O
    if type(activation) is not str or activation not in CODES:
        check_choice("activation", activation, ACTIVATIONS)
    layer.activation = <pk_activation> <int> CODES[activation]
    layer.slope = at_least_zero("slope", slope)
    if compute is not None and check_compute(compute, _np.asarray(x).dtype):
        layer.products = bf16_products()
    return 0


def linear_forward(x, w, b, y, z=None, *, activation="none", slope=0.01, compute=None):
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
        The slope of "leaky_relu", >= 0.
    compute : "bfloat16", optional
        With float32: x and w are rounded to bfloat16, to the nearest, where they are multiplied.

    Raises
    ------
    TypeError, ValueError
        If an argument is not that; the message names it, and nothing has changed.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_linear layer
    layer_of(arrays, &layer, x, w, activation, slope, compute)
    layer.b = arrays.like("b", b, False, layer.O)
    layer.y = needed(arrays, "y", y, True, layer.M, layer.O)
    layer.z = arrays.like("z", z, True, layer.M, layer.O)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    layer.scratch = arrays.scratch(kernels.linear_scratch_size(&layer), False)
    with nogil:
        kernels.linear_forward(&layer, num_threads())


def linear_backward(dy, x, w, y=None, z=None, *, dx=None, dw=None, db=None, activation="none",
                    slope=0.01, accumulate=False, compute=None):
    """The gradients of `linear_forward`, from `dy`; changes `dx`, `dw`, `db` if given.

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
    compute : "bfloat16", optional
        As in `linear_forward`; the gradient of the argument of f is rounded, too, but not in `db`.

    Raises
    ------
    TypeError, ValueError
        As `linear_forward`.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_linear layer
    cdef pk_linear_gradients grads
    layer_of(arrays, &layer, x, w, activation, slope, compute)
    cdef bint of_z = layer.activation >= PK_GELU
    layer.y = arrays.like("y", y, False, layer.M, layer.O)
    layer.z = arrays.like("z", z, False, layer.M, layer.O)
    if layer.activation and (layer.z if of_z else layer.y) == NULL:
        raise TypeError(f"{'z' if of_z else 'y'}: expected an array, as activation="
                        f"{activation!r} needs it, got None")
    grads.dy = needed(arrays, "dy", dy, False, layer.M, layer.O)
    grads.dx = arrays.like("dx", dx, True, layer.M, layer.I)
    grads.dw = arrays.like("dw", dw, True, layer.O, layer.I)
    grads.db = arrays.like("db", db, True, layer.O)
    grads.lddy, grads.lddx, grads.accumulate = layer.O, layer.I, switch("accumulate", accumulate)
    arrays.check_apart()
    kernels = dense_table(dtype_of(arrays.held))
    layer.scratch = arrays.scratch(kernels.linear_scratch_size(&layer), False)
    with nogil:
        kernels.linear_backward(&layer, &grads, num_threads())


# ---- the passes of `Linear`: compiled, as for few rows the calls take as long as the arithmetic --

cdef inline bint meet(const void *a, size_t n, const void *b, size_t m) noexcept:
    return <const char *> a < <const char *> b + m and <const char *> b < <const char *> a + n


cdef bint meets_read(const pk_linear *l, const pk_linear_gradients *g, size_t item, const void *to,
                     size_t n) noexcept:
    """Whether n elements from `to` on meet an array that backward reads."""
    cdef size_t of_y = item * l.M * l.O
    n *= item
    return (meet(to, n, l.x, item * l.M * l.I) or meet(to, n, l.w, item * l.O * l.I)
            or meet(to, n, l.y, of_y) or meet(to, n, g.dy, of_y)
            or l.z != NULL and meet(to, n, l.z, of_y))


# Few rows: no more multiply-adds than this, and no more elements of an array. The GIL is kept, as
# releasing it would take longer than it can delay other threads.
cdef enum: QUICK = 1 << 17, QUICK_ELEMENTS = 1 << 13


@cython.final
cdef class _Usual:
    """What passes of few rows look up once: until arrays move, or attributes are set or deleted.

    After a `forward` that trains, `_kept` of the layer is this object, too.
    """
    cdef object dtype, weight, bias, dweight, dbias, activation, slope
    cdef object x, y, z  # for backward; x is None: nothing
    cdef list results  # the last two y, the last two dx
    cdef int turn
    cdef pk_linear layer
    cdef pk_dtype kind
    cdef Py_ssize_t itemsize
    cdef bint fits
    cdef const pk_dense_kernels *kernels  # whose scratch for so many rows fits
    cdef size_t rows

    cdef _Usual of(self, dict own):
        params, grads = own["params"], own["grads"]
        inputs, outputs, self.results = own["inputs"], own["outputs"], [None] * 4
        self.dtype, self.activation, self.slope = own["dtype"], own["activation"], own["slope"]
        self.weight, self.bias = params["weight"], params.get("bias")
        self.dweight, self.dbias = grads["weight"], grads.get("bias")
        self.fits = (type(self.activation) is str and self.activation in CODES
                     and type(self.slope) is float and 0 <= <double> self.slope < FLT_MAX
                     and self.weight.shape == (outputs, inputs)
                     and own.get("compute") is None and (self.dtype is _f32 or self.dtype is _f64))
        if self.fits:
            self.layer.activation = <pk_activation> <int> CODES[self.activation]
            self.layer.slope = self.slope
            self.layer.I = self.layer.ldx = inputs
            self.layer.O = self.layer.ldy = outputs
            self.kind = PK_F32 if self.dtype is _f32 else PK_F64
            self.itemsize = 4 if self.kind == PK_F32 else 8
        return self

    def __reduce__(self):  # a copy of the attributes of a layer has none
        return type(None), ()

    cdef void *plain(self, array, int axes, Py_ssize_t rows, Py_ssize_t columns,
                     int flags) noexcept:
        """The data of an array that is exactly that, C-contiguous and aligned; else NULL."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> array
        if (type(array) is not _ndarray or PyArray_DESCR(a) != <void *> self.dtype
                or PyArray_NDIM(a) != axes or PyArray_DIMS(a)[0] != rows
                or axes == 2 and PyArray_DIMS(a)[1] != columns
                or not PyArray_CHKFLAGS(a, NPY_ARRAY_CARRAY_RO | flags)
                or <Py_ssize_t> PyArray_DATA(a) & (self.itemsize - 1)):
            return NULL
        return PyArray_DATA(a)

    cdef object result(self, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t columns):
        """A new array, or one of an earlier call that nobody but this object has any more."""
        cdef PyObject *array
        cdef Py_ssize_t i
        for i in range(first, first + 2):
            array = PyList_GetItem(self.results, i)
            if pk_is_unshared(array):
                PyArray_ENABLEFLAGS(<PyArrayObject *> array, NPY_ARRAY_WRITEABLE)
                if self.plain(<object> array, 2, rows, columns, NPY_ARRAY_OWNDATA) != NULL:
                    return <object> array
        self.turn ^= 1
        self.results[first + self.turn] = made = new_matrix(rows, columns, self.dtype)
        return made

    cdef const pk_dense_kernels *begin(self, pk_linear *layer, x) noexcept:
        """The kernels, if x and the parameters are as usual and rows are few; else NULL."""
        cdef PyArrayObject *a = <PyArrayObject *> <PyObject *> x
        cdef size_t M, I = self.layer.I, O = self.layer.O
        cdef const pk_dense_kernels *kernels = dense_table(self.kind)
        if not self.fits or type(x) is not _ndarray or PyArray_NDIM(a) != 2:
            return NULL
        M = PyArray_DIMS(a)[0]
        layer[0] = self.layer
        layer.M, layer.x, layer.scratch = M, self.plain(x, 2, M, I, 0), pk_room
        layer.w = self.plain(self.weight, 2, O, I, 0)
        layer.b = NULL if self.bias is None else self.plain(self.bias, 1, O, 0, 0)
        if layer.x == NULL or layer.w == NULL or (layer.b == NULL) != (self.bias is None):
            return NULL
        if self.kernels != kernels or self.rows != M:
            if (M > QUICK_ELEMENTS or M * I > QUICK_ELEMENTS or M * O > QUICK_ELEMENTS
                    or M * I * O > QUICK or kernels.linear_scratch_size(layer) > sizeof(pk_room)):
                return NULL
            self.kernels, self.rows = kernels, M
        return kernels

    @cython.critical_section
    cdef object forward(self, dict own, x, bint keep):
        """`rows_forward` for usual arguments and few rows, else None."""
        cdef pk_linear layer
        cdef const pk_dense_kernels *kernels = self.begin(&layer, x)
        if kernels == NULL:
            return None
        y, z = self.result(0, layer.M, layer.O), None
        layer.y = PyArray_DATA(<PyArrayObject *> <PyObject *> y)
        if keep and layer.activation >= PK_GELU:
            z = new_matrix(layer.M, layer.O, self.dtype)
            layer.z = PyArray_DATA(<PyArrayObject *> <PyObject *> z)
        kernels.linear_forward(&layer, 1)
        if keep:
            if layer.activation and z is None:  # backward reads y
                PyArray_CLEARFLAGS(<PyArrayObject *> <PyObject *> y, NPY_ARRAY_WRITEABLE)
            if own.get("_kept") is not self:
                own["_kept"] = self
            _before = self.y  # what was there is freed at the end, which may run a program
            self.x, x = x, self.x
            self.z, z = z, self.z
            self.y = y
        return y

    @cython.critical_section
    cdef object backward(self, dy, bint wanted, bint accumulate):
        """`rows_backward` after that, else False."""
        cdef pk_linear layer
        cdef pk_linear_gradients g
        cdef size_t item = self.itemsize
        cdef const pk_dense_kernels *kernels
        x, y, z, dx = self.x, self.y, self.z, None
        kernels = self.begin(&layer, x)
        if kernels == NULL:
            return False
        layer.y = self.plain(y, 2, layer.M, layer.O, 0)
        layer.z = NULL if z is None else self.plain(z, 2, layer.M, layer.O, 0)
        g.dy = self.plain(dy, 2, layer.M, layer.O, 0)
        g.dw = self.plain(self.dweight, 2, layer.O, layer.I, NPY_ARRAY_WRITEABLE)
        g.db = NULL if self.dbias is None else (
            self.plain(self.dbias, 1, layer.O, 0, NPY_ARRAY_WRITEABLE))
        if (layer.y == NULL or g.dy == NULL or g.dw == NULL
                or (g.db == NULL) != (self.dbias is None)
                or (layer.z == NULL) == (layer.activation >= PK_GELU)
                or meets_read(&layer, &g, item, g.dw, layer.O * layer.I)
                or g.db != NULL and (
                    meets_read(&layer, &g, item, g.db, layer.O)
                    or meet(g.dw, item * layer.O * layer.I, g.db, item * layer.O))):
            return False
        g.dx = NULL
        if wanted:
            dx = self.result(2, layer.M, layer.I)
            g.dx = PyArray_DATA(<PyArrayObject *> <PyObject *> dx)
        g.lddy, g.lddx, g.accumulate = layer.O, layer.I, accumulate
        kernels.linear_backward(&layer, &g, 1)
        self.x = self.y = self.z = None
        return dx


cdef _Usual usual_of(dict own):
    usual = own.get("_usual")
    if usual is None:
        own["_usual"] = usual = (<_Usual> _Usual.__new__(_Usual)).of(own)
    return usual


cdef object rows_forward(dict own, x, bint keep):
    params, outputs = own["params"], own["outputs"]
    activation, slope = own["activation"], own["slope"]
    rows = rows_of("x", x, own["dtype"], own["inputs"])
    y = new_array((rows.shape[0], outputs), own["dtype"])
    cdef bint of_z = activation in NEED_Z
    z = new_like(y) if keep and of_z else None
    linear_forward(rows, params["weight"], params.get("bias"), y, z, activation=activation,
                   slope=slope, compute=own.get("compute"))
    if rows is not x:
        y = y.reshape(*_np.shape(x)[:-1], outputs)
    if keep:
        if not of_z and activation != "none":  # backward reads y
            PyArray_CLEARFLAGS(<PyArrayObject *> <PyObject *> y, NPY_ARRAY_WRITEABLE)
        own["_kept"] = rows, y, z, activation, slope
    return y


cdef object rows_backward(dict own, dy, bint wanted, bint accumulate):
    params, grads, dtype, kept = own["params"], own["grads"], own["dtype"], own.get("_kept")
    dy_rows = rows_of("dy", dy, dtype, own["outputs"])
    if type(kept) is _Usual:
        usual = <_Usual> kept
        kept = usual.x, usual.y, usual.z, usual.activation, usual.slope
    if kept is None or kept[0] is None and kept[1] is None:
        raise RuntimeError(_NO_FORWARD)
    rows, y, z, activation, slope = kept
    if not (isinstance(rows, _ndarray) and isinstance(y, _ndarray) and rows.ndim == 2):
        raise TypeError("_kept: expected what forward of this layer has left")
    y_rows = rows_of("y", y, dtype, own["outputs"])
    if dy_rows is not dy or y is not y_rows or len(dy_rows) != len(rows):
        if _np.shape(dy) != y.shape:
            raise ValueError(f"dy: expected shape {y.shape} as y has, got {_np.shape(dy)}")
    dx = new_like(rows) if wanted else None
    linear_backward(dy_rows, rows, params["weight"], y_rows, z, dx=dx, dw=grads["weight"],
                    db=grads.get("bias"), activation=activation, slope=slope,
                    accumulate=accumulate, compute=own.get("compute"))
    own["_kept"] = None
    return dx if dx is None or dy_rows is dy else dx.reshape(*_np.shape(dy)[:-1], own["inputs"])


cdef object fast_forward(self, PyObject **args, Py_ssize_t n, PyObject *names):
    cdef bint[2] on = [True, False]
    x = <object> taken("x", args, n, names, "train", "train", on)
    cdef dict own = PyObject_GenericGetDict(self, NULL)
    y = usual_of(own).forward(own, x, on[0])
    return rows_forward(own, x, on[0]) if y is None else y


cdef object fast_backward(self, PyObject **args, Py_ssize_t n, PyObject *names):
    cdef bint[2] on = [True, False]
    dy = <object> taken("dy", args, n, names, "need_dx", "accumulate", on)
    cdef dict own = PyObject_GenericGetDict(self, NULL)
    cdef _Usual usual = usual_of(own)
    dx = usual.backward(dy, on[0], on[1]) if own.get("_kept") is usual else False
    return rows_backward(own, dy, on[0], on[1]) if dx is False else dx


cdef PyObject *taken(str name, PyObject **args, Py_ssize_t n, PyObject *names, str switch_0,
                     str switch_1, bint *on) except NULL:
    """The only argument by position of a call, and the switches that are given by keyword."""
    cdef PyObject *first = args[0] if n else NULL
    cdef Py_ssize_t i, count = 0 if names == NULL else PyTuple_Size(<object> names)
    for i in range(count):
        key = <str> <object> PyTuple_GetItem(<object> names, i)
        if key == switch_0:
            on[0] = switch(key, <object> args[n + i])
        elif key == switch_1:
            on[1] = switch(key, <object> args[n + i])
        elif key == name and n == 0:
            first = args[i]
        else:
            refuse_call(name, n, key, switch_0, switch_1)
    if n > 1 or first == NULL:
        refuse_call(name, n)
    return first


cdef PyMethodDef[2] _methods
cdef list _texts = []  # which they point to


def passes_of(layer, *texts):
    """The passes of `layers.Linear`, a class. `texts`: signatures and docstrings."""
    _texts[:] = texts
    cdef int flags = METH_FASTCALL | METH_KEYWORDS
    _methods[0] = PyMethodDef("forward", <void *> fast_forward, flags, <const char *> _texts[0])
    _methods[1] = PyMethodDef("backward", <void *> fast_backward, flags, <const char *> _texts[1])
    of = <PyTypeObject *> <PyObject *> layer
    return PyDescr_NewMethod(of, &_methods[0]), PyDescr_NewMethod(of, &_methods[1])
