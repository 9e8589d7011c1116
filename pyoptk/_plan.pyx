# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: embedsignature=True, embedsignature.format=python, binding=True
# cython: autotestdict=False, auto_pickle=False
"""The plan of an optimizer: its arrays, held from construction on, so that a step takes only
gradients. `Optimizer` (pyoptk/optim/base.py) makes one and calls `step`.
"""
import numpy as _np

from . import _checks
from ._places import states_beside

from cpython.buffer cimport Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int64_t, uintptr_t
from libc.string cimport memcmp, memcpy

from ._core cimport (
    acquire, check_dtype, check_like, clip_coefficient, contiguous, dtype_of, num_threads,
    optim_table, shape_of, size_of,
)
from ._optim cimport Row, at_least_zero, check_fits, limit, row_named
from ._optim import ROWS
from ._sparse cimport SparseRows, _Touched, check_rows_like, room_for
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_BF16, PK_F16, PK_F32, PK_F64, PK_MAX_STATES,
    PK_NATIVE, PK_SPARSE_ROWS, PyArray_CHKFLAGS,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, PyArrayObject, pk_common, pk_dtype,
    pk_optim_kernels, pk_tensor,
)

# Gradients of float32 parameters may be these: what NumPy calls them, and how C does.
cdef dict _NARROW = {"float16": PK_F16, "bfloat16": PK_BF16}
cdef object _ndarray = _np.ndarray, _f32 = _np.dtype("f4"), _f64 = _np.dtype("f8")

_ON_NONFINITE = ("propagate", "skip", "raise")


cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Plan.held_names


cdef list in_order(list keys, bint mapping, grads):
    """The gradients as a list in the order of the parameters."""
    cdef list listed
    if keys is None:
        return [grads]
    if not mapping and isinstance(grads, (list, tuple)):
        listed = list(grads)  # whose length is what it is, whatever len() of a subclass says
        if len(listed) == len(keys):
            return listed
    if mapping and type(grads) is dict and len(grads) == len(keys):
        try:
            return [grads[key] for key in keys]
        except KeyError:
            pass
    return _checks.in_order(keys, mapping, grads)


cdef int check_takes_rows(Row row, const pk_tensor *tensor, const pk_common *common, str name,
                          grad) except -1:
    """Raise if a step of this parameter cannot be one of single rows."""
    if not row.row.abilities & PK_SPARSE_ROWS:
        able = ", ".join([other.name for other in ROWS.values() if other.sparse_rows])
        raise TypeError(f"{name}: expected an array, because of all kernels only {able} step "
                        f"single rows, got {grad}; its dense() is an array")
    for option, on in (("ema_decay", tensor.ema != NULL), ("zero_grad", common.zero_grad),
                       ("cautious", common.cautious)):
        if on:
            raise TypeError(f"{name}: expected an array where {option} is on, got {grad}")
    return 0


cdef class Plan:
    """The arrays of one optimizer, taken and checked once, so that a step takes only gradients.

    Parameters
    ----------
    which : str
        The kernel: a name in pyoptk.kernels.
    keys : list or None
        How params and grads are indexed: dict keys, 0..n-1, or None for a single array.
    mapping : bool
        Whether they are dicts.
    params : list of arrays
    group_of : list of int
        For each parameter which element of `hypers` is its own.
    hypers : list of dicts
        Hyper-parameters, numbers only.
    start : dict
        Numbers that states hold before step 1, by their names in the description.

    Attributes
    ----------
    states : dict
        For each state that the kernel uses, by name, a list with an array for each parameter; "ema"
        is one of them when `ema_decay` is given.
    calls, skipped : int
        How many steps were taken, and how many were not because of `on_nonfinite`.
    factor : float
        What wrappers multiply `grad_scale` with.
    skips : bool
        Whether one of them has non-finite steps skipped, whatever `on_nonfinite` says.
    """
    cdef Row row
    cdef char *configs     # one for each group, then room for as many that are new
    cdef size_t n_groups, config_size
    cdef pk_dtype dtype
    cdef void *descr       # NumPy's for it
    cdef double max_norm, max_norm_eps
    cdef bint per_array, ema_from_first_step
    cdef double norm
    cdef str on_nonfinite
    cdef size_t count
    cdef pk_tensor *tensors
    cdef Py_buffer *held   # all params, then the states
    cdef Py_buffer *taken  # the gradients of the step under way
    cdef void **known      # where gradients were when they were last seen not to overlap
    cdef span *spans       # what is written, by address
    cdef Py_ssize_t n_held, n_spans
    cdef void *scratch
    cdef size_t scratch_size
    cdef _Touched touched  # what a step with SparseRows goes over, in place of tensors
    cdef bint busy, averaging, mapping, zero_grad
    cdef list keys, held_names, copies
    cdef tuple names
    cdef readonly dict states
    cdef public int64_t calls, skipped
    cdef public double factor
    cdef public bint skips

    def __cinit__(self, str which, keys, bint mapping, list params, list group_of, list hypers,
                  dict start={}):
        cdef Py_ssize_t i
        self.row = row_named(which)
        self.config_size = self.row.row.config_size
        self.keys, self.mapping = keys, mapping
        self.held_names, self.copies = [], []
        self.touched = _Touched()
        self.norm, self.factor = -1, 1
        self.per_array = bool(hypers[0]["max_norm_per_array"])
        self.count, self.n_groups = len(params), len(hypers)
        slots = self.count * (2 + PK_MAX_STATES) + 1
        self.configs = <char *> PyMem_Calloc(2 * self.n_groups, self.config_size)
        self.tensors = <pk_tensor *> PyMem_Calloc(self.count + 1, sizeof(pk_tensor))
        self.taken = <Py_buffer *> PyMem_Calloc(self.count + 1, sizeof(Py_buffer))
        self.known = <void **> PyMem_Calloc(self.count + 1, sizeof(void *))
        self.held = <Py_buffer *> PyMem_Calloc(slots, sizeof(Py_buffer))
        self.spans = <span *> PyMem_Calloc(slots, sizeof(span))
        if not (self.configs and self.tensors and self.taken and self.known and self.held
                and self.spans):
            raise MemoryError
        for i in range(self.count):
            self.hold(params[i], self.label("params", i))
            check_dtype(&self.held[i], self.held_names[i], &self.held[0], self.held_names[0])
            self.tensors[i].param = self.held[i].buf
            self.tensors[i].n = size_of(&self.held[i])
            self.tensors[i].group = group_of[i]
        self.sort_spans()  # before there are states: two parameters that overlap
        self.dtype = dtype_of(&self.held[0]) if self.count else PK_F64
        self.descr = <void *> <PyObject *> (_f32 if self.dtype == PK_F32 else _f64)
        self.configure(hypers)
        self.add_states(self.row.start_of(start, self.dtype))
        self.sort_spans()
        for i in range(self.count):
            self.tensors[i].grad = self.tensors[i].param  # any: the size counts all tensors
        room_for(&self.scratch, &self.scratch_size,
                 max(optim_table(self.dtype).norm_scratch_size(self.tensors, self.count),
                     optim_table(self.dtype).scratch_size(self.row.which, self.tensors,
                                                          self.count)))
        for i in range(self.count):
            self.tensors[i].grad = NULL

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_held):
            PyBuffer_Release(&self.held[i])
        PyMem_Free(self.configs)
        PyMem_Free(self.tensors)
        PyMem_Free(self.taken)
        PyMem_Free(self.known)
        PyMem_Free(self.held)
        PyMem_Free(self.spans)
        PyMem_Free(self.scratch)

    cdef str label(self, str what, Py_ssize_t i):
        return what if self.keys is None else f"{what}[{self.keys[i]!r}]"

    cdef tuple names_of(self, dict hyper):
        """The states that are needed: the kernel's, and the average."""
        ema = "ema" if hyper["ema_decay"] is not None else None
        return (*self.row.state_names(hyper), ema)

    cdef pk_common *common(self, size_t group) noexcept:
        """What all configs begin with; from n_groups on, of the new ones."""
        return <pk_common *> (self.configs + group * self.config_size)

    cdef Py_ssize_t hold(self, array, str name) except -1:
        acquire(array, &self.held[self.n_held], name, True, False)
        self.n_held += 1
        self.held_names.append(name)
        return self.n_held - 1

    cdef int add_states(self, list start) except -1:
        cdef Py_ssize_t i, slot, held
        dtype = _np.dtype("f4" if self.dtype == PK_F32 else "f8")
        used = [(slot, name) for slot, name in enumerate(self.names) if name is not None]
        beside = states_beside([(<uintptr_t> self.held[i].buf, shape_of(&self.held[i]))
                                for i in range(self.count)], len(used), dtype)
        self.states = {name: [states[k] for states in beside] for k, (_, name) in enumerate(used)}
        for i in range(self.count):
            for slot, name in used:
                state = self.states[name][i]
                if name == "ema":
                    state[...] = _np.asarray(<object> self.held[i].obj)  # begins at the parameter
                elif start[slot]:
                    state.fill(start[slot])
                held = self.hold(state, self.label(name, i))
                if name == "ema":
                    self.tensors[i].ema = self.held[held].buf
                else:
                    self.tensors[i].state[slot] = self.held[held].buf
        return 0

    cdef int sort_spans(self) except -1:
        cdef Py_ssize_t i, k
        order = sorted([(<uintptr_t> self.held[i].buf, i) for i in range(self.n_held)
                        if self.held[i].len])
        for k, (_, i) in enumerate(order):
            self.spans[k].begin = <char *> self.held[i].buf
            self.spans[k].end = self.spans[k].begin + self.held[i].len
            self.spans[k].owner = i
            if k and self.spans[k].begin < self.spans[k - 1].end:
                first, second = sorted((self.spans[k - 1].owner, i))
                raise ValueError(f"{self.held_names[second]}: expected an array of its own, "
                                 f"got one that overlaps {self.held_names[first]}")
        self.n_spans = len(order)
        return 0

    cdef Py_ssize_t owner(self, const void *begin, Py_ssize_t length=1) noexcept:
        """Which of the arrays that the step writes has some of these bytes; -1: none."""
        cdef Py_ssize_t low = 0, high = self.n_spans, middle
        while low < high:  # the first span that ends behind begin
            middle = (low + high) // 2
            if self.spans[middle].end <= <const char *> begin:
                low = middle + 1
            else:
                high = middle
        if (length and low < self.n_spans
                and self.spans[low].begin < <const char *> begin + length):
            return self.spans[low].owner
        return -1

    def check(self, list hypers):
        """Raise if `configure` would."""
        cdef size_t g
        if self.busy:
            raise RuntimeError("hyper-parameters: expected to be set between steps, got set during "
                               "one in another thread")
        for g in range(self.n_groups):
            self.row.configure(<char *> self.common(self.n_groups + g), hypers[g], self.dtype)
            needed = self.names_of(hypers[g])
            if self.names is None:
                self.names = needed
            for had, needs in zip(self.names, needed) if needed != self.names else ():
                if had != needs:
                    name = self.row.needed_by.get(had or needs, "ema_decay")
                    raise ValueError(f"{name}: expected to be {'on' if had else 'off'} in every "
                                     f"group and from the start, because of its state "
                                     f"{had or needs}, got {hypers[g][name]!r}")
        limit(hypers[0], "max_norm")
        at_least_zero(hypers[0], "max_norm_eps")
        for name in ("max_norm_per_array", "ema_from_first_step"):
            _checks.check_switch(name, hypers[0][name])
        if hypers[0]["max_norm_per_array"] != self.per_array:
            raise ValueError(f"max_norm_per_array: expected {self.per_array}, as when this optimizer "
                             f"was made, got {not self.per_array}")
        if hypers[0]["on_nonfinite"] not in _ON_NONFINITE:
            raise ValueError(f"on_nonfinite: expected one of {', '.join(_ON_NONFINITE)}, "
                             f"got {hypers[0]['on_nonfinite']!r}")

    def configure(self, list hypers):
        """Take new hyper-parameters, a dict for each group; nothing changes if one is refused."""
        self.check(hypers)
        memcpy(self.configs, self.common(self.n_groups), self.n_groups * self.config_size)
        self.max_norm, self.on_nonfinite = limit(hypers[0], "max_norm"), hypers[0]["on_nonfinite"]
        self.max_norm_eps = at_least_zero(hypers[0], "max_norm_eps")
        self.ema_from_first_step = hypers[0]["ema_from_first_step"]
        self.zero_grad = any([h["zero_grad"] for h in hypers])

    def set_lr(self, list lrs):
        """As `configure`, for a number for each group, where nothing but lr is new."""
        cdef size_t g
        self.check_idle("step")
        for g in range(self.n_groups):
            hyper = {"lr": lrs[g]}
            self.common(self.n_groups + g).lr = at_least_zero(hyper, "lr")
            check_fits("lr", self.common(self.n_groups + g).lr, self.dtype)
        for g in range(self.n_groups):
            self.common(g).lr = self.common(self.n_groups + g).lr

    cpdef int check_idle(self, str what) except -1:
        """Raise if `what` cannot be done now."""
        if self.busy:
            raise RuntimeError(f"{what}: this optimizer is stepping in another thread already")
        if self.averaging:
            raise RuntimeError(f"{what}: expected the parameters, got their averages, because this "
                               f"is within averaged()")
        return 0

    def swap(self, bint averaging):
        """Take note that averages come in place of the parameters, or that these are back."""
        if averaging:
            self.check_idle("averaged")
        self.averaging = averaging

    def steps(self):
        """How many steps each parameter has taken."""
        return [self.tensors[i].step for i in range(self.count)]

    def set_steps(self, steps):
        """Set them, for a checkpoint."""
        for i in range(self.count):
            self.tensors[i].step = steps[i]

    def grad_norm(self):
        """The global norm of the last step's gradients before clipping, or None."""
        return None if self.norm < 0 else self.norm

    def ordered(self, grads):
        """The gradients as a list like the parameters; raises what `step` would say about them."""
        cdef Py_ssize_t i
        self.check_idle("step")
        self.busy = True
        try:
            ordered = in_order(self.keys, self.mapping, grads)
            for i in range(self.count):
                if ordered[i] is not None:
                    self.take(i, ordered[i])
                    PyBuffer_Release(&self.taken[i])
            return ordered
        finally:
            self.busy = False

    cdef bint take_at_once(self, Py_ssize_t i, grad) noexcept:
        """Take gradient i, which the caller keeps, if there is nothing to say about it."""
        cdef PyArrayObject *array = <PyArrayObject *> <PyObject *> grad
        cdef Py_buffer *view = &self.taken[i], *param = &self.held[i]
        cdef int flags = NPY_ARRAY_CARRAY_RO | self.zero_grad * NPY_ARRAY_WRITEABLE
        if (type(grad) is not _ndarray or not PyArray_CHKFLAGS(array, flags)
                or PyArray_DESCR(array) != self.descr or PyArray_NDIM(array) != param.ndim
                or param.ndim and memcmp(PyArray_DIMS(array), param.shape,
                                         param.ndim * sizeof(Py_ssize_t))):
            return False
        view.buf = PyArray_DATA(array)  # view.obj is NULL still: there is nothing to release
        view.len = param.len
        if view.buf != self.known[i] and self.owner(view.buf, view.len) >= 0:
            return False
        self.known[i] = view.buf
        return True

    cdef int take(self, Py_ssize_t i, grad) except -1:
        """Take gradient i. One that is not C-contiguous is copied into one that is."""
        cdef Py_buffer *view = &self.taken[i]
        if self.take_at_once(i, grad):
            return 0
        name = self.label("grads", i)
        if self.dtype == PK_F32 and isinstance(grad, _ndarray) and grad.dtype.name in _NARROW:
            return self.take_narrow(i, grad, name)
        if type(grad) is SparseRows:
            check_takes_rows(self.row, &self.tensors[i], self.common(self.tensors[i].group), name,
                             grad)
            acquire(grad.values, view, name, False, False)
        else:
            acquire(grad, view, name, self.zero_grad, not self.zero_grad)
            if not PyBuffer_IsContiguous(view, c"C"):
                PyBuffer_Release(view)
                acquire(contiguous(grad), view, name, False, False)
        try:
            if type(grad) is SparseRows:
                check_rows_like(view, name, grad, &self.held[i], self.held_names[i])
            else:
                check_like(view, name, &self.held[i], self.held_names[i])
            shared = self.owner(view.buf, view.len)
            if shared >= 0:
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps "
                                 f"{self.held_names[shared]}")
        except BaseException:
            PyBuffer_Release(view)
            raise
        return 0

    cdef int take_narrow(self, Py_ssize_t i, grad, str name) except -1:
        """Take gradient i in 16 bits, by NumPy's pointer: the buffer protocol has no bfloat16."""
        cdef Py_buffer *view = &self.taken[i], *param = &self.held[i]
        if type(grad) is not _ndarray or not grad.dtype.isnative:
            raise TypeError(f"{name}: expected a plain array in native byte order, "
                            f"got {_checks.described(grad)}")
        if grad.shape != shape_of(param):
            raise ValueError(f"{name}: expected shape {shape_of(param)} like "
                             f"{self.held_names[i]}, got {grad.shape}")
        if self.zero_grad and not (grad.flags.writeable and grad.flags.c_contiguous):
            raise ValueError(f"{name}: expected a writable C-contiguous array, because zero_grad "
                             f"writes it, got a read-only or strided one")
        aligned = _np.require(grad, requirements="CA")  # itself, or a copy
        self.copies.append(aligned)  # until the step is done
        view.buf = PyArray_DATA(<PyArrayObject *> <PyObject *> aligned)
        view.len = aligned.nbytes
        shared = self.owner(view.buf, view.len)
        if shared >= 0:
            raise ValueError(f"{name}: expected memory of its own, got an array that overlaps "
                             f"{self.held_names[shared]}")
        self.tensors[i].stored.grad = _NARROW[grad.dtype.name]
        return 0

    cdef int check_gradients_apart(self) except -1:
        """Gradients are going to be zeroed: raise if two of them share memory."""
        end, before = 0, 0
        for begin, i in sorted([(<uintptr_t> self.tensors[i].grad, i) for i in range(self.count)
                                if self.tensors[i].grad != NULL and self.tensors[i].n]):
            if begin < end:
                raise ValueError(f"{self.label('grads', i)}: expected memory of its own, because "
                                 f"zero_grad writes it, got an array that overlaps "
                                 f"{self.label('grads', before)}")
            end, before = begin + self.taken[i].len, i
        return 0

    cdef int look_for_nonfinite(self, const pk_tensor *tensors, size_t count) except -1:
        """1 if the step is to be skipped; raises if that is asked for."""
        cdef size_t i
        cdef double norm
        if -INFINITY < self.norm < INFINITY:
            return 0
        if self.skips or self.on_nonfinite == "skip":
            self.skipped += 1
            return 1
        if self.on_nonfinite == "propagate":
            return 0
        for i in range(count):
            norm = optim_table(self.dtype).global_norm(&tensors[i], 1, self.scratch, 1)
            if not norm < INFINITY:
                name = self.label("grads", self.owner(tensors[i].param))
                raise FloatingPointError(f"{name}: expected finite elements, got ones whose norm "
                                         f"is {norm}; nothing has been changed")
        raise FloatingPointError("grads: expected a finite global norm, got infinity; nothing has "
                                 "been changed")

    cdef void clip_arrays(self, const pk_tensor *tensors, size_t count, double scale) noexcept:
        """Scale each gradient by its own norm; each parameter is a group, whose rows adjoin."""
        cdef size_t begin = 0, end
        cdef double norm
        while begin < count:
            end = begin + 1
            while end < count and tensors[end].group == tensors[begin].group:
                end += 1
            norm = scale * optim_table(self.dtype).global_norm(
                &tensors[begin], end - begin, self.scratch, num_threads())
            self.common(self.n_groups + tensors[begin].group).grad_scale = (
                scale * clip_coefficient(norm, self.max_norm, self.max_norm_eps))
            begin = end

    def step(self, grads):
        """Take one step. Changes every parameter that has a gradient, and its state."""
        cdef Py_ssize_t i, taken = 0
        cdef size_t g, count = self.count
        cdef pk_tensor *tensors = self.tensors
        cdef bint sparse = False
        cdef list ordered
        cdef void *scaled = self.common(self.n_groups)
        cdef double clip = 1, scale = self.common(0).grad_scale * self.factor
        cdef const pk_optim_kernels *kernels = optim_table(self.dtype)
        self.check_idle("step")
        self.busy = True
        try:
            check_fits("grad_scale", scale, self.dtype)
            ordered = in_order(self.keys, self.mapping, grads)
            for i in range(self.count):
                self.tensors[i].grad = NULL
                self.tensors[i].stored.grad = PK_NATIVE
                if ordered[i] is not None:
                    self.take(i, ordered[i])
                    self.tensors[i].grad = self.taken[i].buf
                    sparse |= type(ordered[i]) is SparseRows
                taken = i + 1
            if self.zero_grad:
                self.check_gradients_apart()
            if sparse:
                self.touched.list_rows(kernels, tensors, ordered)
                tensors, count = self.touched.tensors, self.touched.count
            self.norm = -1
            if self.max_norm < INFINITY or self.skips or self.on_nonfinite != "propagate":
                room_for(&self.scratch, &self.scratch_size,
                         kernels.norm_scratch_size(tensors, count))
                with nogil:
                    self.norm = scale * kernels.global_norm(tensors, count, self.scratch,
                                                            num_threads())
                if self.look_for_nonfinite(tensors, count):
                    return
                if self.max_norm < INFINITY:
                    clip = clip_coefficient(self.norm, self.max_norm, self.max_norm_eps)
            for i in range(self.count):
                self.tensors[i].step += (self.tensors[i].grad != NULL
                                         and self.tensors[i].step < INT64_MAX)
            if sparse:
                for g in range(count):
                    tensors[g].step += tensors[g].step < INT64_MAX
            memcpy(scaled, self.configs, self.n_groups * self.config_size)
            for g in range(self.n_groups):
                self.common(self.n_groups + g).grad_scale = scale * clip
            if self.per_array and self.max_norm < INFINITY:
                self.clip_arrays(tensors, count, scale)
            with nogil:
                kernels.step(self.row.which, tensors, count, scaled, self.scratch, num_threads())
            for i in range(self.count if self.ema_from_first_step else 0):
                if self.tensors[i].grad and self.tensors[i].ema and self.tensors[i].step == 1:
                    memcpy(self.tensors[i].ema, self.tensors[i].param, self.held[i].len)
            self.calls += self.calls < INT64_MAX
        finally:
            self.copies.clear()
            for i in range(taken):
                if self.tensors[i].grad != NULL:
                    PyBuffer_Release(&self.taken[i])
                    self.tensors[i].grad = NULL
            self.busy = False
