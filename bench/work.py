"""The table of work: every row that is measured, by the part of the measurements it belongs to.

A new optimizer or cell needs no line here, and a new function of arrays is a line of FUNCTIONS.
Rows of single kernels name their `kernel`; its twin, the roof and PyTorch stand beside it.
"""

import itertools

import numpy as np

import pyoptk
from pyoptk import _optim
from pyoptk.duel import rows
from pyoptk.duel.rows import layer, of, other, step

NAMES = {name.lower(): name for name in pyoptk.__all__}
OPTIMIZERS = [NAMES[kernel] for kernel in _optim.ROWS]  # those that C describes
CELLS = [name for name in pyoptk.__all__ if hasattr(getattr(pyoptk, name), "gates")]
FORMS = {  # kernels that a keyword of a layer selects
    "gru_before": {"cell": "GRU", "reset_after": False},
    "lstm_coupled": {"cell": "LSTM", "coupled": True},
    "lstm_normed": {"cell": "LSTM", "layer_norm": True},
    "gru_normed": {"cell": "GRU", "layer_norm": True},
}
PARTS = ("forward", "backward", "step")
NUMPY = "NumPy in place"
FUSED, DEEPSPEED, ROOF = "PyTorch fused", "DeepSpeed", "roof"
WIDE = "pyoptk float32"  # itself, with states of float32
TORCH = (FUSED, "PyTorch foreach", "PyTorch for-loop")
SIZES = (1_000, 100_000, 1_000_000, 4_000_000)  # the last is larger than most caches
# M, N, K: h [B, H] times w_hh^T [H, 4H], as an LSTM does at every step
MATMUL = ((1, 256, 64), (32, 512, 128), (32, 1024, 256), (128, 1024, 256), (16, 4096, 1024))
# T, B, I, H
LAYERS = (
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256), (30, 128, 256, 256),
    (50, 16, 256, 1024),
)  # fmt: skip
LINEAR = ((8, 64, 64), (32, 64, 64), (32, 256, 256), (128, 784, 512))  # M, I, O
NORM = ((32, 64), (512, 256), (2048, 768))  # M, N
CROSS_ENTROPY = ((32, 10), (128, 1000), (1024, 10000))  # M, C
LOSSES = ("mse", "bce_with_logits")
DENSE = (  # M, I, O; bars
    ((8, 64, 64), (4, NUMPY), (20, FUSED)),
    ((32, 64, 64), (1.6, NUMPY)),
    ((32, 256, 256), (1.35, NUMPY)),
)
MODELS = (  # units, rows; bars
    (rows.MLP, 128, (1.15, FUSED, "Keras"), (1, "JAX")),
    (rows.MLP, 8, (2.5, FUSED, "JAX")),
    ((20, 64, 10), 32, (10, FUSED), (3, "JAX")),
    ((4, 16, 2), 1, (15, FUSED)),
)
# Layers beside those of rows.LSTM: sizes, options, bars.
OTHER_LAYERS = (
    ("GRU", (10, 1, 16, 32), {}, (50, FUSED)),
    ("GRU", (50, 32, 64, 128), {}, (1.8, FUSED), (1.6, "JAX"), (0.75, ROOF)),
    ("GRU", (50, 32, 64, 128), {"packed": True}, (3, FUSED)),
    ("GRU", (100, 32, 128, 256), {}, (1.5, FUSED), (0.8, ROOF)),
    ("GRU", (30, 128, 256, 256), {}, (1.5, FUSED), (0.8, ROOF)),
    ("RNN", (50, 32, 64, 128), {}, (1.8, FUSED)),
    ("LSTM", (50, 20, 200, 200), {}, (0.78, ROOF)),
    ("LSTM", (50, 32, 64, 128), {"proj_size": 64}, (2, FUSED)),
    ("LSTM", (50, 32, 64, 128), {"layer_norm": True}, (5, FUSED)),
    ("GRU", (50, 32, 64, 128), {"layer_norm": True}, (5, FUSED)),
    ("LSTM", (50, 32, 64, 128), {"recurrent_dropout": 0.2}),
    ("LSTM", (50, 32, 64, 128), {"zoneout": (0.5, 0.05)}),
)
NARROW = rows.LSTM[2:6]  # with compute="bfloat16"
NARROW_LINEAR = ((128, 512, 512), (512, 1024, 1024))  # the same
# Steps with narrow states and parameters; on one thread arithmetic limits states of 8 bits.  A copy
# may take 1.12 times as long as the step without it: 0.89.
NARROW_STEPS = (
    ({"state_dtype": "bfloat16"}, (1.2, WIDE), (0.9, ROOF)),
    ({"state_dtype": "8bit"}, (1.25, WIDE), (1.4, FUSED), (50, "bitsandbytes"), (0.75, ROOF)),
    ({"master": "remainder"}, (1.05, FUSED), (1.5, DEEPSPEED), (0.9, ROOF)),
    ({"master": "remainder", "state_dtype": "bfloat16"}, (1.4, FUSED), (0.9, ROOF)),
    ({"master": "float32"}, (0.89, WIDE), (0.9, ROOF)),
    ({"master": "stochastic"}, (0.9, ROOF)),
)
SCANS = ((100, 8, 64), (1_000, 8, 256), (1_000, 32, 512))  # T, B, D
# An optimizer, and how many rows of a table of 50,000 x 64 its gradient has.
SPARSE = tuple((name, count) for name in ("Adam", "SGD", "AdaGrad") for count in (512, 8192))


def elements(times, arrays=2, **more):
    """A function of arrays of n elements, which reads or writes `times` as many in all."""
    return lambda n: (f"{n:,} elements", [[n]] * arrays, {"elements": times * n, **more})


def sequences(n):
    """As between two recurrent layers."""
    return f"{n:,} elements", [[10, n // 1_000, 100]] * 2, {"elements": 2 * n}


def product(size):
    M, N, K = size
    return f"[{M}, {K}] x [{K}, {N}]", [[M, K], [K, N], [M, N]], {"flop": 2 * M * N * K}


# Functions of arrays: label, shapes and work of a size; the sizes; the arguments after the arrays.
FUNCTIONS = {
    "exp": (elements(2), SIZES[:3]),
    "sigmoid": (elements(2), SIZES[:3]),
    "tanh": (elements(2), SIZES[:3]),
    "dropout": (sequences, SIZES, {"p": 0.2, "seed": 1}),
    "global_norm": (elements(1, 1, only_read=True), SIZES),
    "clip_by_global_norm": (elements(3, 1), SIZES, {"max_norm": 0.1}),
    "clip_by_value": (elements(2, 1), SIZES, {"clip_value": 1e-3}),
    "matmul": (product, MATMUL),
}


def function(name, size, dtype="float32"):
    of_size, _, arguments = (*FUNCTIONS[name], {})[:3]
    label, shapes, amount = of_size(size)
    if count := amount.pop("elements", 0):
        amount["bytes"] = count * np.dtype(dtype).itemsize
    sizes, settings = {"shapes": shapes, "dtype": dtype}, {"name": name, "arguments": arguments}
    return other(f"{name}, {label}{of(dtype)}", "function", sizes, settings, **amount)


def linear(M, I, O, part="", dtype="float32", **mode):
    flop = {"forward": 2, "backward": 4, "": 6}[part] * M * I * O
    sizes = {"M": M, "I": I, "O": O, "dtype": dtype}
    label = f"Linear and ReLU, {M} rows, {I} to {O}{f', {part}' * bool(part)}{of(dtype)}"
    return in_mode(other(label, "linear", sizes, part=part, flop=flop), mode)


def layer_norm(M, N, part="", dtype="float32"):
    size = {"forward": 2, "backward": 3, "": 5}[part] * M * N * np.dtype(dtype).itemsize
    label = f"layer_norm, {M} x {N}{f', {part}' * bool(part)}{of(dtype)}"
    return other(label, "layer_norm", {"M": M, "N": N, "dtype": dtype}, part=part, bytes=size)


def loss(name, M, N, dtype="float32"):
    """A loss and its gradient."""
    arrays = 2 if name == "softmax_cross_entropy" else 3
    sizes, label = {"M": M, "N": N, "dtype": dtype}, f"{name}, {M} x {N}{of(dtype)}"
    size = arrays * M * N * np.dtype(dtype).itemsize
    return other(label, "loss", sizes, {"function": name}, bytes=size)


def classifier(*layers, B, **mode):
    """A whole training step of a model of dense layers."""
    flop = 6 * B * sum(a * b for a, b in itertools.pairwise(layers))
    label = f"Sequential {'-'.join(map(str, layers))}, batch of {B}"
    return in_mode(other(label, "classifier", {"layers": layers, "B": B}, flop=flop), mode)


def in_mode(row, mode):
    """The row with `compute` of layers, if that is given; results then differ by roundings."""
    if not mode:
        return row
    label = f"{row['label']}, compute={mode['compute']}"
    return row | {"label": label, "settings": mode, "tolerance": 0.3}


def fitted(B):
    """A whole training step of the forecaster, by `fit`."""
    row = rows.forecaster(B)
    return row | {"label": f"fit, {row['label']}", "task": "fitted"}


def halves(master, state_dtype):
    """A step of bfloat16 parameters and gradients, where others are of bfloat16, too."""
    row = step("Adam", 10_000_000, master=master, state_dtype=state_dtype)
    label = row["label"] + ", beside bfloat16"
    return row | {"label": label, "task": "halves", "tolerance": 0.02}


# The rows of README's table.
BRIEF = [
    row["label"]
    for row in (
        *(step("Adam", n) for n in (1_000, 1_000_000, 10_000_000)),
        layer(*rows.LSTM[2]),
        layer(*rows.LSTM[3], compute="bfloat16"),
        linear(512, 1024, 1024, compute="bfloat16"),
        classifier(*rows.MLP, B=128),
        fitted(32),
    )
]


def touched_rows(optimizer, count, dtype, **more):
    """A step for the touched rows of a table; `more` says `dense`."""
    label = f"sparse rows, {optimizer}, {count:,} of 50,000 rows of 64{', dense' * bool(more)}"
    more |= {"eps_hat": True} if optimizer == "Adam" else {}
    size = rows.streams(optimizer) * count * 64 * np.dtype(dtype).itemsize
    sizes = {"count": count, "dtype": dtype}
    return other(
        label + of(dtype), "touched_rows", sizes, {"optimizer": optimizer, **more}, bytes=size
    )


def stack(T, B, I, H):
    """Forward and backward of two layers of LSTM in both directions."""
    row, more = layer(T, B, I, H), {"layers": 2, "directions": 2}
    row["label"] += ", 2 layers, bidirectional"
    row["flop"] = 2 * (rows.layer_flop(T, B, I, H) + rows.layer_flop(T, B, 2 * H, H))
    return row | {"sizes": row["sizes"] | more, "settings": row["settings"] | more}


def kernels(quick=False):
    """Every kernel by size and dtype; `quick`: its first two sizes."""

    def some(sizes):
        return sizes[:2] if quick else sizes

    for dtype in ("float32", "float64"):
        for name in OPTIMIZERS:
            for n in some(SIZES):
                yield step(name, n, dtype=dtype) | {"kernel": name.lower()}
        for name, (_, sizes, *_) in FUNCTIONS.items():
            for size in some(sizes):
                yield function(name, size, dtype) | {"kernel": name}
        forms = {cell.lower(): {"cell": cell} for cell in CELLS} | FORMS
        for (kernel, form), part in itertools.product(forms.items(), PARTS):
            for size in some(LAYERS):
                row = layer(*size, **form, dtype=dtype, part=part)
                yield row | {"kernel": f"{kernel}_{part}"}
        for part in ("forward", "backward"):
            for size in some(LINEAR):
                yield linear(*size, part, dtype) | {"kernel": f"linear_{part}"}
            for size in some(NORM):
                yield layer_norm(*size, part, dtype) | {"kernel": f"layer_norm_{part}"}
        for size in some(CROSS_ENTROPY):
            yield loss("softmax_cross_entropy", *size, dtype) | {"kernel": "cross_entropy"}
        for name in LOSSES:
            for size in some(CROSS_ENTROPY):
                yield loss(name, *size, dtype) | {"kernel": "elementwise_loss"}
        for size, part in itertools.product(some(SCANS), ("forward", "backward")):
            row = rows.scan(*size, dtype=dtype, part=part)
            yield row | {"kernel": f"linear_scan_{part}"}
        for size in some(SPARSE):
            yield touched_rows(*size, dtype) | {"kernel": "touched_rows"}


def calls():
    """What a call costs; steps long after the last gradient, dense beside sparse, narrow states."""
    for optimizer in ("SGD", "AdaGrad", "RMSprop", "Adam"):
        yield step(optimizer, 16)
    yield other("kernels.adam (as twin: numpy.add), 16 elements", "call", {})
    for age in (1, 10_000):
        label = f"Adam, 10,000 elements, 100 steps with zero gradients after {age:,} of them"
        yield other(label, "decayed", {"n": 10_000, "age": age})
    for optimizer in ("SGD", "AdaGrad", "Adam"):
        yield touched_rows(optimizer, 512, "float32", dense=True)
    for n, state_dtype in itertools.product((100_000, 10_000_000), rows.NARROW):
        yield step("Adam", n, state_dtype=state_dtype)
    for master in rows.MASTERS:
        yield step("Adam", 10_000_000, master=master)
    yield step("Adam", 10_000_000, master="remainder", state_dtype="bfloat16")


def peers():
    """The rows of the duels with other libraries, from the smallest to the largest of their kind.

    Each has its `bars`: at least how many times as long as pyoptk the fastest of some peers should
    take. bars.py says which are met.
    """
    two = (0.97, FUSED, DEEPSPEED), (0.95, ROOF)
    for n, *bars in (
        (1_000, (10, FUSED), (6, DEEPSPEED)), (10_000,), (100_000, (2.8, FUSED), (1.4, DEEPSPEED)),
        (1_000_000, (1.7, FUSED), (1.05, DEEPSPEED)), (10_000_000, *two), (50_000_000, *two),
    ):  # fmt: skip
        yield step("Adam", n) | {"bars": bars}
    for n, (storage, *bars) in itertools.product((10_000_000, 50_000_000), NARROW_STEPS):
        row = step("Adam", n, **storage)
        yield row | {"task": "narrow", "tolerance": 0.02, "bars": bars}
    yield step("Adam", 1_000, count=1_000) | {"bars": [(11, FUSED), (11, DEEPSPEED)]}
    for optimizer, times in (("SGD", 0.97), ("RMSprop", 4), ("AdaGrad", 1.5)):
        yield step(optimizer, 1_000_000) | {"bars": [(times, *TORCH)]}
    yield step("Adam", 10_000_000, max_norm=1.0) | {"bars": [(1.3, FUSED)]}
    everything = step("Adam", 10_000_000, max_norm=1.0, ema_decay=0.999, zero_grad=True)
    yield everything | {"bars": [(1.25, *TORCH)]}
    yield halves("stochastic", "8bit") | {"bars": [(1.7, FUSED)]}
    yield halves("remainder", "bfloat16") | {"bars": []}
    for size, times in zip(rows.LSTM, (4, 1.9, 1.6, 1.5, 1.3, 1.25, 1.15), strict=True):
        large = size[3] >= 256 and size[1] >= 32
        yield layer(*size) | {"bars": [(times, FUSED), *([(0.8, ROOF)] if large else [])]}
    for more in ({"dtype": "float64"}, {"packed": True}):
        yield layer(50, 32, 64, 128, **more) | {"bars": [(4, FUSED)]}
    yield stack(50, 32, 64, 128) | {"bars": []}
    for cell, size, more, *bars in OTHER_LAYERS:
        yield layer(*size, cell=cell, **more) | {"bars": bars}
    for size, cell in itertools.product(NARROW, ("LSTM", "GRU")):
        row = layer(*size, cell=cell, compute="bfloat16")
        yield row | {"bars": [(1.25, FUSED), (0.65, ROOF)]}
    for size in NARROW_LINEAR:
        yield linear(*size, compute="bfloat16") | {"bars": [(1.25, FUSED), (0.65, ROOF)]}
    yield classifier(*rows.MLP, B=128, compute="bfloat16") | {"bars": [(1.25, FUSED)]}
    yield rows.scan(1_000, 8, 256) | {"bars": [(2, "JAX"), (300, FUSED)]}
    yield rows.forecaster(32) | {"bars": [(3, FUSED, "JAX"), (11, "Keras")]}
    yield rows.forecaster(256) | {"bars": [(2.6, FUSED, "JAX")]}
    yield rows.mlp() | {"bars": []}
    for size, *bars in DENSE:
        yield linear(*size) | {"bars": bars}
    yield loss("softmax_cross_entropy", 32, 10) | {"bars": [(5, NUMPY)]}
    large = loss("softmax_cross_entropy", 1024, 10000)
    yield large | {"bars": [(1.9, NUMPY), (5, FUSED)]}
    yield layer_norm(512, 256) | {"bars": [(2, FUSED)]}
    for layers, B, *bars in MODELS:
        yield classifier(*layers, B=B) | {"bars": bars}
    yield fitted(32) | {"bars": [(2.8, FUSED, "Keras"), (2.2, "JAX")]}
    yield fitted(256) | {"bars": [(1.95, FUSED)]}


SCALED = (16, 1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
SCALED_LSTM = (*rows.LSTM, (20, 64, 128, 128), (20, 256, 64, 256), (20, 8, 128, 512))
BATCHES = (32, 128, 512, 1_000)  # rows of the product before a step
FMA, CELL = "multiply-adds", 1_024  # elements of the functions in a cell


def scaling():
    """The rows of the model of scaling.py, with their `family` and `size`."""
    for n in SCALED:
        yield step("Adam", n) | {"family": "Adam", "size": [n]}
    for size in SCALED_LSTM:
        yield layer(*size) | {"family": "LSTM", "size": list(size)}


def machine(caches):
    """What a core may reach: multiply-adds, bytes of each level, the functions in a cell.

    Four arrays fill half of a cache, or many times the last one.
    """
    yield other(FMA, FMA, {}, flop=2e8)
    for level, size in (*caches.items(), ("memory", 8 * caches["L3"])):
        yield other(level, "streams", {}, bytes=28 * (size // 32))
    yield from (function(name, CELL) for name in ("sigmoid", "tanh"))


def after_product():
    """A step over a million elements, alone and right after the product of its gradient.

    The product puts arrays out of the caches, as far as it has rows, and threads of NumPy's BLAS
    look for another one for a while, on cores that the step could use.
    """
    for batch in (*BATCHES, None):
        label = f"step after a product of {batch:,} rows" if batch else "step alone"
        sizes = {"batch": batch or BATCHES[0], "side": 1_000}
        yield other(label, "after_product", sizes, {"alone": not batch}, block=0.3)
