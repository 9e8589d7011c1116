"""`Plan`: the buffers, states and hyper-parameters of an optimizer, checked once.

A step then only takes gradients. `Optimizer` (pyoptk/optim/base.py) makes a Plan and calls `step`;
wrappers (pyoptk/optim/wrappers.py) call `run_step`.
"""
import numpy as _np

from . import _checks
from ._places import states_beside

from cpython.buffer cimport Py_buffer, PyBuffer_IsContiguous, PyBuffer_Release
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int64_t, uintptr_t
from libc.string cimport memcpy

from ._core cimport (
    acquire, check_like, clip_coefficient, contiguous, described_view, num_threads, optim_table,
    shape_of, size_of,
)
from ._held cimport Held
from ._optim cimport Row, at_least_zero, check_fits, limit, row_named
from ._optim import ROWS as _ROWS
from ._sparse cimport SparseRows, _Touched, check_rows_like, room_for
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_BF16, PK_F16, PK_F32, PK_NATIVE, PK_SPARSE_ROWS,
    PyArray_DATA, PyArrayObject, pk_common, pk_dtype, pk_optim_kernels, pk_tensor,
)

# Gradients of float32 parameters may also have these dtypes: name in NumPy, storage in C.
cdef dict _NARROW = {"float16": PK_F16, "bfloat16": PK_BF16}
cdef object _ndarray = _np.ndarray

_ON_NONFINITE = ("propagate", "skip", "raise")


cdef class Plan:
    """The parameters, states and hyper-parameters of an optimizer.

    `which` is a name in pyoptk.kernels; `group_of` says for each parameter which of `hypers`, dicts
    of numbers, is its own; those of no parameter come last. `start` has what states hold before
    step 1, by its names in C. `settings`, what `hypers` were made from, is replaced in the same
    call as they are. `states` has for each state in use, by name, an array for each parameter;
    "ema" is one if `ema_decay` is given. `calls` counts the steps, `skipped` those that
    `on_nonfinite` left undone.
    """
    cdef readonly Held held
    cdef Row row
    cdef char *configs     # [2 * n_groups]: those in use, then new ones until they are checked
    cdef size_t n_groups, config_size, count, scratch_size
    cdef pk_dtype dtype
    cdef double max_norm, max_norm_eps, norm
    cdef bint knows_norm, per_array, zero_grad, ema_from_first_step
    cdef str on_nonfinite
    cdef pk_tensor *tensors
    cdef Py_buffer *taken  # the gradients of the current step
    cdef void **known      # addresses of gradients that are known not to overlap
    cdef void *scratch
    cdef _Touched touched  # for a step with SparseRows: its tensors, used instead of `tensors`
    cdef tuple names
    cdef list copies       # copies of 16-bit gradients, kept alive until the step is done
    cdef readonly object settings
    cdef readonly dict states
    cdef public int64_t calls, skipped

    def __cinit__(self, Held held not None, str which, list group_of, list hypers, settings,
                  dict start not None):
        cdef Py_ssize_t i
        self.held, self.row, self.copies = held, row_named(which), []
        self.config_size = self.row.row.config_size
        if len(group_of) != held.count or not all([0 <= g < len(hypers) for g in group_of]):
            raise ValueError("group_of: expected an index into hypers for each parameter")
        self.touched = _Touched()
        self.norm, self.per_array = -1, bool(hypers[0]["max_norm_per_array"])
        self.count, self.n_groups, self.dtype = held.count, 1 + max(group_of), held.dtype
        self.configs = <char *> PyMem_Calloc(2 * self.n_groups, self.config_size)
        self.tensors = <pk_tensor *> PyMem_Calloc(self.count + 1, sizeof(pk_tensor))
        self.taken = <Py_buffer *> PyMem_Calloc(self.count + 1, sizeof(Py_buffer))
        self.known = <void **> PyMem_Calloc(self.count + 1, sizeof(void *))
        if not (self.configs and self.tensors and self.taken and self.known):
            raise MemoryError
        for i in range(self.count):
            self.tensors[i].param = held.held[i].buf
            self.tensors[i].n = size_of(&held.held[i])
            self.tensors[i].group = group_of[i]
        self.configure(hypers, settings)
        self.add_states(self.row.start_of(start, self.dtype))
        held.sort_spans()
        for i in range(self.count):
            self.tensors[i].grad = self.tensors[i].param  # not NULL: sizes count tensors with grad
        room_for(&self.scratch, &self.scratch_size,
                 max(optim_table(self.dtype).norm_scratch_size(self.tensors, self.count),
                     optim_table(self.dtype).scratch_size(self.row.which, self.tensors,
                                                          self.count)))
        for i in range(self.count):
            self.tensors[i].grad = NULL

    def __dealloc__(self):
        PyMem_Free(self.configs)
        PyMem_Free(self.tensors)
        PyMem_Free(self.taken)
        PyMem_Free(self.known)
        PyMem_Free(self.scratch)

    cdef tuple names_of(self, dict hyper):
        """The names of all states: those of the row, then "ema"; None for each not needed."""
        ema = "ema" if hyper["ema_decay"] is not None else None
        return (*self.row.state_names(hyper), ema)

    cdef pk_common *common(self, size_t group) noexcept:
        """The common part of a config; from n_groups on, of a new one."""
        return <pk_common *> (self.configs + group * self.config_size)

    cdef int add_states(self, list start) except -1:
        cdef Py_ssize_t i, slot, place
        cdef Held held = self.held
        dtype = _np.dtype("f4" if self.dtype == PK_F32 else "f8")
        used = [(slot, name) for slot, name in enumerate(self.names) if name is not None]
        beside = states_beside([(<uintptr_t> held.held[i].buf, shape_of(&held.held[i]))
                                for i in range(self.count)], len(used), dtype)
        self.states = {name: [states[k] for states in beside] for k, (_, name) in enumerate(used)}
        for i in range(self.count):
            for slot, name in used:
                state = self.states[name][i]
                if name == "ema":
                    state[...] = _np.asarray(held.arrays[i])  # begins at the parameter
                elif start[slot]:
                    state.fill(start[slot])
                place = held.hold(state, held.label(name, i))
                if name == "ema":
                    self.tensors[i].ema = held.held[place].buf
                else:
                    self.tensors[i].state[slot] = held.held[place].buf
        return 0

    def check(self, list hypers):
        """Raise if `configure` would."""
        self.held.lock("hyper-parameters")
        try:
            self.check_hypers(hypers)
        finally:
            self.held.unlock()

    cdef int check_hypers(self, list hypers) except -1:
        """Read them into the second half of `configs`; those of no parameter are only checked."""
        cdef size_t g
        for hyper in hypers[self.n_groups:]:
            self.row.configure(<char *> self.common(self.n_groups), hyper, self.dtype)
        for g in range(self.n_groups):
            self.row.configure(<char *> self.common(self.n_groups + g), hypers[g], self.dtype)
            needed = self.names_of(hypers[g])
            if self.names is None:
                self.names = needed
            if needed != self.names:
                _checks.refuse_states(self.names, needed, self.row.needed_by, hypers[g])
        limit(hypers[0], "max_norm")
        at_least_zero(hypers[0]["max_norm_eps"], "max_norm_eps")
        _checks.check_switch("ema_from_first_step", hypers[0]["ema_from_first_step"])
        if _checks.check_switch("max_norm_per_array",
                                hypers[0]["max_norm_per_array"]) != self.per_array:
            raise ValueError(f"max_norm_per_array: expected {self.per_array}, as when this "
                             f"optimizer was made, got {not self.per_array}")
        _checks.check_choice("on_nonfinite", hypers[0]["on_nonfinite"], _ON_NONFINITE)
        return 0

    def configure(self, list hypers, settings=None):
        """Take new hyper-parameters, a dict for each group; nothing changes if one is refused."""
        self.held.lock("hyper-parameters")
        try:
            self.take_hypers(hypers, settings)
        finally:
            self.held.unlock()

    cdef int take_hypers(self, list hypers, settings) except -1:
        self.check_hypers(hypers)
        memcpy(self.configs, self.common(self.n_groups), self.n_groups * self.config_size)
        self.max_norm, self.on_nonfinite = limit(hypers[0], "max_norm"), hypers[0]["on_nonfinite"]
        self.knows_norm = hypers[0]["max_norm"] is not None
        self.max_norm_eps = at_least_zero(hypers[0]["max_norm_eps"], "max_norm_eps")
        self.ema_from_first_step = hypers[0]["ema_from_first_step"]
        self.zero_grad = any([h["zero_grad"] for h in hypers[:self.n_groups]])
        self.settings = self.settings if settings is None else settings
        return 0

    def set_lr(self, list lrs):
        """Like `configure` if only lr changes: a number for each group."""
        cdef size_t g
        self.held.enter("step")
        try:
            for g in range(self.n_groups):
                self.common(self.n_groups + g).lr = at_least_zero(lrs[g], "lr")
                check_fits("lr", self.common(self.n_groups + g).lr, self.dtype)
            for g in range(self.n_groups):
                self.common(g).lr = self.common(self.n_groups + g).lr
        finally:
            self.held.unlock()

    def restore(self, list hypers, settings, dict states, steps, calls, skipped):
        """Set everything that a checkpoint holds; the caller has checked it."""
        cdef Py_ssize_t i
        cdef int64_t calls_ = calls, skipped_ = skipped
        cdef list steps_ = steps.tolist()
        self.held.lock("load_state_dict")
        try:
            self.take_hypers(hypers, settings)
            for name, arrays in self.states.items():
                for i in range(self.count):
                    arrays[i][...] = states[name][i]
            for i in range(self.count):
                self.tensors[i].step = steps_[i]
            self.calls, self.skipped = calls_, skipped_
        finally:
            self.held.unlock()

    def steps(self):
        """The number of steps that each parameter has taken."""
        return [self.tensors[i].step for i in range(self.count)]

    def grad_norm(self):
        """The global norm of the last step's gradients before clipping, or None."""
        return None if self.norm < 0 else self.norm

    def zeroes(self):
        """For each parameter, whether a step sets its gradient to zero."""
        return [bool(self.common(self.tensors[i].group).zero_grad) for i in range(self.count)]

    def checked(self, grads):
        """The gradients as a list in the order of the parameters; raises as `step` would."""
        cdef Py_ssize_t i
        cdef list ordered = self.held.in_order(grads)
        try:
            for i in range(self.count):
                if ordered[i] is not None:
                    self.take(i, ordered[i])
                    self.tensors[i].grad = self.taken[i].buf
                    PyBuffer_Release(&self.taken[i])
            if self.zero_grad:
                self.check_gradients_apart()
        finally:
            self.copies.clear()
            for i in range(self.count):
                self.tensors[i].grad = NULL
        return ordered

    cdef bint take_at_once(self, Py_ssize_t i, grad) noexcept:
        """Fast path: take gradient i without its buffer; False if `take` must check it."""
        cdef Py_buffer *view = &self.taken[i]
        cdef int flags = NPY_ARRAY_CARRAY_RO | self.zero_grad * NPY_ARRAY_WRITEABLE
        if not self.held.is_like(i, grad, flags):
            return False
        view.buf = PyArray_DATA(<PyArrayObject *> <PyObject *> grad)  # with view.obj NULL there is
        view.len = self.held.held[i].len                              # nothing to release
        if view.buf != self.known[i] and self.held.owner(view.buf, view.len) >= 0:
            return False
        self.known[i] = view.buf
        return True

    cdef int take(self, Py_ssize_t i, grad) except -1:
        """Take gradient i; copy it first if it is not C-contiguous."""
        cdef Py_buffer *view = &self.taken[i]
        cdef Py_buffer *param = &self.held.held[i]
        self.held.check_array(i, True)
        if self.take_at_once(i, grad):
            return 0
        name, param_name = self.held.label("grads", i), self.held.labels[i]
        if self.dtype == PK_F32 and isinstance(grad, _ndarray) and grad.dtype.name in _NARROW:
            return self.take_narrow(i, grad, name)
        if type(grad) is SparseRows:
            self.check_takes_rows(i, grad, name)
            acquire(grad.values, view, name, False, False)
        else:
            acquire(grad, view, name, self.zero_grad, not self.zero_grad)
            if not PyBuffer_IsContiguous(view, c"C"):
                PyBuffer_Release(view)
                acquire(contiguous(grad), view, name, False, False)
        try:
            if type(grad) is SparseRows:
                check_rows_like(view, name, grad, param, param_name)
            elif view.itemsize == param.itemsize:
                check_like(view, name, param, param_name)
            else:
                raise TypeError(f"{name}: expected {described_view(param)} like {param_name}, got "
                                f"{described_view(view)}; its .astype("
                                f"{'float' + str(8 * param.itemsize)!r}) is one")
            shared = self.held.owner(view.buf, view.len)
            if shared >= 0:
                raise ValueError(f"{name}: expected memory of its own, got an array that overlaps "
                                 f"{self.held.labels[shared]}")
        except BaseException:
            PyBuffer_Release(view)
            raise
        return 0

    cdef int check_takes_rows(self, Py_ssize_t i, grad, str name) except -1:
        """Raise if a step of this parameter cannot be one of single rows."""
        cdef pk_common *common = self.common(self.tensors[i].group)
        if not self.row.row.abilities & PK_SPARSE_ROWS:
            able = [row.name for row in _ROWS.values() if row.sparse_rows]
            raise TypeError(f"{name}: expected an array, because of all kernels only "
                            f"{', '.join(able)} step single rows, got {grad}; its dense() is one")
        for option, on in (("ema_decay", self.tensors[i].ema != NULL),
                           ("zero_grad", common.zero_grad), ("cautious", common.cautious)):
            if on:
                raise TypeError(f"{name}: expected an array where {option} is on, got {grad}")
        return 0

    cdef int take_narrow(self, Py_ssize_t i, grad, str name) except -1:
        """Take a 16-bit gradient by NumPy's data pointer: the buffer protocol has no bfloat16."""
        cdef Py_buffer *view = &self.taken[i]
        cdef Py_buffer *param = &self.held.held[i]
        if type(grad) is not _ndarray or not grad.dtype.isnative:
            raise TypeError(f"{name}: expected a plain array in native byte order, "
                            f"got {_checks.described(grad)}")
        if grad.shape != shape_of(param):
            raise ValueError(f"{name}: expected shape {shape_of(param)} like "
                             f"{self.held.labels[i]}, got {grad.shape}")
        if self.zero_grad and not (grad.flags.writeable and grad.flags.c_contiguous):
            raise ValueError(f"{name}: expected a writable C-contiguous array, because zero_grad "
                             f"writes it, got a read-only or strided one")
        aligned = _np.require(grad, requirements="CA")  # itself, or a copy
        self.copies.append(aligned)  # until the step is done
        view.buf = PyArray_DATA(<PyArrayObject *> <PyObject *> aligned)
        view.len = aligned.nbytes
        shared = self.held.owner(view.buf, view.len)
        if shared >= 0:
            raise ValueError(f"{name}: expected memory of its own, got an array that overlaps "
                             f"{self.held.labels[shared]}")
        self.tensors[i].stored.grad = _NARROW[grad.dtype.name]
        return 0

    cdef int check_gradients_apart(self) except -1:
        """For zero_grad: raise if two gradients share memory."""
        end, before = 0, 0
        for begin, i in sorted([(<uintptr_t> self.tensors[i].grad, i) for i in range(self.count)
                                if self.tensors[i].grad != NULL and self.tensors[i].n]):
            if begin < end:
                name, other = self.held.label("grads", i), self.held.label("grads", before)
                raise ValueError(f"{name}: expected memory of its own, because "
                                 f"zero_grad writes it, got an array that overlaps "
                                 f"{other}")
            end, before = begin + self.taken[i].len, i
        return 0

    cdef int look_for_nonfinite(self, const pk_tensor *tensors, size_t count,
                                bint skips) except -1:
        """Returns 1 if the step must be skipped because a gradient is not finite; may raise."""
        cdef size_t i
        cdef double norm
        if -INFINITY < self.norm < INFINITY:
            return 0
        if skips or self.on_nonfinite == "skip":
            self.skipped += 1
            return 1
        if self.on_nonfinite == "propagate":
            return 0
        for i in range(count):
            norm = optim_table(self.dtype).global_norm(&tensors[i], 1, self.scratch, 1)
            if not norm < INFINITY:
                name = self.held.label("grads", self.held.owner(tensors[i].param, 1))
                raise FloatingPointError(f"{name}: expected finite elements, got ones whose norm "
                                         f"is {norm}; nothing has been changed")
        raise FloatingPointError("grads: expected a finite global norm, got infinity; nothing has "
                                 "been changed")

    def step(self, grads):
        """Take one step. Changes every parameter that has a gradient, and its state."""
        self.held.enter("step")
        try:
            self.held.check_entries()
            self.take_step(self.held.in_order(grads), 1, False)
        finally:
            self.held.unlock()

    cdef void clip_arrays(self, const pk_tensor *tensors, size_t count, double scale) noexcept:
        """Scale each gradient by its own norm: a parameter is a group, whose rows are adjacent."""
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

    def run_step(self, list ordered not None, double factor, bint skips):
        """`take_step` for wrappers, between `held.begin` and `held.end`."""
        if len(ordered) != self.count or not self.held.busy:
            raise RuntimeError("run_step: expected a list from `checked`, after `begin`")
        return self.take_step(ordered, factor, skips)

    cdef bint take_step(self, list ordered, double factor, bint skips) except -1:
        """Take a step with `grad_scale` times `factor`; returns whether it was taken.

        `skips`: skip it if a gradient is not finite, whatever `on_nonfinite` says. No signal
        handler runs between the first change and the last.
        """
        cdef Py_ssize_t i, taken = 0
        cdef size_t g, count = self.count
        cdef pk_tensor *tensors = self.tensors
        cdef bint sparse = False
        cdef void *scaled = self.common(self.n_groups)
        cdef double clip = 1, scale = self.common(0).grad_scale * factor
        cdef const pk_optim_kernels *kernels = optim_table(self.dtype)
        try:
            check_fits("grad_scale", scale, self.dtype)
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
            if self.knows_norm or skips or self.on_nonfinite != "propagate":
                room_for(&self.scratch, &self.scratch_size,
                         kernels.norm_scratch_size(tensors, count))
                with nogil:
                    self.norm = scale * kernels.global_norm(tensors, count, self.scratch,
                                                            num_threads())
                if self.look_for_nonfinite(tensors, count, skips):
                    return False
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
                    memcpy(self.tensors[i].ema, self.tensors[i].param, self.held.held[i].len)
            self.calls += self.calls < INT64_MAX
        finally:
            self.copies.clear()
            for i in range(taken):
                if self.tensors[i].grad != NULL:
                    PyBuffer_Release(&self.taken[i])
                    self.tensors[i].grad = NULL
        return True
