# DLPack 1.3, as far as _tensors uses it: what tensors of another library tell about their memory.

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef enum:
    CPU = 1             # kDLCPU
    INT = 0             # kDLInt
    UINT = 1            # kDLUInt
    FLOAT = 2           # kDLFloat
    BFLOAT = 4          # kDLBfloat

cdef struct Seen:       # DLTensor, with its structs' fields in line
    void *data
    int32_t device, device_id
    int32_t ndim
    uint8_t code, bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t byte_offset

cdef struct Exchange:   # DLPackExchangeAPI
    uint32_t major, minor
    void *previous
    void *allocate
    void *from_object
    void *to_object
    int (*see)(void *tensor, Seen *seen) noexcept  # -1: an exception is set
    void *stream


cdef inline const Exchange *exchange_of(type) except NULL:
    """The functions that a type of tensor has."""
    cdef const Exchange *found = <const Exchange *> PyCapsule_GetPointer(
        type.__dlpack_c_exchange_api__, "dlpack_exchange_api")
    if found.major != 1 or found.see == NULL:
        raise ImportError(f"torch: expected DLPack 1's functions, got {found.major}'s")
    return found


cdef inline int64_t size_of_seen(const Seen *a) noexcept:
    cdef int64_t n = 1
    cdef int i
    for i in range(a.ndim):
        n *= a.shape[i]
    return n


cdef inline bint is_dense(const Seen *a) noexcept:
    """Whether the elements fill their memory, in whatever order of the axes."""
    cdef int64_t step = 1
    cdef int i, left = 0, found
    for i in range(a.ndim - 1, -1, -1):  # first as if it were C-contiguous
        if a.shape[i] != 1 and a.strides[i] != step:
            left = 1
            break
        step *= a.shape[i]
    if not left:
        return True
    step, left = 1, 0
    for i in range(a.ndim):
        left += a.shape[i] != 1
        if a.shape[i] == 0:
            return True
    while left:
        found = -1
        for i in range(a.ndim):
            if a.shape[i] != 1 and a.strides[i] == step:
                found = i
        if found < 0:
            return False
        step *= a.shape[found]
        left -= 1
    return True


cdef inline bint same_shape(const Seen *a, const Seen *b) noexcept:
    return a.ndim == b.ndim and memcmp(a.shape, b.shape, a.ndim * sizeof(int64_t)) == 0


cdef inline bint same_order(const Seen *a, const Seen *b) noexcept:
    """Whether elements of the same index have the same place, if the shapes are the same."""
    cdef int i
    if memcmp(a.strides, b.strides, a.ndim * sizeof(int64_t)) == 0:
        return True
    for i in range(a.ndim):
        if a.shape[i] > 1 and a.strides[i] != b.strides[i]:
            return False
    return True


cdef inline void *address_of(const Seen *a) noexcept:
    return <char *> a.data + a.byte_offset


cdef inline bint is_flat(const Seen *a, int code, int bits, size_t n) noexcept:
    """Whether it is one axis of n elements of this type in order, at a multiple of 4 bytes."""
    return (a.code == code and a.bits == bits and a.ndim == 1 and <size_t> a.shape[0] == n
            and (n < 2 or a.strides[0] == 1) and <size_t> address_of(a) % 4 == 0)
