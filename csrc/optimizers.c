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

/* A field of the config `of`. */
#define FIELD(of, name, kind, fallback, ...)                                                       \
    {#name, kind, offsetof(pk_##of##_config, name), fallback, __VA_ARGS__}
#define NUMBER(of, name, fallback, ...) FIELD(of, name, PK_NUMBER, fallback, __VA_ARGS__)
#define EPS(of, fallback) FIELD(of, eps, PK_EPS, fallback, AT_LEAST_0)
#define SWITCH(of, name, fallback) FIELD(of, name, PK_SWITCH, fallback, TRUE_OR_FALSE)
#define BETAS(of, beta2_fallback)                                                                  \
    NUMBER(of, beta1, 0.9, FRACTION), NUMBER(of, beta2, beta2_fallback, FRACTION)

/* A class may have its own default of lr, weight_decay and decoupled. */
typedef pk_common pk_common_config;
const pk_field pk_common_fields[] = {
    NUMBER(common, lr, 1e-3, AT_LEAST_0),
    NUMBER(common, weight_decay, 0, AT_LEAST_0),
    SWITCH(common, decoupled, 0),
    SWITCH(common, maximize, 0),
    NUMBER(common, grad_scale, 1, AT_LEAST_0),
    FIELD(common, clip_value, PK_OPTIONAL, INFINITY, NONE_OR_AT_LEAST_0),
    SWITCH(common, cautious, 0),
    FIELD(common, ema_decay, PK_OPTIONAL, 0, FRACTION),
    SWITCH(common, zero_grad, 0),
    {0},
};

#define HEAD(optimizer) .name = #optimizer, .config_size = sizeof(pk_##optimizer##_config)

static const pk_optimizer sgd = {
    HEAD(sgd),
    .fields = {NUMBER(sgd, momentum, 0, FRACTION), NUMBER(sgd, dampening, 0, UP_TO_1),
               SWITCH(sgd, nesterov, 0), SWITCH(sgd, lr_in_momentum, 0)},
    .states = {{"velocity", "momentum", NULL}},
    .rules = {{"nesterov", PK_NEEDS, "momentum"},
              {"nesterov", PK_EXCLUDES, "dampening"},
              {"cautious", PK_NEEDS, "momentum"}},
    .positive = PK_POSITIVE_sgd,
    .abilities = PK_CAUTIOUS | PK_SPARSE_ROWS | PK_NARROW_STATES,
};

static const pk_optimizer adagrad = {
    HEAD(adagrad),
    .fields = {NUMBER(adagrad, lr_decay, 0, AT_LEAST_0),
               EPS(adagrad, 1e-10),
               SWITCH(adagrad, eps_inside_sqrt, 0),
               {"initial_accumulator", PK_START, 0, 0, AT_LEAST_0}},
    .states = {{"s", NULL, "initial_accumulator"}},
    .positive = PK_POSITIVE_adagrad,
    .abilities = PK_SPARSE_ROWS | PK_NARROW_STATES,
};

static const pk_optimizer rmsprop = {
    HEAD(rmsprop),
    .fields = {NUMBER(rmsprop, rho, 0.99, FRACTION), EPS(rmsprop, 1e-8),
               NUMBER(rmsprop, momentum, 0, FRACTION), SWITCH(rmsprop, centered, 0),
               SWITCH(rmsprop, eps_inside_sqrt, 0), SWITCH(rmsprop, lr_in_momentum, 0)},
    .states = {{"v", NULL, NULL}, {"avg", "centered", NULL}, {"velocity", "momentum", NULL}},
    .rules = {{"cautious", PK_NEEDS, "momentum"}},
    .positive = PK_POSITIVE_rmsprop,
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};

static const pk_optimizer adadelta = {
    HEAD(adadelta),
    .fields = {NUMBER(adadelta, rho, 0.9, FRACTION), EPS(adadelta, 1e-6)},
    .states = {{"v", NULL, NULL}, {"acc_delta", NULL, NULL}},
};

static const pk_optimizer adam = {
    HEAD(adam),
    .fields = {BETAS(adam, 0.999), EPS(adam, 1e-8), SWITCH(adam, amsgrad, 0),
               SWITCH(adam, amsgrad_on_corrected, 0), SWITCH(adam, eps_hat, 0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}, {"vmax", "amsgrad", NULL}},
    .rules = {{"amsgrad_on_corrected", PK_NEEDS, "amsgrad"}},
    .positive = PK_POSITIVE_adam,
    .abilities = PK_CAUTIOUS | PK_SPARSE_ROWS | PK_NARROW_STATES,
};

static const pk_optimizer nadam = {
    HEAD(nadam),
    .fields = {BETAS(nadam, 0.999), EPS(nadam, 1e-8),
               NUMBER(nadam, momentum_decay, 4e-3, AT_LEAST_0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .positive = PK_POSITIVE_nadam,
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};

static const pk_optimizer radam = {
    HEAD(radam),
    .fields = {BETAS(radam, 0.999), EPS(radam, 1e-8), SWITCH(radam, eps_hat, 1)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .abilities = PK_CAUTIOUS,
};

static const pk_optimizer adamax = {
    HEAD(adamax),
    .fields = {BETAS(adamax, 0.999), EPS(adamax, 1e-8), SWITCH(adamax, eps_outside_max, 0)},
    .states = {{"m", NULL, NULL}, {"u", NULL, NULL}},
    .abilities = PK_CAUTIOUS,
};

static const pk_optimizer lion = {
    HEAD(lion),
    .fields = {BETAS(lion, 0.99)},
    .states = {{"m", NULL, NULL}},
    .positive = PK_POSITIVE_lion,
    .abilities = PK_CAUTIOUS | PK_NARROW_STATES,
};

static const pk_optimizer lamb = {
    HEAD(lamb),
    .fields = {BETAS(lamb, 0.999), EPS(lamb, 1e-6), SWITCH(lamb, decay_outside_norm, 0)},
    .states = {{"m", NULL, NULL}, {"v", NULL, NULL}},
    .abilities = PK_SCRATCH,
};

static const pk_optimizer adabelief = {
    HEAD(adabelief),
    .fields = {BETAS(adabelief, 0.999), EPS(adabelief, 1e-16)},
    .states = {{"m", NULL, NULL}, {"s", NULL, NULL}},
    .abilities = PK_CAUTIOUS,
};

static const pk_optimizer rprop = {
    HEAD(rprop),
    .fields = {NUMBER(rprop, eta_minus, 0.5, FRACTION),
               NUMBER(rprop, eta_plus, 1.2, 1, INFINITY, "a finite number >= 1"),
               NUMBER(rprop, min_size, 1e-6, AT_LEAST_0), NUMBER(rprop, max_size, 50, AT_LEAST_0)},
    .states = {{"prev", NULL, NULL}, {"size", NULL, NULL}},
    .rules = {{"min_size", PK_AT_MOST, "max_size"}},
};

#define PK_ROW(number, name) &name,
const pk_optimizer *const pk_optimizers[PK_N_OPTIMIZERS] = {PK_OPTIMIZERS(PK_ROW)};
