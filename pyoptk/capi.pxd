# The C API: csrc/include/pyoptk.h, as far as the binding uses it, and NumPy's macros. Declarations
# only. libpyoptk is linked into _core alone: other modules take the types from here and call its
# functions through _core. Every function is noexcept nogil: without noexcept, each call would take
# the GIL to look for an exception. A struct names the fields that the binding uses.

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

cdef extern from "pyoptk.h" nogil:
    const char *PK_VERSION
    enum:
        PK_MAX_STATES, PK_MAX_FIELDS, PK_MAX_RULES, PK_CAUTIOUS, PK_SPARSE_ROWS, PK_NARROW_STATES
        PK_ISA_UNKNOWN, PK_ISA_UNUSABLE, PK_MAX_THREADS, PK_BLOCK, PK_CODE_GROUP
    ctypedef enum pk_dtype:
        PK_F32, PK_F64
    ctypedef enum pk_which:
        PK_N_OPTIMIZERS, PK_MEMORY_ROOF
    ctypedef enum pk_storage:
        PK_NATIVE, PK_BF16, PK_F16, PK_8BIT
    ctypedef struct pk_stored:  # a struct without a name in C
        unsigned char param, grad, states, copy, by_chance
    ctypedef struct pk_tensor:
        void *param
        const void *grad
        void *state[3]
        void *ema
        size_t n, group
        int64_t step
        float *scale[3]
        uint64_t seed
        size_t first_block
        void *copy
        uint16_t *low
        pk_stored stored
    ctypedef struct pk_rows:
        const int64_t *indices
        const void *values
        size_t count, width

    ctypedef struct pk_common:
        double lr, grad_scale
        int zero_grad, cautious
    ctypedef enum pk_kind:
        PK_EPS, PK_OPTIONAL, PK_SWITCH, PK_START
    ctypedef struct pk_field:
        const char *name
        const char *expected
        pk_kind kind
        size_t offset
        double fallback, low, high
    ctypedef enum pk_relation:
        PK_NEEDS, PK_AT_MOST
    ctypedef struct pk_rule:
        const char *field
        const char *other
        pk_relation relation
    ctypedef struct pk_state:  # a struct without a name in C
        const char *name
        const char *needed_by
        const char *start
    ctypedef struct pk_optimizer:
        const char *name
        size_t config_size
        pk_field fields[8]
        pk_state states[3]
        pk_rule rules[4]
        unsigned abilities, positive
    const pk_optimizer **pk_optimizers
    const pk_field *pk_common_fields

    ctypedef struct pk_watched:
        double grad_norm
    ctypedef struct pk_optim_kernels:
        void (*step)(pk_which, const pk_tensor *, size_t, const void *, void *, int) noexcept nogil
        void (*watched_step)(pk_which, const pk_tensor *, size_t, const void *, void *,
                             pk_watched *, void *, int) noexcept nogil
        size_t (*watched_scratch_size)(const pk_tensor *, size_t) noexcept nogil
        size_t (*scratch_size)(pk_which, const pk_tensor *, size_t) noexcept nogil
        size_t (*touched_rows)(const pk_tensor *, const pk_rows *, pk_tensor *,
                               void *) noexcept nogil
        size_t (*touched_scratch_size)(const pk_rows *) noexcept nogil
        void (*read_state)(const pk_tensor *, int, int, float *) noexcept nogil
        void (*write_state)(const pk_tensor *, int, int, const float *) noexcept nogil
        void (*read_param)(const pk_tensor *, float *) noexcept nogil
        void (*write_param)(const pk_tensor *, const float *) noexcept nogil
        double (*global_norm)(const pk_tensor *, size_t, void *, int) noexcept nogil
        size_t (*norm_scratch_size)(const pk_tensor *, size_t) noexcept nogil

    ctypedef enum pk_cell_id:
        PK_LSTM, PK_RNN, PK_GRU, PK_GRU_BEFORE, PK_LSTM_COUPLED, PK_LSTM_NORMED, PK_GRU_NORMED
    ctypedef enum pk_save:
        PK_SAVE_FULL, PK_SAVE_MINIMAL, PK_SAVE_NOTHING
    ctypedef struct pk_products:
        double (*roof)(size_t, double *) noexcept nogil
    ctypedef struct pk_rnn_shape:
        size_t T, B, I, H, R
        const int64_t *lengths
        int repeat_last
        const uint8_t *resets
        int reset_to_initial, reverse, relu
        double cell_clip
        double recurrent_dropout, zoneout_h, zoneout_c
        int drop_candidate
        uint64_t seed, stream
        pk_save save
        const pk_products *products
    ctypedef struct pk_sequence:
        void *data
        ptrdiff_t t_stride, b_stride
    ctypedef struct pk_rnn_weights:
        void *w_ih
        void *w_hh
        void *b_ih
        void *b_hh
        void *peepholes
        void *w_hr
        void *gain_ih
        void *gain_hh
        void *gain_c
        void *b_c
    ctypedef struct pk_rnn_sizes:
        size_t h, c, gates, scratch
    ctypedef struct pk_rnn_layer:
        pk_rnn_shape shape
        pk_rnn_weights weights
        pk_sequence x, y
        const void *h0
        const void *c0
        void *h_last
        void *c_last
        void *h
        void *c
        void *gates
        void *scratch
    ctypedef struct pk_rnn_gradients:
        pk_sequence dy, dx
        const void *dh_last
        const void *dc_last
        void *dh0
        void *dc0
        pk_rnn_weights grads
        int accumulate
    ctypedef struct pk_rnn_partition:
        size_t rows, units
        int nthreads
    ctypedef struct pk_cell_kernels:
        size_t gates, states, peepholes
        int normed
        size_t (*padded)(size_t) noexcept nogil
        pk_rnn_sizes (*sizes)(const pk_rnn_shape *) noexcept nogil
        pk_rnn_partition (*partition)(const pk_rnn_shape *, size_t, int) noexcept nogil
        void (*forward)(const pk_rnn_layer *, size_t, int) noexcept nogil
        void (*backward)(const pk_rnn_layer *, const pk_rnn_gradients *, size_t,
                         int) noexcept nogil
        void (*step)(const pk_rnn_layer *, int) noexcept nogil
        size_t (*step_scratch_size)(const pk_rnn_shape *) noexcept nogil
    ctypedef struct pk_scan:
        size_t T, B, D
        pk_sequence a
        const unsigned char *resets
        int reverse
    ctypedef struct pk_dropout_config:
        double p
        uint64_t seed, stream
    ctypedef struct pk_math_kernels:
        void (*exp)(const void *, void *, size_t) noexcept nogil
        void (*sigmoid)(const void *, void *, size_t) noexcept nogil
        void (*tanh)(const void *, void *, size_t) noexcept nogil
        void (*add)(const void *, const void *, void *, size_t) noexcept nogil
        void (*dropout)(size_t, size_t, size_t, pk_sequence, pk_sequence,
                        const pk_dropout_config *, int) noexcept nogil
        void (*matmul)(size_t, size_t, size_t, const void *, size_t, const void *, size_t, void *,
                       size_t, int, void *, int) noexcept nogil
        size_t (*matmul_scratch_size)(size_t, size_t) noexcept nogil
        void (*linear_scan_forward)(const pk_scan *, pk_sequence, const void *, pk_sequence,
                                    int) noexcept nogil
        void (*linear_scan_backward)(const pk_scan *, const void *, pk_sequence, pk_sequence,
                                     pk_sequence, pk_sequence, void *, int) noexcept nogil
        double (*fma_roof)(size_t, double *) noexcept nogil

    ctypedef enum pk_activation:
        PK_GELU
        PK_N_ACTIVATIONS
    ctypedef struct pk_linear:
        size_t M, I, O
        pk_activation activation
        double slope
        const void *x
        const void *w
        const void *b
        void *y
        void *z
        size_t ldx, ldy
        const pk_products *products
        void *scratch
    ctypedef struct pk_linear_gradients:
        const void *dy
        void *dx
        void *dw
        void *db
        size_t lddy, lddx
        int accumulate
    ctypedef struct pk_layer_norm:
        size_t M, N
        int rms
        double eps
        const void *x
        const void *gain
        const void *bias
        void *y
        void *mean
        void *scale
    ctypedef struct pk_layer_norm_gradients:
        const void *dy
        void *dx
        void *dgain
        void *dbias
        int accumulate
        void *scratch
    ctypedef struct pk_cross_entropy:
        size_t M, C
        const void *x
        const int64_t *labels
        const void *targets
        const void *class_weights
        const void *weights
        void *dx
        double smoothing, scale
        int64_t ignore_index
        double *scratch
    ctypedef enum pk_loss:
        PK_SQUARED
        PK_ABSOLUTE
        PK_HUBER
        PK_LOGISTIC
    ctypedef struct pk_elementwise_loss:
        size_t M, N
        pk_loss loss
        const void *x
        const void *target
        const void *weights
        void *dx
        double delta, scale
        double *scratch
    ctypedef struct pk_dense_kernels:
        size_t (*linear_scratch_size)(const pk_linear *) noexcept nogil
        void (*linear_forward)(const pk_linear *, int) noexcept nogil
        void (*linear_backward)(const pk_linear *, const pk_linear_gradients *,
                                int) noexcept nogil
        size_t (*layer_norm_scratch_size)(const pk_layer_norm *) noexcept nogil
        void (*layer_norm_forward)(const pk_layer_norm *, int) noexcept nogil
        void (*layer_norm_backward)(const pk_layer_norm *, const pk_layer_norm_gradients *,
                                    int) noexcept nogil
        double (*cross_entropy)(const pk_cross_entropy *, int) noexcept nogil
        double (*elementwise_loss)(const pk_elementwise_loss *, int) noexcept nogil

    const pk_optim_kernels *pk_optim(pk_dtype) noexcept
    const pk_dense_kernels *pk_dense(pk_dtype) noexcept
    const pk_math_kernels *pk_math(pk_dtype) noexcept
    const pk_cell_kernels *pk_cell(pk_cell_id, pk_dtype) noexcept
    const pk_products *pk_bf16_products() noexcept
    double pk_clip_coefficient(double norm, double max_norm, double eps) noexcept
    int pk_use_isa(const char *name) noexcept
    const char *pk_isa() noexcept
    const char *pk_isa_at(int i, int *usable) noexcept
    int pk_num_threads() noexcept
    void pk_set_num_threads(int n) noexcept
    void pk_parallel(void (*fn)(void *, size_t) noexcept nogil, void *, size_t, int) noexcept nogil
    const char *pk_threads_backend() noexcept

# NumPy's macros read an array's fields directly: five times faster than the buffer protocol.
cdef extern from * nogil:
    """
    #include <numpy/ndarraytypes.h>
    #undef I  /* <complex.h> defines it; here it is a name of a size */
    """
    ctypedef struct PyArrayObject:
        pass
    enum:
        NPY_ARRAY_CARRAY_RO  # C-contiguous and aligned
        NPY_ARRAY_ALIGNED, NPY_ARRAY_OWNDATA, NPY_ARRAY_WRITEABLE
    int PyArray_CHKFLAGS(PyArrayObject *array, int flags) noexcept
    void PyArray_ENABLEFLAGS(PyArrayObject *array, int flags) noexcept
    void PyArray_CLEARFLAGS(PyArrayObject *array, int flags) noexcept
    int PyArray_NDIM(PyArrayObject *array) noexcept
    Py_ssize_t *PyArray_DIMS(PyArrayObject *array) noexcept
    Py_ssize_t *PyArray_STRIDES(PyArrayObject *array) noexcept
    void *PyArray_DATA(PyArrayObject *array) noexcept
    void *PyArray_DESCR(PyArrayObject *array) noexcept

# Of Python: methods; the __dict__ of an object; whether the caller's reference to an array is the
# only one. And scratch of the calling thread, as its stack may be small.
cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define pk_is_unshared(array) 0
    static __thread char pk_room[48 << 10];
    #else
    static char pk_room[48 << 10]; /* for calls that keep the GIL */
    #define pk_is_unshared(array) \
        (Py_REFCNT(array) == 1 && !((PyArrayObject_fields *)(array))->weakreflist)
    #endif
    """
    enum:
        METH_FASTCALL, METH_KEYWORDS
    ctypedef struct PyMethodDef:
        const char *ml_name
        void *ml_meth
        int ml_flags
        const char *ml_doc
    ctypedef struct PyTypeObject:
        pass
    object PyDescr_NewMethod(PyTypeObject *, PyMethodDef *)
    object PyObject_GenericGetDict(object, void *)
    bint pk_is_unshared(void *array) noexcept
    char[48 << 10] pk_room
