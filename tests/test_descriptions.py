"""One row in csrc/optimizers.c describes an optimizer; all that is made by hand agrees with it."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
from optim_rows import COMMON_NAMES, ROWS, by_kernel

import pyoptk
from pyoptk import _optim, kernels, reference

ROOT = Path(__file__).parents[1]
SHARED = set(inspect.signature(pyoptk.Optimizer).parameters)
# tested elsewhere
OTHERS = {*reference.dense.__all__, *reference.scan.__all__} | {
    "dropout",
    "exp",
    "global_norm",
    "matmul",
    "sigmoid",
    "tanh",
}


def test_every_kernel_is_described_and_has_a_class_a_bare_kernel_and_a_twin():
    assert set(ROWS) == set(_optim.ROWS) == set(kernels.__all__) - OTHERS
    assert set(kernels.__all__) <= set(reference.__all__)
    assert set(by_kernel()) == set(ROWS)
    assert set(pyoptk.__all__) > {cls.__name__ for cls, _, _ in ROWS.values()}


@pytest.mark.parametrize("name", ROWS)
def test_signatures_are_those_of_the_description_in_c(name):
    """States, hyper-parameters, their order and their defaults: the row is the only source."""
    row, (cls, states, _) = _optim.ROWS[name], ROWS[name]
    kernel, twin = (inspect.signature(getattr(m, name)).parameters for m in (kernels, reference))
    assert list(kernel) == ["param", "grad", *states, "step", "lr", *row.fields, *COMMON_NAMES]
    assert list(twin) == ["param", "grad", *states, "step", "lr", *row.fields, "common"]
    for state, needed_by, _ in row.states:
        assert (kernel[state].default is None) == (needed_by is not None)
        assert (twin[state].default is None) == (needed_by is not None)
        assert needed_by is None or needed_by in row.fields
    made = cls(np.ones(1))
    signature = inspect.signature(cls).parameters
    own = [*row.fields, *row.starts]
    assert set(signature) == SHARED | {"weight_decay", *own}
    assert [key for key in signature if key in own] == [key for key in own if key in signature]
    for key in own:
        value = signature[key].default
        assert (value, type(value)) == (row.fallbacks[key], type(row.fallbacks[key])), key
        assert key in row.starts or kernel[key].default == value, key
    for key in ("lr", *COMMON_NAMES):
        assert kernel[key].default == made.hyper[key], key
    assert set(row.common_fields) == {"lr", *COMMON_NAMES, "ema_decay", "zero_grad"}
    assert all(key in cls.__annotations__ or key in row.starts for key in own)


def test_files_that_contributing_lists_mention_every_optimizer():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(r"## Add an optimizer\n(.*?)\nNothing else", text, re.DOTALL)[1]
    steps = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    files = [re.findall(r"`([\w/]+\.(?:h|c|py|md))`", step.split(":")[0]) for step in steps]
    assert len(files) == 8
    for alternatives in files:
        words = set(re.findall(r"\w+", " ".join((ROOT / f).read_text() for f in alternatives)))
        for name, (cls, _, _) in ROWS.items():
            assert words & {name, cls.__name__}, f"{name}: nothing in {' or '.join(alternatives)}"


def test_a_class_with_other_hyper_parameters_than_its_description_is_refused():
    class Wrong(pyoptk.Optimizer):
        _kernel = "lion"
        lr: float = 1.0
        beta1: float = 0.9
        weight_decay: float = 0.0
        local: float = 1.0

    with pytest.raises(TypeError, match=r"^beta2, local: expected the hyper-parameters of"):
        Wrong(np.ones(1))


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        (1, {}, r"missing 1 required positional argument: 'grad'$"),
        (3, {"velocity": 0}, r"got multiple values for argument 'velocity'$"),
        (2, {"beta1": 0.9}, r"got an unexpected keyword argument 'beta1'$"),
        (2, {"ema_decay": 0.9}, r"got an unexpected keyword argument 'ema_decay'$"),
        (4, {}, r"takes from 2 to 3 positional arguments but 4 were given$"),
    ],
)
def test_a_bare_kernel_refuses_arguments_as_python_does(args, given, message):
    with pytest.raises(TypeError, match=r"^sgd\(\) " + message):
        kernels.sgd(*np.ones((args, 1)), **given)


def test_a_subclass_adds_arguments_changes_defaults_or_has_a_constructor_of_its_own():
    class Slow(pyoptk.SGD):
        lr: float = 1e-6

    class Named(pyoptk.SGD):
        def __init__(self, name, params, **settings):
            super().__init__(params, **settings)

    class Renamed(Named):
        pass

    names = list(inspect.signature(pyoptk.SGD).parameters)
    assert names[:5] == ["params", "lr", "momentum", "dampening", "nesterov"]
    assert list(inspect.signature(Slow).parameters) == names
    assert (Slow(np.ones(1)).lr, pyoptk.SGD(np.ones(1)).lr) == (1e-6, 1e-3)
    assert [str(inspect.signature(c)) for c in (Named, Renamed)] == [
        "(name, params, **settings)"
    ] * 2
    assert repr(Renamed("a", np.ones(1), momentum=0.5)) == "Renamed(momentum=0.5)"
    assert "momentum" not in vars(pyoptk.SGD)
    for wrong in ((), (np.ones(1), 0.1, 0.9, 0.0)):
        with pytest.raises(TypeError, match=r"^missing a required argument: 'params'|^too many"):
            pyoptk.SGD(*wrong)
