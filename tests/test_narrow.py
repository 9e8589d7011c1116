"""Gradients of 16 bits for parameters of float32."""

import numpy as np
import pytest
from optim_rows import ROWS, data

import pyoptk


def narrow(name):
    return np.dtype(name if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ROWS)
def test_a_gradient_of_16_bits_is_read_as_what_it_holds(name, kind, isa, threads, rng):
    param, grads = data(rng, 40_003, np.dtype(np.float32), 3)
    grads = [grad.astype(narrow(kind)) for grad in grads]
    common = {"weight_decay": 0.1, "max_norm": 1.0, "ema_decay": 0.9}
    ours, theirs = (ROWS[name][0]([param.copy(), param[:7].copy()], **common) for _ in range(2))
    for grad in grads:
        ours.step([grad, grad[:7]])
        theirs.step([grad.astype(np.float32), grad[:7].astype(np.float32)])
    assert ours.grad_norm == theirs.grad_norm
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(ours.params[0], theirs.params[0])


def test_gradients_of_16_bits_are_checked_zeroed_and_may_be_strided():
    param = np.ones((4, 6), np.float32)
    opt = pyoptk.SGD([param], lr=1.0)
    grad = np.full((6, 4), 0.5, np.float16)
    opt.step([grad.T])
    assert (param == 0.5).all()
    opt.zero_grad = True
    with pytest.raises(ValueError, match=r"^grads\[0\]: expected a writable C-contiguous array"):
        opt.step([grad.T])
    mine = np.full((4, 6), 0.5, np.float16)
    opt.step([mine])
    assert (param == 0).all()
    assert (mine == 0).all()
    opt.step([np.ones((4, 6), np.float32)])  # and float32 again
    assert (param == -1).all()
    for bad, message in {
        "grad": r"expected shape \(4, 6\) like params\[0\], got \(6, 4\)$",
        "mine.astype(mine.dtype.newbyteorder())": "expected a plain array in native byte order",
        "param.view(np.float16)[:, :6]": "expected a writable C-contiguous array",
        "param.view(np.float16).reshape(-1)[:24].reshape(4, 6)": "expected memory of its own",
    }.items():
        with pytest.raises((TypeError, ValueError), match=rf"^grads\[0\]: {message}"):
            opt.step([eval(bad)])
    assert (param == -1).all()
    with pytest.raises(TypeError, match=r"^grads: expected float64 in native"):
        pyoptk.SGD(np.ones(3)).step(np.ones(3, np.float16))
    opt = pyoptk.SGD(param, lr=1.0, on_nonfinite="raise")
    mine[1, 2] = np.inf
    with pytest.raises(FloatingPointError, match=r"^grads: expected finite elements"):
        opt.step(mine)
