"""Copies, files, PyTorch's names and the summary of a `Sequential`."""

import copy
import pickle

import numpy as np
import pytest
from model_rows import classifier, rng

import pyoptk
from pyoptk.layers import Activation, Dropout, Last, LayerNorm, Linear, Sequential

X = rng().integers(0, 9, (7, 5))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_a_whole_model_of_its_own(how):
    model = classifier(np.float32)
    dy = np.ones_like(model.forward(X))
    model.backward(dy)
    new = how(model)
    assert repr(new) == repr(model)
    for name, array in model.params.items():
        np.testing.assert_array_equal(new.params[name], array)
        assert not np.shares_memory(new.params[name], array)
        assert np.shares_memory(new.params[name], new.flat_params)
        assert np.shares_memory(array, model.flat_params)
        grads = [g.dense() if isinstance(g, pyoptk.SparseRows) else g
                 for g in (new.grads[name], model.grads[name])]  # fmt: skip
        np.testing.assert_array_equal(*grads)
    with pytest.raises(RuntimeError, match="forward"):
        new.backward(dy)
    np.testing.assert_array_equal(new.forward(X), model.forward(X))
    new.backward(dy)
    pyoptk.Adam(new.params).step(new.grads)


def test_a_file_brings_back_the_model_and_the_masks_to_come(tmp_path):
    model = Sequential(Linear(3, 4, rng=rng()), Dropout(0.5, seed=1), Linear(4, 2, rng=rng()))
    x, path = np.ones((6, 3), np.float32), tmp_path / "model.npz"
    model.forward(x)
    model.save(path)
    expected = model.forward(x)
    other = Sequential(Linear(3, 4), Dropout(0.5), Linear(4, 2))
    other.load(path)
    np.testing.assert_array_equal(other.forward(x), expected)
    assert sorted(set(model.state_dict()) - set(model.params)) == ["1.dropout_calls", "1.seed"]
    state = other.state_dict()
    with pytest.raises(ValueError, match=r"^state\['2.bias'\]: expected float32 \(2,\), got"):
        other.load_state_dict(state | {"2.bias": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"^state: expected 6 names, got none for '0.bias'"):
        other.load_state_dict({n: a for n, a in state.items() if n != "0.bias"})


def test_names_are_those_of_torchs_modules():
    model = Sequential(
        Linear(3, 4, "relu", rng=rng()), Sequential(Linear(4, 4), Activation("tanh")), Linear(4, 1)
    )
    state = model.to_torch()
    assert list(state) == ["0.weight", "0.bias", "2.0.weight", "2.0.bias", "3.weight", "3.bias"]
    other = Sequential(Linear(3, 4), Linear(4, 4), Linear(4, 1))
    other.from_torch({n.replace("2.0", "hidden"): a for n, a in state.items()})
    for mine, array in zip(other.params.values(), model.params.values(), strict=True):
        np.testing.assert_array_equal(mine, array)
    ten = Sequential(*[Linear(2, 2, rng=np.random.default_rng(i)) for i in range(12)])
    state = ten.to_torch()
    for prefix in ("", "net.", "fc"):
        named = {prefix + name: array for name, array in state.items()}
        for names in (named, sorted(named), sorted(named, reverse=True) if not prefix else named):
            again = Sequential(*[Linear(2, 2) for _ in range(12)])
            again.from_torch({name: named[name] for name in names})
            np.testing.assert_array_equal(again.flat_params, ten.flat_params)


@pytest.mark.parametrize("options", [{"reset_after": False}, {"zoneout": 0.5}])
def test_what_torch_does_not_have_is_refused(options):
    model = Sequential(Sequential(pyoptk.GRU(2, 2, **options)))
    for call in (model.to_torch, lambda: model.from_torch(model.state_dict())):
        with pytest.raises(ValueError, match=f"^{next(iter(options))}: expected "):
            call()


def test_wrong_modules_are_named():
    other = Sequential(Linear(3, 4), Linear(4, 4), Linear(4, 1))
    state = {n.replace("2.", "3."): a for n, a in other.to_torch().items()}
    for wrong, message in (
        ({"3.weight": 1}, r"state: expected 3 modules, got 1: 3.weight"),
        (state | {"3.weight": state["3.weight"].T}, r"state\['3.weight'\]: expected float32"),
        (
            {n.replace("bias", "b"): a for n, a in state.items()},
            "state: expected weight, bias, got",
        ),
    ):
        with pytest.raises(ValueError, match="^" + message):
            other.from_torch(wrong)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_a_training_step_is_that_of_torch(cell):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    draw = rng()
    model = Sequential(
        pyoptk.LSTM(3, 5, 2, rng=draw) if cell == "LSTM" else getattr(pyoptk, cell)(3, 5, rng=draw),
        Last(), LayerNorm(5), Linear(5, 4, "gelu", rng=draw), Linear(4, 3, rng=draw),
    )  # fmt: skip
    recurrent = getattr(nn, cell)(3, 5, 2 if cell == "LSTM" else 1)
    rest = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))
    both = nn.ModuleList([recurrent, *rest])
    own = [torch.tensor(a) for a in model.params.values()]
    both.load_state_dict(dict(zip(both.state_dict(), own, strict=True)))
    x = draw.standard_normal((6, 4, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 1])
    theirs = torch.optim.Adam(both.parameters(), lr=0.01)
    optimizer = pyoptk.Adam(model.params, lr=0.01)
    for _ in range(3):
        y = rest(recurrent(torch.tensor(x))[0][-1])
        loss = nn.functional.cross_entropy(y, torch.tensor(labels))
        theirs.zero_grad()
        loss.backward()
        theirs.step()
        value, dy = pyoptk.losses.cross_entropy(model.forward(x), labels)
        assert abs(value - loss.item()) < 1e-5
        model.backward(dy, need_dx=False)
        optimizer.step(model.grads)
    again = copy.deepcopy(model)
    again.from_torch(both.state_dict())
    for name, array in again.params.items():
        np.testing.assert_allclose(model.params[name], array, rtol=1e-3, atol=1e-4)


def test_the_summary_has_shapes_and_counts():
    text = repr(classifier())
    for row in (
        r"0  Embedding(9, 3, padding_idx=0) (..., 3) 27",
        r"2  LSTM(4, 6, num_layers=2, dtype=float64) (T, B, 6) 624",
        r"3  Last() (B, 6) 0",
        r"4  Sequential",
        r"   1  Linear(6, 5, 'tanh') (B, 5) 35",
    ):
        assert " ".join(row.split()) in " ".join(text.split())
    total = sum(array.size for array in classifier().params.values())
    assert text.splitlines()[-2].split() == [f"{total:,}"]
