"""Keras's work, on TensorFlow.

Its best settings: the whole step in one `tf.function`. Optimizers are compiled by XLA (2.4 times
faster at 1 M elements). Recurrent layers are unrolled and not compiled by XLA, except that the
forecaster with small batches is compiled and not unrolled: the fastest of the four ways in each
case. Dense layers are not compiled. Where bfloat16 is asked for, layers have the dtype
"mixed_bfloat16", or float32 where that is faster here. Batch first, as its layers want it. Keras
has one bias per gate where PyTorch has two: it gets their sum.
"""

import os
from functools import partial

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf

PACKAGES = ("keras", "tensorflow-cpu")
LR = 1e-3
RULES = {
    "Adam": ("Adam", {"epsilon": 1e-8}),
    "SGD": ("SGD", {}),
    "RMSprop": ("RMSprop", {"rho": 0.99, "epsilon": 1e-16}),
    "AdaGrad": ("Adagrad", {"initial_accumulator_value": 0.0, "epsilon": 1e-20}),
}


def start(threads):
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def step(params, grads, *, optimizer, max_norm=None, ema_decay=None, zero_grad=False, **more):
    if optimizer not in RULES:
        raise NotImplementedError
    name, settings = RULES[optimizer]
    if max_norm is not None:
        more["global_clipnorm"] = max_norm
    if ema_decay is not None:
        more |= {"use_ema": True, "ema_momentum": ema_decay}
    opt = getattr(keras.optimizers, name)(LR, **settings, **more)
    variables = [keras.Variable(p) for p in params]
    gradients = [tf.Variable(g) for g in grads]
    opt.build(variables)

    @tf.function(jit_compile=True)
    def work():
        opt.apply(gradients, variables)
        if zero_grad:
            for g in gradients:
                g.assign(tf.zeros_like(g))

    # Its averages start a step later, at the parameters after the first one.
    return work, lambda _: [v.numpy() for v in variables[:1]]


def ways(make, compute, dtype):
    """To make the work: of a dtype and, with `compute`, of that one."""
    return [partial(make, some) for some in (dtype, *([f"mixed_{compute}"] if compute else []))]


def lstm(weights, *, unroll, dtype=None, **more):
    """A layer with PyTorch's weights: Keras has the same order of gates."""
    w_ih, w_hh, b_ih, b_hh = weights
    dtype = dtype or w_hh.dtype.name
    made = keras.layers.LSTM(w_hh.shape[1], unroll=unroll, dtype=dtype, **more)
    made.build((None, None, w_ih.shape[1]))
    made.set_weights([w_ih.T, w_hh.T, b_ih + b_hh])
    return made


def layer(x, dy, weights, *, cell, compute=None, **more):
    if cell != "LSTM" or more:
        raise NotImplementedError
    return ways(lambda dtype: layer_in(dtype, x, dy, weights), compute, x.dtype.name)


def layer_in(dtype, x, dy, weights):
    made = lstm(weights, unroll=True, return_sequences=True, dtype=dtype)
    x, dy = (tf.constant(a.swapaxes(0, 1)) for a in (x, dy))

    @tf.function
    def work():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = made(x)
            y = tf.cast(y, dy.dtype)
        return tape.gradient(y, [x, *(w.value for w in made.trainable_variables)], dy)

    def outcome(found):
        dx, dw_ih, dw_hh, db = (a.numpy() for a in found)
        return [dx.swapaxes(0, 1), dw_ih.T, dw_hh.T, db, db]

    return work, outcome


def train(model, loss, x, y, *, compiled):
    opt = keras.optimizers.Adam(LR, epsilon=1e-8)
    opt.build(model.trainable_variables)
    x, y = tf.constant(x), tf.constant(y)

    @tf.function(jit_compile=compiled)
    def work():
        with tf.GradientTape() as tape:
            found = loss(y, model(x, training=True))
        variables = model.trainable_variables
        opt.apply(tape.gradient(found, [v.value for v in variables]), variables)

    return work


def forecaster(windows, targets, weights):
    small = len(targets) <= 32
    lower = lstm(weights[:4], unroll=not small, return_sequences=True)
    upper, dense = lstm(weights[4:8], unroll=not small), keras.layers.Dense(1)
    made = keras.Sequential([keras.layers.Input((len(windows), 1)), lower, upper, dense])
    dense.set_weights([weights[8].T, weights[9]])
    loss, x = keras.losses.MeanSquaredError(), windows.swapaxes(0, 1)
    # No outcome: with one bias per gate it takes other steps.
    return train(made, loss, x, targets[:, None], compiled=small)


def mlp(x, labels, weights, *, compute=None):
    return ways(lambda dtype: mlp_in(dtype, x, labels, weights), compute, "float32")


def mlp_in(dtype, x, labels, weights):
    kinds = ["relu"] * (len(weights) // 2 - 1) + [None]
    layers = [
        keras.layers.Dense(len(b), activation=kind, dtype=dtype)
        for b, kind in zip(weights[1::2], kinds, strict=True)
    ]
    made = keras.Sequential([keras.layers.Input(x.shape[1:]), *layers])
    made.set_weights([value.T for value in weights])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    work = train(made, loss, x, labels, compiled=False)
    return work, lambda _: [array.T for array in made.get_weights()]


classifier, fitted = mlp, forecaster  # where pyoptk has models and `fit`
