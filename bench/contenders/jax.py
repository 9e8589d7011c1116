"""JAX's work, with Optax, all of it under jit.

Its best settings: parameters and state are donated, so that they are updated in place; one call
does the whole step; the gradients are device arrays already. The LSTM's products with the inputs
are one matmul over all time steps; the scan over time is unrolled where that was faster, which it
was for few steps of large batches and for nothing else (1, 5 and 10 steps were tried). Many tensors
are one flat vector to Optax (`optax.flatten`), which made a step over a thousand of them 1.5 times
faster. Where bfloat16 is asked for, arrays are of it, or of float32 where that is faster here.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

PACKAGES = ("jax", "jaxlib", "optax")
LR = 1e-3
RULES = {
    "Adam": lambda momentum: optax.adam(LR),
    "SGD": lambda momentum: optax.sgd(LR, momentum),
    "RMSprop": lambda momentum: optax.rmsprop(LR, 0.99, 1e-8, eps_in_sqrt=False),
    "AdaGrad": lambda momentum: optax.adagrad(LR, 0.0, 1e-20),
}


def repeated(whole, carried, batch=()):
    """Calls that hand on what they return, which is donated, and the last of that."""
    compiled = jax.jit(whole, donate_argnums=range(len(carried)))

    def work():
        nonlocal carried
        carried = jax.block_until_ready(compiled(*carried, *batch))
        return carried

    return work


def step(
    params, grads, *, optimizer, momentum=None, max_norm=None, ema_decay=None, zero_grad=False
):  # fmt: skip
    if optimizer not in RULES:
        raise NotImplementedError
    clip = [] if max_norm is None else [optax.clip_by_global_norm(max_norm)]
    rule = optax.chain(*clip, RULES[optimizer](momentum))
    rule = optax.flatten(rule) if len(params) > 100 else rule
    params, grads = [jnp.array(p) for p in params], [jnp.array(g) for g in grads]
    averages = [p + 0 for p in params] if ema_decay else []

    def whole(params, state, grads, averages):
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        averages = [a + (1 - ema_decay) * (p - a) for a, p in zip(averages, params)]  # noqa: B905
        if zero_grad:
            grads = [jnp.zeros_like(g) for g in grads]
        return params, state, grads, averages

    work = repeated(whole, (params, rule.init(params), grads, averages))
    return work, lambda carried: [carried[0][0], *carried[3][:1]]


def lstm(weights, x):
    """The outputs [T, B, H] of one layer; gates in PyTorch's order."""
    w_ih, w_hh, b_ih, b_hh = weights
    inputs = x @ w_ih.T + (b_ih + b_hh)
    zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)

    def one(carry, a):
        h, c = carry
        i, f, g, o = jnp.split(a + h @ w_hh.T, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    unroll = len(x) if len(x) <= 10 and x.shape[1] > 32 else 1
    return jax.lax.scan(one, (zeros, zeros), inputs, unroll=unroll)[1]


def gru(weights, x):
    """The same of a GRU, whose reset gate multiplies the product with h."""
    w_ih, w_hh, b_ih, b_hh = weights

    def one(h, a):
        r, z, n = jnp.split(a, 3, -1)
        r_h, z_h, n_h = jnp.split(h @ w_hh.T + b_hh, 3, -1)
        z = jax.nn.sigmoid(z + z_h)
        h = (1 - z) * jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h) + z * h
        return h, h

    zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)
    return jax.lax.scan(one, zeros, x @ w_ih.T + b_ih)[1]


def rnn(weights, x):
    w_ih, w_hh, b_ih, b_hh = weights

    def one(h, a):
        h = jnp.tanh(a + h @ w_hh.T)
        return h, h

    zeros = jnp.zeros((x.shape[1], w_hh.shape[1]), x.dtype)
    return jax.lax.scan(one, zeros, x @ w_ih.T + (b_ih + b_hh))[1]


def ways(make, compute, *arrays):
    """To make the work: of these arrays and, with `compute`, of that dtype."""
    narrow = [jax.tree.map(lambda array: jnp.asarray(array, compute), arrays)] if compute else []
    return [partial(make, *some) for some in (arrays, *narrow)]


def wide(found):
    """Arrays that NumPy knows."""
    return [array if array.dtype == "float64" else array.astype("float32") for array in found]


def layer(x, dy, weights, *, cell, compute=None, **more):
    if more:
        raise NotImplementedError
    return ways(partial(layer_of, cell), compute, x, dy, list(weights))


def layer_of(cell, x, dy, weights):
    run = {"LSTM": lstm, "GRU": gru, "RNN": rnn}[cell]
    if x.dtype == "float64":
        jax.config.update("jax_enable_x64", True)

    @jax.jit
    def whole(x, weights, dy):
        return jax.vjp(lambda x, w: run(w, x), x, weights)[1](dy)

    arguments = jax.device_put((x, weights, dy))
    work = partial(whole, *arguments)
    return lambda: jax.block_until_ready(work()), lambda found: wide([found[0], *found[1]])


def scan(a, b, dh):
    """With `lax.scan`, which was faster than `lax.associative_scan`."""
    if a.dtype == "float64":
        jax.config.update("jax_enable_x64", True)

    def recurrence(a, b):
        def one(h, now):
            h = now[0] * h + now[1]
            return h, h

        return jax.lax.scan(one, jnp.zeros_like(a[0]), (a, b))[1]

    @jax.jit
    def whole(a, b, dh):
        h, back = jax.vjp(recurrence, a, b)
        return h, *back(dh)

    arguments = jax.device_put((a, b, dh))
    return lambda: jax.block_until_ready(whole(*arguments)), list


def train(loss, weights, batch):
    """A training step with Adam, which returns the parameters first."""
    rule = optax.adam(LR)
    batch, weights = jax.device_put((batch, weights))

    def whole(weights, state, *batch):
        updates, state = rule.update(jax.grad(loss)(weights, *batch), state)
        return optax.apply_updates(weights, updates), state

    return repeated(whole, (weights, rule.init(weights)), batch)


def forecaster(windows, targets, weights):
    def forward(weights, windows):
        h = lstm(weights[4:8], lstm(weights[:4], windows))[-1]
        return (h @ weights[8].T + weights[9])[:, 0]

    def loss(weights, windows, targets):
        return jnp.mean((forward(weights, windows) - targets) ** 2)

    return train(loss, weights, (windows, targets)), lambda now: [forward(now[0], windows)]


def mlp(x, labels, weights, *, compute=None):
    make = partial(mlp_in, x, labels, weights)
    return ways(make, compute, np.zeros(0, "f4"))


def mlp_in(x, labels, weights, like):
    """With products in the dtype of `like`; the weights are of float32."""
    dtype = like.dtype

    def loss(weights, x, labels):
        x = x.astype(dtype)
        weights = [w.astype(dtype) for w in weights]
        for k in range(0, len(weights) - 2, 2):
            x = jax.nn.relu(x @ weights[k].T + weights[k + 1])
        logits = (x @ weights[-2].T + weights[-1]).astype("float32")
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    return train(loss, weights, (x, labels)), lambda now: now[0]


def both_ways(function, arguments, dy):
    """`function` of all arguments, and their gradients."""

    @jax.jit
    def whole(arguments, dy):
        return jax.vjp(function, *arguments)[1](dy)

    given = jax.device_put((arguments, dy))
    return lambda: jax.block_until_ready(whole(*given)), wide


def linear(x, w, b, dy, *, compute=None):
    def make(*given):
        return both_ways(lambda x, w, b: jax.nn.relu(x @ w.T + b), given[:3], given[3])

    return ways(make, compute, x, w, b, dy)


def layer_norm(x, gain, bias, dy):
    def normal(x, gain, bias):
        x = x - x.mean(1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(1, keepdims=True) + 1e-5) * gain + bias

    return both_ways(normal, (x, gain, bias), dy)


def loss(x, labels, targets, *, function):
    def mean(x, labels):
        return optax.softmax_cross_entropy_with_integer_labels(x, labels).mean()

    whole, given = jax.jit(jax.value_and_grad(mean)), jax.device_put((x, labels))
    return lambda: jax.block_until_ready(whole(*given)), list


classifier, fitted = mlp, forecaster  # where pyoptk has models and `fit`
