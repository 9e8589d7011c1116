/* The optimizer table: one row (pk_optimizer) for each optimizer, with its hyper-parameters, states
 * and abilities.  The binding makes its checks and messages from it.  Compiled once; the formulas
 * are in pyoptk_optim.h, the arithmetic is in kernels/optim.h and kernels/adam.h. */
#include "pyoptk.h"

/* low, high, and what an error message says after "expected". */
#define AT_LEAST_0 0, INFINITY, "a finite number >= 0"
#define FRACTION 0, 1, "a number in [0, 1)"
#define UP_TO_1 0, 1 + 2e-16, "a number in [0, 1]"
#define NONE_OR_AT_LEAST_0 0, INFINITY, "None or a finite number >= 0"
#define TRUE_OR_FALSE 0, 2, "True or False"

/* A field of the config that PK_CONFIG names. */
#define FIELD(name, kind, fallback, ...)                                                           \
    {#name, kind, offsetof(PK_CONFIG, name), fallback, __VA_ARGS__}
#define NUMBER(name, fallback, ...) FIELD(name, PK_NUMBER, fallback, __VA_ARGS__)
#define EPS(fallback) FIELD(eps, PK_EPS, fallback, AT_LEAST_0)
#define SWITCH(name, fallback) FIELD(name, PK_SWITCH, fallback, TRUE_OR_FALSE)
#define BETAS(beta2_fallback) NUMBER(beta1, 0.9, FRACTION), NUMBER(beta2, beta2_fallback, FRACTION)

/* A class may have its own default of lr, weight_decay and decoupled. */
const pk_field pk_common_fields[] = {
#define PK_CONFIG pk_common
    NUMBER(lr, 1e-3, AT_LEAST_0),
    NUMBER(weight_decay, 0, AT_LEAST_0),
    SWITCH(decoupled, 0),
    SWITCH(maximize, 0),
    NUMBER(grad_scale, 1, AT_LEAST_0),
    FIELD(clip_value, PK_OPTIONAL, INFINITY, NONE_OR_AT_LEAST_0),
    SWITCH(cautious, 0),
    FIELD(ema_decay, PK_OPTIONAL, 0, FRACTION),
    SWITCH(zero_grad, 0),
    {0},
#undef PK_CONFIG
};

#define HEAD(optimizer_name) .name = #optimizer_name, .config_size = sizeof(PK_CONFIG)

#define PK_CONFIG pk_sgd_config
static const pk_optimizer sgd = {
    HEAD(sgd),
    .fields = {NUMBER(momentum, 0, FRACTION), NUMBER(dampening, 0, UP_TO_1), SWITCH(nesterov, 0),
               SWITCH(lr_in_momentum, 0)},
    .states = {{"velocity", "momentum", NULL}},
    .rules = {{"nesterov", PK_NEEDS, "momentum"},
              {"nesterov", PK_EXCLUDES, "dampening"},
              {"cautious", PK_NEEDS, "momentum"}},
    .abilities = PK_CAUTIOUS | PK_SPARSE_ROWS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_adagrad_config
static const pk_optimizer adagrad = {
    HEAD(adagrad),
    .fields = {NUMBER(lr_decay, 0, AT_LEAST_0),
               EPS(1e-10),
               SWITCH(eps_inside_sqrt, 0),
               {"initial_accumulator", PK_START, 0, 0, AT_LEAST_0}},
    .states = {{"s", NULL, "initial_accumulator"}},
    .abilities = PK_SPARSE_ROWS,
};
#undef PK_CONFIG

#define PK_CONFIG pk_rmsprop_config
static const pk_optimizer rmsprop = {
    HEAD(rmsprop),
    .fields = {NUMBER(rho, 0.99, FRACTION), EPS(1e-8), NUMBER(momentum, 0, FRACTION),
               SWITCH(centered, 0), SWITCH(eps_inside_sqrt, 0), SWITCH(lr_in_momentum, 0)},
    .states = {{"v", NULL, NULL}, {"avg", "centered", NULL}, {"velocity", "momentum", NULL}},
    .rules = {{"cautious", PK_NEEDS, "momentum"}},
    .abilities = PK_CAUTIOUS,
};
#undef PK_CONFIG

#define PK_CONFIG pk_adadelta_config
static const pk_optimizer adadelta = {
    HEAD(adadelta),
    .fields = {NUMBER(rho, 0.9, FRACTION), EPS(1e-6)},
    .states = {{"v", NULL, NULL}, {"acc_delta", NULL, NULL}},
};
#undef PK_CONFIG

#define PK_CONFIG pk_adam_config
static const pk_optimizer adam = {
    HEAD(adam),
    .fields = {BETAS(0.999), EPS(1e-8), SWITCH(amsgrad, 0), SWITCH(amsgrad_on_corrected, 0),
               SWITCH(eps_hat, 0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}, {"vmax", "amsgrad", NULL}},
    .rules = {{"amsgrad_on_corrected", PK_NEEDS, "amsgrad"}},
    .abilities = PK_CAUTIOUS | PK_SPARSE_ROWS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_nadam_config
static const pk_optimizer nadam = {
    HEAD(nadam),
    .fields = {BETAS(0.999), EPS(1e-8), NUMBER(momentum_decay, 4e-3, AT_LEAST_0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_radam_config
static const pk_optimizer radam = {
    HEAD(radam),
    .fields = {BETAS(0.999), EPS(1e-8), SWITCH(eps_hat, 1)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_adamax_config
static const pk_optimizer adamax = {
    HEAD(adamax),
    .fields = {BETAS(0.999), EPS(1e-8), SWITCH(eps_outside_max, 0)},
    .states = {{"m", NULL, NULL}, {"u", NULL, NULL}},
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_lion_config
static const pk_optimizer lion = {
    HEAD(lion),
    .fields = {BETAS(0.99)},
    .states = {{"m", NULL, NULL}},
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};
#undef PK_CONFIG

#define PK_CONFIG pk_lamb_config
static const pk_optimizer lamb = {
    HEAD(lamb),
    .fields = {BETAS(0.999), EPS(1e-6), SWITCH(decay_outside_norm, 0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .abilities = PK_SCRATCH,
};
#undef PK_CONFIG

#define PK_CONFIG pk_adabelief_config
static const pk_optimizer adabelief = {
    HEAD(adabelief),
    .fields = {BETAS(0.999), EPS(1e-16)},
    .states = {{"m", NULL, NULL}, {"s", NULL, NULL}},
    .abilities = PK_CAUTIOUS,
};
#undef PK_CONFIG

#define PK_CONFIG pk_rprop_config
static const pk_optimizer rprop = {
    HEAD(rprop),
    .fields = {NUMBER(eta_minus, 0.5, FRACTION),
               NUMBER(eta_plus, 1.2, 1, INFINITY, "a finite number >= 1"),
               NUMBER(min_size, 1e-6, AT_LEAST_0), NUMBER(max_size, 50, AT_LEAST_0)},
    .states = {{"prev", NULL, NULL}, {"size", NULL, NULL}},
    .rules = {{"min_size", PK_AT_MOST, "max_size"}},
};
#undef PK_CONFIG

#define PK_ROW(number, name) &name,
const pk_optimizer *const pk_optimizers[PK_N_OPTIMIZERS] = {PK_OPTIMIZERS(PK_ROW)};
