"""Optimizers by their rows in C: checked configs, one step by name, norms of gradients.

Everything that differs between optimizers is read from the rows of csrc/optimizers.c; no optimizer
is named here. The Plan of an optimizer (_plan.pyx) makes its configs with `Row.configure`;
pyoptk/kernels.py calls `once`.
"""
import numpy as _np

from . import _checks
from ._checks import described

from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport INFINITY
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from ._core cimport (
    _Buffers, acquire, check_dtype, check_like, clip_coefficient, common_fields, contiguous,
    dtype_of, extent, num_threads, optim_table, optimizer_at, overlap, size_of,
)
from .capi cimport (
    PK_AT_MOST, PK_CAUTIOUS, PK_EPS, PK_F32, PK_MAX_FIELDS, PK_MAX_RULES, PK_MAX_STATES,
    PK_MEMORY_ROOF, PK_N_OPTIMIZERS, PK_NEEDS, PK_OPTIONAL, PK_SPARSE_ROWS, PK_START, PK_SWITCH,
    PyArray_DATA, PyArrayObject, pk_common, pk_dtype, pk_field, pk_tensor, pk_which,
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
        The hyper-parameters of all optimizers, those of this one, and those that only give a state
        its value before step 1.
    states : tuple of (name, needed_by, start)
    rules : tuple of (field, relation, other)
    """
    @property
    def fallbacks(self):
        """The default of each field, in the form it has in a Python signature."""
        cdef const pk_field *field
        fallbacks = {}
        for fields, count in ((<size_t> common_fields(), len(self.common_fields)),
                              (<size_t> self.row.fields, len(self.fields) + len(self.starts))):
            for i in range(count):
                field = <const pk_field *> <size_t> fields + <size_t> i
                value = None if field.kind == PK_OPTIONAL else field.fallback
                fallbacks[text(field.name)] = bool(value) if field.kind == PK_SWITCH else value
        return fallbacks

    @property
    def cautious(self):
        return bool(self.row.abilities & PK_CAUTIOUS)

    @property
    def sparse_rows(self):
        return bool(self.row.abilities & PK_SPARSE_ROWS)

    cdef int configure(self, char *config, dict hyper, pk_dtype dtype) except -1:
        """Check every hyper-parameter, then set *config."""
        set_fields(common_fields(), self.common_fields, config, hyper, dtype)
        set_fields(self.row.fields, self.fields, config, hyper, dtype)
        if hyper["cautious"] and not self.row.abilities & PK_CAUTIOUS:
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
        """The names of the states in order; None for each that `hyper` does not need."""
        return tuple([name if needed_by is None or hyper[needed_by] else None
                      for name, needed_by, _ in self.states])


cdef Row described_by(int which):
    cdef Row made = Row()
    cdef const pk_field *field = common_fields()
    cdef list names = [], own = [], starts = []
    made.row, made.which = optimizer_at(which), <pk_which> which
    made.name = text(made.row.name)
    while field.name != NULL:
        names.append(text(field.name))
        field += 1
    for i in range(PK_MAX_FIELDS):
        field = &made.row.fields[i]
        if field.name != NULL:
            (starts if field.kind == PK_START else own).append(text(field.name))
    made.common_fields, made.fields, made.starts = tuple(names), tuple(own), tuple(starts)
    made.states = tuple([(text(made.row.states[i].name), text(made.row.states[i].needed_by),
                          text(made.row.states[i].start))
                         for i in range(PK_MAX_STATES) if made.row.states[i].name != NULL])
    made.rules = tuple([(text(made.row.rules[i].field), <int> made.row.rules[i].relation,
                         text(made.row.rules[i].other))
                        for i in range(PK_MAX_RULES) if made.row.rules[i].field != NULL])
    made.needed_by = {name: needed_by for name, needed_by, _ in made.states}
    return made


NEEDS, AT_MOST = <int> PK_NEEDS, <int> PK_AT_MOST  # relations of rules
ROWS = {row.name: row for row in map(described_by, range(PK_N_OPTIMIZERS))}


cdef Row row_named(str name):
    return ROWS[name]


# ---- one step, norms -----------------------------------------------------------------------------

def once(str name, dict arguments):
    """One step of one tensor, on the caller's own state. `arguments`: the kernel's locals()."""
    cdef _Buffers arrays = _Buffers()
    cdef Row kernel = ROWS[name]
    cdef Py_buffer *param
    cdef Py_buffer *view
    cdef pk_tensor tensor
    cdef int slot
    cdef void *scratch = NULL
    cdef void *config = NULL
    expected = 3 + len(kernel.states) + len(kernel.common_fields) - 2 + len(kernel.fields)
    if len(arguments) != expected:
        raise TypeError(f"{name}: expected {expected} arguments, got {', '.join(arguments)}")
    arguments = {**arguments, "ema_decay": None, "zero_grad": False}
    step = arguments["step"]
    if type(step) is not int and not isinstance(step, _np.integer) or not 1 <= step < 2**63:
        raise ValueError(f"step: expected an integer >= 1, got {step!r}")
    memset(&tensor, 0, sizeof(tensor))
    tensor.step = step
    param = arrays.take("param", arguments["param"], True)
    view = arrays.take("grad", contiguous(arguments["grad"]), False)
    check_like(view, "grad", param, "param")
    tensor.param, tensor.grad, tensor.n = param.buf, view.buf, size_of(param)
    table, dtype = optim_table(dtype_of(param)), dtype_of(param)
    scratch = PyMem_Malloc(table.scratch_size(kernel.which, &tensor, 1) + 1)
    config = PyMem_Calloc(1, kernel.row.config_size)
    try:
        if scratch == NULL or config == NULL:
            raise MemoryError
        kernel.configure(<char *> config, arguments, dtype)
        for slot, state in enumerate(kernel.state_names(arguments)):
            if state is not None:
                view = arrays.take(state, arguments[state], True)
                check_like(view, state, param, "param")
                tensor.state[slot] = view.buf
        with nogil:
            table.step(kernel.which, &tensor, 1, config, scratch, num_threads())
    finally:
        PyMem_Free(scratch)
        PyMem_Free(config)


def global_norm(grads):
    """sqrt(sum of squares) over a sequence of arrays, in double; same bits for any thread count.

    All are float32 or all float64. Arrays that are not C-contiguous are copied first.
    """
    if not isinstance(grads, (list, tuple)):
        raise TypeError(f"grads: expected a list or tuple of arrays, got {described(grads)}")
    return norm_of({f"grads[{i}]": grad for i, grad in enumerate(grads)})


def norm_of(dict grads):
    """`global_norm` of a dict from names, which error messages use, to arrays."""
    return squares_of(grads)[0]


def squares_of(dict grads):
    """The same, and the sums of squares that it is made of: one for every 4,096 elements.

    If the norm of float64 is so small or so large that squares are not normal numbers, the elements
    are scaled by 2**540 or 2**-540 before they are squared.
    """
    cdef Py_ssize_t i, count = len(grads)
    cdef pk_tensor *tensors
    cdef void *scratch
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
        sums = _np.empty(kernels.norm_scratch_size(tensors, count) // sizeof(double))
        scratch = PyArray_DATA(<PyArrayObject *> <PyObject *> sums)
        with nogil:
            norm = kernels.global_norm(tensors, count, scratch, num_threads())
    finally:
        for i in range(taken):
            PyBuffer_Release(&views[i])
        PyMem_Free(views)
        PyMem_Free(tensors)
    return norm, sums


def check_apart(dict grads):
    """Raise unless all arrays are writable and no two elements share memory."""
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
        open_ = [other for other in open_ if other[1] > here[0]]  # those that end after its begin
        for other in open_:
            if overlap(&(<_Buffers> here[4]).held[0], &(<_Buffers> other[4]).held[0]):
                (_, first), (_, second) = sorted([here[2:4], other[2:4]])
                raise ValueError(f"{second}: expected memory of its own, got an array that "
                                 f"overlaps {first}")
        open_.append(here)


def clip(dict grads, double max_norm, double eps):
    """Scale gradients, by name, to a global norm of at most `max_norm`; returns that before."""
    check_apart(grads)
    cdef double norm = norm_of(grads)
    cdef double factor = 1
    if max_norm < INFINITY:
        factor = clip_coefficient(norm, max_norm, eps)
    if factor != 1:
        for array in [_np.asarray(grad) for grad in grads.values()]:
            _np.multiply(array, array.dtype.type(factor), array)
    return norm


def memory_roof(param, grad, m, v):
    """The memory traffic of `adam` with additions only: a lower bound, for benchmarks.

    Changes `param`, `m` and `v`.
    """
    cdef _Buffers arrays = _Buffers()
    cdef pk_tensor tensor
    cdef pk_common common
    cdef Py_buffer *view = arrays.take("param", param, True)
    memset(&common, 0, sizeof(common))
    memset(&tensor, 0, sizeof(tensor))
    tensor.param, tensor.n = view.buf, size_of(view)
    kernels = optim_table(dtype_of(view))
    for name, array in (("m", m), ("v", v), ("grad", grad)):
        view = arrays.take(name, array, name != "grad")
        check_like(view, name, &arrays.held[0], "param")
    tensor.state[0], tensor.state[1] = arrays.held[1].buf, arrays.held[2].buf
    tensor.grad = arrays.held[3].buf
    with nogil:
        kernels.step(PK_MEMORY_ROOF, &tensor, 1, &common, NULL, num_threads())
