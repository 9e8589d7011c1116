"""Run the duels and write what they gave: ``python -m bench.peers --torch PYTHON --json FILE``.

NumPy baselines run with OPENBLAS_CORETYPE unset, because pinning it would flatter us; the number of
threads is given to every library by its own function and by OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from .duel import Contender, duel

ADAM = [("Adam", 1, n) for n in (1_000, 100_000, 1_000_000, 10_000_000)] + [("Adam", 1_000, 1_000)]
OTHERS = [(name, 1, 1_000_000) for name in ("RMSprop", "AdaGrad", "SGD")]
LSTM = [
    (10, 1, 64, 64), (10, 32, 64, 64), (50, 32, 64, 128), (100, 32, 128, 256),
    (30, 128, 256, 256), (50, 64, 512, 512), (50, 16, 256, 1024),
]  # fmt: skip


def cases(threads: int) -> list[dict[str, Any]]:
    """Each: what a reader sees, the task, its case, and who takes part."""
    rows = []
    for optimizer, count, n in ADAM + OTHERS:
        settings = {"momentum": 0.9} if optimizer == "SGD" else {}
        name = f"{count:,} tensors of {n:,}" if count > 1 else f"{n:,} elements"
        label = f"{optimizer}{' with momentum' if settings else ''} step, {name}"
        case = {"optimizer": optimizer, "count": count, "n": n, "threads": threads, **settings}
        peers = ["pyoptk", "torch", *(["deepspeed", "numpy"] if optimizer == "Adam" else [])]
        rows.append({"label": label, "task": "step", "case": case, "peers": peers})
    more: dict[str, Any] = {"max_norm": 1.0}
    for what in ("clipping by global norm", "clipping, EMA of the weights and zeroed gradients"):
        case = {"optimizer": "Adam", "count": 1, "n": 10_000_000, "threads": threads, **more}
        label = f"Adam step with {what}, 10,000,000 elements"
        rows.append({"label": label, "task": "step", "case": case, "peers": ["pyoptk", "torch"]})
        more |= {"ema_decay": 0.999, "zero_grad": True}
    for T, B, I, H in LSTM:
        label = f"LSTM forward + backward, T {T}, B {B}, I {I}, H {H}"
        case = {"T": T, "B": B, "I": I, "H": H, "threads": threads}
        flop = 3 * 8 * T * B * H * (I + H)
        rows.append(
            {"label": label, "task": "lstm", "case": case, "flop": flop}
            | {"peers": ["pyoptk", "torch", "numpy"]}
        )
    return rows


def versions(pythons: dict[str, str]) -> dict[str, str]:
    code = "import {0}; print({0}.__version__)"
    found = {"python": platform.python_version()}
    for library, python in pythons.items():
        command = [python, "-P", "-c", code.format(library)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            found[library] = answer.stdout.split()[-1]  # it may print more
    return found


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(
                line.split(":")[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument(
        "--torch", default=sys.executable, help="a Python that has PyTorch, and perhaps DeepSpeed"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="cases whose label contains this")
    parser.add_argument("--json", help="write the result here")
    options = parser.parse_args()

    pythons = dict.fromkeys(("pyoptk", "numpy"), sys.executable)
    pythons |= dict.fromkeys(("torch", "deepspeed"), options.torch)
    found = versions(pythons)
    os.environ.pop("OPENBLAS_CORETYPE", None)
    env = {"OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
    rows = []
    for row in cases(options.threads):
        if options.only not in row["label"]:
            continue
        with ExitStack() as stack:
            contenders = {
                peer: stack.enter_context(Contender(f"{peer}_{row['task']}", pythons[peer], env))
                for peer in row["peers"]
                if peer in found
            }
            timings = duel(contenders, row["case"], options.rounds)
        ours = timings["pyoptk"]
        row["seconds"] = {peer: timing.rounds for peer, timing in timings.items()}
        rows.append(row)
        told = [f"{row['label']}: pyoptk {ours.seconds * 1e6:,.1f} us"]
        if "flop" in row:
            told.append(f"({row['flop'] / ours.seconds / 1e9:.0f} GFLOP/s)")
        for peer, timing in timings.items():
            if peer != "pyoptk":
                ratios = timing.ratios_to(ours)
                middle = ratios[len(ratios) // 2]
                told.append(f"{peer} {middle:.2f}x ({ratios[0]:.2f}..{ratios[-1]:.2f})")
        print("  ".join(told), flush=True)
    if options.json:
        machine = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
        }
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": machine,
            "versions": found,
            "threads": options.threads,
            "rows": rows,
        }
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
