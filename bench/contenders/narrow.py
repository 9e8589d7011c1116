"""pyoptk's step with narrow arrays; and as another contender, its step with those of float32."""

import runpy

import pyoptk
from pyoptk.duel.referee import OURS
from pyoptk.reference import from_bfloat16

PACKAGES = ("pyoptk",)
WIDE = False
STEP = runpy.run_path(str(OURS / "pyoptk.py"))["step"]


def start(threads, wide=False):
    global WIDE
    WIDE = wide
    pyoptk.set_num_threads(threads)
    return ["narrow"] if wide else None


def narrow(params, grads, *, optimizer, **storage):
    work, outcome = STEP(params, grads, optimizer=optimizer, **({} if WIDE else storage))
    if WIDE or "master" not in storage:
        return work, outcome
    return work, lambda found: [from_bfloat16(param) for param in outcome(found)]
