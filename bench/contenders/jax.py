"""JAX's work, with Optax, all of it under jit.

Its best settings: parameters and state are donated, so that they are updated in place; one call
does the whole step; the gradients are device arrays already. The LSTM's products with the inputs
are one matmul over all time steps; the scan over time is unrolled where that was faster, which it
was for few steps of large batches and for nothing else (1, 5 and 10 steps were tried). Many tensors
are one flat vector to Optax (`optax.flatten`), which made a step over a thousand of them 1.5 times
faster.
"""

PACKAGES = ("jax", "jaxlib", "optax")
LR = 1e-3


def _rule(optimizer, count, max_norm=None, **settings):
    import optax

    rules = {
        "Adam": lambda: optax.adam(LR),
        "AdamW": lambda: optax.adamw(LR, weight_decay=settings.get("weight_decay", 1e-2)),
        "SGD": lambda: optax.sgd(LR, settings.get("momentum")),
        "RMSprop": lambda: optax.rmsprop(LR, 0.99, 1e-8, eps_in_sqrt=False),
        "AdaGrad": lambda: optax.adagrad(LR, 0.0, 1e-20),
    }
    if optimizer not in rules:
        raise NotImplementedError
    clip = [] if max_norm is None else [optax.clip_by_global_norm(max_norm)]
    rule = optax.chain(*clip, rules[optimizer]())
    return optax.flatten(rule) if count > 100 else rule


def step(params, grads, *, optimizer, threads, ema_decay=None, zero_grad=False, **settings):
    import jax
    import jax.numpy as jnp
    import optax

    rule = _rule(optimizer, len(params), **settings)
    params, grads = [jnp.array(p) for p in params], [jnp.array(g) for g in grads]
    carried = (params, rule.init(params), grads, [p + 0 for p in params] if ema_decay else [])

    def whole(params, state, grads, averages):
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        averages = [a + (1 - (ema_decay or 0)) * (p - a) for a, p in zip(averages, params)]  # noqa: B905
        if zero_grad:
            grads = [jnp.zeros_like(g) for g in grads]
        return params, state, grads, averages

    compiled = jax.jit(whole, donate_argnums=(0, 1, 2, 3))

    def work():
        nonlocal carried
        carried = jax.block_until_ready(compiled(*carried))

    return work, lambda: [carried[0][0], *carried[3][:1]]


def _layer(weights, x):
    """The outputs [T, B, H] of one LSTM layer; gates in PyTorch's order."""
    import jax
    import jax.numpy as jnp

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


def layer(x, dy, weights, *, cell, threads, **more):
    import jax

    if cell != "LSTM" or more:
        raise NotImplementedError
    if x.dtype == "float64":
        jax.config.update("jax_enable_x64", True)

    @jax.jit
    def whole(x, weights, dy):
        return jax.vjp(lambda x, w: _layer(w, x), x, weights)[1](dy)

    arguments = jax.device_put((x, list(weights), dy))
    found = None

    def work():
        nonlocal found
        found = jax.block_until_ready(whole(*arguments))

    return work, lambda: [found[0], *found[1]]


def _train(loss, weights, batch):
    """A jitted training step with Adam, and the parameters it has arrived at."""
    import jax
    import optax

    rule = optax.adam(LR)
    batch, weights = jax.device_put((batch, weights))
    carried = weights, rule.init(weights)

    def whole(weights, state, batch):
        updates, state = rule.update(jax.grad(loss)(weights, *batch), state)
        return optax.apply_updates(weights, updates), state

    compiled = jax.jit(whole, donate_argnums=(0, 1))

    def work():
        nonlocal carried
        carried = jax.block_until_ready(compiled(*carried, batch))

    return work, lambda: carried[0]


def forecaster(windows, targets, weights, *, threads):
    import jax.numpy as jnp

    def forward(weights, windows):
        lower, upper, (w, b) = weights
        return (_layer(upper, _layer(lower, windows))[-1] @ w.T + b)[:, 0]

    def loss(weights, windows, targets):
        return jnp.mean((forward(weights, windows) - targets) ** 2)

    work, weights_now = _train(loss, weights, (windows, targets))
    return work, lambda: [forward(weights_now(), windows)]


def mlp(x, labels, weights, *, threads):
    import jax
    import optax

    def loss(weights, x, labels):
        for w, b in weights[:-1]:
            x = jax.nn.relu(x @ w.T + b)
        w, b = weights[-1]
        return optax.softmax_cross_entropy_with_integer_labels(x @ w.T + b, labels).mean()

    work, weights_now = _train(loss, list(weights), (x, labels))
    return work, lambda: [array for layer in weights_now() for array in layer]
