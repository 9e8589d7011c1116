"""pyoptk's step with narrow states; and as another contender, its step with those of float32."""

from functools import partial

import pyoptk

PACKAGES = ("pyoptk",)
LR = 1e-3
WIDE = False


def start(threads, wide=False):
    global WIDE
    WIDE = wide
    pyoptk.set_num_threads(threads)
    return ["narrow"] if wide else None


def narrow(params, grads, *, optimizer, state_dtype):
    opt = getattr(pyoptk, optimizer)(params, lr=LR, state_dtype="float32" if WIDE else state_dtype)
    return partial(opt.step, grads), lambda _: params[:1]
