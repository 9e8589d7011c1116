"""pyoptk's step with narrow states; and as another contender, its step with those of float32."""

from functools import partial

import pyoptk
from pyoptk.reference import from_bfloat16, round_bfloat16

PACKAGES = ("pyoptk",)
LR = 1e-3
WIDE = False


def start(threads, wide=False):
    global WIDE
    WIDE = wide
    pyoptk.set_num_threads(threads)
    return ["narrow", "halves"] if wide else None


def narrow(params, grads, *, optimizer, state_dtype):
    opt = getattr(pyoptk, optimizer)(params, lr=LR, state_dtype="float32" if WIDE else state_dtype)
    return partial(opt.step, grads), lambda _: params[:1]


def halves(params, grads, *, optimizer, **settings):
    """Of bfloat16; the other contender's are of float32."""
    if WIDE:
        return narrow(params, grads, optimizer=optimizer, state_dtype="float32")
    params, grads = ([round_bfloat16(x) for x in xs] for xs in (params, grads))
    opt = getattr(pyoptk, optimizer)(params, lr=LR, dtype="bfloat16", **settings)
    return partial(opt.step, grads), lambda _: [from_bfloat16(params[0])]
