"""The five short examples beside the same programs in PyTorch and Keras: as short, the same curves.

The programs are in `originals`. Here they all start from the same weights, see the same batches and
drop nothing.
"""

import ast
import copy
import functools
import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest

import pyoptk

ROOT = Path(__file__).parents[1]
PROGRAMS = ["forecast", "classify_sequences", "classify", "regression", "optimizers"]


def lines_of(path):
    """Lines without comments, blank lines, the docstring and imports."""
    text = path.read_text()
    tree = ast.parse(text)
    left_out = [tree.body[0], *(n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom))]
    numbers = {k for node in left_out for k in range(node.lineno, node.end_lineno + 1)}
    lines = [line.strip() for k, line in enumerate(text.splitlines(), 1) if k not in numbers]
    return sum(bool(line) and not line.startswith("#") for line in lines)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_as_short_as_its_original(name):
    # One shows a loop that is written out, which is not how Keras is used.
    for library in ["torch"] if name == "classify_sequences" else ["torch", "keras"]:
        original = ROOT / f"tests/originals/{library}/{name}.py"
        assert lines_of(ROOT / f"examples/{name}.py") <= lines_of(original), library


class InOrder(np.random.Generator):
    """Random numbers, but no random order."""

    def permutation(self, x, axis=0):
        return np.arange(x)


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # more only wait for one another here
    return torch


@pytest.fixture
def keras(monkeypatch):
    backends = [name for name in ("jax", "torch", "tensorflow") if importlib.util.find_spec(name)]
    monkeypatch.setenv("KERAS_BACKEND", (*backends, "none")[0])
    return pytest.importorskip("keras")


@pytest.fixture
def alike(monkeypatch, tmp_path):
    """Examples and originals as said above; the function that runs one, and the first weights."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    start = {}
    monkeypatch.setattr(np.random, "default_rng", lambda seed=None: InOrder(np.random.PCG64(seed)))
    monkeypatch.setattr(pyoptk.layers.Dropout, "forward", lambda self, x, train=True: x)
    monkeypatch.setattr(pyoptk.layers.Dropout, "backward", lambda self, dy, **_: dy)

    def remembering(make, as_keras):
        @functools.wraps(make)
        def made(params, **settings):
            if not start:
                start.update(copy.deepcopy(dict(params)))
            if as_keras and any("bias_hh" in name for name in params):
                settings["groups"] = {"*bias_hh*": {"lr": 0.0}}
            if as_keras and make.__name__ == "Adam":
                settings["eps_hat"] = True
            return make(params, **settings)

        return made

    def run(path, as_keras=False):
        for name in ("SGD", "AdaGrad", "RMSprop", "Adam", "Lion"):
            monkeypatch.setattr(pyoptk, name, remembering(getattr(pyoptk, name), as_keras))
        return runpy.run_path(str(ROOT / path), run_name="__main__")

    return run, start


def curves_of(found):
    """The training loss by epoch, of each optimizer if there are several."""
    if "curves" in found:
        return {name.lower(): curve for name, curve in found["curves"].items()}
    return {"": found["curve"] if "curve" in found else found["history"]["loss"]}


def check_equal(ours, theirs, rtol):
    """Compare whole curves; each step adds a difference of 1e-7, which training makes larger."""
    for name in ours.keys() & theirs.keys():
        np.testing.assert_allclose(ours[name], theirs[name], rtol=rtol, err_msg=name)
    assert ours.keys() & theirs.keys()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_has_the_curve_of_pytorch(name, torch, alike, monkeypatch):
    run, start = alike
    ours = curves_of(run(f"examples/{name}.py"))
    begin = torch.optim.Optimizer.__init__

    def from_the_same(self, params, defaults):
        params = list(params)
        for param, value in zip(params, start.values(), strict=True):
            param.data.copy_(torch.tensor(value))
        begin(self, params, defaults)

    monkeypatch.setattr(torch.optim.Optimizer, "__init__", from_the_same)
    monkeypatch.setattr(torch, "randperm", torch.arange)
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, x: x)
    check_equal(ours, curves_of(run(f"tests/originals/torch/{name}.py")), 1e-4)


def in_keras(start):
    """Weights as Keras holds them: transposed, one bias for each gate."""
    for name, value in start.items():
        if "bias_ih" in name:
            yield value + start[name.replace("bias_ih", "bias_hh")]
        elif "bias_hh" not in name:
            yield value.T


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_has_the_curve_of_keras(name, keras, alike, monkeypatch):
    run, start = alike
    # Keras has one bias for each gate: of our two, one is trained. Its Adam adds eps elsewhere.
    ours = curves_of(run(f"examples/{name}.py", as_keras=True))
    compile_model, fit = keras.Model.compile, keras.Model.fit

    def from_the_same(self, optimizer, **settings):
        optimizer.epsilon = 1e-8  # ours and PyTorch's
        compile_model(self, optimizer=optimizer, **settings)
        self.set_weights(list(in_keras(start)))

    monkeypatch.setattr(keras.Model, "compile", from_the_same)
    as_given = {"shuffle": False, "verbose": 0}
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **more: fit(*a, **more | as_given))
    monkeypatch.setattr(keras.layers.Dropout, "call", lambda self, x, training=False: x)
    theirs = curves_of(run(f"tests/originals/keras/{name}.py"))
    for other in ("rmsprop", "adagrad"):  # have another formula and other defaults there
        theirs.pop(other, None)
    check_equal(ours, theirs, 1e-3)
