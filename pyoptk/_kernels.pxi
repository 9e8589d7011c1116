# The bare kernels, for users who keep their own state, and the roofs of the benchmarks.

cdef int once(str which, dict arguments) except -1:
    """One step of one tensor, on the caller's own state. `arguments`: the kernel's locals()."""
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *param
    cdef Py_buffer *view
    cdef pk_tensor tensor
    cdef config c
    cdef kernel k = _KERNELS[which]
    cdef int slot
    cdef void *scratch
    configure(k, &c, arguments)
    step, grad = arguments["step"], arguments["grad"]
    if not isinstance(step, (int, _np.integer)) or not 1 <= step < 2**63:
        raise ValueError(f"step: expected an integer >= 1, got {step!r}")
    memset(&tensor, 0, sizeof(tensor))
    tensor.step = step
    param = arrays.take("param", arguments["param"], True)
    view = arrays.take("grad", contiguous(grad), False)
    check_like(view, "grad", param, "param")
    tensor.param, tensor.grad, tensor.n = param.buf, view.buf, size_of(param)
    for slot, name in enumerate(state_names(which, arguments)):
        if name is not None:
            view = arrays.take(name, arguments[name], True)
            check_like(view, name, param, "param")
            tensor.state[slot] = view.buf
    check_fits(arguments, dtype_of(param))
    scratch = PyMem_Malloc(scratch_size(k, dtype_of(param), &tensor, 1) + 1)
    if scratch == NULL:
        raise MemoryError
    with nogil:
        run(k, dtype_of(param), &tensor, 1, &c, scratch)
    PyMem_Free(scratch)
    return 0


def sgd(param, grad, velocity=None, *, step=1, lr=1e-3, momentum=0.0, dampening=0.0,
        nesterov=False, lr_in_momentum=False, weight_decay=0.0, decoupled=False, maximize=False,
        grad_scale=1.0, clip_value=None,
        cautious=False):
    """One SGD step; changes `param`, and `velocity` unless `momentum` is 0.

    All arrays have one shape and one dtype, float32 or float64. See `pyoptk.SGD` for the formula,
    the hyper-parameters and the errors.
    """
    once("sgd", locals())


def adagrad(param, grad, s, *, step=1, lr=1e-2, lr_decay=0.0, eps=1e-10, eps_inside_sqrt=False,
            weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None,
            cautious=False):
    """One AdaGrad step; changes `param` and `s`. See `pyoptk.AdaGrad`."""
    once("adagrad", locals())


def rmsprop(param, grad, v, avg=None, velocity=None, *, step=1, lr=1e-2, rho=0.99, eps=1e-8,
            momentum=0.0, centered=False, eps_inside_sqrt=False, lr_in_momentum=False,
            weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None,
            cautious=False):
    """One RMSprop step; changes `param` and `v`, `avg` if `centered`, `velocity` with momentum.

    See `pyoptk.RMSprop`.
    """
    once("rmsprop", locals())


def adadelta(param, grad, v, acc_delta, *, step=1, lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0,
             decoupled=False, maximize=False, grad_scale=1.0, clip_value=None,
             cautious=False):
    """One Adadelta step; changes `param`, `v` and `acc_delta`. See `pyoptk.Adadelta`."""
    once("adadelta", locals())


def adam(param, grad, m, v, vmax=None, *, step=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8,
         amsgrad=False, amsgrad_on_corrected=False, eps_hat=False, weight_decay=0.0,
         decoupled=False, maximize=False, grad_scale=1.0, clip_value=None,
         cautious=False):
    """One Adam step; changes `param`, `m` and `v`, and `vmax` if `amsgrad`.

    `step` counts from 1. See `pyoptk.Adam` for the formula, the hyper-parameters and the errors.
    """
    once("adam", locals())


def nadam(param, grad, m, v, *, step=1, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8,
          momentum_decay=4e-3, weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0,
          clip_value=None,
          cautious=False):
    """One NAdam step; changes `param`, `m` and `v`. See `pyoptk.NAdam`."""
    once("nadam", locals())


def radam(param, grad, m, v, *, step=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, eps_hat=True,
          weight_decay=0.0, decoupled=False, maximize=False, grad_scale=1.0, clip_value=None,
          cautious=False):
    """One RAdam step; changes `param`, `m` and `v`. See `pyoptk.RAdam`."""
    once("radam", locals())


def adamax(param, grad, m, u, *, step=1, lr=2e-3, beta1=0.9, beta2=0.999, eps=1e-8,
           eps_outside_max=False, weight_decay=0.0, decoupled=False, maximize=False,
           grad_scale=1.0, clip_value=None,
           cautious=False):
    """One Adamax step; changes `param`, `m` and `u`. See `pyoptk.Adamax`."""
    once("adamax", locals())


def lion(param, grad, m, *, step=1, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0,
         decoupled=True, maximize=False, grad_scale=1.0, clip_value=None,
         cautious=False):
    """One Lion step; changes `param` and `m`. Weight decay is decoupled. See `pyoptk.Lion`."""
    once("lion", locals())


def lamb(param, grad, m, v, *, step=1, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-6,
         weight_decay=1e-2, decoupled=True, maximize=False, grad_scale=1.0, clip_value=None,
         cautious=False):
    """One LAMB step; changes `param`, `m` and `v`. See `pyoptk.LAMB`."""
    once("lamb", locals())


def global_norm(grads):
    """sqrt(sum of squares) over a sequence of arrays, in double, whatever their number of threads.

    float32 or float64 (all the same); those that are not C-contiguous are copied first.
    """
    if not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads: expected a list or tuple of arrays, got {described(grads)}")
    return norm_of({f"grads[{i}]": grad for i, grad in enumerate(grads)})


def norm_of(dict grads):
    """The same for arrays by the names that messages call them."""
    cdef Py_ssize_t i, count = len(grads)
    cdef pk_tensor *tensors
    cdef void *scratch = NULL
    cdef double norm
    names, held = list(grads), [contiguous(grad) for grad in grads.values()]
    cdef Py_buffer *views = <Py_buffer *> PyMem_Calloc(count + 1, sizeof(Py_buffer))
    tensors = <pk_tensor *> PyMem_Calloc(count + 1, sizeof(pk_tensor))
    cdef Py_ssize_t taken = 0
    try:
        if views == NULL or tensors == NULL:
            raise MemoryError
        for i in range(count):
            acquire(held[i], &views[i], names[i], False, False)
            taken += 1
            check_dtype(&views[i], names[i], &views[0], names[0])
            tensors[i].grad, tensors[i].n = views[i].buf, size_of(&views[i])
        kernels = pk_optim(dtype_of(&views[0]) if count else PK_F32)
        scratch = PyMem_Malloc(kernels.norm_scratch_size(tensors, count) + 1)
        if scratch == NULL:
            raise MemoryError
        with nogil:
            norm = kernels.global_norm(tensors, count, scratch, pk_num_threads())
    finally:
        for i in range(taken):
            PyBuffer_Release(&views[i])
        PyMem_Free(views)
        PyMem_Free(tensors)
        PyMem_Free(scratch)
    return norm


def check_writable(dict grads, clip_value=0.0, bint once=False):
    """Raise unless all these, by name, may be changed in place; returns the limit as a float."""
    cdef _Buffers one
    cdef Py_buffer *view
    seen = {}
    for name, grad in grads.items():
        one = _Buffers()
        view = one.take(name, grad, True, True)
        known = seen.setdefault((<uintptr_t> view.buf, shape_of(view), strides_of(view)), name)
        if once and view.len and known != name:
            raise ValueError(f"{name}: expected each array once, got that of {known} again")
    return at_least_zero({"clip_value": clip_value}, "clip_value")


def clip_factor(dict grads, max_norm):
    """The global norm, and what to multiply gradients with so that it is at most `max_norm`."""
    cdef double limit_ = at_least_zero({"max_norm": max_norm}, "max_norm")
    check_writable(grads, once=True)
    cdef double norm = norm_of(grads)
    return norm, pk_clip_coefficient(norm, limit_)


def memory_roof(param, grad, m, v):
    """The memory streams of `adam` with additions only, which no step over them can beat.

    Changes `param`, `m` and `v`; for benchmarks.
    """
    cdef _Buffers arrays = _Buffers()
    cdef pk_tensor tensor
    cdef Py_buffer *view = arrays.take("param", param, True)
    memset(&tensor, 0, sizeof(tensor))
    tensor.param, tensor.n = view.buf, size_of(view)
    kernels = pk_optim(dtype_of(view))
    for name, array in (("m", m), ("v", v), ("grad", grad)):
        view = arrays.take(name, array, name != "grad")
        check_like(view, name, &arrays.held[0], "param")
    tensor.state[0], tensor.state[1] = arrays.held[1].buf, arrays.held[2].buf
    tensor.grad = arrays.held[3].buf
    with nogil:
        kernels.memory_roof(&tensor, 1, pk_num_threads())
