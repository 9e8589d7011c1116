# The arrays of an optimizer, held from its construction on.

cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Plan.held_names


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
    hyper : dict
    initial : float
        What the state begins with.

    Attributes
    ----------
    states : dict
        For each state that the kernel uses, by name, a list with an array for each parameter.
    """
    cdef kernel which
    cdef str which_name
    cdef config config_
    cdef pk_dtype dtype
    cdef double max_norm
    cdef double norm
    cdef size_t count
    cdef pk_tensor *tensors
    cdef Py_buffer *held   # all params, then the states
    cdef Py_buffer *taken  # the gradients of the step under way
    cdef span *spans       # what is written, by address
    cdef Py_ssize_t n_held, n_spans
    cdef void *scratch
    cdef bint busy, mapping
    cdef list keys, held_names
    cdef tuple names
    cdef readonly dict states

    def __init__(self, str which, keys, bint mapping, list params, dict hyper, initial=0.0):
        cdef Py_ssize_t i, j, held
        if self.tensors != NULL:
            raise RuntimeError("a Plan is made once")
        self.which_name, self.which = which, _KERNELS[which]
        self.keys, self.mapping = keys, mapping
        self.names = state_names(which, hyper)
        self.held_names = []
        self.configure(hyper)
        self.norm = -1
        self.count = len(params)
        slots = self.count * (1 + PK_MAX_STATES)
        self.tensors = <pk_tensor *> PyMem_Calloc(self.count + 1, sizeof(pk_tensor))
        self.taken = <Py_buffer *> PyMem_Calloc(self.count + 1, sizeof(Py_buffer))
        self.held = <Py_buffer *> PyMem_Calloc(slots + 1, sizeof(Py_buffer))
        self.spans = <span *> PyMem_Calloc(slots + 1, sizeof(span))
        if not (self.tensors and self.taken and self.held and self.spans):
            raise MemoryError
        for i in range(self.count):
            self.hold(params[i], self.label("params", i))
            check_dtype(&self.held[i], self.held_names[i], &self.held[0], self.held_names[0])
            self.tensors[i].param = self.held[i].buf
            self.tensors[i].n = size_of(&self.held[i])
        self.sort_spans()  # before there are states: two parameters that overlap
        self.states = {name: [] for name in self.names if name is not None}
        initial = at_least_zero({"initial_accumulator": initial}, "initial_accumulator")
        for i in range(self.count):
            for j, name in enumerate(self.names):
                if name is not None:
                    dtype = _np.dtype(f"f{self.held[0].itemsize}")
                    state = _np.zeros(shape_of(&self.held[i]), dtype)
                    if initial:
                        state.fill(initial)
                    self.states[name].append(state)
                    held = self.hold(state, self.label(name, i))
                    self.tensors[i].state[j] = self.held[held].buf
        self.sort_spans()
        if self.count:
            self.dtype = dtype_of(&self.held[0])
        for i in range(self.count):
            self.tensors[i].grad = self.tensors[i].param  # any: the size counts all tensors
        self.scratch = PyMem_Malloc(
            max(pk_optim(self.dtype).norm_scratch_size(self.tensors, self.count),
                scratch_size(self.which, self.dtype, self.tensors, self.count)) + 1)
        if self.scratch == NULL:
            raise MemoryError
        for i in range(self.count):
            self.tensors[i].grad = NULL

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.n_held):
            PyBuffer_Release(&self.held[i])
        PyMem_Free(self.tensors)
        PyMem_Free(self.taken)
        PyMem_Free(self.held)
        PyMem_Free(self.spans)
        PyMem_Free(self.scratch)

    cdef str label(self, str what, Py_ssize_t i):
        return what if self.keys is None else f"{what}[{self.keys[i]!r}]"

    cdef Py_ssize_t hold(self, array, str name) except -1:
        acquire(array, &self.held[self.n_held], name, True, False)
        self.n_held += 1
        self.held_names.append(name)
        return self.n_held - 1

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

    cdef int check_apart(self, Py_buffer *view, Py_ssize_t i) except -1:
        """Raise if gradient i shares memory with an array that the step writes."""
        cdef char *begin = <char *> view.buf
        cdef Py_ssize_t low = 0, high = self.n_spans, middle
        while low < high:  # the first span that ends behind begin
            middle = (low + high) // 2
            if self.spans[middle].end <= begin:
                low = middle + 1
            else:
                high = middle
        if view.len and low < self.n_spans and self.spans[low].begin < begin + view.len:
            raise ValueError(f"{self.label('grads', i)}: expected memory of its own, got an array "
                             f"that overlaps {self.held_names[self.spans[low].owner]}")
        return 0

    def configure(self, dict hyper):
        """Take new hyper-parameters; nothing changes if one is refused."""
        cdef config c
        configure(self.which, &c, hyper)
        for had, needs in zip(self.names, state_names(self.which_name, hyper)):
            if had != needs:
                name = {"velocity": "momentum", "avg": "centered", "vmax": "amsgrad"}[had or needs]
                raise ValueError(f"{name}: cannot be switched {'off' if had else 'on'} once the "
                                 f"optimizer is made, because of its state {had or needs}")
        cdef double max_norm = limit(hyper, "max_norm")
        self.config_, self.max_norm = c, max_norm

    def steps(self):
        """How many steps each parameter has taken."""
        return [self.tensors[i].step for i in range(self.count)]

    def grad_norm(self):
        """The global norm of the last step's gradients before clipping, or None."""
        return None if self.norm < 0 else self.norm

    cdef list in_order(self, grads):
        """The gradients as a list in the order of the parameters."""
        if self.keys is None:
            return [grads]
        if self.mapping:
            if not isinstance(grads, _Mapping):
                raise TypeError(f"grads: expected a dict like params, got {described(grads)}")
            missing = [key for key in self.keys if key not in grads]
            if missing:
                raise ValueError(f"grads: expected {self.count} keys, got none for "
                                 f"{', '.join(map(repr, missing))} (None leaves a parameter alone)")
            if len(grads) != <Py_ssize_t> self.count:
                extra = [key for key in grads if key not in self.keys]
                raise ValueError(f"grads: expected the keys of params, got "
                                 f"{', '.join(map(repr, extra))} too")
            return [grads[key] for key in self.keys]
        if not isinstance(grads, (list, tuple)):
            raise TypeError(f"grads: expected a list or tuple like params, got {described(grads)}")
        if len(grads) != <Py_ssize_t> self.count:
            raise ValueError(f"grads: expected {self.count} arrays, got {len(grads)}")
        return list(grads)

    cdef int take(self, Py_ssize_t i, grad) except -1:
        """Take gradient i. One that is not C-contiguous is copied into one that is."""
        cdef Py_buffer *view = &self.taken[i]
        name = self.label("grads", i)
        acquire(grad, view, name, False, True)
        if not PyBuffer_IsContiguous(view, c"C"):
            PyBuffer_Release(view)
            acquire(_np.ascontiguousarray(grad), view, name, False, False)
        try:
            check_like(view, name, &self.held[i], self.held_names[i])
            self.check_apart(view, i)
        except BaseException:
            PyBuffer_Release(view)
            raise
        return 0

    def step(self, grads):
        """Take one step. Changes every parameter that has a gradient, and its state."""
        cdef Py_ssize_t i, taken = 0
        cdef list ordered
        cdef config c
        cdef double norm = -1
        if self.busy:
            raise RuntimeError("step: this optimizer is stepping in another thread already")
        self.busy = True
        try:
            ordered = self.in_order(grads)
            for i in range(self.count):
                self.tensors[i].grad = NULL
                if ordered[i] is not None:
                    self.take(i, ordered[i])
                    self.tensors[i].grad = self.taken[i].buf
                taken = i + 1
            for i in range(self.count):
                self.tensors[i].step += self.tensors[i].grad != NULL
            with nogil:
                c = self.config_
                if self.max_norm < INFINITY:
                    norm = pk_optim(self.dtype).global_norm(
                        self.tensors, self.count, self.scratch, pk_num_threads())
                    norm *= c.common.grad_scale
                    c.common.grad_scale *= pk_clip_coefficient(norm, self.max_norm)
                run(self.which, self.dtype, self.tensors, self.count, &c, self.scratch)
            self.norm = norm
        finally:
            for i in range(taken):
                if self.tensors[i].grad != NULL:
                    PyBuffer_Release(&self.taken[i])
                    self.tensors[i].grad = NULL
            self.busy = False
