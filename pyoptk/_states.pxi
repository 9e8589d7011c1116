# Where the states of an optimizer lie. An optimizer's loop goes over a parameter, its gradient and
# its states at once, and where these arrays begin makes up to three times its speed: a store that
# straddles two cache lines is dear, and so is a load at the same place in its page as a store just
# before, which it must be told apart from. So states begin at the same place in a cache line as
# their parameter, and at another place in a page than it and each other. All lie in one block,
# which is large enough for large pages sooner than they would be.

cdef enum:
    LINE = 64
    PAGE = 4096
    APART = 512  # bytes, beyond which there is nothing to be had; fewer where there are many states


cdef size_t place(size_t at, uintptr_t *taken, int count, bint is_small) noexcept:
    """The first offset in a page-aligned block, from `at` on, that suits a state.

    `taken` [count] are addresses: of the parameter, and offsets of its states so far.
    """
    cdef int i = 0
    cdef size_t apart = APART if count < 4 else APART - 2 * LINE
    at += (taken[0] - at) % LINE
    while i < count and not is_small:
        if (at - taken[i] + apart) % PAGE < 2 * apart:
            at += LINE
            i = 0
        else:
            i += 1
    return at


cdef list states_beside(Py_buffer *params, size_t count, int n_states, dtype):
    """For each parameter `n_states` arrays of zeros like it."""
    cdef uintptr_t taken[2 + PK_MAX_STATES]
    cdef size_t i, at = 0
    cdef int k
    offsets = []
    for i in range(count):
        taken[0] = <uintptr_t> params[i].buf
        for k in range(n_states):
            at = taken[1 + k] = place(at, taken, 1 + k, params[i].len < APART)
            offsets.append(at)
            at += params[i].len
    block = _np.zeros(at + PAGE, _np.uint8)
    first = -block.__array_interface__["data"][0] % PAGE
    states = []
    for i in range(count):
        starts = [first + offsets[i * n_states + k] for k in range(n_states)]
        states.append([block[start:start + params[i].len].view(dtype).reshape(shape_of(&params[i]))
                       for start in starts])
    return states
