# What a step of _tensors knows of the list that it gives to a kernel: how much memory its arrays
# take, and which of it is written.

from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint64_t
from libc.string cimport memset

from ._arrays cimport Buffers
from .capi cimport (
    PK_8BIT, PK_BLOCK, PK_CODE_GROUP, PK_F32, PK_MAX_STATES, PK_NATIVE, pk_dtype, pk_tensor,
)


cdef struct Beside:     # what belongs to a tensor of a list besides what the kernel takes
    void *counter       # where PyTorch counts its steps; NULL: nowhere
    bint wide           # whether that is float64
    Py_ssize_t place    # in its group
    const void *known   # a gradient that is known not to overlap what the step writes


cdef inline size_t n_blocks(size_t n) noexcept:
    return (n + PK_BLOCK - 1) // PK_BLOCK


cdef inline size_t n_bytes(size_t n, int kind) noexcept:
    """Of a narrow state."""
    return (n + PK_CODE_GROUP - 1) // PK_CODE_GROUP * PK_CODE_GROUP * (1 if kind == PK_8BIT else 2)


cdef inline size_t size_of(const pk_tensor *t, int slot, pk_dtype dtype) noexcept:
    """Bytes of the parameter for -1, of a state, or, from PK_MAX_STATES on, of its scale."""
    if slot >= PK_MAX_STATES:
        return 4 * n_blocks(t.n)
    if slot < 0 or t.stored.states == PK_NATIVE:
        return t.n * (4 if dtype == PK_F32 else 8)
    return n_bytes(t.n, t.stored.states)


cdef inline uint64_t mark_of(const pk_tensor *tensors, size_t count) noexcept:
    """A number that is another one, as good as always, if the step writes to other memory."""
    cdef uint64_t mark = count
    cdef size_t i
    cdef int slot
    for i in range(count):
        mark = (mark ^ <uint64_t> tensors[i].param) * 1099511628211ULL  # as FNV does
        mark = (mark ^ tensors[i].n) * 1099511628211ULL
        for slot in range(PK_MAX_STATES):
            mark = (mark ^ <uint64_t> tensors[i].state[slot]) * 1099511628211ULL
            mark = (mark ^ <uint64_t> tensors[i].scale[slot]) * 1099511628211ULL
    return mark


cdef inline Buffers written_by(const pk_tensor *tensors, Beside *beside, size_t count,
                               pk_dtype dtype, tuple names, tools, list groups):
    """The memory that the step writes; raises if some of it is written twice.

    `names` has those of the states, then those of their scales.
    """
    cdef size_t i
    cdef int slot
    cdef const pk_tensor *t
    cdef Py_buffer *view
    cdef void *memory
    cdef Buffers written = Buffers()
    written.reserve(count * (1 + 2 * PK_MAX_STATES))
    for i in range(count):
        t = &tensors[i]
        beside[i].known = NULL
        name = tools.name_of(groups, t.group, beside[i].place)
        for slot in range(-1, 2 * PK_MAX_STATES):
            memory = (<void *> t.param if slot < 0 else <void *> t.state[slot]
                      if slot < PK_MAX_STATES else <void *> t.scale[slot - PK_MAX_STATES])
            if memory != NULL and t.n:
                view = &written.held[written.n_held]
                memset(view, 0, sizeof(Py_buffer))
                view.buf, view.len = memory, size_of(t, slot, dtype)
                view.itemsize = view.len  # as if it were one element, without an axis
                written.names[written.n_held] = name if slot < 0 else f"the {names[slot]} of {name}"
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
        if t.grad != beside[i].known:
            size = 2 if t.stored.grad != PK_NATIVE else 4 if dtype == PK_F32 else 8
            if written.owner(t.grad, t.n * size) >= 0:
                name = tools.name_of(groups, t.group, beside[i].place)
                raise ValueError(f"{name}.grad: expected memory of its own, got a tensor that "
                                 f"overlaps what the step writes")
            beside[i].known = t.grad
    return 0


cdef inline void count_steps(const pk_tensor *tensors, const Beside *beside, size_t count) noexcept:
    """Write to PyTorch's counters."""
    cdef size_t i
    for i in range(count):
        if beside[i].counter != NULL:
            if beside[i].wide:
                (<double *> beside[i].counter)[0] = <double> tensors[i].step
            else:
                (<float *> beside[i].counter)[0] = <float> tensors[i].step
