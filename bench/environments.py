"""The contenders, and the environments in which other libraries are installed.

Libraries that disagree about versions of others live in environments of their own. What cannot be
installed is named and skipped; the rest runs without it.
"""

import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

from pyoptk.duel.command import ENTRIES, way
from pyoptk.duel.referee import OURS, Entry

from .work import WIDE

HERE = Path(__file__).parent / "contenders"
# Environment: packages, in the order in which they are installed, and what is run once afterwards.
ENVIRONMENTS = {
    "torch": (
        [
            "numpy==2.4.6",
            "setuptools",
            "ninja",
            "torch==2.13.0",
            "deepspeed==0.19.8",
            "bitsandbytes==0.50.2",
            "torchao==0.18.0",
            str(HERE.parents[1]),  # pyoptk.torch
        ],
        # DeepSpeed compiles its kernel when it is first used.
        "from deepspeed.ops.op_builder import CPUAdamBuilder; CPUAdamBuilder().load()",
    ),
    "jax": (["numpy==2.4.6", "jax==0.10.2", "optax==0.2.8"], "import optax"),
    "keras": (["tensorflow-cpu==2.21.0", "keras==3.15.1"], "import keras"),
    "thinc": (["thinc==9.1.1"], "from thinc.api import Adam"),
    "spacy": (["spacy==3.8.18", str(HERE.parents[1])], "import spacy, pyoptk.thinc"),
    "sklearn": (["scikit-learn==1.9.1"], "import sklearn.neural_network"),
}


def pythons(folder, given):
    """The Python of each environment: the one given, that under `folder`, or this one."""
    here = folder and {name: str(folder / name / "bin" / "python") for name in ENVIRONMENTS}
    return (here or dict.fromkeys(ENVIRONMENTS, sys.executable)) | given


def set_up(folder):
    """Make the environments under `folder`; what could not be installed, with the reason."""
    failed = []
    for name, python in pythons(folder, {}).items():
        if not Path(python).exists():
            venv.create(folder / name, with_pip=True)
        packages, first = ENVIRONMENTS[name]
        for package in packages:
            print(f"{name}: {package}", flush=True)
            failed += attempt(package, [python, "-m", "pip", "install", "-q", package])
        failed += attempt(f"{name}, first use", [python, "-c", first])
    return failed


def attempt(what, command):
    """Run a command of an environment's Python; what went wrong, or nothing."""
    # With its own folder first on PATH, a package finds the tools installed beside it.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    last = (done.stderr or done.stdout or "no output").strip().splitlines()[-1:]
    return [f"{what}: {last[0]}"] if done.returncode else []


# These step on one thread whatever they are given, or are never the fastest way of their library
# with more; one run is enough.
ONE_THREAD = ("NumPy plain", "PyTorch for-loop", "thinc", "scikit-learn")
OTHERS = {
    "DeepSpeed": "torch", "bitsandbytes": "torch", "torchao": "torch", "JAX": "jax",
    "Keras": "keras", "thinc": "thinc",
}  # fmt: skip


# What they do in the rows of dense layers and whole models.
DENSE = {
    "pyoptk": [HERE / f"{name}.py" for name in ("inputs", "dense", "narrow", "halves")],
    "NumPy": [HERE / "inputs.py", HERE / "dense_numpy.py"],
    "PyTorch": [HERE / "inputs.py", HERE / "torch.py"],
}


def peers(python, threads=1):
    """Who takes part in the duels with other libraries, pyoptk first."""
    every = [
        replace(one, python=python["torch"]) if one.name.startswith("PyTorch") else one
        for one in (*ENTRIES, way("PyTorch", "for-loop"))
    ]
    every = [replace(one, files=[*one.files, *DENSE.get(one.name.split()[0], ())]) for one in every]
    every += [
        Entry(WIDE, [HERE / "inputs.py", HERE / "narrow.py"], options={"wide": True}),
        Entry("pyoptk.torch", [HERE / "inputs.py", HERE / "pyoptk_torch.py"], python["torch"]),
    ]
    every += [
        Entry(k, [HERE / "inputs.py", HERE / f"{k.lower()}.py"], python[v])
        for k, v in OTHERS.items()
    ]
    every += [Entry("scikit-learn", [HERE / "sklearn.py"], python["sklearn"])]
    return [entry for entry in every if threads == 1 or entry.name not in ONE_THREAD]


SINGLE = [HERE / "inputs.py", HERE / "kernels.py"]  # the rows of single kernels
FILES = {  # of those who do them
    "pyoptk": [*SINGLE, OURS / "pyoptk.py"],
    "twin": [OURS / "numpy.py", *SINGLE],
    "roof": [OURS / "roof.py", HERE / "inputs.py", HERE / "roof.py"],
    "PyTorch": [OURS / "torch.py", HERE / "inputs.py", HERE / "torch.py"],
}


def kernels(python):
    """Who takes part in the rows of single kernels: pyoptk, its twin, the roof and PyTorch."""
    options = {"roof": {"smallest": 0}, "PyTorch": {"implementation": "fastest"}}
    pythons = {"PyTorch": python["torch"]}
    return [
        Entry(name, files, pythons.get(name, sys.executable), options.get(name, {}))
        for name, files in FILES.items()
    ]
