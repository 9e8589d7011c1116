"""`Stepper`: the steps of an optimizer of PyTorch (pyoptk/torch) on the memory of its tensors.

Where a tensor is, PyTorch tells through the C functions of DLPack 1.3, a table that each type of
tensor has as `__dlpack_c_exchange_api__`: nothing is compiled against PyTorch, and an address is
asked for in each step anew. What is rare, and every message, is Python: pyoptk/torch/tensors.py.
"""
from cpython.exc cimport PyErr_Clear
from cpython.list cimport PyList_SetSlice, PyList_Size
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.string cimport memset

from ._arrays cimport Buffers
from ._core cimport _Lock, clip_coefficient, num_threads, optim_table
from ._listed cimport (
    BY_CHANCE, COPIED, NO_MASTER, Beside, check_gradients, copy_all, count_steps, counted, forget,
    is_counted, is_counter, is_like, is_state, keep_at, mark_of, n_blocks, n_keys, restore,
    state_of, step_itself, storage_of, written_by,
)
from ._optim cimport Row, check_fits, row_named
from ._sparse cimport room_for
from .capi cimport (
    PK_8BIT, PK_F16, PK_F32, PK_F64, PK_MAX_STATES, PK_NATIVE, pk_common, pk_dtype, pk_tensor,
)
from .dlpack cimport (
    CPU, FLOAT, INT, Exchange, Seen, address_of, exchange_of, is_dense, is_flat, same_order,
    same_shape, size_of_seen,
)

cdef class _Listed:
    """What a step changes of one dtype."""
    cdef pk_dtype dtype
    cdef pk_tensor *tensors
    cdef Beside *beside
    cdef size_t count, tensors_size, beside_size, scratch_size
    cdef void *scratch
    cdef Buffers written    # the memory of the last step that was looked at, and its mark
    cdef uint64_t mark

    def __cinit__(self, bint single):
        self.dtype = PK_F32 if single else PK_F64

    def __dealloc__(self):
        PyMem_Free(self.tensors)
        PyMem_Free(self.beside)
        PyMem_Free(self.scratch)

    cdef int clear(self, size_t most) except -1:
        """Room for so many tensors, and none yet."""
        self.count = 0
        room_for(<void **> &self.tensors, &self.tensors_size, most * sizeof(pk_tensor))
        if self.beside_size < most * sizeof(Beside):
            self.written = None
        room_for(<void **> &self.beside, &self.beside_size, most * sizeof(Beside))
        return 0

    cdef int check_apart(self, tuple names, tools, list groups) except -1:
        """Raise if memory that the step writes is written twice, or is that of a gradient.

        What is as in the last step is not looked at again.
        """
        cdef uint64_t mark = mark_of(self.tensors, self.count)
        if self.written is None or mark != self.mark:
            self.written = None
            self.written = written_by(self.tensors, self.beside, self.count, self.dtype, names,
                                      tools, groups)
            self.mark = mark
        return check_gradients(self.tensors, self.beside, self.count, self.dtype, self.written,
                               tools, groups)

    cdef double norm(self) noexcept:
        kernels = optim_table(self.dtype)
        with nogil:
            return kernels.global_norm(self.tensors, self.count, self.scratch, num_threads())

    cdef int prepare(self, Row row) except -1:
        """Memory for the norm and for the step."""
        kernels = optim_table(self.dtype)
        room_for(&self.scratch, &self.scratch_size,
                 max(kernels.norm_scratch_size(self.tensors, self.count),
                     kernels.scratch_size(row.which, self.tensors, self.count)))
        return 0

    cdef void step(self, Row row, const void *configs) noexcept:
        kernels = optim_table(self.dtype)
        count_steps(self.beside, self.count)
        with nogil:
            kernels.step(row.which, self.tensors, self.count, configs, self.scratch, num_threads())


cdef class Stepper:
    """What the steps of one optimizer need besides its groups and states.

    `which` is its name in pyoptk.kernels, `keys` has PyTorch's names of its states in the order of
    `Row.states`, and `tools` is pyoptk.torch.tensors. `counts`: PyTorch has a tensor that counts
    the steps of each parameter. If not, one with a state that is missing takes its first step.
    """
    cdef Row row
    cdef tuple keys
    cdef PyObject *wanted[3]      # those that the group has, n_states of them; else NULL
    cdef int counts, n_states
    cdef tuple names_of_states    # keys, filled up to PK_MAX_STATES, then those of other arrays
    cdef object tools, Tensor, Parameter, increment_version
    cdef const Exchange *exchange
    cdef int busy                 # a guard: see _Lock
    cdef _Listed singles, doubles
    cdef void *configs
    cdef size_t configs_size
    cdef Py_ssize_t group, place  # of the parameter that is looked at
    cdef uint64_t nth             # its index among all
    cdef int narrow, master       # how states and narrow parameters of its group are stored
    cdef int64_t least            # elements of a parameter, for 8 bits
    cdef list groups              # those of the step
    cdef object states            # a dict by parameter that makes an entry where there is none
    cdef Py_ssize_t at            # where in `states` the next parameter's are expected
    cdef list grads               # of the step
    cdef list kept                # the other tensors of the step, and of the last one
    cdef Py_ssize_t n_kept        # which of them are the step's
    cdef object held              # tools.held of `kept`; None when that has changed
    cdef list before              # pairs of a dict of states that changes and a copy of it
    cdef list begins              # pairs: what is copied to where right before the sweep
    cdef list copies              # pairs of a parameter and a dense copy that the step changes
    cdef public object loaded     # masters by id that came from a checkpoint, or None

    def __cinit__(self, str which, tuple keys, bint counts, tools):
        self.row, self.keys, self.counts = row_named(which), keys, counts
        self.names_of_states = tools.names_of_states(keys, PK_MAX_STATES)
        self.tools, self.Tensor, self.Parameter = tools, tools.Tensor, tools.Parameter
        self.increment_version = tools.increment_version
        self.exchange = exchange_of(tools.Tensor)
        self.singles, self.doubles, self.kept = _Listed(True), _Listed(False), []

    def __dealloc__(self):
        PyMem_Free(self.configs)

    def check(self, list hypers, list doubles):
        """Raise if a step would refuse the hyper-parameters of these groups.

        `doubles`: for each group, whether all of its parameters are float64.
        """
        cdef Buffers memory = Buffers()
        cdef pk_dtype dtype
        for hyper, double in zip(hypers, doubles, strict=True):
            dtype = PK_F64 if double else PK_F32
            self.row.configure(<char *> memory.scratch(self.row.row.config_size), hyper, dtype)
            self.row.start_of(hyper, dtype)

    def step(self, optimizer, list hypers, double scale, max_norm):
        """Take a step of all parameters that have a gradient, which counts `scale` times.

        `hypers` has the hyper-parameters of each group of `optimizer`. Returns the norm of all
        gradients, which is that before clipping, or None if `max_norm` is.
        """
        cdef _Lock lock = _Lock()
        if not lock.take(&self.busy):
            raise RuntimeError("step: this optimizer is stepping in another thread already")
        try:
            self.collect(optimizer, hypers)
            return self.run(hypers, scale, max_norm)
        except BaseException:
            restore(self.before)
            raise
        finally:
            self.groups = self.states = self.grads = self.copies = self.begins = self.before = None

    cdef int collect(self, optimizer, list hypers) except -1:
        """List the tensors of a step; makes states that are missing."""
        cdef size_t most = 0
        self.groups, self.states = optimizer.param_groups, optimizer.state
        self.grads, self.copies, self.begins, self.before = [], [], [], []
        self.loaded = self.loaded or None
        self.at = self.n_kept = self.nth = 0
        for group in self.groups:
            most += len(group["params"])
        self.singles.clear(most)
        self.doubles.clear(most)
        for self.group in range(len(self.groups)):
            group = self.groups[self.group]
            hyper = <dict> hypers[self.group]
            self.want(hyper)
            self.narrow = self.tools.STATE_DTYPES[hyper["state_dtype"]]
            self.master = self.tools.MASTERS[hyper["master"]]
            self.least = hyper["min_8bit_size"] if self.narrow == PK_8BIT else 0
            self.place = 0
            for p in <list?> group["params"]:
                grad = p.grad
                if grad is not None:
                    if self.singles.count + self.doubles.count == most:
                        raise RuntimeError("step: a group has grown meanwhile")
                    self.take(<dict?> group, hyper, p, grad)
                self.place += 1
                self.nth += 1
        return 0

    cdef int want(self, dict hyper) except -1:
        """PyTorch's name for each state of a group; none for those that it does not need."""
        cdef int slot
        names, self.n_states = self.row.state_names(hyper), 0
        for slot in range(3):
            self.wanted[slot] = (NULL if slot >= len(self.keys) or names[slot] is None
                                 else <PyObject *> self.keys[slot])
            self.n_states += self.wanted[slot] != NULL
        return 0

    cdef str name(self, str what=""):
        """The name of what is looked at: a parameter, its .grad, or one of its states."""
        name = self.tools.name_of(self.groups, self.group, self.place)
        return f"the {what} of {name}" if what and what[0] != "." else name + what

    cdef int see(self, tensor, Seen *seen, str what) except -1:
        """Find the memory of a strided tensor in the memory of the CPU."""
        if type(tensor) is not self.Parameter and type(tensor) is not self.Tensor:
            self.tools.check_type(tensor, self.name(what))
        if self.exchange.see(<void *> tensor, seen) != 0:
            PyErr_Clear()
            self.tools.refuse(tensor, self.name(what))
        if seen.device != CPU or seen.lanes != 1:
            self.tools.refuse(tensor, self.name(what))
        return 0

    cdef int take(self, dict group, dict hyper, p, grad) except -1:
        """Add a parameter to the list of its dtype."""
        cdef Seen param, given
        cdef dict state = None
        cdef int kind, of_grad, n_kept = <int> self.n_kept
        self.see(p, &param, "")
        self.see(grad, &given, ".grad")
        kind, of_grad = storage_of(&param), storage_of(&given)
        if kind != PK_NATIVE and (kind < 0 or self.master == NO_MASTER
                                  or kind == PK_F16 and self.master != COPIED):
            self.tools.check_parameter(p, self.name(), hyper["master"])
        if not same_shape(&param, &given):
            self.tools.refuse_shape(grad, p, self.name(".grad"))
        if of_grad < 0 or (given.bits == 64) != (param.bits == 64):
            self.tools.refuse_gradient(grad, p, self.name(".grad"))
        whole = p
        if (not is_dense(&param) or not same_order(&param, &given)
                or size_of_seen(&param) == 1 and (p.is_neg() or grad.is_neg())):
            whole, grad = self.tools.arranged(p, grad)
            self.see(whole, &param, "")
            self.see(grad, &given, ".grad")
            if whole is not p:
                self.copies.append((p, whole))
        cdef _Listed listed = self.doubles if param.bits == 64 else self.singles
        cdef pk_tensor *t = &listed.tensors[listed.count]
        memset(t, 0, sizeof(pk_tensor))
        step_itself(t, &param)
        t.grad, t.n, t.stored.grad = address_of(&given), size_of_seen(&param), of_grad
        t.group, t.seed, t.step = self.group, self.nth, 2 if self.n_states else 1
        t.stored.by_chance = kind != PK_NATIVE and self.master == BY_CHANCE
        if param.bits != 64 and size_of_seen(&param) >= self.least:
            t.stored.states = self.narrow
        self.grads.append(grad)
        if self.n_states or kind != PK_NATIVE:
            state = state_of(self.states, p, &self.at, True)
        elif len(<dict> self.states):  # with a master of the time when the parameter was narrow
            state = state_of(self.states, p, &self.at, False)
        if state is not None and not self.take_states(state, whole, &param, t):
            self.before.append((state, dict(state)))
            self.begins += self.tools.made(
                state, self.row, self.keys, hyper, whole, group, t.stored.states, self.nth,
                self.loaded or {}, self.name())
            self.n_kept = n_kept  # and all anew
            step_itself(t, &param)
            self.take_states(state, whole, &param, t)
        self.keep(whole)
        listed.beside[listed.count].counter = NULL
        listed.beside[listed.count].place = self.place
        if is_counted(t, self.counts):
            if state is None:
                state = state_of(self.states, p, &self.at, True)
            self.take_counter(state, t, &listed.beside[listed.count])
        listed.count += 1
        return 0

    cdef int keep(self, tensor) except -1:
        """Let a tensor live as long as the step, and autograd know that it is written."""
        if keep_at(self.kept, self.n_kept, tensor):
            self.held = None
        self.n_kept += 1
        return 0

    cdef bint take_states(self, dict state, whole, const Seen *param, pk_tensor *t) except -1:
        """Find the memory of the states and of a master; returns whether all are there."""
        cdef bint found = True, narrow = t.stored.param != PK_NATIVE and not t.stored.by_chance
        if narrow:
            found = self.take_master(state, whole, param, t)
        if found and len(state) > narrow + n_keys(t, self.n_states, self.counts):
            forget(state, t, self.before)
        for slot in range(3):
            if self.wanted[slot] != NULL and not self.take_state(state, slot, whole, param, t):
                t.step, found = 1, False
        return found

    cdef bint take_master(self, dict state, whole, const Seen *param, pk_tensor *t) except -1:
        """Let a narrow parameter be stepped with what `state` has for that; whether it is there."""
        cdef Seen seen
        cdef bint copied = self.master == COPIED
        cdef str key = "master" if copied else "remainder"
        value = state.get(key)
        if value is None:
            return False
        self.see(value, &seen, key)
        if (seen.bits != (32 if copied else 16) or seen.code != (FLOAT if copied else INT)
                or self.loaded is not None
                and self.tools.found(state, key, whole, self.loaded, self.name()) is None):
            return False  # PyTorch has loaded it, and perhaps stepped its parameter
        if not is_like(&seen, seen.code, seen.bits, param):
            self.before.append((state, dict(state)))
            value = self.tools.reordered(state, key, whole, self.name(key))
            self.see(value, &seen, key)
        self.keep(value)
        if copied:
            t.copy, t.stored.copy = t.param, t.stored.param
            t.param, t.stored.param = address_of(&seen), PK_NATIVE
        else:
            t.low = <uint16_t *> address_of(&seen)
        return True

    cdef bint take_state(self, dict state, int slot, whole, const Seen *param,
                         pk_tensor *t) except -1:
        """Find the memory of a state and of its scale; returns whether it is there."""
        cdef Seen seen
        cdef str key = <str> <object> self.wanted[slot], scale_key
        value = state.get(key)
        if value is None:
            return False
        self.see(value, &seen, key)
        if not is_state(&seen, param, t):
            self.before.append((state, dict(state)))
            value = self.tools.refitted(state, self.row.name, slot, key, whole, self.name(key),
                                        t.stored.states, self.nth)
            self.see(value, &seen, key)
        self.keep(value)
        t.state[slot] = <void *> param if seen.data == NULL else address_of(&seen)  # no element
        if t.stored.states == PK_8BIT:
            scale_key = self.names_of_states[slot + PK_MAX_STATES]
            value = state.get(scale_key)
            self.see(value, &seen, scale_key)
            if not is_flat(&seen, FLOAT, 32, n_blocks(t.n)):
                self.tools.refuse_scale(value, self.name(scale_key), n_blocks(t.n))
            self.keep(value)
            t.scale[slot] = <float *> address_of(&seen)
        return True

    cdef int take_counter(self, dict state, pk_tensor *t, Beside *beside) except -1:
        cdef Seen seen
        cdef double steps
        cdef bint begins = not self.counts and self.n_states and t.step == 1
        value = state.get("step")
        if type(value) is self.Tensor:
            self.see(value, &seen, "step")
        if type(value) is not self.Tensor or not is_counter(&seen):
            self.before.append((state, dict(state)))
            value = self.tools.counter(state, 0 if self.counts else t.step - 1)
            forget(state, t, self.before)
            self.see(value, &seen, "step")
        beside.counter, beside.wide = address_of(&seen), seen.bits == 64
        steps = counted(beside)
        if not 0 <= steps < 2.0**62:
            raise ValueError(f"{self.name('step')}: expected a number of steps, got {steps}")
        if not begins:  # a state that is new takes its first step, whatever the counter says
            t.step = <int64_t> steps + 1
        self.keep(value)
        return 0

    cdef run(self, list hypers, double scale, max_norm):
        """The step of what is listed; nothing is written before all of it is checked."""
        cdef size_t g, n = len(hypers), size = self.row.row.config_size
        cdef double norm = -1, most = INFINITY if max_norm is None else max_norm, wide
        cdef _Listed listed
        check_fits("grad_scale", scale, PK_F32)
        room_for(&self.configs, &self.configs_size, n * size)
        for g in range(n):
            self.row.configure(<char *> self.configs + g * size, <dict> hypers[g],
                               PK_F32 if self.singles.count else PK_F64)
        if self.held is None or PyList_Size(self.kept) > self.n_kept:
            PyList_SetSlice(self.kept, self.n_kept, PyList_Size(self.kept), [])
            self.held = self.tools.held(self.kept)
        for listed in (self.singles, self.doubles):
            listed.check_apart(self.names_of_states, self.tools, self.groups)
            listed.prepare(self.row)
        if max_norm is not None:
            norm, wide = self.singles.norm(), self.doubles.norm()
            norm = scale * (norm if self.doubles.count == 0 else
                            wide if self.singles.count == 0 else sqrt(norm * norm + wide * wide))
            if most < INFINITY:
                scale *= clip_coefficient(norm, most, 1e-6)
        for g in range(n):
            (<pk_common *> (<char *> self.configs + g * size)).grad_scale = scale
        self.copies = self.tools.targets(self.copies, self.groups)
        self.increment_version(self.kept)  # now, while all this is in the cache
        self.before = []  # from here on nothing raises, and no Python code runs
        copy_all(self.begins)
        self.singles.step(self.row, self.configs)
        self.doubles.step(self.row, self.configs)
        copy_all(self.copies)
        return None if max_norm is None else norm
