"""Optimizers by their rows in C: checked configs, one step by name, norms of gradients.

Everything that differs between optimizers is read from the rows of csrc/optimizers.c; no optimizer
is named here. The Plan of an optimizer (_plan.pyx) makes its configs with `Row.configure`;
pyoptk/kernels.py makes its functions with `kernel`.
"""
from functools import wraps as _wraps
from inspect import signature as _signature

import numpy as _np

from . import _checks
from ._held import quietly

cimport cython
from cpython.buffer cimport Py_buffer
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport memset

from ._arrays cimport Buffers, check_like, contiguous, dtype_of, size_of
from ._core cimport clip_coefficient, common_fields, num_threads, optim_table, optimizers
from ._held cimport Held, data_of
from .capi cimport (
    PK_8BIT, PK_AT_MOST, PK_BF16, PK_CAUTIOUS, PK_EPS, PK_F32, PK_MAX_FIELDS, PK_MAX_RULES,
    PK_MAX_STATES, PK_MEMORY_ROOF, PK_N_OPTIMIZERS, PK_NARROW_STATES, PK_NEEDS, PK_OPTIONAL,
    PK_SPARSE_ROWS, PK_START, PK_SWITCH,
    pk_common, pk_dtype, pk_field, pk_optim_kernels, pk_optimizer, pk_tensor, pk_watched, pk_which,
)


cdef double at_least_zero(given, str name) except? -1:
    if type(given) is float and 0 <= <double> given < INFINITY:
        return given
    return _checks.number(name, given, 0, INFINITY, "a finite number >= 0")


cdef double limit(dict hyper, str name) except? -1:
    """A number >= 0; infinity for None."""
    given = hyper[name]
    if given is None or type(given) is float and given == INFINITY:
        return INFINITY
    return _checks.number(name, given, 0, INFINITY, "None or a number >= 0")


cdef int check_fits(str name, double value, pk_dtype dtype) except -1:
    """Raise if the number would be infinite in the dtype of the arrays."""
    if value > FLT_MAX and dtype == PK_F32:
        raise ValueError(f"{name}: expected a number that float32 can hold, got {value!r}")
    return 0


cdef void *param_of(const pk_tensor *tensor) noexcept:
    """The memory of the parameter, also where a float32 copy of it is stepped."""
    return tensor.param if tensor.copy == NULL else tensor.copy


cdef class Watch:
    """The last watched step: `told` is None at first, then (rows, owners, sizes, scale).

    A row (pk_watched) is of a parameter, or of a touched row of one whose gradient is `SparseRows`.
    Its owner is the index of the parameter, or -1 if that did not change; its size, its elements.
    """
    def __cinit__(self):
        self.told = None

    cdef int prepare(self, Held held, const pk_optim_kernels *kernels, const pk_tensor *tensors,
                     size_t count, double scale) except -1:
        """Take memory for a step of these tensors."""
        cdef size_t i
        rows = _np.full((count, sizeof(pk_watched) // sizeof(double)), _np.nan)
        owners, sizes = _np.empty(count, "i8"), _np.empty(count, "i8")
        parts = _np.empty(kernels.watched_scratch_size(tensors, count), "u1")
        for i in range(count):
            (<int64_t *> data_of(sizes))[i] = tensors[i].n
            (<int64_t *> data_of(owners))[i] = (
                held.owner(param_of(&tensors[i]), 1) if tensors[i].grad and tensors[i].n else -1)
        self.rows, self.parts, self.told = rows, parts, (rows, owners, sizes, scale)
        return 0

    cdef void *memory(self) noexcept:
        return data_of(self.rows)

    cdef void *scratch(self) noexcept:
        return data_of(self.parts)


# ---- descriptions of the optimizers --------------------------------------------------------------

cdef str text(const char *name):
    return None if name == NULL else name.decode()


cdef double checked(const pk_field *field, str name, given, pk_dtype dtype) except? -1:
    """The value of a hyper-parameter as its field describes it; a switch is 0 or 1."""
    cdef double value
    if field.kind == PK_SWITCH:
        return given if given is True or given is False else _checks.check_switch(name, given)
    if given is None and field.kind == PK_OPTIONAL:
        return field.fallback
    if type(given) is float and field.low <= <double> given < field.high:
        value = given
    else:
        value = _checks.number(name, given, field.low, field.high, text(field.expected))
    if field.high == INFINITY and field.kind != PK_OPTIONAL:
        check_fits(name, value, dtype)
    if field.kind == PK_EPS and 0 < value < FLT_MIN and dtype == PK_F32:
        raise ValueError(f"{name}: expected a number that float32 can hold, got {value!r}")
    return value


cdef int set_fields(const pk_field *fields, tuple names, char *config, dict hyper,
                    pk_dtype dtype) except -1:
    cdef double value
    cdef Py_ssize_t i
    for i, name in enumerate(names):
        value = checked(&fields[i], name, hyper[name], dtype)
        if fields[i].kind == PK_SWITCH:
            (<int *> (config + fields[i].offset))[0] = <int> value
        else:
            (<double *> (config + fields[i].offset))[0] = value
    return 0


cdef class Row:
    """One row of csrc/optimizers.c, with its names as str.

    common_fields, fields, starts : tuples of str
        The hyper-parameters of all optimizers, of this one, and the values of states before step 1.
    fallbacks : dict
        The default of each of these, as in a Python signature.
    states : tuple of (name, needed_by, start)
    rules : tuple of (field, relation, other)
    """
    cdef int configure(self, char *config, dict hyper, pk_dtype dtype) except -1:
        """Check every hyper-parameter, then set *config."""
        set_fields(common_fields, self.common_fields, config, hyper, dtype)
        set_fields(self.row.fields, self.fields, config, hyper, dtype)
        if hyper["cautious"] and not self.cautious:
            raise ValueError(f"cautious: expected False for {self.name}, got True")
        for field, relation, other in self.rules:
            if relation == PK_AT_MOST:
                if hyper[field] > hyper[other]:
                    raise ValueError(f"{field}: expected at most {other}={hyper[other]!r}, "
                                     f"got {hyper[field]!r}")
            elif hyper[field] and bool(hyper[other]) != (relation == PK_NEEDS):
                raise ValueError(f"{field}: expected {other} to be "
                                 f"{'set' if relation == PK_NEEDS else '0'} with it, "
                                 f"got {other}={hyper[other]!r}")
        return 0

    cdef list start_of(self, dict start, pk_dtype dtype):
        """The value of each state before step 1."""
        cdef Py_ssize_t i, first = len(self.fields)
        values = {name: checked(&self.row.fields[first + i], name, start[name], dtype)
                  for i, name in enumerate(self.starts)}
        return [values.get(name, 0.0) for _, _, name in self.states]

    def state_names(self, dict hyper):
        """The names of the states, then "ema"; None for each that `hyper` does not need."""
        names = [name if needed_by is None or hyper[needed_by] else None
                 for name, needed_by, _ in self.states]
        return (*names, None if hyper["ema_decay"] is None else "ema")


cdef tuple names_of(const pk_field *field, size_t most, dict fallbacks):
    """The names of some fields; adds their defaults to `fallbacks`."""
    names = []
    while len(names) < most and field.name != NULL:
        value = None if field.kind == PK_OPTIONAL else field.fallback
        name = text(field.name)
        names.append(name)
        fallbacks[name] = bool(value) if field.kind == PK_SWITCH else value
        field += 1
    return tuple(names)


cdef Row described_by(int which):
    cdef const pk_optimizer *row = optimizers[which]
    cdef Row made = Row()
    made.row, made.which, made.name, made.fallbacks = row, <pk_which> which, text(row.name), {}
    made.cautious = row.abilities & PK_CAUTIOUS != 0
    made.sparse_rows = row.abilities & PK_SPARSE_ROWS != 0
    made.narrow_states = row.abilities & PK_NARROW_STATES != 0
    made.common_fields = names_of(common_fields, 99, made.fallbacks)
    own = names_of(row.fields, PK_MAX_FIELDS, made.fallbacks)
    made.fields = tuple([own[i] for i in range(len(own)) if row.fields[i].kind != PK_START])
    made.starts = own[len(made.fields):]
    made.states = tuple([(text(row.states[i].name), text(row.states[i].needed_by),
                          text(row.states[i].start))
                         for i in range(PK_MAX_STATES) if row.states[i].name != NULL])
    made.rules = tuple([(text(row.rules[i].field), <int> row.rules[i].relation,
                         text(row.rules[i].other))
                        for i in range(PK_MAX_RULES) if row.rules[i].field != NULL])
    made.needed_by = {name: needed_by for name, needed_by, _ in made.states}
    return made


NEEDS, AT_MOST = <int> PK_NEEDS, <int> PK_AT_MOST  # relations of rules
ROWS = {row.name: row for row in map(described_by, range(PK_N_OPTIMIZERS))}


cdef Row row_named(str name):
    return ROWS[name]


# ---- one step, norms -----------------------------------------------------------------------------

def kernel(function):
    """Decorator: makes a function with the name and signature of `function` that takes one step of
    the optimizer of that name, of one tensor and with the caller's own state."""
    cdef Row row = ROWS[function.__name__]
    cdef dict known = dict(_signature(function).parameters)
    cdef tuple leading = tuple([n for n, p in known.items() if p.kind != p.KEYWORD_ONLY])
    cdef dict defaults = {n: p.default for n, p in known.items() if p.default is not p.empty}
    cdef Py_ssize_t count = len(known)

    @cython.binding(True)
    @_wraps(function)
    def call(*args, **given):
        cdef dict arguments = {**defaults, **given}
        cdef Py_ssize_t i, n = len(args)
        cdef bint fits = n <= len(leading)
        for i in range(n if fits else 0):
            fits &= leading[i] not in given
            arguments[leading[i]] = args[i]
        for name in given:
            fits &= name in known
        if not fits or len(arguments) != count:
            return function(*args, **given)  # raises Python's own TypeError
        arguments["ema_decay"], arguments["zero_grad"] = None, False
        once(row, arguments, None, None)

    return call


def sweep(str which, ema, max_norm, **arguments):
    """One step of the optimizer of that name, of one tensor and with the caller's own state.

    Takes all arguments of its kernel, `ema_decay` and `zero_grad`. `ema` is the average, or None;
    `max_norm` the largest norm of the gradient, or None.
    """
    once(row_named(which), arguments, ema, max_norm)


cdef int once(Row row, dict arguments, ema, max_norm) except -1:
    cdef Buffers arrays = Buffers()
    cdef Py_buffer *param
    cdef Py_buffer *view
    cdef pk_tensor tensor
    cdef int slot
    cdef void *scratch
    cdef char *config
    cdef double norm
    step = arguments["step"]
    if type(step) is not int and not isinstance(step, _np.integer) or not 1 <= step < 2**63:
        raise ValueError(f"step: expected an integer >= 1, got {step!r}")
    memset(&tensor, 0, sizeof(tensor))
    param = arrays.take("param", arguments["param"], True)
    if arguments["zero_grad"]:
        view = arrays.take("grad", arguments["grad"], True)
    else:
        view = arrays.take("grad", contiguous(arguments["grad"]), False)
    check_like(view, "grad", param, "param")
    tensor.param, tensor.grad, tensor.n, tensor.step = param.buf, view.buf, size_of(param), step
    kernels = optim_table(dtype_of(param))
    config = <char *> arrays.scratch(row.row.config_size)
    row.configure(config, arguments, dtype_of(param))
    for slot, state in enumerate(row.state_names(arguments)):
        if state is not None:
            view = arrays.take(state, ema if state == "ema" else arguments[state], True)
            check_like(view, state, param, "param")
            if state == "ema":
                tensor.ema = view.buf
            else:
                tensor.state[slot] = view.buf
    arrays.check_apart()
    scratch = arrays.scratch(max(kernels.scratch_size(row.which, &tensor, 1),
                                 kernels.norm_scratch_size(&tensor, 1)))
    if max_norm is not None:
        norm = arguments["grad_scale"] * kernels.global_norm(&tensor, 1, scratch, num_threads())
        (<pk_common *> config).grad_scale *= clip_coefficient(norm, max_norm, 0)
    with nogil:
        kernels.step(row.which, &tensor, 1, config, scratch, num_threads())
    return 0


cdef void set_narrow(pk_tensor *tensor, int slot, words, scale) noexcept:
    """Set a state of a tensor to these words: 8-bit codes, or bfloat16 if there is no scale."""
    tensor.state[slot], tensor.stored.states = data_of(words), PK_BF16
    if scale is not None:
        tensor.scale[slot], tensor.stored.states = <float *> data_of(scale), PK_8BIT


def convert_state(str kernel, str state, words, scale, values, seed, step, bint write, first=0):
    """Between a narrow state and what it stands for; changes `values`, or `words` and `scale`.

    words : uint32, as Plan has them; scale : float32, or None if they are bfloat16
    values : float32 of the shape of the parameter
    seed, step : of the rounding; `first` : the block of its array with which a part begins
    """
    cdef Row row = ROWS[kernel]
    cdef int slot = [name for name, _, _ in row.states].index(state)
    cdef int positive = row.row.positive >> slot & 1
    cdef pk_tensor tensor
    memset(&tensor, 0, sizeof(tensor))
    tensor.n, tensor.seed, tensor.step, tensor.first_block = values.size, seed, step, first
    set_narrow(&tensor, slot, words, scale)
    if write:
        optim_table(PK_F32).write_state(&tensor, slot, positive, <float *> data_of(values))
    else:
        optim_table(PK_F32).read_state(&tensor, slot, positive, <float *> data_of(values))


def global_norm(grads):
    """sqrt(sum of squares) over a sequence of arrays, in double; same bits for any thread count.

    All are float32 or all float64. Arrays that are not C-contiguous are copied first.
    """
    if not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads: expected a list or tuple of arrays, "
                        f"got {_checks.described(grads)}")
    return norm_of({f"grads[{i}]": grad for i, grad in enumerate(grads)})


def norm_of(dict grads):
    """`global_norm` of a dict of arrays; error messages use its keys as names."""
    return squares_of(grads)[0]


def squares_of(dict grads):
    """The same, and the partial sums of squares, one for every 4,096 elements.

    If the norm of float64 arrays is so small or so large that squares are not normal numbers, the
    elements are multiplied by 2**540 or 2**-540 before they are squared.
    """
    cdef Buffers arrays = Buffers()
    cdef Py_ssize_t i, count = len(grads)
    cdef Py_buffer *view
    cdef pk_tensor *tensors = <pk_tensor *> arrays.scratch(count * sizeof(pk_tensor))
    cdef void *scratch
    cdef double norm
    arrays.reserve(count)
    for i, (name, grad) in enumerate(grads.items()):
        view = arrays.take(name, contiguous(grad), False)
        tensors[i].grad, tensors[i].n = view.buf, size_of(view)
    kernels = optim_table(dtype_of(arrays.held))
    sums = _np.empty(kernels.norm_scratch_size(tensors, count) // sizeof(double))
    scratch = data_of(sums)
    with nogil:
        norm = kernels.global_norm(tensors, count, scratch, num_threads())
    return norm, sums


def check_apart(dict grads):
    """Raise unless all arrays are writable and no two elements share memory."""
    cdef Buffers arrays = Buffers()
    arrays.reserve(len(grads))
    for name, grad in grads.items():
        arrays.take(name, grad, True, True)
    arrays.check_apart()


def clip(dict grads, double max_norm, double eps):
    """Scale a dict of gradients to a global norm of at most `max_norm`; returns the norm before."""
    check_apart(grads)
    cdef double norm = norm_of(grads)
    cdef double factor = clip_coefficient(norm, max_norm, eps) if max_norm < INFINITY else 1
    if factor != 1:
        changed = [_np.asarray(grad) for grad in grads.values()]
        quietly(_scale, changed, factor)
    return norm


def _scale(list arrays, factor):  # compiled: no Python code runs between two arrays
    for array in arrays:
        _np.multiply(array, array.dtype.type(factor), array)


def memory_roof(param, grad, m, v):
    """The memory traffic of `adam` with additions only: a lower bound, for benchmarks.

    Changes `param`, `m` and `v`.
    """
    cdef Buffers arrays = Buffers()
    cdef pk_tensor tensor
    cdef pk_common common
    for name, array in (("param", param), ("m", m), ("v", v), ("grad", grad)):
        check_like(arrays.take(name, array, name != "grad"), name, arrays.held, "param")
    arrays.check_apart()
    memset(&common, 0, sizeof(common))
    memset(&tensor, 0, sizeof(tensor))
    tensor.param, tensor.n = arrays.held[0].buf, size_of(arrays.held)
    tensor.state[0], tensor.state[1] = arrays.held[1].buf, arrays.held[2].buf
    tensor.grad = arrays.held[3].buf
    kernels = optim_table(dtype_of(arrays.held))
    with nogil:
        kernels.step(PK_MEMORY_ROOF, &tensor, 1, &common, NULL, num_threads())
