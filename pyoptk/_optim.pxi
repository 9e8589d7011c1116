# The optimizer family of the binding: hyper-parameters to configs, and which kernel to run. The
# bare kernels are in _kernels.pxi, optimizers used again and again have a Plan (_plan.pxi).

cdef enum kernel:
    SGD
    ADAGRAD
    RMSPROP
    ADADELTA
    ADAM
    NADAM
    RADAM
    ADAMAX
    LION
    LAMB

cdef union config:
    pk_common common  # the first member of every one
    pk_sgd_config sgd
    pk_adagrad_config adagrad
    pk_rmsprop_config rmsprop
    pk_adadelta_config adadelta
    pk_adam_config adam
    pk_nadam_config nadam
    pk_radam_config radam
    pk_adamax_config adamax
    pk_lion_config lion
    pk_lamb_config lamb

cdef struct span:
    char *begin
    char *end
    Py_ssize_t owner  # index into Plan.held_names

_ON_NONFINITE = ("propagate", "skip", "raise")

# The hyper-parameter that a state is there for.
_NEEDED_BY = {"velocity": "momentum", "avg": "centered", "vmax": "amsgrad", "ema": "ema_decay"}

_KERNELS = {"sgd": SGD, "adagrad": ADAGRAD, "rmsprop": RMSPROP, "adadelta": ADADELTA,
            "adam": ADAM, "nadam": NADAM, "radam": RADAM, "adamax": ADAMAX, "lion": LION,
            "lamb": LAMB}


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
    if hyper.get("ema_decay") is not None:
        c.common.ema_decay = fraction(hyper, "ema_decay")
    c.common.zero_grad = "zero_grad" in hyper and switch(hyper, "zero_grad")
    c.common.cautious = switch(hyper, "cautious")
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
    elif which == ADADELTA:
        c.adadelta.rho = fraction(hyper, "rho")
        c.adadelta.eps = at_least_zero(hyper, "eps")
    elif which == ADAM:
        c.adam.beta1 = fraction(hyper, "beta1")
        c.adam.beta2 = fraction(hyper, "beta2")
        c.adam.eps = at_least_zero(hyper, "eps")
        c.adam.amsgrad = switch(hyper, "amsgrad")
        c.adam.amsgrad_on_corrected = switch(hyper, "amsgrad_on_corrected")
        c.adam.eps_hat = switch(hyper, "eps_hat")
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
        c.radam.eps_hat = switch(hyper, "eps_hat")
    elif which == ADAMAX:
        c.adamax.beta1 = fraction(hyper, "beta1")
        c.adamax.beta2 = fraction(hyper, "beta2")
        c.adamax.eps = at_least_zero(hyper, "eps")
        c.adamax.eps_outside_max = switch(hyper, "eps_outside_max")
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
        return ("v", "avg" if switch(hyper, "centered") else None,
                "velocity" if fraction(hyper, "momentum") != 0 else None)
    if which == "adam":
        return ("m", "v", "vmax" if switch(hyper, "amsgrad") else None)
    return {"adadelta": ("v", "acc_delta"), "adamax": ("m", "u"), "lion": ("m",)}.get(
        which, ("m", "v"))


cdef size_t scratch_size(kernel which, pk_dtype dtype, const pk_tensor *tensors,
                         size_t count) noexcept nogil:
    """Bytes of scratch memory that `run` needs."""
    return pk_optim(dtype).lamb_scratch_size(tensors, count) if which == LAMB else 0


cdef size_t config_size(kernel which) noexcept:
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


cdef void run(kernel which, pk_dtype dtype, const pk_tensor *tensors, size_t count,
              const void *configs, void *scratch) noexcept nogil:
    cdef const pk_optim_kernels *kernels = pk_optim(dtype)
    cdef int nthreads = pk_num_threads()
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


# ---- checks of what an optimizer takes -----------------------------------------------------------

cdef list in_order(list keys, bint mapping, grads):
    """The gradients as a list in the order of the parameters."""
    if keys is None:
        return [grads]
    if mapping:
        if type(grads) is dict and len(grads) == len(keys):
            try:
                return [grads[key] for key in keys]
            except KeyError:
                pass  # said below
        if not isinstance(grads, _Mapping):
            raise TypeError(f"grads: expected a dict like params, got {described(grads)}")
        missing = [key for key in keys if key not in grads]
        if missing:
            raise ValueError(f"grads: expected {len(keys)} keys, got none for "
                             f"{', '.join(map(repr, missing))} (None leaves a parameter alone)")
        if len(grads) != len(keys):
            extra = [key for key in grads if key not in keys]
            raise ValueError(f"grads: expected the keys of params, got "
                             f"{', '.join(map(repr, extra))} too")
        return [grads[key] for key in keys]
    if not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads: expected a list or tuple like params, got {described(grads)}")
    listed = list(grads)
    if len(listed) != len(keys):
        raise ValueError(f"grads: expected {len(keys)} arrays, got {len(listed)}")
    return listed


def check_names(names, known):
    """Raise unless every name is a known keyword."""
    for name in names:
        if name not in known:
            raise TypeError(f"{name}: expected one of the keywords {', '.join(known)}, "
                            f"got an unknown one")


def check_choice(str name, value, choices):
    """Raise unless the value is one of the choices."""
    try:
        known = value in choices
    except (TypeError, ValueError):  # a dict, an array: what has no hash, no one truth
        known = False
    if not known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


def check_patterns(str name, value):
    """The patterns as a tuple; raises for anything else, a str alone among it."""
    if isinstance(value, (list, tuple)) and all([isinstance(one, str) for one in value]):
        return tuple(value)
    raise TypeError(f"{name}: expected a list or tuple of str, got {value!r}")


# These belong to the step as a whole.
_NOT_IN_GROUPS = ("grad_scale", "max_norm", "on_nonfinite")


def check_params(keys, names):
    """Raise if two parameters would have the same name in patterns and checkpoints."""
    if len(set(names)) != len(names):
        alike = [key for key, name in zip(keys, names) if names.count(name) > 1]
        raise ValueError(f"params: expected keys that differ as str, got "
                         f"{' and '.join(map(repr, alike[:2]))}")


def check_groups(groups, hyper, names, patterns=None):
    """Raise unless every pattern of `groups` matches a name and sets what may differ.

    `patterns`: those that there must be, in their order.
    """
    if not isinstance(groups, _Mapping):
        raise TypeError(f"groups: expected None or a dict of dicts, got {groups!r}")
    if patterns is not None and list(groups) != patterns:
        raise ValueError(f"groups: expected the patterns {patterns}, got {list(groups)}")
    for pattern, own in groups.items():
        if not isinstance(pattern, str) or not isinstance(own, _Mapping):
            raise TypeError(f"groups[{pattern!r}]: expected a dict for a pattern of type str, "
                            f"got {own!r}")
        if not any([_fnmatchcase(name, pattern) for name in names]):
            raise ValueError(f"groups[{pattern!r}]: expected a pattern of "
                             f"{', '.join(names)}, got one that matches none")
        for name in own:
            if name not in hyper or name in _NOT_IN_GROUPS:
                raise ValueError(f"groups[{pattern!r}]: expected hyper-parameters that may "
                                 f"differ, got {name!r}")


def check_state(str which, state):
    """Raise unless the numbers of an optimizer's state_dict can be."""
    if state["kernel"] != which:
        raise ValueError(f"state['kernel']: expected {which!r}, got {state['kernel']!r}")
    for name in ("calls", "skipped"):
        try:
            count = _index(state[name])
        except TypeError:
            raise TypeError(f"state[{name!r}]: expected an integer, got {state[name]!r}") from None
        if not 0 <= count < 2**63:
            raise ValueError(f"state[{name!r}]: expected an integer in 0..2**63 - 1, got {count}")
    if (state["steps"] < 0).any():
        raise ValueError(f"state['steps']: expected numbers >= 0, got {state['steps'].min()}")
