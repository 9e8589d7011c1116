"""`Plan`: the buffers, states and hyper-parameters of an optimizer, checked once."""
import numpy as _np

from . import _checks
from ._places import begin_at, states_for

from cpython.buffer cimport Py_buffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MAX, int64_t, uintptr_t
from libc.string cimport memcpy, memset

from ._arrays cimport Buffers, acquire, borrow, check_like, contiguous, shape_of, size_of
from ._core cimport clip_coefficient, num_threads, optim_table
from ._held cimport Held
from ._optim cimport Row, Watch, at_least_zero, check_fits, limit, param_of, row_named, set_narrow
from ._optim import ROWS as _ROWS
from ._pieces cimport Pieces
from ._sparse cimport SparseRows, _Touched, check_rows_like, room_for
from .capi cimport (
    NPY_ARRAY_CARRAY_RO, NPY_ARRAY_WRITEABLE, PK_F32, PK_NATIVE, pk_common, pk_dtype,
    pk_optim_kernels, pk_tensor, pk_watched,
)


cdef class Plan:
    """The parameters, states and hyper-parameters of an optimizer.

    `which` is a name in pyoptk.kernels; `group_of` says for each parameter which of `hypers`, dicts
    of numbers, it uses; unused ones come last. `start` has the values of states before step 1, by
    their names in C. `settings`, from which `hypers` were made, are replaced in the same call.
    `states` has for each state in use, by name, an array for each parameter; "ema" is one if
    `ema_decay` is given. `calls` counts the steps, `skipped` those that `on_nonfinite` left undone.
    `state_dtype` and `least` are `_places.states_for`'s; `master` says how narrow parameters are
    stepped (`Held.add_master`). `parts`: for each parameter the seed of its rounding, its first
    block in the array that it is part of, and the elements of that array.
    """
    cdef readonly Held held
    cdef Row row
    cdef char *configs     # [2 * n_groups]: those in use, then new ones that are being checked
    cdef size_t n_groups, config_size, count, scratch_size
    cdef pk_dtype dtype
    cdef double max_norm, max_norm_eps
    cdef public double norm  # of the last step's gradients; -1 if there is none
    cdef readonly bint zero_grad, knows_norm, per_array, ema_from_first_step
    cdef str on_nonfinite
    cdef pk_tensor *tensors
    cdef Buffers grads     # of the current step; with their names
    cdef void **known      # addresses of whole gradients that are known not to overlap
    cdef void *scratch
    cdef _Touched touched  # for a step with SparseRows: its tensors, used instead of `tensors`
    cdef tuple names
    cdef readonly dict states
    cdef readonly list parts
    cdef public int64_t calls, skipped
    cdef dict __dict__     # settings and watch, a Watch or None: other threads may read them

    def __cinit__(self, Held held not None, str which, list group_of, list hypers, settings,
                  dict start not None, str state_dtype="float32", least=0, master=None, parts=None):
        cdef Py_ssize_t i
        self.held, self.row, self.watch = held, row_named(which), None
        self.config_size = self.row.row.config_size
        if len(group_of) != held.count or not all([0 <= g < len(hypers) for g in group_of]):
            raise ValueError("group_of: expected an index into hypers for each parameter")
        self.touched, self.grads = _Touched(), Buffers()
        self.parts = parts or [(i, 0, size_of(&held.held[i])) for i in range(held.count)]
        self.norm, self.per_array = -1, bool(hypers[0]["max_norm_per_array"])
        self.count, self.n_groups, self.dtype = held.count, 1 + max(group_of), held.dtype
        self.configs = <char *> PyMem_Calloc(2 * self.n_groups, self.config_size)
        self.tensors = <pk_tensor *> PyMem_Calloc(self.count + 1, sizeof(pk_tensor))
        self.known = <void **> PyMem_Calloc(self.count + 1, sizeof(void *))
        if not (self.configs and self.tensors and self.known):
            raise MemoryError
        for i in range(self.count):
            self.tensors[i].param, self.tensors[i].stored.param = held.held[i].buf, held.kinds[i]
            self.tensors[i].grad = held.held[i].buf  # not NULL: sizes count tensors with grad
            self.tensors[i].n, self.tensors[i].group = size_of(&held.held[i]), group_of[i]
            self.tensors[i].seed, self.tensors[i].first_block, _ = self.parts[i]
        self.grads.reserve(self.count)
        self.grads.names = [held.label("grads", i) for i in range(self.count)]
        self.configure(hypers, settings)
        self.add_states(self.row.start_of(start, self.dtype), state_dtype, least, master)
        held.check_apart()
        kernels = optim_table(self.dtype)
        room_for(&self.scratch, &self.scratch_size,
                 max(kernels.norm_scratch_size(self.tensors, self.count),
                     kernels.scratch_size(self.row.which, self.tensors, self.count)))

    def __dealloc__(self):
        PyMem_Free(self.configs)
        PyMem_Free(self.tensors)
        PyMem_Free(self.known)
        PyMem_Free(self.scratch)

    cdef pk_common *common(self, size_t group) noexcept:
        """The common part of a config; from n_groups on, of a new one."""
        return <pk_common *> (self.configs + group * self.config_size)

    cdef int add_states(self, list start, str state_dtype, least, str master) except -1:
        cdef Py_ssize_t i, slot
        cdef Held held = self.held
        cdef list kinds = held.kinds
        dtype = _np.dtype("f4" if self.dtype == PK_F32 else "f8")
        given = [(0 if kinds[i] else <uintptr_t> held.held[i].buf, shape_of(&held.held[i]))
                 for i in range(held.count)]
        used = [(slot, name) for slot, name in enumerate(self.names) if name is not None]
        self.states = states_for(given, [name for _, name in used], dtype, state_dtype, least,
                                 master if any(kinds) else None, kinds,
                                 [whole for _, _, whole in self.parts])
        for i in range(self.count):
            if kinds[i]:
                held.add_master(i, &self.tensors[i], master, self.states)
            for slot, name in used:
                state, scales = self.states[name][i], self.states.get(f"{name}_scale")
                scale, narrow = scales and scales[i], state.dtype != dtype
                memory = held.hold(state.view(dtype) if narrow else state, held.label(name, i),
                                   scale).buf
                if name == "ema":
                    self.tensors[i].ema = memory
                    held.begin_average(&self.tensors[i])
                    continue
                self.tensors[i].state[slot] = memory
                if narrow:
                    set_narrow(&self.tensors[i], slot, state, scale)
                if start[slot]:
                    begin_at(self.row.name, name, state, scale, start[slot], self.tensors[i].n,
                             *self.parts[i][:2])
        return 0

    def check(self, list hypers):
        """Raise if `configure` would."""
        _lock = self.held.lock("hyper-parameters", True)
        self.check_hypers(hypers)

    cdef int check_hypers(self, list hypers) except -1:
        """Read them into the second half of `configs`; unused ones are only checked."""
        cdef size_t g
        for hyper in hypers[self.n_groups:]:
            self.row.configure(<char *> self.common(self.n_groups), hyper, self.dtype)
        for g in range(self.n_groups):
            self.row.configure(<char *> self.common(self.n_groups + g), hypers[g], self.dtype)
            needed = self.row.state_names(hypers[g])
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
        _checks.check_choice("on_nonfinite", hypers[0]["on_nonfinite"],
                             ("propagate", "skip", "raise"))
        return 0

    def configure(self, list hypers, settings=None):
        """Take new hyper-parameters, a dict for each group; nothing changes if one is refused."""
        _lock = self.held.lock("hyper-parameters", True)
        self.take_hypers(hypers, settings)

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
        _lock = self.held.lock("step")
        for g in range(self.n_groups):
            self.common(self.n_groups + g).lr = at_least_zero(lrs[g], "lr")
            check_fits("lr", self.common(self.n_groups + g).lr, self.dtype)
        for g in range(self.n_groups):
            self.common(g).lr = self.common(self.n_groups + g).lr

    def restore(self, list hypers, settings, dict states, steps, calls, skipped, list writes):
        """Set everything that a checkpoint holds, and arrays; the caller has checked all."""
        cdef int64_t i, calls_ = calls, skipped_ = skipped
        cdef list steps_ = steps.tolist()
        _lock = self.held.lock("load_state_dict", not writes)
        self.take_hypers(hypers, settings)
        for i in range(self.count):
            self.tensors[i].step = steps_[i]
            for name, arrays in self.states.items():
                if arrays[i] is not None:
                    arrays[i][...] = states[name][i]
        for array, values in writes:
            array[...] = values
        self.calls, self.skipped = calls_, skipped_

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
        cdef list ordered = self.held.in_order(grads)
        try:
            self.take_all(ordered)
        finally:
            self.grads.release()
        return ordered

    cdef bint take_all(self, list ordered, bint brought=False) except -1:
        """Take gradients until `grads.release`, if not `brought`; returns whether some are rows."""
        cdef Py_ssize_t i
        cdef bint sparse = False
        cdef pk_tensor *tensor
        for i in range(self.count):
            tensor = &self.tensors[i]
            tensor.grad, tensor.stored.grad = NULL, PK_NATIVE
            if brought or ordered[i] is None:
                tensor.grad = NULL if ordered[i] is None else tensor.param
                memset(&self.grads.held[i], 0, sizeof(Py_buffer))
                self.grads.n_held = i + 1
            else:
                self.take(i, ordered[i])
                tensor.grad = self.grads.held[i].buf
                self.grads.held[i].readonly = not self.zero_grad
                sparse |= type(ordered[i]) is SparseRows
        if self.zero_grad:
            self.grads.check_apart(", because zero_grad writes it")
        return sparse

    cdef int take(self, Py_ssize_t i, grad) except -1:
        """Take gradient i; copy it first if it is not C-contiguous."""
        cdef Py_buffer *view = &self.grads.held[i]
        cdef Py_ssize_t whole, shared
        cdef int kind, flags = NPY_ARRAY_CARRAY_RO | self.zero_grad * NPY_ARRAY_WRITEABLE
        self.held.check_array(i, True)
        kind = self.held.lend_like(i, grad, flags, view)
        if kind >= 0:
            self.grads.n_held, self.tensors[i].stored.grad = i + 1, <unsigned char> kind
        else:
            self.take_other(i, grad, <str> self.grads.names[i])
        whole = self.tensors[i].n * view.itemsize
        if view.buf != self.known[i] or view.len != whole:
            shared = self.held.owner(view.buf, view.len)
            if shared >= 0:
                raise ValueError(f"{self.grads.names[i]}: expected memory of its own, got an array "
                                 f"that overlaps {self.held.names[shared]}")
            self.known[i] = view.buf if view.len == whole else NULL
        return 0

    cdef int take_other(self, Py_ssize_t i, grad, str name) except -1:
        """Take a gradient of another type or dtype, or one that is not contiguous."""
        cdef Py_buffer *view = &self.grads.held[i]
        cdef Py_buffer param = self.held.held[i]
        cdef int kind = self.held.take_narrow(i, grad, view, name, self.zero_grad)
        if kind:
            self.grads.n_held, self.tensors[i].stored.grad = i + 1, <unsigned char> kind
            return 0
        param.itemsize = 4 if self.dtype == PK_F32 else 8
        cdef bint is_rows = type(grad) is SparseRows
        if is_rows:
            self.check_takes_rows(i, grad, name)
        array = grad.values if is_rows else grad if self.zero_grad else contiguous(grad)
        if not borrow(array, view, self.zero_grad, False):
            acquire(array, view, name, self.zero_grad, False, self.held.takes)
        self.grads.n_held = i + 1
        if is_rows:
            check_rows_like(view, name, grad, &param, <str> self.held.names[i])
        else:
            check_like(view, name, &param, <str> self.held.names[i], not self.zero_grad)
        return 0

    cdef int check_takes_rows(self, Py_ssize_t i, grad, str name) except -1:
        """Raise if this optimizer or parameter cannot step single rows."""
        cdef pk_common *common = self.common(self.tensors[i].group)
        on = ("ema_decay" if self.tensors[i].ema != NULL else "zero_grad" if common.zero_grad else
              "cautious" if common.cautious else "master" if self.held.kinds[i] else
              "a narrow state_dtype" if self.tensors[i].stored.states else None)
        _checks.check_takes_rows(name, grad, _ROWS.values(), self.row, on)

    cdef int look_for_nonfinite(self, const pk_tensor *tensors, size_t count, bint skips) except -1:
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
                name = self.grads.names[self.held.owner(param_of(&tensors[i]), 1)]
                raise FloatingPointError(f"{name}: expected finite elements, got ones whose norm "
                                         f"is {norm}; nothing has been changed")
        raise FloatingPointError("grads: expected a finite global norm, got infinity; nothing has "
                                 "been changed")

    def step(self, grads):
        """Take one step. Changes every parameter that has a gradient, and its state."""
        _lock = self.held.lock("step")
        self.held.check_entries()
        self.take_step(self.held.in_order(grads), 1, False, None)

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

    def run_step(self, list ordered not None, double factor, bint skips, Pieces pieces=None):
        """`take_step` for wrappers, within `held.locked`."""
        if len(ordered) != self.count or not self.held.busy:
            raise RuntimeError("run_step: expected a list from `checked`, within `locked`")
        return self.take_step(ordered, factor, skips, pieces)

    def count_step(self, const char *given):
        """Count a step that the caller took, of each parameter whose byte in `given` is 1."""
        cdef Py_ssize_t i
        for i in range(self.count):
            if given[i] and self.tensors[i].step < INT64_MAX:
                self.tensors[i].step += 1
        self.calls += self.calls < INT64_MAX

    cdef bint take_step(self, list ordered, double factor, bint skips, Pieces pieces) except -1:
        """Take a step with `grad_scale` times `factor`; returns whether it was taken.

        `skips`: skip it if a gradient is not finite, whatever `on_nonfinite` says. `pieces` steps
        the tensors. No signal handler runs between the first change and the last."""
        cdef size_t i, g, count = self.count
        cdef pk_tensor *tensors = self.tensors
        cdef bint sparse
        cdef void *scaled = self.common(self.n_groups), *parts = NULL
        cdef double clip = 1, scale = self.common(0).grad_scale * factor
        cdef const pk_optim_kernels *kernels = optim_table(self.dtype)
        cdef Watch watch = self.watch
        cdef pk_watched *told = NULL
        try:
            check_fits("grad_scale", scale, self.dtype)
            sparse = self.take_all(ordered, pieces is not None)
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
            if watch is not None:
                watch.prepare(self.held, kernels, tensors, count, scale)
                told, parts = <pk_watched *> watch.memory(), watch.scratch()
            for i in range(self.count):
                if self.tensors[i].grad and self.tensors[i].step < INT64_MAX:
                    self.tensors[i].step += 1
            for g in range(count if sparse else 0):
                tensors[g].step += tensors[g].step < INT64_MAX
            memcpy(scaled, self.configs, self.n_groups * self.config_size)
            for g in range(self.n_groups):
                self.common(self.n_groups + g).grad_scale = scale * clip
            if self.per_array and self.max_norm < INFINITY:
                self.clip_arrays(tensors, count, scale)
            if pieces is None:
                with nogil:
                    kernels.watched_step(self.row.which, tensors, count, scaled, self.scratch,
                                         told, parts, num_threads())
            else:
                pieces.step(kernels, self.row.which, tensors, scaled, told, parts)
            for i in range(self.count if self.ema_from_first_step else 0):
                if self.tensors[i].grad and self.tensors[i].ema and self.tensors[i].step == 1:
                    self.held.begin_average(&self.tensors[i])
            self.calls += self.calls < INT64_MAX
        finally:
            self.grads.release()
        return True
