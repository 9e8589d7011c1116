# What a step of _tensors knows of the list that it gives to a kernel: how much memory its arrays
# take, and which of it is written.

from cpython.buffer cimport Py_buffer
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next
from cpython.list cimport PyList_GetItem, PyList_SetSlice, PyList_Size
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ._arrays cimport Buffers
from .capi cimport (
    PK_8BIT, PK_BF16, PK_BLOCK, PK_CODE_GROUP, PK_F16, PK_F32, PK_MAX_STATES, PK_NATIVE, pk_dtype,
    pk_tensor,
)
from .dlpack cimport (
    BFLOAT, FLOAT, UINT, Seen, address_of, is_flat, same_order, same_shape, size_of_seen,
)

cdef enum:              # the arrays of a tensor: its states, their scales, and
    REMAINDER = 6
    MASTER
    PARAM               # the parameter itself
    ARRAYS

cdef enum:              # how narrow parameters of a group are stepped: MASTERS of torch/tensors.py
    NO_MASTER, COPIED, HALVED, BY_CHANCE

cdef struct Beside:     # what belongs to a tensor of a list besides what the kernel takes
    void *counter       # where PyTorch counts its steps; NULL: nowhere
    bint wide           # whether that is float64
    Py_ssize_t place    # in its group
    const void *known   # a gradient that is known not to overlap what the step writes
    size_t known_size   # its bytes


cdef inline int storage_of(const Seen *a) noexcept:
    """How a parameter or a gradient is stored, a pk_storage; -1 if no step can take it."""
    if a.bits == 16:
        return PK_F16 if a.code == FLOAT else PK_BF16 if a.code == BFLOAT else -1
    return PK_NATIVE if a.code == FLOAT and (a.bits == 32 or a.bits == 64) else -1


cdef inline void step_itself(pk_tensor *t, const Seen *param) noexcept:
    """List a parameter as what is stepped, without a master or a remainder."""
    t.param, t.copy, t.low = address_of(param), NULL, NULL
    t.stored.param, t.stored.copy = <unsigned char> storage_of(param), PK_NATIVE


cdef inline bint is_counter(const Seen *a) noexcept:
    return a.code == FLOAT and (a.bits == 32 or a.bits == 64) and size_of_seen(a) == 1


cdef inline bint is_counted(const pk_tensor *t, bint counts) noexcept:
    """Whether its steps are counted: always if `counts`, and where rounding depends on it."""
    return counts or t.stored.states != PK_NATIVE or t.stored.by_chance


cdef inline Py_ssize_t n_keys(const pk_tensor *t, int n_states, bint counts) noexcept:
    """What a dict of states has, besides a master."""
    return n_states * (2 if t.stored.states == PK_8BIT else 1) + is_counted(t, counts)


cdef inline size_t n_blocks(size_t n) noexcept:
    return (n + PK_BLOCK - 1) // PK_BLOCK


cdef inline size_t n_bytes(size_t n, int kind) noexcept:
    """Of a narrow state."""
    return (n + PK_CODE_GROUP - 1) // PK_CODE_GROUP * PK_CODE_GROUP * (1 if kind == PK_8BIT else 2)


cdef inline bint is_state(const Seen *a, const Seen *param, const pk_tensor *t) noexcept:
    """Whether it is stored as `t` wants its states, in the order of the parameter."""
    if t.stored.states != PK_NATIVE:
        return (is_flat(a, UINT, 8, n_bytes(t.n, t.stored.states))
                and (t.stored.states != PK_8BIT or t.n > 0))
    return is_like(a, FLOAT, 64 if param.bits == 64 else 32, param)


cdef inline bint is_like(const Seen *a, int code, int bits, const Seen *param) noexcept:
    """Whether it has this type, and the shape and the order of the parameter."""
    return (a.code == code and a.bits == bits and same_shape(a, param)
            and same_order(a, param))


cdef inline void *array_of(const pk_tensor *t, int which) noexcept:
    """One of the arrays that the step writes; NULL if there is none."""
    if which < PK_MAX_STATES:
        return t.state[which]
    if which < REMAINDER:
        return t.scale[which - PK_MAX_STATES]
    return (t.low if which == REMAINDER else
            t.param if (which == PARAM) == (t.copy == NULL) else t.copy)


cdef inline size_t size_of(const pk_tensor *t, int which, pk_dtype dtype) noexcept:
    """Its bytes."""
    if which < PK_MAX_STATES and t.stored.states != PK_NATIVE:
        return n_bytes(t.n, t.stored.states)
    if PK_MAX_STATES <= which < REMAINDER:
        return 4 * n_blocks(t.n)
    if which == REMAINDER or which == PARAM and (t.stored.param or t.stored.copy):
        return 2 * t.n
    return t.n * (4 if dtype == PK_F32 else 8)


cdef inline uint64_t mark_of(const pk_tensor *tensors, size_t count) noexcept:
    """A number that is another one, as good as always, if the step writes to other memory."""
    cdef uint64_t mark = count
    cdef size_t i
    cdef int which
    cdef const pk_tensor *t
    for i in range(count):
        t = &tensors[i]
        for which in range(ARRAYS):
            mark = (mark ^ <uint64_t> array_of(t, which)) * 1099511628211ULL  # as FNV does
        mark = (mark ^ t.n) * 1099511628211ULL
        mark = (mark ^ (t.stored.param << 16 | t.stored.copy << 8 | t.stored.states)
                ) * 1099511628211ULL
    return mark


cdef inline Buffers written_by(const pk_tensor *tensors, Beside *beside, size_t count,
                               pk_dtype dtype, tuple names, tools, list groups):
    """The memory that the step writes; raises if some of it is written twice.

    `names` has those of the arrays but the last, the parameter.
    """
    cdef size_t i
    cdef int which
    cdef const pk_tensor *t
    cdef Py_buffer *view
    cdef void *memory
    cdef Buffers written = Buffers()
    written.reserve(count * ARRAYS)
    for i in range(count):
        t = &tensors[i]
        beside[i].known = NULL
        name = tools.name_of(groups, t.group, beside[i].place)
        for which in range(ARRAYS):
            memory = array_of(t, which)
            if memory != NULL and t.n:
                view = &written.held[written.n_held]
                memset(view, 0, sizeof(Py_buffer))
                view.buf, view.len = memory, size_of(t, which, dtype)
                view.itemsize = view.len  # as if it were one element, without an axis
                written.names[written.n_held] = (name if which == PARAM else
                                                 f"the {names[which]} of {name}")
                written.n_held += 1
    written.check_apart()
    return written


cdef inline int check_gradients(const pk_tensor *tensors, Beside *beside, size_t count,
                                pk_dtype dtype, Buffers written, tools, list groups) except -1:
    """Raise if the step writes to a gradient."""
    cdef size_t i, size
    cdef const pk_tensor *t
    for i in range(count):
        t = &tensors[i]
        size = t.n * (2 if t.stored.grad != PK_NATIVE else 4 if dtype == PK_F32 else 8)
        if t.grad != beside[i].known or size != beside[i].known_size:
            if written.owner(t.grad, size) >= 0:
                name = tools.name_of(groups, t.group, beside[i].place)
                raise ValueError(f"{name}.grad: expected memory of its own, got a tensor that "
                                 f"overlaps what the step writes")
            beside[i].known, beside[i].known_size = t.grad, size
    return 0


cdef inline dict state_of(states, p, Py_ssize_t *at, bint makes):
    """The states of a parameter, made if there are none, or None.

    Looks first where they are if it is the next with states: PyTorch computes the hash of a tensor
    in Python.
    """
    cdef PyObject *found
    cdef PyObject *key
    cdef Py_ssize_t next = at[0]
    if PyDict_Next(<dict> states, &next, &key, &found) and key == <PyObject *> p:
        at[0] = next
    else:
        found = PyDict_GetItemWithError(<dict> states, p)
        if found == NULL and not makes:
            return None
    return <dict?> (states[p] if found == NULL else <object> found)


cdef inline bint keep_at(list kept, Py_ssize_t place, tensor) except -1:
    """Put a tensor there; whether it was not there yet. Most are those of the last step."""
    if place < PyList_Size(kept) and PyList_GetItem(kept, place) == <PyObject *> tensor:
        return False
    PyList_SetSlice(kept, place, place + 1, [tensor])
    return True


cdef inline double counted(const Beside *beside) noexcept:
    """The number of steps in PyTorch's counter."""
    return (<double *> beside.counter)[0] if beside.wide else (<float *> beside.counter)[0]


cdef inline void count_steps(const Beside *beside, size_t count) noexcept:
    """Write to PyTorch's counters."""
    cdef size_t i
    for i in range(count):
        if beside[i].counter != NULL:
            if beside[i].wide:
                (<double *> beside[i].counter)[0] += 1
            else:
                (<float *> beside[i].counter)[0] += 1


cdef inline int forget(dict state, const pk_tensor *t, list before) except -1:
    """Remove what belongs to another `master` than this tensor's; `before` is that of `restore`."""
    cdef int master = (COPIED if t.stored.copy != PK_NATIVE else HALVED
                       if t.stored.param != PK_NATIVE and not t.stored.by_chance else NO_MASTER)
    for key, its in (("master", COPIED), ("remainder", HALVED)):
        if key in state and master != its:
            before.append((state, dict(state)))
            del state[key]
    return 0


cdef inline int restore(list before) except -1:
    """Let dicts of states be as they were. No Python code runs, so that nothing interrupts it."""
    if before is not None:
        for state, had in reversed(before):
            (<dict> state).clear()
            (<dict> state).update(had)
    return 0


cdef inline int copy_all(list pairs) except -1:
    """Copy tensors to tensors, without an interruption."""
    for target, source in pairs:
        target.copy_(source)
    return 0
