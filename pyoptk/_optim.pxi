# The optimizer family of the binding: hyper-parameters to configs, Plan for an optimizer that is
# used again and again, and the bare kernels for users who keep their own state.

cdef enum kernel:
    SGD
    ADAGRAD
    RMSPROP
    ADAM

cdef union config:
    pk_common common  # the first member of every one
    pk_sgd_config sgd
    pk_adagrad_config adagrad
    pk_rmsprop_config rmsprop
    pk_adam_config adam

_KERNELS = {"sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adam": ADAM}


cdef int configure(kernel which, config *out, dict hyper) except -1:
    """Check every hyper-parameter, then set *out."""
    cdef config c
    memset(&c, 0, sizeof(c))
    c.common.lr = at_least_zero(hyper, "lr")
    c.common.weight_decay = at_least_zero(hyper, "weight_decay")
    c.common.decoupled = switch(hyper, "decoupled")
    c.common.maximize = switch(hyper, "maximize")
    c.common.grad_scale = at_least_zero(hyper, "grad_scale")
    c.common.clip_value = limit(hyper, "clip_value")
    if which == SGD:
        c.sgd.momentum = fraction(hyper, "momentum")
        c.sgd.dampening = number(hyper, "dampening", 0, 1 + 2e-16, "a number in [0, 1]")
        c.sgd.nesterov = switch(hyper, "nesterov")
        c.sgd.lr_in_momentum = switch(hyper, "lr_in_momentum")
        if c.sgd.nesterov and (c.sgd.momentum == 0 or c.sgd.dampening != 0):
            raise ValueError("nesterov: expected momentum > 0 and dampening = 0 with it, got "
                             f"momentum={c.sgd.momentum!r}, dampening={c.sgd.dampening!r}")
    elif which == ADAGRAD:
        c.adagrad.lr_decay = at_least_zero(hyper, "lr_decay")
        c.adagrad.eps = at_least_zero(hyper, "eps")
        c.adagrad.eps_inside_sqrt = switch(hyper, "eps_inside_sqrt")
    elif which == RMSPROP:
        c.rmsprop.rho = fraction(hyper, "rho")
        c.rmsprop.eps = at_least_zero(hyper, "eps")
        c.rmsprop.momentum = fraction(hyper, "momentum")
        c.rmsprop.centered = switch(hyper, "centered")
        c.rmsprop.eps_inside_sqrt = switch(hyper, "eps_inside_sqrt")
        c.rmsprop.lr_in_momentum = switch(hyper, "lr_in_momentum")
    elif which == ADAM:
        c.adam.beta1 = fraction(hyper, "beta1")
        c.adam.beta2 = fraction(hyper, "beta2")
        c.adam.eps = at_least_zero(hyper, "eps")
        c.adam.amsgrad = switch(hyper, "amsgrad")
        c.adam.amsgrad_on_corrected = switch(hyper, "amsgrad_on_corrected")
        c.adam.eps_hat = switch(hyper, "eps_hat")
        if c.adam.amsgrad_on_corrected and not c.adam.amsgrad:
            raise ValueError("amsgrad_on_corrected: expected amsgrad=True with it, got False")
    out[0] = c
    return 0


def state_names(str which, dict hyper):
    """The state arrays that a kernel needs, in its order; None where one is not used."""
    if which == "sgd":
        return ("velocity" if hyper["momentum"] else None,)
    if which == "adagrad":
        return ("s",)
    if which == "rmsprop":
        return ("v", "avg" if hyper["centered"] else None,
                "velocity" if hyper["momentum"] else None)
    return ("m", "v", "vmax" if hyper["amsgrad"] else None)


cdef void run(kernel which, pk_dtype dtype, const pk_tensor *tensors, size_t count,
              const config *c) noexcept nogil:
    cdef const pk_optim_kernels *kernels = pk_optim(dtype)
    cdef int nthreads = pk_num_threads()
    if which == SGD:
        kernels.sgd(tensors, count, &c.sgd, nthreads)
    elif which == ADAGRAD:
        kernels.adagrad(tensors, count, &c.adagrad, nthreads)
    elif which == RMSPROP:
        kernels.rmsprop(tensors, count, &c.rmsprop, nthreads)
    elif which == ADAM:
        kernels.adam(tensors, count, &c.adam, nthreads)


cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Plan.held_names


cdef class Plan:
    """The arrays of one optimizer, taken and checked once, so that a step takes only gradients.

    Parameters
    ----------
    which : str
        The kernel: "sgd", "adagrad", "rmsprop" or "adam".
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
                    state = _np.zeros(shape_of(&self.held[i]), _np.dtype(f"f{self.held[0].itemsize}"))
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
            pk_optim(self.dtype).norm_scratch_size(self.tensors, self.count) + 1)
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
                raise ValueError(f"{self.held_names[second]}: expected an array of its own, got one "
                                 f"that overlaps {self.held_names[first]}")
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
        if state_names(self.which_name, hyper) != self.names:
            raise ValueError(f"hyper-parameters: expected to need the state {self.names} as when the "
                             f"optimizer was made, got ones that need "
                             f"{state_names(self.which_name, hyper)}")
        cdef double max_norm = limit(hyper, "max_norm")
        configure(self.which, &self.config_, hyper)
        self.max_norm = max_norm

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
                run(self.which, self.dtype, self.tensors, self.count, &c)
            self.norm = norm
        finally:
            for i in range(taken):
                if self.tensors[i].grad != NULL:
                    PyBuffer_Release(&self.taken[i])
                    self.tensors[i].grad = NULL
            self.busy = False


# ---- the bare kernels ---------------------------------------------------------------------------

cdef int once(str which, dict arguments) except -1:
    """One step of one tensor, on the caller's own state. `arguments`: the kernel's locals()."""
    cdef Buffers arrays = Buffers()
    cdef Py_buffer *param
    cdef Py_buffer *view
    cdef pk_tensor tensor
    cdef config c
    cdef kernel k = _KERNELS[which]
    cdef int slot
    configure(k, &c, arguments)
    step, grad = arguments["step"], arguments["grad"]
    if not isinstance(step, (int, _np.integer)) or step < 1:
        raise ValueError(f"step: expected an integer >= 1, got {step!r}")
    if isinstance(grad, _np.ndarray):
        grad = _np.ascontiguousarray(grad)
    memset(&tensor, 0, sizeof(tensor))
    tensor.step = step
    param = arrays.take("param", arguments["param"], True)
    view = arrays.take("grad", grad, False)
    check_like(view, "grad", param, "param")
    tensor.param, tensor.grad, tensor.n = param.buf, view.buf, size_of(param)
    for slot, name in enumerate(state_names(which, arguments)):
        if name is not None:
            view = arrays.take(name, arguments[name], True)
            check_like(view, name, param, "param")
            tensor.state[slot] = view.buf
    with nogil:
        run(k, dtype_of(param), &tensor, 1, &c)
    return 0


def sgd(param, grad, velocity=None, *, step=1, lr=1e-3, momentum=0.0, dampening=0.0,
        nesterov=False, lr_in_momentum=False, weight_decay=0.0, decoupled=False, maximize=False,
        grad_scale=1.0, clip_value=None):
    """One SGD step; changes `param`, and `velocity` unless `momentum` is 0.

    All arrays have one shape and one dtype, float32 or float64. See `pyoptk.SGD` for the formula,
    the hyper-parameters and the errors.
    """
    once("sgd", locals())


def adagrad(param, grad, s, *, step=1, lr=1e-2, lr_decay=0.0, eps=1e-10, eps_inside_sqrt=False,
            weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None):
    """One AdaGrad step; changes `param` and `s`. See `pyoptk.AdaGrad`."""
    once("adagrad", locals())


def rmsprop(param, grad, v, avg=None, velocity=None, *, step=1, lr=1e-2, rho=0.99, eps=1e-8,
            momentum=0.0, centered=False, eps_inside_sqrt=False, lr_in_momentum=False,
            weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None):
    """One RMSprop step; changes `param` and `v`, `avg` if `centered`, `velocity` with momentum.

    See `pyoptk.RMSprop`.
    """
    once("rmsprop", locals())


def adam(param, grad, m, v, vmax=None, *, step=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8,
         amsgrad=False, amsgrad_on_corrected=False, eps_hat=False, weight_decay=0.0,
         decoupled=False, maximize=False, grad_scale=1.0, clip_value=None):
    """One Adam step; changes `param`, `m` and `v`, and `vmax` if `amsgrad`.

    `step` counts from 1. See `pyoptk.Adam` for the formula, the hyper-parameters and the errors.
    """
    once("adam", locals())
