# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: embedsignature=True, embedsignature.format=python, binding=True
# cython: autotestdict=False, auto_pickle=False
"""The optimizer family: hyper-parameters to configs, the bare kernels, norms of gradients.

The bare kernels are for users who keep their own state. An optimizer, whose arrays stay the same
from step to step, has a Plan (_plan.pyx), which takes configs and `run` from here.
"""
import numpy as _np

from . import _checks
from ._checks import described

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport INFINITY
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from ._core cimport (
    _Buffers, acquire, check_dtype, check_like, clip_coefficient, contiguous, dtype_of, extent,
    num_threads, optim_table, overlap, size_of, switch,
)
from .capi cimport (
    PK_F32, PK_F64, pk_adadelta_config, pk_adagrad_config, pk_adam_config, pk_adamax_config,
    pk_dtype, pk_lamb_config, pk_lion_config, pk_nadam_config, pk_optim_kernels, pk_radam_config,
    pk_rmsprop_config, pk_sgd_config, pk_tensor,
)

cdef double number(dict hyper, str name, double low, double high, str expected) except? -1:
    """hyper[name] as a double with low <= number < high."""
    given = hyper[name]
    if type(given) is float and low <= <double> given < high:
        return given
    return _checks.number(name, given, low, high, expected)


cdef double at_least_zero(dict hyper, str name) except? -1:
    return number(hyper, name, 0, INFINITY, "a finite number >= 0")


cdef double fraction(dict hyper, str name) except? -1:
    return number(hyper, name, 0, 1, "a number in [0, 1)")


cdef double limit(dict hyper, str name) except? -1:
    """A number >= 0; None and infinity are no limit."""
    given = hyper[name]
    if given is None or type(given) is float and given == INFINITY:
        return INFINITY
    return number(hyper, name, 0, INFINITY, "None or a number >= 0")


# The hyper-parameter that a state is there for.
NEEDED_BY = {"velocity": "momentum", "avg": "centered", "vmax": "amsgrad", "ema": "ema_decay"}

KERNELS = {"sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adadelta": ADADELTA,
           "adam": ADAM, "nadam": NADAM, "radam": RADAM, "adamax": ADAMAX, "lion": LION,
           "lamb": LAMB}


cdef int configure(optim which, config *out, dict hyper) except -1:
    """Check every hyper-parameter, then set *out."""
    cdef config c
    memset(&c, 0, sizeof(c))
    c.common.lr = at_least_zero(hyper, "lr")
    c.common.weight_decay = at_least_zero(hyper, "weight_decay")
    c.common.decoupled = switch("decoupled", hyper["decoupled"])
    c.common.maximize = switch("maximize", hyper["maximize"])
    c.common.grad_scale = at_least_zero(hyper, "grad_scale")
    c.common.clip_value = limit(hyper, "clip_value")
    if hyper.get("ema_decay") is not None:
        c.common.ema_decay = fraction(hyper, "ema_decay")
    c.common.zero_grad = "zero_grad" in hyper and switch("zero_grad", hyper["zero_grad"])
    c.common.cautious = switch("cautious", hyper["cautious"])
    if which == SGD:
        c.sgd.momentum = fraction(hyper, "momentum")
        c.sgd.dampening = number(hyper, "dampening", 0, 1 + 2e-16, "a number in [0, 1]")
        c.sgd.nesterov = switch("nesterov", hyper["nesterov"])
        c.sgd.lr_in_momentum = switch("lr_in_momentum", hyper["lr_in_momentum"])
        if c.sgd.nesterov and (c.sgd.momentum == 0 or c.sgd.dampening != 0):
            raise ValueError("nesterov: expected momentum > 0 and dampening = 0 with it, got "
                             f"momentum={c.sgd.momentum!r}, dampening={c.sgd.dampening!r}")
    elif which == ADAGRAD:
        c.adagrad.lr_decay = at_least_zero(hyper, "lr_decay")
        c.adagrad.eps = at_least_zero(hyper, "eps")
        c.adagrad.eps_inside_sqrt = switch("eps_inside_sqrt", hyper["eps_inside_sqrt"])
    elif which == RMSPROP:
        c.rmsprop.rho = fraction(hyper, "rho")
        c.rmsprop.eps = at_least_zero(hyper, "eps")
        c.rmsprop.momentum = fraction(hyper, "momentum")
        c.rmsprop.centered = switch("centered", hyper["centered"])
        c.rmsprop.eps_inside_sqrt = switch("eps_inside_sqrt", hyper["eps_inside_sqrt"])
        c.rmsprop.lr_in_momentum = switch("lr_in_momentum", hyper["lr_in_momentum"])
    elif which == ADADELTA:
        c.adadelta.rho = fraction(hyper, "rho")
        c.adadelta.eps = at_least_zero(hyper, "eps")
    elif which == ADAM:
        c.adam.beta1 = fraction(hyper, "beta1")
        c.adam.beta2 = fraction(hyper, "beta2")
        c.adam.eps = at_least_zero(hyper, "eps")
        c.adam.amsgrad = switch("amsgrad", hyper["amsgrad"])
        c.adam.amsgrad_on_corrected = switch("amsgrad_on_corrected", hyper["amsgrad_on_corrected"])
        c.adam.eps_hat = switch("eps_hat", hyper["eps_hat"])
        if c.adam.amsgrad_on_corrected and not c.adam.amsgrad:
            raise ValueError("amsgrad_on_corrected: expected amsgrad=True with it, got False")
    elif which == NADAM:
        c.nadam.beta1 = fraction(hyper, "beta1")
        c.nadam.beta2 = fraction(hyper, "beta2")
        c.nadam.eps = at_least_zero(hyper, "eps")
        c.nadam.momentum_decay = at_least_zero(hyper, "momentum_decay")
    elif which == RADAM:
        c.radam.beta1 = fraction(hyper, "beta1")
        c.radam.beta2 = fraction(hyper, "beta2")
        c.radam.eps = at_least_zero(hyper, "eps")
        c.radam.eps_hat = switch("eps_hat", hyper["eps_hat"])
    elif which == ADAMAX:
        c.adamax.beta1 = fraction(hyper, "beta1")
        c.adamax.beta2 = fraction(hyper, "beta2")
        c.adamax.eps = at_least_zero(hyper, "eps")
        c.adamax.eps_outside_max = switch("eps_outside_max", hyper["eps_outside_max"])
    elif which == LION:
        c.lion.beta1 = fraction(hyper, "beta1")
        c.lion.beta2 = fraction(hyper, "beta2")
    elif which == LAMB:
        c.lamb.beta1 = fraction(hyper, "beta1")
        c.lamb.beta2 = fraction(hyper, "beta2")
        c.lamb.eps = at_least_zero(hyper, "eps")
    if c.common.cautious and (which in (ADAGRAD, ADADELTA, LAMB) or hyper.get("momentum") == 0):
        raise ValueError("cautious: expected False without momentum and for LAMB, whose update "
                         "has a length of its own, got True")
    out[0] = c
    return 0


cdef int check_fits(dict hyper, pk_dtype dtype) except -1:
    """Raise if a number that a double holds would be infinite or zero in the arrays' dtype."""
    cdef double value
    if dtype == PK_F64:
        return 0
    for name in ("lr", "weight_decay", "grad_scale", "eps", "initial_accumulator"):
        value = hyper.get(name, 0.0)
        if value > FLT_MAX or (0 < value < FLT_MIN and name == "eps"):
            raise ValueError(f"{name}: expected a number that float32 can hold, got {value!r}")
    return 0


def state_names(str which, dict hyper):
    """The state arrays that a kernel needs, in its order; None where one is not used."""
    if which == "sgd":
        return ("velocity" if fraction(hyper, "momentum") != 0 else None,)
    if which == "adagrad":
        return ("s",)
    if which == "rmsprop":
        return ("v", "avg" if switch("centered", hyper["centered"]) else None,
                "velocity" if fraction(hyper, "momentum") != 0 else None)
    if which == "adam":
        return ("m", "v", "vmax" if switch("amsgrad", hyper["amsgrad"]) else None)
    return {"adadelta": ("v", "acc_delta"), "adamax": ("m", "u"), "lion": ("m",)}.get(
        which, ("m", "v"))


cdef size_t scratch_size(optim which, pk_dtype dtype, const pk_tensor *tensors,
                         size_t count) noexcept nogil:
    """Bytes of scratch memory that `run` needs."""
    return optim_table(dtype).lamb_scratch_size(tensors, count) if which == LAMB else 0


cdef size_t config_size(optim which) noexcept:
    """A kernel takes an array of its own configs, one a group: how far they are apart."""
    if which == SGD:
        return sizeof(pk_sgd_config)
    elif which == ADAGRAD:
        return sizeof(pk_adagrad_config)
    elif which == RMSPROP:
        return sizeof(pk_rmsprop_config)
    elif which == ADADELTA:
        return sizeof(pk_adadelta_config)
    elif which == ADAM:
        return sizeof(pk_adam_config)
    elif which == NADAM:
        return sizeof(pk_nadam_config)
    elif which == RADAM:
        return sizeof(pk_radam_config)
    elif which == ADAMAX:
        return sizeof(pk_adamax_config)
    elif which == LION:
        return sizeof(pk_lion_config)
    return sizeof(pk_lamb_config)


cdef void run(optim which, pk_dtype dtype, const pk_tensor *tensors, size_t count,
              const void *configs, void *scratch) noexcept nogil:
    cdef const pk_optim_kernels *kernels = optim_table(dtype)
    cdef int nthreads = num_threads()
    if which == SGD:
        kernels.sgd(tensors, count, <const pk_sgd_config *> configs, nthreads)
    elif which == ADAGRAD:
        kernels.adagrad(tensors, count, <const pk_adagrad_config *> configs, nthreads)
    elif which == RMSPROP:
        kernels.rmsprop(tensors, count, <const pk_rmsprop_config *> configs, nthreads)
    elif which == ADADELTA:
        kernels.adadelta(tensors, count, <const pk_adadelta_config *> configs, nthreads)
    elif which == ADAM:
        kernels.adam(tensors, count, <const pk_adam_config *> configs, nthreads)
    elif which == NADAM:
        kernels.nadam(tensors, count, <const pk_nadam_config *> configs, nthreads)
    elif which == RADAM:
        kernels.radam(tensors, count, <const pk_radam_config *> configs, nthreads)
    elif which == ADAMAX:
        kernels.adamax(tensors, count, <const pk_adamax_config *> configs, nthreads)
    elif which == LION:
        kernels.lion(tensors, count, <const pk_lion_config *> configs, nthreads)
    elif which == LAMB:
        kernels.lamb(tensors, count, <const pk_lamb_config *> configs, scratch, nthreads)


cdef int once(str which, dict arguments) except -1:
    """One step of one tensor, on the caller's own state. `arguments`: the kernel's locals()."""
    cdef _Buffers arrays = _Buffers()
    cdef Py_buffer *param
    cdef Py_buffer *view
    cdef pk_tensor tensor
    cdef config c
    cdef optim k = KERNELS[which]
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
        kernels = optim_table(dtype_of(&views[0]) if count else PK_F32)
        scratch = PyMem_Malloc(kernels.norm_scratch_size(tensors, count) + 1)
        if scratch == NULL:
            raise MemoryError
        with nogil:
            norm = kernels.global_norm(tensors, count, scratch, num_threads())
    finally:
        for i in range(taken):
            PyBuffer_Release(&views[i])
        PyMem_Free(views)
        PyMem_Free(tensors)
        PyMem_Free(scratch)
    return norm


def check_apart(dict grads):
    """Raise unless all these, by name, can be changed in place, each element once."""
    cdef _Buffers one
    cdef Py_ssize_t i
    cdef uintptr_t begin, end
    extents, open_ = [], []
    for i, (name, grad) in enumerate(grads.items()):
        one = _Buffers()
        extent(one.take(name, grad, True, True), &begin, &end)
        extents.append((begin, end, i, name, one))
    extents.sort()
    for here in extents:
        open_ = [other for other in open_ if other[1] > here[0]]  # they reach beyond its beginning
        for other in open_:
            if overlap(&(<_Buffers> here[4]).held[0], &(<_Buffers> other[4]).held[0]):
                (_, first), (_, second) = sorted([here[2:4], other[2:4]])
                raise ValueError(f"{second}: expected memory of its own, got an array that "
                                 f"overlaps {first}")
        open_.append(here)


def clip(dict grads, double max_norm):
    """Scale gradients, by name, to a global norm of at most `max_norm`; returns that before."""
    check_apart(grads)
    cdef double norm = norm_of(grads)
    cdef double factor = clip_coefficient(norm, max_norm) if max_norm < INFINITY else 1
    if factor != 1:
        for array in [_np.asarray(grad) for grad in grads.values()]:
            _np.multiply(array, array.dtype.type(factor), array)
    return norm


def memory_roof(param, grad, m, v):
    """The memory streams of `adam` with additions only, which no step over them can beat.

    Changes `param`, `m` and `v`; for benchmarks.
    """
    cdef _Buffers arrays = _Buffers()
    cdef pk_tensor tensor
    cdef Py_buffer *view = arrays.take("param", param, True)
    memset(&tensor, 0, sizeof(tensor))
    tensor.param, tensor.n = view.buf, size_of(view)
    kernels = optim_table(dtype_of(view))
    for name, array in (("m", m), ("v", v), ("grad", grad)):
        view = arrays.take(name, array, name != "grad")
        check_like(view, name, &arrays.held[0], "param")
    tensor.state[0], tensor.state[1] = arrays.held[1].buf, arrays.held[2].buf
    tensor.grad = arrays.held[3].buf
    with nogil:
        kernels.memory_roof(&tensor, 1, num_threads())
