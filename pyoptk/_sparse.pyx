"""Row-sparse gradients: their checks, and the list of tensors for a step with them.

_plan.pyx calls this for a gradient that is `SparseRows`.
"""
from operator import index as _index

import numpy as _np

from ._checks import check_integer, described

from cpython.buffer cimport (
    Py_buffer, PyBuffer_Release, PyBUF_STRIDES, PyObject_GetBuffer,
)
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int64_t
from libc.string cimport memcmp

from ._arrays cimport acquire, check_shape, contiguous, described_view, shape_of
from .capi cimport pk_optim_kernels, pk_rows, pk_tensor


cdef class SparseRows:
    """The gradient of an array that is zero but for some rows, for example of an embedding.

    A step changes only these rows and their part of the state ("lazy", see docs/semantics.md). Its
    time depends on their number, not on the size of the array. `SGD`,
    `AdaGrad`, `Adam` and `AdamW` take it in the place of an array, `Accumulation` too.

    Parameters
    ----------
    indices : integers of any shape, for example [B, T] of a batch of sequences
        The rows, in any order. The gradient of a row that occurs several times is the sum of its
        values, added in this order.
    values : array of shape indices.shape + shape[1:]
        float32 or float64, as the parameter. Only read, and only when the step is taken; copied
        if it is not C-contiguous.
    shape : tuple of int
        The shape of the parameter.
    padding_idx : int, optional
        A row that is left out: it has no gradient, no decay and no step.

    Raises
    ------
    TypeError, ValueError
        If indices are not integers or not in 0..shape[0]-1, or values have another shape or dtype.

    Examples
    --------
    >>> import numpy as np, pyoptk
    >>> table = np.ones((1000, 2))
    >>> opt = pyoptk.SGD(table, lr=0.5)
    >>> opt.step(pyoptk.SparseRows([7, 3, 7], np.array([[1, 0], [1, 1], [1, 0.]]), table.shape))
    >>> table[[3, 7, 8]]
    array([[0.5, 0.5],
           [0. , 1. ],
           [1. , 1. ]])
    """
    def __cinit__(self, indices, values, shape, *, padding_idx=None):
        cdef Py_ssize_t width = 1
        self.shape = row_shape(shape)
        given = _np.asarray(indices)
        if not given.size and isinstance(indices, (list, tuple)):
            given = given.astype(_np.int64)  # an empty list has float64 in NumPy
        if given.dtype.kind not in "iu":
            raise TypeError(f"indices: expected integers, got {described(given)}")
        outside = (given < 0) | (given >= self.shape[0])
        if outside.any():
            at = _np.argwhere(outside)[0].tolist()
            raise ValueError(f"indices{at}: expected a row in 0..{self.shape[0] - 1}, "
                             f"got {given[tuple(at)]}")
        self.values = contiguous(values)
        self.check_values(given.shape)
        if given.ndim != 1:
            self.values = _np.reshape(self.values, (given.size, *self.shape[1:]))
            given = given.ravel()
        if padding_idx is not None:
            used = given != check_integer("padding_idx", padding_idx, 0, self.shape[0],
                                          f"a row in 0..{self.shape[0] - 1}")
            if not used.all():
                given, self.values = given[used], _np.asarray(self.values)[used]
        self.rows.count = given.size
        self.indices = _np.ndarray(given.size, _np.int64, given.astype(_np.int64).tobytes())
        PyObject_GetBuffer(self.indices, &self.held, PyBUF_STRIDES)
        for axis in self.shape[1:]:
            width *= axis
        self.rows.indices = <const int64_t *> self.held.buf
        self.rows.width = width

    cdef int check_values(self, tuple rows) except -1:
        cdef Py_buffer view
        acquire(self.values, &view, "values", False, False)
        try:
            check_shape(&view, "values", (*rows, *self.shape[1:]))
        finally:
            PyBuffer_Release(&view)
        return 0

    def __dealloc__(self):
        PyBuffer_Release(&self.held)

    def dense(self):
        """The same gradient as an array."""
        self.check_values((self.indices.size,))
        try:
            dense = _np.zeros(self.shape, self.values.dtype)
        except ValueError:  # more bytes than there are addresses
            raise MemoryError(f"no array of {self.values.dtype} {self.shape}") from None
        _np.add.at(dense, self.indices, self.values)
        return dense

    def __reduce__(self):
        return SparseRows, (self.indices, self.values, self.shape)

    def __repr__(self):
        return f"SparseRows({self.rows.count} rows of {self.values.dtype} {self.shape})"


cdef int check_rows_like(Py_buffer *values, str name, SparseRows grad, Py_buffer *param,
                         str param_name) except -1:
    """Raise unless these are rows of such a parameter."""
    if grad.shape != shape_of(param) or values.itemsize != param.itemsize:
        error = ValueError if values.itemsize == param.itemsize else TypeError
        raise error(f"{name}: expected rows of {described_view(param)} like {param_name}, "
                    f"got {grad}")
    if (values.ndim != param.ndim or <size_t> values.shape[0] != grad.rows.count
            or memcmp(values.shape + 1, param.shape + 1, (param.ndim - 1) * sizeof(Py_ssize_t))):
        check_shape(values, f"{name}.values", (<Py_ssize_t> grad.rows.count, *grad.shape[1:]))
    return 0


cdef tuple row_shape(shape):
    try:
        sizes = tuple([_index(n) for n in shape])
    except TypeError:
        raise TypeError(f"shape: expected the shape of an array, got {shape!r}") from None
    if not sizes or min(sizes) < 0:
        raise ValueError(f"shape: expected the shape of an array with rows, got {sizes}")
    return sizes


cdef void *room_for(void **block, size_t *size, size_t wanted) except NULL:
    """A block of at least `wanted` bytes; if it must grow, its content is lost."""
    if block[0] == NULL or size[0] < wanted:
        PyMem_Free(block[0])
        block[0] = NULL
        block[0] = PyMem_Malloc(wanted + 1)
        if block[0] == NULL:
            raise MemoryError
        size[0] = wanted
    return block[0]


cdef class _Touched:
    """A step's tensors: one for each touched row, and those with dense gradients as they are."""
    def __dealloc__(self):
        PyMem_Free(self.tensors)
        PyMem_Free(self.scratch)

    cdef int list_rows(self, const pk_optim_kernels *kernels, const pk_tensor *whole,
                       list grads) except -1:
        """Make the list from the parameters `whole` and their checked gradients."""
        cdef size_t most = 0, scratch = 0
        cdef Py_ssize_t i
        cdef pk_rows rows
        for grad in grads:
            if type(grad) is SparseRows:
                most += (<SparseRows> grad).rows.count
                scratch += kernels.touched_scratch_size(&(<SparseRows> grad).rows)
            else:
                most += 1
        room_for(<void **> &self.tensors, &self.tensors_size, most * sizeof(pk_tensor))
        room_for(&self.scratch, &self.scratch_size, scratch)
        self.count = scratch = 0
        for i, grad in enumerate(grads):
            if type(grad) is SparseRows:
                rows = (<SparseRows> grad).rows
                rows.values = whole[i].grad
                with nogil:
                    self.count += kernels.touched_rows(
                        &whole[i], &rows, self.tensors + self.count,
                        <char *> self.scratch + scratch)
                scratch += kernels.touched_scratch_size(&rows)
            elif whole[i].grad != NULL:
                self.tensors[self.count] = whole[i]
                self.count += 1
        return 0
