# What _plan takes from _optim: configs, and the call of a kernel by its name.

from .capi cimport (
    pk_adadelta_config, pk_adagrad_config, pk_adam_config, pk_adamax_config, pk_common, pk_dtype,
    pk_lamb_config, pk_lion_config, pk_nadam_config, pk_radam_config, pk_rmsprop_config,
    pk_sgd_config, pk_tensor,
)


cdef enum optim:
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


cdef dict KERNELS, NEEDED_BY

cdef double at_least_zero(dict hyper, str name) except? -1
cdef double limit(dict hyper, str name) except? -1
cdef int configure(optim which, config *out, dict hyper) except -1
cdef int check_fits(dict hyper, pk_dtype dtype) except -1
cdef size_t config_size(optim which) noexcept
cdef size_t scratch_size(optim which, pk_dtype dtype, const pk_tensor *tensors,
                         size_t count) noexcept nogil
cdef void run(optim which, pk_dtype dtype, const pk_tensor *tensors, size_t count,
              const void *configs, void *scratch) noexcept nogil
