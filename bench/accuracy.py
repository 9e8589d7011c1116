"""What ``compute="bfloat16"`` costs in accuracy: ``python -m bench.accuracy --peers DIR``.

Gradients against those of float64, ours beside PyTorch's under autocast; and the losses that
training reaches, beside those of float32. Writes its section of docs/performance.md, which a new
report keeps. No figure in that section is typed.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import pyoptk
from pyoptk import losses
from pyoptk.demo import forecast, forecaster, parts, series
from pyoptk.duel import machine
from pyoptk.duel.contenders import inputs
from pyoptk.layers import Embedding, Last, Linear, Sequential

from . import environments, report

SIZE = 50, 32, 64, 128  # T, B, I, H
MODES = "float32", "bfloat16"
SEEDS, EPOCHS, STEPS, LAST = 5, 25, 300, 50  # the loss is the mean of the last steps
NAMES = "dx", "dw_ih", "dw_hh", "db"
ABOUT_GRADIENTS = (
    "The largest error of an element, as a part of the largest element, against the same layer in "
    "float64 (T {}, B {}, I {}, H {}; forward and backward)."
)
ABOUT_TRAINING = (
    "Loss in bfloat16 by that in float32 from the same first weights, for {} seeds: the forecaster "
    "of `python -m pyoptk demo` after {} epochs, and a character model, Embedding(32), LSTM(128) "
    "and Linear, after {} steps on the text of docs/. Mean squared error and cross-entropy, "
    "means of the last {} steps."
)


# ---- gradients -----------------------------------------------------------------------------------


def inputs_of(cell, dtype):
    """x, the gradient of y, and the weights, as the duels have them; in this dtype."""
    found = inputs.layer(*SIZE, gates=getattr(pyoptk, cell).gates)
    return [np.asarray(a, dtype) for a in (found["x"], found["dy"], *found["weights"])]


def ours(cell, dtype, compute=None):
    """dx and the gradients of the weights."""
    x, dy, *weights = inputs_of(cell, dtype)
    layer = getattr(pyoptk, cell)(*SIZE[2:], dtype=dtype, compute=compute)
    for param, weight in zip(layer.params.values(), weights, strict=True):
        param[...] = weight
    layer.forward(x)
    return [layer.backward(dy)[0], *layer.grads.values()]


def theirs(cell, python):
    """The same by PyTorch under autocast."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(given, *inputs_of(cell, np.float32))
        script = Path(__file__).with_name("autocast.py")
        subprocess.run([python, script, cell, given, found], check=True)
        return list(np.load(found).values())


def gradients(python):
    """A line for each cell and each of its gradients; without a Python for PyTorch, ours alone."""
    for cell in ("LSTM", "GRU", "RNN"):
        exact = ours(cell, np.float64)
        found = [ours(cell, np.float32, compute) for compute in MODES]
        found += [theirs(cell, python)] if python else []
        for k, name in enumerate(NAMES):
            errors = [np.abs(f[k] - exact[k]).max() / np.abs(exact[k]).max() for f in found]
            yield [f"{cell}, {name}", *(f"{error:.2g}" for error in errors)]


# ---- training ------------------------------------------------------------------------------------


def co2(seed, compute):
    """The loss of the demo's forecaster."""
    task, rng = forecast.prepare(series.shipped(), None), np.random.default_rng(seed)
    one = forecaster.Forecaster(rng)
    lower, upper = (pyoptk.LSTM(*sizes, compute=compute) for sizes in ((1, 64), (64, 32)))
    model = Sequential(lower, upper, Last(), Linear(32, 1, compute=compute))
    model.flat_params[...] = one.model.flat_params
    one.model = model
    one.optimizer = pyoptk.Adam(model.params, lr=forecaster.LR, max_norm=forecaster.MAX_NORM)
    return np.mean(forecast.train(one, task, EPOCHS, rng, parts.Extras())[-LAST:])


def characters(seed, compute):
    """The loss of a character model."""
    text = "".join(file.read_text("utf-8") for file in sorted(report.DOCS.glob("*.md")))
    letters, numbers = np.unique(list(text), return_inverse=True)
    T, B, V, rng = 50, 32, len(letters), np.random.default_rng(seed)
    model = Sequential(
        Embedding(V, 32, rng=rng), pyoptk.LSTM(32, 128, rng=rng, compute=compute),
        Linear(128, V, rng=rng, compute=compute),
    )  # fmt: skip
    adam, found = pyoptk.Adam(model.params, lr=0.005, max_norm=1.0), []
    for _ in range(STEPS):
        at = rng.integers(0, len(numbers) - T - 1, B) + np.arange(T + 1)[:, None]
        loss, dy = losses.cross_entropy(model.forward(numbers[at[:-1]]), numbers[at[1:]])
        model.backward(dy, need_dx=False)
        adam.step(model.grads)
        found.append(loss)
    return np.mean(found[-LAST:])


def training():
    """A line for each model: its losses in float32, then the ratios."""
    for label, run in (("forecaster", co2), ("characters", characters)):
        pairs = [[run(seed, compute) for compute in MODES] for seed in range(SEEDS)]
        wide = [pair[0] for pair in pairs]
        ratios = [narrow / wide for wide, narrow in pairs]
        told = [f"{min(wide):.3g} to {max(wide):.3g}", *(f"{ratio:.4f}" for ratio in ratios)]
        yield [label, *told]


def main():
    parser = argparse.ArgumentParser(prog="bench.accuracy", description=__doc__)
    parser.add_argument("--peers", type=Path, help="the folder of the environments")
    folder = parser.parse_args().peers
    python = environments.pythons(folder, {})["torch"] if folder else None
    heads = ["", *MODES, *(["PyTorch's autocast"] if python else [])]
    text = [
        report.ACCURACY, "{cpu}, {isa}, {date}.".format(**machine.describe()),
        ABOUT_GRADIENTS.format(*SIZE), report.markdown(heads, gradients(python)),
        ABOUT_TRAINING.format(SEEDS, EPOCHS, STEPS, LAST),
        report.markdown(["", "float32", *(f"seed {k}" for k in range(SEEDS))], training()),
    ]  # fmt: skip
    new = "\n\n".join(text)
    report.put(report.ACCURACY, new)
    print(new)


if __name__ == "__main__":
    main()
