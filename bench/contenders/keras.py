"""Keras's work, on TensorFlow.

Its best settings: the whole step in one `tf.function`. Optimizers are compiled by XLA (2.4 times
faster at 1 M elements). Recurrent layers are unrolled and not compiled by XLA, except that the
forecaster with small batches is compiled and not unrolled: the fastest of the four ways in each
case. Dense layers are not compiled. Batch first, as its layers want it. Keras has one bias per gate
where PyTorch has two: it gets their sum.
"""

import os

PACKAGES = ("keras", "tensorflow-cpu")
LR = 1e-3


def _start(threads):
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def step(
    params,
    grads,
    *,
    optimizer,
    threads,
    max_norm=None,
    ema_decay=None,
    zero_grad=False,
    momentum=0.0,
):
    tf = _start(threads)
    import keras

    more = {"global_clipnorm": max_norm} if max_norm is not None else {}
    if ema_decay is not None:
        more |= {"use_ema": True, "ema_momentum": ema_decay}
    rules = {
        "Adam": lambda: keras.optimizers.Adam(LR, epsilon=1e-8, **more),
        "SGD": lambda: keras.optimizers.SGD(LR, momentum, **more),
        "RMSprop": lambda: keras.optimizers.RMSprop(LR, 0.99, epsilon=1e-16, **more),
        "AdaGrad": lambda: keras.optimizers.Adagrad(
            LR, initial_accumulator_value=0.0, epsilon=1e-20, **more
        ),
    }
    if optimizer not in rules:
        raise NotImplementedError
    opt = rules[optimizer]()
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
    return work, lambda: [v.numpy() for v in variables[:1]]


def _lstm_layer(weights, *, unroll, **more):
    """A layer with PyTorch's weights: Keras has the same order of gates."""
    import keras

    w_ih, w_hh, b_ih, b_hh = weights
    layer = keras.layers.LSTM(w_hh.shape[1], unroll=unroll, dtype=w_hh.dtype.name, **more)
    layer.build((None, None, w_ih.shape[1]))
    layer.set_weights([w_ih.T, w_hh.T, b_ih + b_hh])
    return layer


def layer(x, dy, weights, *, cell, threads, **more):
    tf = _start(threads)
    if cell != "LSTM" or more:
        raise NotImplementedError
    layer = _lstm_layer(weights, unroll=True, return_sequences=True)
    x, dy = (tf.constant(a.swapaxes(0, 1)) for a in (x, dy))
    found = None

    @tf.function
    def whole():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        return tape.gradient(y, [x, *(w.value for w in layer.trainable_variables)], dy)

    def work():
        nonlocal found
        found = whole()

    def outcome():
        dx, dw_ih, dw_hh, db = (a.numpy() for a in found)
        return [dx.swapaxes(0, 1), dw_ih.T, dw_hh.T, db, db]

    return work, outcome


def _train(model, loss, x, y, compiled):
    import keras
    import tensorflow as tf

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


def forecaster(windows, targets, weights, *, threads):
    _start(threads)
    import keras

    lower, upper, (w, b) = weights
    small = len(targets) <= 32
    dense = keras.layers.Dense(1)
    model = keras.Sequential(
        [
            keras.layers.Input((len(windows), 1)),
            _lstm_layer(lower, unroll=not small, return_sequences=True),
            _lstm_layer(upper, unroll=not small),
            dense,
        ]
    )
    dense.set_weights([w.T, b])
    x = windows.swapaxes(0, 1)
    work = _train(model, keras.losses.MeanSquaredError(), x, targets[:, None], small)
    return work, list  # with one bias per gate it goes another way


def mlp(x, labels, weights, *, threads):
    _start(threads)
    import keras

    kinds = ["relu"] * (len(weights) - 1) + [None]
    layers = [
        keras.layers.Dense(len(b), activation=kind)
        for (_, b), kind in zip(weights, kinds, strict=True)
    ]
    model = keras.Sequential([keras.layers.Input(x.shape[1:]), *layers])
    for layer, (w, b) in zip(layers, weights, strict=True):
        layer.set_weights([w.T, b])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    work = _train(model, loss, x, labels, False)
    outcome = [(layer.kernel, layer.bias) for layer in layers]
    return work, lambda: [a for w, b in outcome for a in (w.numpy().T, b.numpy())]
