"""Linear layers, normalization and losses: arrays of every layout, options right and wrong."""

import inspect

import numpy as np

from pyoptk import kernels, reference
from pyoptk._dense import ACTIVATIONS

from .arrays import UNREADABLE, junk
from .trial import Refused

# The axes of each array; a capital letter after / is an array that is written.
NORM = {"x": "MN", "gain": "N", "mean": "M", "scale": "M"}
LOSS = {"x": "MN", "target": "MN", "/dx": "MN", "weights": "M"}
ARRAYS = {
    "linear_forward": {"x": "MN", "w": "ON", "b": "O", "/y": "MO", "/z": "MO"},
    "linear_backward": {
        "dy": "MO", "x": "MN", "w": "ON", "y": "MO", "z": "MO", "/dx": "MN", "/dw": "ON", "/db": "O"
    },
    "layer_norm_forward": {
        "x": "MN", "gain": "N", "bias": "N", "/y": "MN", "/mean": "M", "/scale": "M"
    },
    "layer_norm_backward": {"dy": "MN", **NORM, "/dx": "MN", "/dgain": "N", "/dbias": "N"},
    "rms_norm_forward": {"x": "MN", "gain": "N", "/y": "MN", "/scale": "M"},
    "rms_norm_backward": {
        "dy": "MN", "x": "MN", "gain": "N", "scale": "M", "/dx": "MN", "/dgain": "N"
    },
    "softmax_cross_entropy": {**LOSS, "class_weights": "N"},
    **dict.fromkeys(("mse", "mae", "huber", "bce_with_logits"), LOSS),
}  # fmt: skip
OPTIONS = {
    "activation": ACTIVATIONS,
    "accumulate": [False, True],
    "slope": [0.0, 0.1, 2],
    "eps": [1e-5, 1e-3],
    "delta": [0.1, 1, 3.0],
    "pos_weight": [0.0, 1, 2.5],
    "label_smoothing": [0.0, 0.1, 0.9],
    "ignore_index": [-100, 0, 1],
    "scale": [1.0, -2, 128.0],
}


def _wrong(t, placed, values):
    """Puts an array that must be refused in the place of one; None if that may be right."""
    name = t.pick(list(placed))
    kind = t.pick(["layout", "shape", "same", "dtype"])
    if values[name].size < 2 or values[name].dtype.kind == "i":
        return None
    if kind == "layout":
        placed[name] = t.place(values[name], t.pick([*UNREADABLE, "strided"]))
        if placed[name].flags.c_contiguous and placed[name].flags.aligned:
            return None if type(placed[name]) is np.ndarray else True
    elif kind == "shape":
        placed[name] = t.place(t.normal((*values[name].shape, 2), values[name].dtype))
    elif kind == "same":
        placed[name] = placed[t.pick([other for other in placed if other != name])]
        return None
    else:
        placed[name] = values[name].astype(t.pick(["f2", "i4", "c8"]))
        return None if name == "target" else True
    return True


def _drawn(t, name, dtype):
    """The sizes, the arrays by name, and the options of a kernel, all of them right."""
    sizes = {"M": t.size(), "N": max(1, t.size()), "O": max(1, t.size())}
    values = {
        key.strip("/"): t.normal([sizes[a] for a in axes], dtype)
        for key, axes in ARRAYS[name].items()
    }
    for key in ("weights", "class_weights", "scale", "target"):
        if key in values:
            values[key] = np.abs(values[key])
    if name == "softmax_cross_entropy" and t.chance(0.7):
        values["target"] = t.rng.integers(0, sizes["N"], sizes["M"])
    known = inspect.signature(getattr(kernels, name)).parameters
    options = {
        key: t.pick(OPTIONS[key])
        for key, parameter in known.items()
        if parameter.kind is parameter.KEYWORD_ONLY and key in OPTIONS and key not in values
    }
    for key in ("b", "gain", "bias", "weights", "class_weights"):
        if t.chance(0.3):
            values.pop(key, None)
    # what may be None, but has no default
    options |= {key: None for key in ("b", "gain", "bias") if key in known and key not in values}
    return sizes, values, options


def dense(t):
    """A layer, a normalization or a loss: values near the twin's, or refused."""
    name, dtype = t.pick(list(ARRAYS)), np.dtype(t.pick(["f4", "f8"]))
    sizes, values, options = _drawn(t, name, dtype)
    written = [key[1:] for key in ARRAYS[name] if key[0] == "/"]
    placed = {
        key: t.place(array, "C" if key in written else t.pick(["C", "readonly"]))
        for key, array in values.items()
    }
    must = False
    if t.chance(0.2):
        must = _wrong(t, placed, values)
    elif options and t.chance(0.1):
        options[t.pick(list(options))] = junk(t.rng)
        must = None
    writes = [placed[key] for key in written]
    result = t.call(getattr(kernels, name), **placed, **options, writes=writes, must=must)
    if isinstance(result, Refused) or must is not False:
        return
    twins = {key: array.copy() for key, array in values.items()}
    expected = getattr(reference, name)(**twins, **options)
    results = [(placed[key], twins[key]) for key in written]
    results += [] if expected is None else [(result, np.float64(expected))]
    for ours, theirs in results:
        room = 300 * np.finfo(dtype).eps * (1 + np.abs(theirs).max(initial=0))
        near = np.abs(ours - theirs) <= room * (1 + max(sizes.values()) ** 0.5)
        t.check(bool(np.all(near)), f"{name} {sizes} {options} is far from its twin")
