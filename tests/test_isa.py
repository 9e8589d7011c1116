"""Which instruction sets a build has, and how one is chosen."""

import importlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyoptk
from pyoptk import _arrays, _core, _held, _optim, _plan, _products, _rnn, _sparse, kernels

COMPILED = [
    *(_arrays, _core, _held, _optim, _plan, _products, _rnn, _sparse),
    importlib.import_module("pyoptk.optim.stateful"),
]
USABLE = [name for name, usable in pyoptk.isas().items() if usable]


@pytest.fixture(autouse=True)
def _same_set_afterwards():
    before = pyoptk.isa()
    yield
    pyoptk.use_isa(before)


def set_in_new_process(**environment):
    """What `pyoptk.isa()` says in a new process, or the last line of its traceback."""
    clean = {k: v for k, v in os.environ.items() if k != "PYOPTK_ISA"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import pyoptk; print(pyoptk.isa())"],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]


def test_build_has_every_set_of_its_processor():
    """CMake leaves out a set whose flags the compiler refuses; here that is a failure."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        assert list(pyoptk.isas()) == ["amx", "avx512bf16", "avx512", "avx2", "baseline"]
    else:
        assert list(pyoptk.isas()) == ["baseline"]


def test_baseline_runs_everywhere():
    assert pyoptk.isas()["baseline"]


@pytest.mark.parametrize("environment", [{}, {"PYOPTK_ISA": ""}])
def test_best_set_is_the_default(environment):
    assert set_in_new_process(**environment) == USABLE[0]


@pytest.mark.parametrize("name", pyoptk.isas())
def test_environment_chooses(name):
    said = set_in_new_process(PYOPTK_ISA=name)
    if name in USABLE:
        assert said == name
    else:
        assert said.startswith("ImportError: PYOPTK_ISA: ")
        assert "CPU" in said


def test_bad_environment_value_names_the_choices():
    said = set_in_new_process(PYOPTK_ISA="sse9")
    assert said.startswith("ImportError: PYOPTK_ISA: ")
    assert "'sse9'" in said
    assert all(name in said for name in pyoptk.isas())


@pytest.mark.parametrize("name", pyoptk.isas())
def test_use_isa_switches_or_says_what_the_cpu_lacks(name):
    if name in USABLE:
        pyoptk.use_isa(name)
        assert pyoptk.isa() == name
        pyoptk.use_isa(None)
        assert pyoptk.isa() == USABLE[0]
    else:
        with pytest.raises(ValueError, match=f"CPU.*{name}"):
            pyoptk.use_isa(name)


@pytest.mark.parametrize("name", ["sse9", "", "AVX2", "avx2 "])
def test_unknown_set_is_refused_and_nothing_changes(name):
    pyoptk.use_isa("baseline")
    with pytest.raises(ValueError, match=r", ".join(pyoptk.isas())):
        pyoptk.use_isa(name)
    assert pyoptk.isa() == "baseline"


@pytest.mark.parametrize("name", USABLE)
def test_every_set_has_its_kernels(name):
    """Only the switch is tested here; the tests of the kernels run on every set."""
    pyoptk.use_isa(name)
    for dtype in (np.float32, np.float64):
        param, grad = np.ones((2, 1001), dtype)
        kernels.sgd(param, grad, lr=0.5)
        assert (param == 0.5).all()
        out = np.empty_like(grad)
        kernels.sigmoid(np.zeros_like(grad), out)
        assert (out == 0.5).all()


@pytest.mark.parametrize("module", COMPILED)
@pytest.mark.skipif(not shutil.which("nm"), reason="nm is not installed")
def test_compiled_modules_export_one_symbol_each(module):
    """Any other exported symbol could be mixed up with a function of another library."""
    flags = ["-gU"] if sys.platform == "darwin" else ["-D", "--defined-only"]
    listing = subprocess.check_output(["nm", *flags, Path(module.__file__)], text=True)
    names = [line.split()[-1].removeprefix("_") for line in listing.splitlines()]
    assert names == [f"PyInit_{module.__name__.rpartition('.')[2]}"]
