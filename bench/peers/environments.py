"""Who takes part, and the environments in which the peers are installed.

Libraries that disagree about versions of others live in environments of their own. What cannot be
installed is named and skipped; the rest runs without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

from pyoptk.bench.duel import OURS, Entry

HERE = Path(__file__).parent / "contenders"
# Environment: packages, in the order in which they are installed, and what is run once afterwards.
ENVIRONMENTS: dict[str, tuple[list[str], str]] = {
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


def python_of(folder: Path, name: str) -> str:
    """The Python of one environment."""
    return str(folder / name / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def set_up(folder: Path) -> list[str]:
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


def attempt(what: str, command: list[str]) -> list[str]:
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
# with more; one run shows what there is to see.
ONE_THREAD = ("NumPy plain", "PyTorch for-loop", "thinc", "scikit-learn")


def entries(folder: Path | None, given: dict[str, str], threads: int = 1) -> list[Entry]:
    """The contenders for so many threads, pyoptk first.

    Parameters
    ----------
    folder : Path or None
        Where the environments are; None takes this Python for all of them.
    given : dict
        Pythons by environment that take precedence.
    threads : int
        With more than one, those are left out to whom it makes no difference.
    """
    pythons = {
        name: given.get(name, sys.executable if folder is None else python_of(folder, name))
        for name in ENVIRONMENTS
    }
    ways = {"PyTorch fused": "fused", "PyTorch foreach": "foreach", "PyTorch for-loop": "for-loop"}
    every = [
        Entry("pyoptk", OURS / "pyoptk.py"),
        Entry("roof", OURS / "roof.py"),
        Entry("NumPy in place", OURS / "numpy.py", options={"implementation": "in place"}),
        Entry("NumPy plain", OURS / "numpy.py", options={"implementation": "plain"}),
        *(
            Entry(name, OURS / "torch.py", pythons["torch"], {"implementation": way})
            for name, way in ways.items()
        ),
        Entry("DeepSpeed", HERE / "deepspeed.py", pythons["torch"]),
        Entry("JAX", HERE / "jax.py", pythons["jax"]),
        Entry("Keras", HERE / "keras.py", pythons["keras"]),
        Entry("thinc", HERE / "thinc.py", pythons["thinc"]),
        Entry("scikit-learn", HERE / "sklearn.py", pythons["sklearn"]),
    ]
    return [entry for entry in every if threads == 1 or entry.name not in ONE_THREAD]
