"""Lookahead and SWA: slow and averaged weights beside an optimizer."""

import contextlib

import numpy as np
import pytest

import pyoptk

SHAPES = {"weight": (7, 5), "bias": (5,), "scale": ()}
from wrapped import TwinAdam, assert_equal, copy, model


def test_lookahead_is_the_papers_loop(dtype):
    params, grads = model(dtype)
    fast = copy(params)
    slow = copy(fast)
    opt = pyoptk.Adam(params, lr=0.1)
    twin = TwinAdam(opt, fast)
    lookahead = pyoptk.Lookahead(opt, k=3, alpha=0.8)
    for i in range(8):
        g = grads()
        assert lookahead.step(g) is True
        twin.step(g)
        if i % 3 == 2:
            for name, p in fast.items():
                slow[name][...] = slow[name] + dtype.type(0.8) * (p - slow[name])
                p[...] = slow[name]
        assert_equal(params, fast)
        assert_equal(lookahead.slow, slow)
    assert lookahead.count == 2
    with lookahead.averaged():
        assert_equal(params, slow)
    assert_equal(params, fast)
    assert_equal(lookahead.slow, slow)


# ---- averages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", [dict, list, "array"])
def test_swa_is_the_running_mean(structure, dtype, rng):
    named, _ = model(dtype)
    params = {dict: named, list: list(named.values()), "array": named["weight"]}[structure]
    listed = {dict: named.values(), list: params, "array": [params]}[structure]
    swa = pyoptk.SWA(params)
    with pytest.raises(RuntimeError, match=r"^averaged: expected an update\(\) before it"):
        swa.averaged().__enter__()
    expected = [p * 0 for p in listed]
    history = []
    for n in range(5):
        for p in listed:
            p += rng.standard_normal(p.shape).astype(dtype)
        swa.update()
        history.append([p.copy() for p in listed])
        expected = [
            p.copy() if n == 0 else e + (p - e) / dtype.type(n + 1)
            for p, e in zip(listed, expected, strict=True)
        ]
    weights = {dict: lambda w: w.values(), list: list, "array": lambda w: [w]}[structure]
    for average, e, past in zip(
        weights(swa.weights), expected, zip(*history, strict=True), strict=True
    ):
        np.testing.assert_array_equal(average, e)
        # Each of the 5 updates rounds three times.
        np.testing.assert_allclose(average, np.mean(past, axis=0), atol=20 * np.finfo(dtype).eps)
    assert swa.count == 5


def test_the_swap_is_bit_for_bit_also_after_an_error_and_for_odd_values(dtype):
    bits = {4: np.uint32, 8: np.uint64}[dtype.itemsize]
    odd = np.array([np.nan, -np.nan, -0.0, np.inf, 0, np.finfo(dtype).tiny / 3], dtype)
    odd.view(bits)[0] += 5  # a payload
    param = np.arange(6).astype(dtype)
    swa = pyoptk.SWA([param])
    swa.update()
    param[:] = odd
    kept = param.tobytes()

    def evaluate():
        with swa.averaged():
            np.testing.assert_array_equal(param, np.arange(6))
            raise KeyError("evaluation")

    with pytest.raises(KeyError, match="evaluation"):
        evaluate()
    assert param.tobytes() == kept
    np.testing.assert_array_equal(swa.weights[0], np.arange(6))


def test_swa_agrees_with_torch():
    torch = pytest.importorskip("torch")
    params, grads = model(np.float64)
    module = torch.nn.ParameterDict(
        {k: torch.nn.Parameter(torch.tensor(p)) for k, p in params.items()}
    )
    theirs = [
        torch.optim.swa_utils.AveragedModel(module),
        torch.optim.swa_utils.AveragedModel(module, avg_fn=torch.optim.swa_utils.get_swa_avg_fn()),
    ]
    swa = pyoptk.SWA(params)
    for _ in range(6):
        for name, g in grads().items():
            params[name] += g
            module[name].data.copy_(torch.tensor(params[name]))
        swa.update()
        for average in theirs:
            average.update_parameters(module)
    for name, average in swa.weights.items():
        np.testing.assert_allclose(average, theirs[0].module[name].detach(), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(average, theirs[1].module[name].detach())


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([np.ones(2, int)], TypeError, r"^params\[0\]: expected float32 or float64"),
        (np.ones(4)[::2], ValueError, r"^params: expected a C-contiguous array"),
        (1.0, TypeError, r"^params: expected a float32 or float64 array, got float"),
    ],
)
def test_swa_refuses_what_an_optimizer_would(params, error, message):
    with pytest.raises(error, match=message):
        pyoptk.SWA(params)


def test_an_average_is_swapped_in_also_for_parameters_from_a_generator():
    param = np.zeros(2)
    opt = pyoptk.SGD((p for p in [param]), lr=1.0, ema_decay=0.5)
    lookahead = pyoptk.Lookahead(opt, k=1)
    lookahead.step([np.ones(2)])
    assert (param == -0.5).all()
    with opt.averaged():
        assert (param == -0.5).all()
    assert (param == -0.5).all()


@pytest.mark.parametrize("change", [{"dtype": "u1"}, {"shape": (-1, 1)}, {"writeable": False}])
@pytest.mark.parametrize(
    ("wrap", "expected"), [(pyoptk.Lookahead, 0), (pyoptk.Accumulation, 0), (None, 1)]
)
def test_changes_of_the_arrays_that_a_wrapper_shows_do_not_reach_it(wrap, expected, change):
    params, grads = {"w": np.ones(4), "b": np.zeros(4)}, {"w": np.ones(4), "b": None}
    top = wrap(pyoptk.SGD(params, lr=1.0), 2) if wrap else pyoptk.SWA(params)
    for name, value in change.items():
        for array in [a for a in top.state_dict().values() if isinstance(a, np.ndarray)]:
            setattr(array.flags if name == "writeable" else array, name, value)
    for _ in range(2):
        top.step(grads) if wrap else top.update()
    with contextlib.nullcontext() if wrap else top.averaged():
        np.testing.assert_array_equal(params["w"], expected)


def test_a_frozen_parameter_stays_where_slow_weights_go_on():
    params, grads = {"w": np.ones(4), "b": np.zeros(4)}, {"w": np.ones(4), "b": None}
    lookahead = pyoptk.Lookahead(pyoptk.SGD(params, lr=1.0), k=1)
    params["w"].flags.writeable = False
    before = params["w"].copy(), params["b"].copy()
    assert lookahead.step({"w": None, "b": grads["w"]})
    assert (params["w"] == before[0]).all()
    assert (params["b"] != before[1]).all()


def test_the_largest_count_stays_what_a_checkpoint_takes():
    swa = pyoptk.SWA(np.ones(2))
    swa.load_state_dict({"average": np.ones(2), "count": 2**63 - 1})
    swa.update()
    swa.load_state_dict(swa.state_dict())
    assert swa.count == 2**63 - 1


def test_lookahead_goes_around_sparse_rows(rng):
    table = np.zeros((4, 2))
    lookahead = pyoptk.Lookahead(pyoptk.SGD(table, lr=1.0), k=2, alpha=0.5)
    for _ in range(2):
        lookahead.step(pyoptk.SparseRows([3], np.ones((1, 2)), (4, 2)))
    np.testing.assert_array_equal(table[:, 0], [0, 0, 0, -1])


def test_slow_weights_take_memory_before_anything_is_changed(monkeypatch):
    def full(*_, **__):
        raise MemoryError("no 8 bytes")

    w = np.ones(2)
    lookahead = pyoptk.Lookahead(pyoptk.SGD(w, lr=1.0), k=1)
    with monkeypatch.context() as patch:
        patch.setattr(np, "empty", full)
        with pytest.raises(MemoryError):
            lookahead.step(np.ones(2))
    assert (w[0], lookahead.optimizer.steps) == (1, 0)
    lookahead.step(np.ones(2))
    assert w[0] == 0.5
