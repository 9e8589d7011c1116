"""What goes around an optimizer's step, in one call with it, so that no exception comes between.

Python runs signal handlers (Ctrl-C) between its own instructions, never within a compiled call. So
what changes several things, one after the other, is done here, with NumPy's own functions. The
classes of pyoptk/optim/wrappers.py and averages.py check arguments and are the public side.
"""
import numpy as _np

from ._sparse import SparseRows

from cpython.object cimport PyObject, PyObject_GenericSetAttr
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from ._held cimport Held
from ._plan cimport Plan
from .capi cimport PyArray_DATA, PyArrayObject


def restore(owner, Held held not None, list targets, list sources, dict numbers):
    """Copy arrays and set attributes of `owner`, all checked before."""
    if held.busy:
        raise RuntimeError("load_state_dict: this is in use in another thread")
    for target, source in zip(targets, sources):
        target[...] = source
    for name, number in numbers.items():
        PyObject_GenericSetAttr(owner, name, number)


cdef int approach(list averages, list params, double factor, bint divide) except -1:
    """average += (p - average) * factor, or / factor; changes the averages."""
    dtype = averages[0].dtype
    room, by = _np.empty(max([average.size for average in averages]), dtype), dtype.type(factor)
    for average, param in zip(averages, params):
        way = room[:average.size].reshape(average.shape)
        _np.subtract(param, average, way)
        (_np.divide if divide else _np.multiply)(way, by, way)
        _np.add(average, way, average)
    return 0


cdef class Averaged:
    """``with averaged:`` the parameters have the values of `others`, and no step can be taken."""
    cdef Held held
    cdef list others, saved

    def __cinit__(self, Held held not None, list others):
        self.held, self.others = held, others

    def __enter__(self):
        cdef Py_ssize_t i
        self.held.check_idle("averaged")
        for i in range(self.held.count):
            self.held.check_writable(i)
        self.saved = [_np.array(array) for array in self.held.arrays]
        self.held.averaging = True
        self.fill(self.others)

    def __exit__(self, *error):
        if self.saved is not None:
            self.fill(self.saved)
            self.held.averaging, self.saved = False, None

    def __del__(self):
        self.__exit__()

    cdef int fill(self, list arrays) except -1:
        """Bytes to where the parameters are, also if they were made read-only in between."""
        cdef Py_ssize_t i
        for i in range(self.held.count):
            memcpy(self.held.held[i].buf, PyArray_DATA(<PyArrayObject *> <PyObject *> arrays[i]),
                   self.held.held[i].len)
        return 0


cdef class Mean:
    """The running mean of some parameters: `count` and `averages` change together."""
    cdef public int64_t count
    cdef public list _averages

    def _take_in(self, Held held not None, list params):
        held.check_idle("update")
        held.busy = True
        try:
            for average, param in zip(self._averages, params if self.count == 0 else ()):
                average[...] = param
            if self.count:
                approach(self._averages, params, self.count + 1, True)
            self.count += 1
        finally:
            held.busy = False


cdef class Link:
    """A wrapper's part of a step. `inner` is that of the wrapper within, None for the optimizer."""
    cdef Plan plan
    cdef Link inner
    cdef public int64_t count

    def __cinit__(self, opt, *_, **__):
        if isinstance(opt, Link):
            self.inner, self.plan = opt, (<Link> opt).plan
        else:
            self.plan = getattr(opt, "_plan", None)
        if self.plan is None:
            raise TypeError(f"opt: expected an optimizer or a wrapper of one, "
                            f"got {type(opt).__name__}")

    def _step(self, grads, double weight, bint flush):
        """Whether the optimizer took a step. `flush`: no more gradients, just what is gathered."""
        cdef Held held = self.plan.held
        held.check_idle("step")
        held.busy = True
        try:
            return self.go(None if flush else self.plan.checked(grads), 1, False, weight)
        finally:
            held.busy = False

    cdef bint go(self, list grads, double factor, bint skips, double weight) except -1:
        """Whether the optimizer took a step; `grads` is None to flush."""
        return self.within(grads, factor, skips, weight)

    cdef bint within(self, list grads, double factor, bint skips, double weight) except -1:
        if self.inner is not None:
            return self.inner.go(grads, factor, skips, weight)
        if weight != 1:
            raise TypeError(f"weight: expected an Accumulation around the optimizer, which knows "
                            f"what to do with it, got none and {weight}")
        return grads is not None and self.plan.run_step(grads, factor, skips)


cdef class Scaled(Link):
    """Of `LossScaler`."""
    cdef public double scale, growth, backoff
    cdef public int64_t interval

    cdef bint go(self, list grads, double factor, bint skips, double weight) except -1:
        cdef int64_t skipped = self.plan.skipped
        cdef bint stepped = self.within(grads, factor * (1 / self.scale), True, weight)
        if self.plan.skipped != skipped:
            self.rescale(self.backoff)
        elif stepped:
            self.count += 1
            if self.count >= self.interval:
                self.rescale(self.growth)
        return stepped

    cdef void rescale(self, double factor) noexcept:
        self.count = 0
        if 2.0**-126 <= self.scale * factor <= 2.0**126:
            self.scale *= factor


cdef class Slow(Link):
    """Of `Lookahead`."""
    cdef public int64_t k
    cdef public double alpha
    cdef public list _slow, _params

    cdef bint go(self, list grads, double factor, bint skips, double weight) except -1:
        cdef bint stepped = self.within(grads, factor, skips, weight)
        self.count += stepped
        if self.count >= self.k:
            self.count = 0
            approach(self._slow, self._params, self.alpha, False)
            for param, slow in zip(self._params, self._slow):
                param[...] = slow
        return stepped


cdef class Gathered(Link):
    """Of `Accumulation`: `_sums` of weight * gradient, `_given` where there was one."""
    cdef public int64_t k
    cdef public double weight
    cdef public list _sums
    cdef public object _given
    cdef public dict _rows

    cdef bint go(self, list grads, double factor, bint skips, double weight) except -1:
        if grads is not None:
            self.add(grads, weight)
        if self.count == 0 or grads is not None and self.count < self.k:
            return False
        try:
            return self.within(self.means(), factor, skips, 1)
        finally:
            self.count, self.weight = 0, 0
            self._given.fill(False)
            self._rows.clear()

    cdef int add(self, list grads, double weight) except -1:
        cdef Py_ssize_t i
        cdef list arrays = self.weighted(grads, weight)
        for i, array in enumerate(arrays):
            if isinstance(array, SparseRows):
                self._rows.setdefault(i, []).append(array)
            elif array is not None and self._given[i]:
                _np.add(self._sums[i], array, self._sums[i])
            elif array is not None:
                self._sums[i][...] = array
            if array is not None:
                self._given[i] = True
        for i, grad in enumerate(grads):
            if grad is not None and self.plan.common(self.plan.tensors[i].group).zero_grad:
                _np.asarray(grad)[...] = 0
        self.count += 1
        self.weight += weight
        return 0

    cdef list weighted(self, list grads, double weight):
        """What is to be added. Raises for rows where an array was, and the other way round."""
        cdef Py_ssize_t i
        arrays = []
        for i, grad in enumerate(grads):
            is_sparse = isinstance(grad, SparseRows)
            if grad is not None and self._given[i] and is_sparse != (i in self._rows):
                raise TypeError(
                    f"{self.plan.held.label('grads', i)}: expected "
                    f"{'SparseRows' if i in self._rows else 'an array'} as in this step's other "
                    f"micro-batches, got {type(grad).__name__}")
            if is_sparse:
                grad = SparseRows(grad.indices, grad.values * weight, grad.shape)
            elif grad is not None:
                grad = _np.asarray(grad)
                if weight != 1:
                    grad = _np.multiply(grad, weight, dtype=grad.dtype)
            arrays.append(grad)
        return arrays

    cdef list means(self):
        """The sums over the sum of the weights, divided in place; None where nothing was given."""
        cdef Py_ssize_t i
        means = [sum_ if given else None for sum_, given in zip(self._sums, self._given)]
        for i, parts in self._rows.items():
            values = _np.concatenate([part.values for part in parts])
            means[i] = SparseRows(_np.concatenate([part.indices for part in parts]), values,
                                  parts[0].shape)
        for mean in means:
            if mean is not None:
                values = mean.values if isinstance(mean, SparseRows) else mean
                _np.divide(values, values.dtype.type(self.weight), values)
        return means
