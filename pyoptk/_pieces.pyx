"""Pieces of arrays, by address: copies, and the step of a rank of pyoptk.mpi."""
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from libc.string cimport memcpy

from ._core cimport math_table, num_threads, parallel
from .capi cimport (
    PK_F32, PK_F64, PyArray_DATA, PyArrayObject, pk_optim_kernels, pk_tensor, pk_watched, pk_which,
)

cdef extern from *:
    """
    typedef struct { void *at; size_t size; } pk_span; /* struct iovec */
    #ifdef __linux__
    #include <sys/syscall.h>
    #include <unistd.h>
    static long pk_reach(long process, int writes, const pk_span *here, const pk_span *there,
                         long n)
    {
        const long call = writes ? SYS_process_vm_writev : SYS_process_vm_readv;
        return syscall(call, process, here, n, there, n, 0L);
    }
    #else
    #define pk_reach(process, writes, here, there, n) (-1L)
    #endif
    """
    ctypedef struct pk_span:
        void *at
        size_t size
    long pk_reach(long process, bint writes, const pk_span *here, const pk_span *there,
                  long n) noexcept nogil


cdef Py_ssize_t *numbers(array) noexcept:
    return <Py_ssize_t *> PyArray_DATA(<PyArrayObject *> <PyObject *> array)


def move(table, rows, to, Py_ssize_t room):
    """Copy pieces of arrays to others, or into one room, or from there if `rows` is None.

    `table` is intp [n, 4], for each piece: its array, its first byte there and in the room, bytes.
    `rows` and `to`, intp, are the addresses of the arrays. Nothing is checked.
    """
    cdef Py_ssize_t *piece = numbers(table)
    cdef char *source
    cdef char *target
    for _ in range(len(table)):
        source = target = <char *> (room + piece[2])
        if rows is not None:
            source = <char *> (numbers(rows)[piece[0]] + piece[1])
        if to is not None:
            target = <char *> (numbers(to)[piece[0]] + piece[1])
        memcpy(target, source, piece[3])
        piece += 4


def reach(Py_ssize_t process, bint writes, Py_ssize_t here, Py_ssize_t there, size_t size):
    """Whether so many bytes could be copied from another process's memory, or to it if `writes`."""
    cdef pk_span own = pk_span(<void *> here, size), other = pk_span(<void *> there, size)
    return pk_reach(process, writes, &own, &other, 1) == <long> size


cdef enum:
    PART_BYTES = 1 << 17    # of sums; they stay in the cache meanwhile
    MOST = 64               # pieces in a part
    DEPTH = 40              # of a tree of less than 2**31 leaves
    SERIAL_BELOW = 1 << 15  # elements for each thread
    ROW = PART_BYTES + MOST * 64 + 4096  # bytes: a part, whose pieces are aligned

PART, AT_ONCE = PART_BYTES, MOST


cdef bint copied(Py_ssize_t process, bint writes, const pk_span *here, const pk_span *there,
                 Py_ssize_t n) noexcept nogil:
    """Copy spans from another process, or to it; 0: what this one sees. Whether that worked."""
    cdef Py_ssize_t s, total = 0
    for s in range(n):
        total += here[s].size
        if process == 0:
            memcpy(there[s].at if writes else here[s].at, here[s].at if writes else there[s].at,
                   here[s].size)
    return process == 0 or n == 0 or pk_reach(process, writes, here, there, n) == total


cdef bint add_up(const sweep *w, const piece *first, Py_ssize_t n, char *room,
                 const Py_ssize_t *at, char **outs) noexcept nogil:
    """The sums of the pieces of a part, whose places in a row of `room` are `at`.

    A term that is in another process, or a sum that is not the last, is in the row of its depth.
    """
    cdef pk_span here[MOST]
    cdef pk_span there[MOST]
    cdef char *terms[DEPTH][MOST]
    cdef char *target
    cdef Py_ssize_t i, s, d = 0
    for i in range(w.n_leaves):
        for s in range(n):
            here[s].at = room + d * ROW + at[s]
            there[s].at = <char *> (w.places[i * w.n_arrays + first[s].array]
                                    + first[s].begin * w.item)
            here[s].size = there[s].size = first[s].size * w.item
            terms[d][s] = <char *> (here[s].at if w.processes[i] else there[s].at)
        if w.processes[i] and not copied(w.processes[i], False, here, there, n):
            return False
        d += 1
        for _ in range(w.merges[i]):
            d -= 1
            for s in range(n):
                target = outs[s] if d == 1 else room + (d - 1) * ROW + at[s]
                w.add(terms[d - 1][s], terms[d][s], target, first[s].size)
                terms[d - 1][s] = target
    if w.n_leaves == 1:
        for s in range(n):
            memcpy(outs[s], terms[0][s], here[s].size)
    return True


cdef bint pushed(const sweep *w, const piece *first, Py_ssize_t n) noexcept nogil:
    """Copy these pieces of the parameters to the other ranks."""
    cdef pk_span here[MOST]
    cdef pk_span there[MOST]
    cdef Py_ssize_t r, s
    for r in range(w.n_others):
        for s in range(n):
            here[s].at = <char *> (w.params[first[s].array] + first[s].begin * first[s].item)
            there[s].at = <char *> (w.targets[r * w.n_arrays + first[s].array]
                                    + first[s].begin * first[s].item)
            here[s].size = there[s].size = first[s].size * first[s].item
        if not copied(w.writers[r], True, here, there, n):
            return False
    return True


cdef bint ran(const sweep *w, Py_ssize_t k, char *room) noexcept nogil:
    """Part k: add up, step, push, as far as that is wanted. Whether that worked."""
    cdef Py_ssize_t at[MOST]
    cdef char *outs[MOST]
    cdef Py_ssize_t begin = w.ends[k - 1] if k else 0, n = w.ends[k] - begin, s, to = 0
    cdef const piece *first = w.pieces + begin
    for s in range(n):  # like the parameter in its cache line, and at another place in its page
        if s == 0:
            to = (w.params[first.array] + 2048) % 4096 & -64
        to += (w.params[first[s].array] + first[s].begin * first[s].item - to) % 64 & -w.item
        at[s], outs[s] = to, room + to
        if w.whole != NULL:
            outs[s] = w.whole + first[s].at * w.item
        to += first[s].size * w.item
        if w.kernels != NULL and w.tensors[begin + s].grad != NULL:
            w.tensors[begin + s].grad = outs[s]
    if w.adds and not add_up(w, first, n, room + ROW, at, outs):
        return False
    if w.kernels != NULL:
        w.kernels.watched_step(w.which, w.tensors + begin, n, w.configs, NULL,
                               w.told and w.told + begin, w.watched, w.inner)
    return not w.pushes or pushed(w, first, n)


cdef void run_parts(void *arg, size_t chunk) noexcept nogil:
    cdef sweep *w = <sweep *> arg
    cdef Py_ssize_t k
    for k in range(chunk * w.n_parts // w.chunks, (chunk + 1) * w.n_parts // w.chunks):
        if not ran(w, k, w.rooms + chunk * w.room_size):
            w.failed = True
            return


cdef class Pieces:
    """The pieces of a rank, part by part, where ranks reach each other's memory.

    A part is added up, stepped and pushed to the other ranks while it is in the cache. In no call
    does a signal handler run. All arrays are intp, kept, and may be filled anew before a call.

    Parameters
    ----------
    table : [pieces, 5]
        Of each: its array, its first element and how many, the bytes of an element of the
        parameter, and its first element in a room for all sums.
    ends : [parts]
        The pieces before its end.
    merges, processes, places : [leaves], [leaves], [leaves, arrays]
        Of the tree of the sum, in its order: how many sums are complete after a leaf, where it is,
        0 for what this process sees, and the addresses of its arrays.
    params, writers, targets : [arrays], [others], [others, arrays]
        The addresses of the parameters; where the other ranks are, and those of their parameters.
    item : int
        The bytes of an element of a sum, which is of float32 or of float64.
    """

    def __cinit__(self, table, ends, merges, processes, places, params, writers, targets,
                  Py_ssize_t item):
        cdef Py_ssize_t i, d = 0, deepest = 0
        self.kept = table, ends, merges, processes, places, params, writers, targets
        self.w.pieces, self.w.ends = <piece *> numbers(table), numbers(ends)
        self.w.merges, self.w.processes = numbers(merges), numbers(processes)
        self.w.places, self.w.params = numbers(places), numbers(params)
        self.w.writers, self.w.targets = numbers(writers), numbers(targets)
        self.w.n_parts = len(ends)
        self.w.n_leaves, self.w.n_arrays = len(merges), len(params)
        self.w.n_others, self.w.item = len(writers), item
        self.elements = sum([row[2] for row in table.tolist()])
        for i in range(self.w.n_leaves):
            d += 1
            deepest = max(deepest, d)
            d -= self.w.merges[i]
        self.w.room_size = (1 + deepest) * ROW

    def __dealloc__(self):
        PyMem_Free(self.memory)

    cdef int run(self, pk_watched *told) except -1:
        """Run all parts, on several threads if a step is not watched."""
        cdef Py_ssize_t most = min(num_threads(), self.elements // SERIAL_BELOW)
        self.w.chunks, self.w.inner, self.w.failed = max(min(most, self.w.n_parts), 1), 1, False
        self.w.told = told
        self.w.add = math_table(PK_F64 if self.w.item == 8 else PK_F32).add
        if told != NULL:
            self.w.chunks, self.w.inner = 1, num_threads()
        if self.w.chunks > self.n_rooms:
            PyMem_Free(self.memory)
            self.n_rooms = 0
            self.memory = <char *> PyMem_Malloc(self.w.chunks * self.w.room_size + 4096)
            if self.memory == NULL:
                raise MemoryError
            self.n_rooms = self.w.chunks
            self.w.rooms = self.memory + (-<Py_ssize_t> self.memory) % 4096
        with nogil:
            parallel(run_parts, &self.w, self.w.chunks, self.w.chunks)
        if self.w.failed:
            raise OSError("expected to reach the memory of another process, got an error")

    def add_up(self, Py_ssize_t whole):
        """Write all sums to the room at this address, from where the next step takes them."""
        self.w.whole, self.w.adds, self.w.kernels, self.w.pushes = <char *> whole, True, NULL, False
        self.run(NULL)

    def forget(self):
        """Let the next step add up, whatever came of the one that `add_up` was called for."""
        self.w.whole = NULL

    def push(self):
        """Copy the pieces of the parameters to the other ranks."""
        self.w.adds, self.w.kernels, self.w.pushes = False, NULL, True
        self.run(NULL)

    cdef int step(self, const pk_optim_kernels *kernels, pk_which which, pk_tensor *tensors,
                  const void *configs, pk_watched *told, void *watched) except -1:
        """Add up, if `add_up` did not, step, and push. A tensor without grad has none."""
        self.w.adds, self.w.pushes = self.w.whole == NULL, True
        self.w.kernels, self.w.which, self.w.tensors = kernels, which, tensors
        self.w.configs, self.w.watched = configs, watched
        return self.run(told)
