"""pyoptk's step of bfloat16 parameters and gradients."""

import runpy

from pyoptk.duel.referee import OURS
from pyoptk.reference import from_bfloat16

STEP = runpy.run_path(str(OURS / "pyoptk.py"))["step"]


def halves(params, grads, **settings):
    work, outcome = STEP(params, grads, **settings)
    return work, lambda found: [from_bfloat16(param) for param in outcome(found)]
