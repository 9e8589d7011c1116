"""`Stepper`: the steps of an optimizer of PyTorch (pyoptk/torch) on the memory of its tensors.

Where a tensor is, PyTorch tells through the C functions of DLPack 1.3, a table that each type of
tensor has as `__dlpack_c_exchange_api__`: nothing is compiled against PyTorch, and an address is
asked for in each step anew. What is rare, and every message, is Python: pyoptk/torch/tensors.py.
"""
from cpython.buffer cimport Py_buffer
from cpython.dict cimport PyDict_GetItemWithError
from cpython.exc cimport PyErr_Clear
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY, sqrt
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memset

from ._arrays cimport Buffers
from ._core cimport _Lock, clip_coefficient, num_threads, optim_table
from ._optim cimport Row, check_fits, row_named
from ._sparse cimport room_for
from .capi cimport (
    PK_BF16, PK_F16, PK_F32, PK_F64, PK_MAX_STATES, PK_NATIVE, pk_common, pk_dtype, pk_tensor,
)
from .dlpack cimport (
    BFLOAT, CPU, FLOAT, Exchange, Seen, address_of, is_dense, same_order, same_shape, size_of_seen,
)

# ---- the tensors of one dtype -------------------------------------------------------------------

cdef struct Beside:     # what belongs to a tensor of a list besides what the kernel takes
    void *counter       # where PyTorch counts its steps; NULL: nowhere
    bint wide           # whether that is float64
    Py_ssize_t place    # in its group
    const void *known   # a gradient that is known not to overlap what the step writes


cdef class Stepper


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

    cdef int check_apart(self, Stepper stepper) except -1:
        """Raise if memory that the step writes is written twice, or is that of a gradient.

        What is as in the last step is not looked at again.
        """
        cdef size_t i, size
        cdef int slot
        cdef uint64_t mark = self.count
        cdef pk_tensor *t
        for i in range(self.count):
            t = &self.tensors[i]
            mark = (mark ^ <uint64_t> t.param) * 1099511628211ULL  # as FNV does
            mark = (mark ^ t.n) * 1099511628211ULL
            for slot in range(PK_MAX_STATES):
                mark = (mark ^ <uint64_t> t.state[slot]) * 1099511628211ULL
        if self.written is None or mark != self.mark:
            self.list_written(stepper)
            self.mark = mark
        for i in range(self.count):
            t = &self.tensors[i]
            if t.grad != self.beside[i].known:
                size = 2 if t.stored.grad != PK_NATIVE else 4 if self.dtype == PK_F32 else 8
                if self.written.owner(t.grad, t.n * size) >= 0:
                    name = stepper.label(t.group, self.beside[i].place)
                    raise ValueError(f"{name}.grad: expected memory of its own, got a tensor that "
                                     f"overlaps what the step writes")
                self.beside[i].known = t.grad
        return 0

    cdef int list_written(self, Stepper stepper) except -1:
        cdef size_t i, size = 4 if self.dtype == PK_F32 else 8
        cdef int slot
        cdef pk_tensor *t
        cdef Py_buffer *view
        cdef void *memory
        cdef Buffers written = Buffers()
        self.written = None
        written.reserve(self.count * (1 + PK_MAX_STATES))
        for i in range(self.count):
            t = &self.tensors[i]
            self.beside[i].known = NULL
            name = stepper.label(t.group, self.beside[i].place)
            for slot in range(-1, PK_MAX_STATES):
                memory = t.param if slot < 0 else t.state[slot]
                if memory != NULL and t.n:
                    view = &written.held[written.n_held]
                    memset(view, 0, sizeof(Py_buffer))
                    view.buf, view.len = memory, t.n * size
                    view.itemsize = view.len  # as if it were one element, without an axis
                    written.names[written.n_held] = (
                        name if slot < 0 else f"the {stepper.keys[slot]} of {name}")
                    written.n_held += 1
        written.check_apart()
        self.written = written
        return 0

    cdef double norm(self) noexcept:
        kernels = optim_table(self.dtype)
        cdef double norm
        with nogil:
            norm = kernels.global_norm(self.tensors, self.count, self.scratch, num_threads())
        return norm

    cdef int prepare(self, Row row) except -1:
        """Memory for the norm and for the step."""
        kernels = optim_table(self.dtype)
        room_for(&self.scratch, &self.scratch_size,
                 max(kernels.norm_scratch_size(self.tensors, self.count),
                     kernels.scratch_size(row.which, self.tensors, self.count)))
        return 0

    cdef void step(self, Row row, const void *configs) noexcept:
        cdef size_t i
        kernels = optim_table(self.dtype)
        for i in range(self.count):
            if self.beside[i].counter != NULL:
                if self.beside[i].wide:
                    (<double *> self.beside[i].counter)[0] = <double> self.tensors[i].step
                else:
                    (<float *> self.beside[i].counter)[0] = <float> self.tensors[i].step
        with nogil:
            kernels.step(row.which, self.tensors, self.count, configs, self.scratch, num_threads())


# ---- steps --------------------------------------------------------------------------------------

cdef class Stepper:
    """What the steps of one optimizer need besides its groups and states.

    Parameters
    ----------
    which : str
        The optimizer, by its name in pyoptk.kernels.
    keys : tuple of str
        PyTorch's names of its states, in the order in which `Row.states` has ours.
    counts : bool
        Whether PyTorch has a tensor that counts the steps of each parameter. If not, a parameter
        with a state that is missing takes its first step.
    tools : module
        pyoptk.torch.tensors.
    """
    cdef Row row
    cdef tuple keys
    cdef bint counts
    cdef object tools, Tensor, Parameter, increment_version
    cdef const Exchange *exchange
    cdef int busy                 # a guard: see _Lock
    cdef _Listed singles, doubles
    cdef void *configs
    cdef size_t configs_size
    cdef Py_ssize_t group, place  # of the parameter that is looked at, for messages
    cdef list groups              # those of the step
    cdef object states            # a dict by parameter that makes an entry where there is none
    cdef list written             # tensors of the step, for autograd
    cdef list read                # gradients and counters, which must live as long as the step
    cdef list made                # pairs of a dict and keys: states that were missing
    cdef list copies              # pairs of a parameter and a dense copy that the step changes

    def __cinit__(self, str which, tuple keys, bint counts, tools):
        self.row, self.keys, self.counts = row_named(which), keys, counts
        self.tools, self.Tensor, self.Parameter = tools, tools.Tensor, tools.Parameter
        self.increment_version = tools.increment_version
        self.exchange = <const Exchange *> PyCapsule_GetPointer(
            tools.Tensor.__dlpack_c_exchange_api__, "dlpack_exchange_api")
        if self.exchange.major != 1 or self.exchange.see == NULL:
            raise ImportError(f"torch: expected the C functions of DLPack 1, got those of "
                              f"{self.exchange.major}")
        self.singles, self.doubles = _Listed(True), _Listed(False)

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
            for state, keys in self.made:
                for key in keys:
                    del state[key]
            raise
        finally:
            self.groups = self.states = self.written = self.read = self.copies = self.made = None

    cdef int collect(self, optimizer, list hypers) except -1:
        """List the tensors of a step; makes states that are missing."""
        cdef size_t most = 0
        self.groups, self.states = optimizer.param_groups, optimizer.state
        self.written, self.read, self.copies, self.made = [], [], [], []
        for group in self.groups:
            most += len(group["params"])
        self.singles.clear(most)
        self.doubles.clear(most)
        for self.group in range(len(self.groups)):
            group = self.groups[self.group]
            keys = self.keys_of(<dict> hypers[self.group])
            self.place = 0
            for p in <list?> group["params"]:
                grad = p.grad
                if grad is not None:
                    if self.singles.count + self.doubles.count == most:
                        raise RuntimeError("step: a group has grown meanwhile")
                    self.take(<dict?> group, keys, p, grad)
                self.place += 1
        return 0

    cdef tuple keys_of(self, dict hyper):
        """PyTorch's name for each state of a group; None for those that it does not need."""
        names = self.row.state_names(hyper)
        return tuple([None if names[i] is None else self.keys[i] for i in range(len(self.keys))])

    cdef str label(self, Py_ssize_t group, Py_ssize_t place):
        return self.tools.name_of(self.groups, group, place)

    cdef str name(self, str what=""):
        """The name of what is looked at: a parameter, its .grad, or one of its states."""
        name = self.label(self.group, self.place)
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

    cdef int take(self, dict group, tuple keys, p, grad) except -1:
        """Add a parameter to the list of its dtype."""
        cdef Seen param, given
        cdef _Listed listed
        cdef pk_tensor *t
        cdef dict state = None
        cdef int slot
        self.see(p, &param, "")
        self.see(grad, &given, ".grad")
        if param.code != FLOAT or param.bits != 32 and param.bits != 64:
            self.tools.refuse(p, self.name())
        if not same_shape(&param, &given):
            self.tools.refuse_shape(grad, p, self.name(".grad"))
        whole = p
        if (not is_dense(&param) or not same_order(&param, &given)
                or size_of_seen(&param) == 1 and (p.is_neg() or grad.is_neg())):
            whole, grad = self.tools.arranged(p, grad)
            self.see(whole, &param, "")
            self.see(grad, &given, ".grad")
            if whole is not p:
                self.copies.append((p, whole))
        listed = self.singles if param.bits == 32 else self.doubles
        t = &listed.tensors[listed.count]
        memset(t, 0, sizeof(pk_tensor))
        t.param, t.grad, t.n = address_of(&param), address_of(&given), size_of_seen(&param)
        t.group, t.step = self.group, 2
        if given.code != FLOAT or given.bits != param.bits:
            if param.bits != 32 or given.bits != 16 or given.code != FLOAT and given.code != BFLOAT:
                self.tools.refuse_gradient(grad, p, self.name(".grad"))
            t.stored.grad = PK_F16 if given.code == FLOAT else PK_BF16
        self.written.append(whole)
        self.read.append(grad)
        for slot in range(<int> len(keys)):
            if keys[slot] is not None:
                if state is None:
                    state = self.state_of(p)
                t.state[slot] = self.state_like(state, <str> keys[slot], whole, &param)
                if t.state[slot] == NULL:
                    t.step = 1
                    self.made.append((state, self.tools.made(state, keys, whole, group)))
                    t.state[slot] = self.state_like(state, <str> keys[slot], whole, &param)
        listed.beside[listed.count].counter = NULL
        listed.beside[listed.count].place = self.place
        if self.counts:
            self.take_counter(self.state_of(p) if state is None else state, t,
                              &listed.beside[listed.count])
        listed.count += 1
        return 0

    cdef dict state_of(self, p):
        cdef PyObject *found = PyDict_GetItemWithError(<dict> self.states, p)
        return <dict?> (self.states[p] if found == NULL else <object> found)

    cdef void *state_like(self, dict state, str key, whole, const Seen *like) except? NULL:
        """The memory of a state; NULL if there is none."""
        cdef Seen seen
        cdef PyObject *found = PyDict_GetItemWithError(state, key)
        if found == NULL or found == <PyObject *> None:
            return NULL
        value = <object> found
        self.see(value, &seen, key)
        if (seen.code != FLOAT or seen.bits != like.bits or not same_shape(&seen, like)
                or not same_order(&seen, like)):
            value = self.tools.refitted(state, key, whole, self.name(key))
            self.see(value, &seen, key)
        self.written.append(value)
        return <void *> like if seen.data == NULL else address_of(&seen)  # of no element: any

    cdef int take_counter(self, dict state, pk_tensor *t, Beside *beside) except -1:
        cdef Seen seen
        cdef double steps
        cdef PyObject *found = PyDict_GetItemWithError(state, "step")
        value = self.tools.counter(state) if found == NULL else <object> found
        if type(value) is not self.Tensor:
            value = self.tools.counter(state)
        self.see(value, &seen, "step")
        if seen.code != FLOAT or seen.bits != 32 and seen.bits != 64 or size_of_seen(&seen) != 1:
            value = self.tools.counter(state)
            self.see(value, &seen, "step")
        beside.counter, beside.wide = address_of(&seen), seen.bits == 64
        steps = (<double *> beside.counter)[0] if beside.wide else (<float *> beside.counter)[0]
        if not 0 <= steps < 2.0**62:
            raise ValueError(f"{self.name('step')}: expected a number of steps, got {steps}")
        t.step = <int64_t> steps + 1
        self.read.append(value)
        return 0

    cdef run(self, list hypers, double scale, max_norm):
        """The step of what is listed; nothing is written before all of it is checked."""
        cdef size_t g, n = len(hypers), size = self.row.row.config_size
        cdef double norm = -1, most = INFINITY if max_norm is None else max_norm, wide
        cdef _Listed listed
        cdef pk_common *common
        check_fits("grad_scale", scale, PK_F32)
        room_for(&self.configs, &self.configs_size, n * size)
        for g in range(n):
            self.row.configure(<char *> self.configs + g * size, <dict> hypers[g],
                               PK_F32 if self.singles.count else PK_F64)
        for listed in (self.singles, self.doubles):
            listed.check_apart(self)
            listed.prepare(self.row)
        if max_norm is not None:
            norm, wide = self.singles.norm(), self.doubles.norm()
            norm = scale * (norm if self.doubles.count == 0 else
                            wide if self.singles.count == 0 else sqrt(norm * norm + wide * wide))
            if most < INFINITY:
                scale *= clip_coefficient(norm, most, 1e-6)
        for g in range(n):
            common = <pk_common *> (<char *> self.configs + g * size)
            common.grad_scale = scale
        self.increment_version(self.written)  # now, while all this is in the cache
        self.singles.step(self.row, self.configs)
        self.doubles.step(self.row, self.configs)
        if self.copies:
            self.tools.put_back(self.copies)
        return None if max_norm is None else norm
