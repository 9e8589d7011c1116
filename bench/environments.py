"""The contenders, and the environments in which other libraries are installed.

Libraries that disagree about versions of others live in environments of their own. What cannot be
installed is named and skipped; the rest runs without it.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

from pyoptk.duel.referee import OURS, Entry

HERE = Path(__file__).parent / "contenders"
# Environment: packages, in the order in which they are installed, and what is run once afterwards.
ENVIRONMENTS = {
    "torch": (
        ["numpy==2.4.6", "setuptools", "ninja", "torch==2.13.0", "deepspeed==0.19.8"],
        # DeepSpeed compiles its kernel when it is first used.
        "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()",
    ),
    "jax": (["numpy==2.4.6", "jax==0.10.2", "optax==0.2.8"], "import optax"),
    "keras": (["tensorflow-cpu==2.21.0", "keras==3.15.1"], "import keras"),
    "thinc": (["thinc==9.1.1"], "from thinc.api import Adam"),
    "sklearn": (["scikit-learn==1.9.1"], "import sklearn.neural_network"),
}


def python_of(folder, name):
    """The Python of one environment."""
    return str(folder / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def set_up(folder):
    """Make the environments under `folder`; what could not be installed, with the reason."""
    failed = []
    for name, (packages, first) in ENVIRONMENTS.items():
        python = python_of(folder, name)
        if not Path(python).exists():
            venv.create(folder / name, with_pip=True)
        for package in packages:
            print(f"{name}: {package}", flush=True)
            failed += attempt(package, [python, "-m", "pip", "install", "-q", package])
        failed += attempt(f"{name}, first use", [python, "-c", first])
    return failed


def attempt(what, command):
    """Run a command of an environment's Python; what went wrong, or nothing."""
    # With its own folder first on PATH, a package finds the tools installed beside it.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    if done.returncode == 0:
        return []
    last = (done.stderr or done.stdout or "no output").strip().splitlines()[-1]
    return [f"{what}: {last}"]


# These step on one thread whatever they are given, or are never the fastest way of their library
# with more; one run is enough.
ONE_THREAD = ("NumPy plain", "PyTorch for-loop", "thinc", "scikit-learn")


def pythons(folder, given):
    """The Python of each environment: the one given, that under `folder`, or this one."""
    return {
        name: given.get(name, sys.executable if folder is None else python_of(folder, name))
        for name in ENVIRONMENTS
    }


def peers(python, threads=1):
    """Who takes part in the duels with other libraries, pyoptk first."""
    numpy, torch = (OURS / "numpy.py",), (OURS / "torch.py",)
    every = [
        Entry("pyoptk", (OURS / "pyoptk.py",)),
        Entry("roof", (OURS / "roof.py",)),
        *(Entry(f"NumPy {way}", numpy, options=how(way)) for way in ("in place", "plain")),
        *(
            Entry(f"PyTorch {way}", torch, python["torch"], how(way))
            for way in ("fused", "foreach", "for-loop")
        ),
        Entry("DeepSpeed", (HERE / "deepspeed.py",), python["torch"]),
        Entry("JAX", (HERE / "jax.py",), python["jax"]),
        Entry("Keras", (HERE / "keras.py",), python["keras"]),
        Entry("thinc", (HERE / "thinc.py",), python["thinc"]),
        Entry("scikit-learn", (HERE / "sklearn.py",), python["sklearn"]),
    ]
    return [entry for entry in every if threads == 1 or entry.name not in ONE_THREAD]


def how(way):
    return {"implementation": way}


def files(name, ours=""):
    """The files of a contender that does the rows of single kernels, too."""
    return OURS / f"{ours or name}.py", HERE / "inputs.py", HERE / f"{name}.py"


def kernels(python):
    """Who takes part in the rows of single kernels: pyoptk, its twin, the roof and PyTorch."""
    return [
        Entry("pyoptk", files("pyoptk")),
        Entry("twin", files("twin", "numpy")),
        Entry("roof", files("roof"), options={"smallest": 0}),
        Entry("PyTorch", files("torch"), python["torch"], how("fastest")),
    ]
