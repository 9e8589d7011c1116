"""What training reaches: ``python -m bench.accuracy products --peers DIR``, ``states`` or ``text``.

"products", which is ``compute="bfloat16"``: gradients against those of float64, ours beside
PyTorch's under autocast; and the losses that training reaches, beside those of float32. "states":
these losses with `state_dtype`. "text": a classifier by spaCy, with thinc's Adam and ours; needs
`--peers`. Each writes its section of docs/performance.md, which a new report
keeps. No figure in them is typed.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import pyoptk
from pyoptk import losses
from pyoptk.demo import forecast, forecaster, mlp, parts, series
from pyoptk.duel import machine
from pyoptk.duel.contenders import inputs
from pyoptk.layers import Embedding, Last, Linear, Sequential

from . import environments, report

SIZE = 50, 32, 64, 128  # T, B, I, H
MODES = "float32", "bfloat16"
STORED = {  # keywords of the optimizer
    "bfloat16": {"state_dtype": "bfloat16"},
    "8 bits": {"state_dtype": "8bit"},
    "8 bits, min_8bit_size=0": {"state_dtype": "8bit", "min_8bit_size": 0},
    'bfloat16 parameters, master="float32"': {"master": "float32"},
    'bfloat16 parameters, master="remainder"': {"master": "remainder"},
    'bfloat16 parameters, master="stochastic"': {"master": "stochastic"},
}
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
ABOUT_STATES = (
    "Training loss with narrow states by that with float32 from the same first weights and "
    "batches, for {seeds} seeds, and the mean of these ratios with its standard error: the "
    "forecaster of `python -m pyoptk demo` after {epochs} epochs; the character model after "
    "{steps} steps, with dense gradients of its embedding; a classifier, 64-64-10, of "
    "scikit-learn's digits, Adam at {lr:g}, after {epochs} epochs, with its mistakes in the tests, "
    "{tests} in all. Means of the last {last} steps, of the classifier over the training data. "
    "Many arrays of these models have fewer elements than `min_8bit_size`, hence the rows in which "
    "all have 8 bits. Models with bfloat16 parameters compute in float32 with these."
)
ABOUT_TEXT = (
    "spaCy {spacy}, thinc {thinc}, one thread. The classes of the texts are the packages of whose "
    "docstrings they are paragraphs: {counts} for training, {tests} for the test. {epochs} epochs, "
    "batches of {batch}; seconds of the processor in training, the medians of {rounds} turns, in "
    "which both start from the same weights and see the same batches."
)
DIGITS_LR = 3e-3


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


class AdamOfHalves:
    """Adam on parameters of bfloat16, which the float32 `params` of a model equal after a step."""

    def __init__(self, params, **settings):
        self.params = params
        bits = {name: param.view(np.uint32) for name, param in params.items()}
        self.halves = {
            name: ((b + 0x7FFF + (b >> 16 & 1)) >> 16).astype(np.uint16) for name, b in bits.items()
        }
        self.adam = pyoptk.Adam(self.halves, dtype="bfloat16", **settings)
        self.spread()

    @property
    def lr(self):
        return self.adam.lr

    @lr.setter
    def lr(self, value):  # the forecaster's schedule
        self.adam.lr = value

    def spread(self):
        for name, half in self.halves.items():
            self.params[name].view(np.uint32)[...] = half.astype(np.uint32) << 16

    def step(self, grads):
        self.adam.step(dict(grads))
        self.spread()


def adam_for(params, **settings):
    return (AdamOfHalves if "master" in settings else pyoptk.Adam)(params, **settings)


def co2(seed, compute=None, **stored):
    """The loss of the demo's forecaster."""
    task, rng = forecast.prepare(series.shipped(), None), np.random.default_rng(seed)
    one = forecaster.Forecaster(rng)
    lower, upper = (pyoptk.LSTM(*sizes, compute=compute) for sizes in ((1, 64), (64, 32)))
    model = Sequential(lower, upper, Last(), Linear(32, 1, compute=compute))
    model.flat_params[...] = one.model.flat_params
    one.model = model
    settings = {"lr": forecaster.LR, "max_norm": forecaster.MAX_NORM, **stored}
    one.optimizer = adam_for(model.params, **settings)
    return np.mean(forecast.train(one, task, EPOCHS, rng, parts.Extras())[-LAST:])


def digits(seed, *, mistakes, **stored):
    """The loss of a classifier; appends the number of mistakes in the test."""
    rng = np.random.default_rng(seed)
    data = mlp.load(rng)
    model = Sequential(Linear(64, 64, "relu", rng=rng), Linear(64, 10, rng=rng))
    adam = adam_for(model.params, lr=DIGITS_LR, **stored)
    for _ in range(EPOCHS):
        order = rng.permutation(data.labels.size)
        for batch in np.array_split(order, data.labels.size // mlp.BATCH):
            _, dy = losses.cross_entropy(model.forward(data.x[batch]), data.labels[batch])
            model.backward(dy, need_dx=False)
            adam.step(model.grads)
    mistakes.append(int((model.predict(data.test_x).argmax(1) != data.test_labels).sum()))
    return losses.cross_entropy(model.predict(data.x), data.labels)[0]


def dense(grads):
    """The same with arrays in the place of SparseRows, which a step of narrow states refuses."""
    found = dict(grads)
    for name, grad in grads.items():
        if isinstance(grad, pyoptk.SparseRows):
            found[name] = np.zeros(grad.shape, grad.values.dtype)
            np.add.at(found[name], grad.indices, grad.values)
    return found


def characters(seed, compute=None, gradients=dict, **stored):
    """The loss of a character model."""
    text = "".join(file.read_text("utf-8") for file in sorted(report.DOCS.glob("*.md")))
    letters, numbers = np.unique(list(text), return_inverse=True)
    T, B, V, rng = 50, 32, len(letters), np.random.default_rng(seed)
    model = Sequential(
        Embedding(V, 32, rng=rng), pyoptk.LSTM(32, 128, rng=rng, compute=compute),
        Linear(128, V, rng=rng, compute=compute),
    )  # fmt: skip
    adam, found = adam_for(model.params, lr=0.005, max_norm=1.0, **stored), []
    for _ in range(STEPS):
        at = rng.integers(0, len(numbers) - T - 1, B) + np.arange(T + 1)[:, None]
        loss, dy = losses.cross_entropy(model.forward(numbers[at[:-1]]), numbers[at[1:]])
        model.backward(dy, need_dx=False)
        adam.step(gradients(model.grads))
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


def states():
    """A line for each model and mode: the losses in float32, the ratios, and their mean."""
    wrong = []
    runs = {
        "forecaster": co2, "characters": partial(characters, gradients=dense),
        "digits": partial(digits, mistakes=wrong),
    }  # fmt: skip
    for label, run in runs.items():
        wide = [run(seed) for seed in range(SEEDS)]
        for mode, stored in STORED.items():
            narrow = [run(seed, **stored) for seed in range(SEEDS)]
            ratios = np.divide(narrow, wide)
            mean, error = ratios.mean(), ratios.std(ddof=1) / SEEDS**0.5
            told = f"{min(wide):.3g} to {max(wide):.3g}", *(f"{ratio:.4f}" for ratio in ratios)
            yield [f"{label}, {mode}", *told, f"{mean:.4f} ± {error:.4f}", mistakes(wrong)]


def mistakes(wrong):
    """Those of the classifier in the test: the seeds in float32, and in the mode measured last."""
    pairs = wrong[:SEEDS], wrong[-SEEDS:]
    return " and ".join(f"{sum(each)}" for each in pairs) if wrong else ""


def of_states():
    about = ABOUT_STATES.format(
        seeds=SEEDS, epochs=EPOCHS, lr=DIGITS_LR, steps=STEPS, last=LAST,
        tests=SEEDS * mlp.load(np.random.default_rng(0)).test_labels.size,
    )  # fmt: skip
    seeds = [f"seed {k}" for k in range(SEEDS)]
    heads = ["", "float32", *seeds, "mean", "mistakes, float32 and narrow"]
    return [about, report.markdown(heads, states())]


def of_text(found):
    """The tables of what textcat.py has printed."""
    counts = ", ".join(f"{count} of {name}" for name, count in found["counts"].items())
    lines, rounds = [], 0
    for name, by in found["models"].items():
        rounds = len(by["Adam.v1"])
        theirs, ours = (
            [statistics.median(column) for column in zip(*by[which], strict=True)]
            for which in ("Adam.v1", "pyoptk.Adam.v1")
        )
        told = [f"{seconds:.2f} s" for seconds in (theirs[0], ours[0])]
        told += [f"{theirs[0] / ours[0]:.2f}", f"{theirs[1]:.1%}", f"{ours[1]:.1%}"]
        lines.append([name, *told])
    heads = ["", "thinc's Adam", "pyoptk's", "times as long", "right, thinc's", "right, pyoptk's"]
    about = {name: found[name] for name in ("tests", "epochs", "batch")} | found["versions"]
    return [
        ABOUT_TEXT.format(**about, counts=counts, rounds=rounds), report.markdown(heads, lines)
    ]  # fmt: skip


def of_products(folder):
    python = environments.pythons(folder, {})["torch"] if folder else None
    heads = ["", *MODES, *(["PyTorch's autocast"] if python else [])]
    return [
        ABOUT_GRADIENTS.format(*SIZE), report.markdown(heads, gradients(python)),
        ABOUT_TRAINING.format(SEEDS, EPOCHS, STEPS, LAST),
        report.markdown(["", "float32", *(f"seed {k}" for k in range(SEEDS))], training()),
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(prog="bench.accuracy", description=__doc__)
    parser.add_argument("what", choices=["products", "states", "text"])
    parser.add_argument("--peers", type=Path, help="the folder of the environments")
    options = parser.parse_args()
    if options.what == "products":
        title, found = report.ACCURACY, of_products(options.peers)
    elif options.what == "states":
        title, found = report.STATES, of_states()
    else:
        python = environments.pythons(options.peers, {})["spacy"]
        worker = [python, Path(__file__).with_name("textcat.py")]
        done = subprocess.run(worker, check=True, capture_output=True, text=True)
        title, found = report.TEXT, of_text(json.loads(done.stdout))
    text = [title, "{cpu}, {isa}, {date}.".format(**machine.describe()), *found]
    new = "\n\n".join(text)
    report.put(title, new)
    print(new)


if __name__ == "__main__":
    main()
