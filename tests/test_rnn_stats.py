"""`stats` of recurrent layers, against what the twin keeps."""

import numpy as np
import pytest
from rnn_rows import OWN, arrays_of, case, twins_of

import pyoptk
from pyoptk.rnn.weights import names_of

LSTMS = dict.fromkeys(("LSTM", "LSTM all", "LSTM projected", "LSTM normed"), "ifgo")
NAMES = LSTMS | {"GRU": "rzn", "GRU before": "rzn", "GRU normed": "rzn"}
CELLS = [*NAMES, "RNN tanh", "RNN relu"]


def over_running(values, running):
    """The mean over the units of the sequences that are not past their end, step by step."""
    return [
        step[on].mean() if on.any() else np.nan for step, on in zip(values, running, strict=True)
    ]


@pytest.mark.parametrize("H", [3, 37])
@pytest.mark.parametrize("cell", CELLS)
def test_states_and_gates_are_those_of_the_twin(cell, H, dtype, isa, rng):
    T, B, I = 7, 5, 3
    layer, x, state, _, _ = case(rng, (T, B, I, H, 1), dtype, cell)
    layer.flat_params[:] *= 6  # some gates reach their bounds
    lengths = np.array([7, 7, 4, 2, 0])
    layer.forward(x, state, lengths=lengths)
    stats = layer.stats()["l0"]
    names = ("w_ih", "w_hh", "b_ih", "b_hh", *OWN)
    found = {n: layer.params.get(name) for n, name in zip(names, names_of(0), strict=True)}
    w = [found[n].astype(float) for n in names[:4]]
    more = {n: found[n].astype(float) for n in names[4:] if found[n] is not None}
    first = [a[0].astype(float) for a in arrays_of(state)]
    saved = twins_of(layer)[0](x.astype(float), first, *w, lengths=lengths, reverse=False, **more)
    running = np.arange(T)[:, None] < lengths
    close = {"rtol": 1e-4 if dtype == np.float32 else 1e-10}
    for name, states in zip("hc", saved[: len(first)], strict=False):
        expected = np.sqrt(over_running(states[1:] ** 2, running))
        np.testing.assert_allclose(stats[name], expected, **close)
    if cell not in NAMES:
        low = saved[0][1:] <= (0 if "relu" in cell else -0.9)
        np.testing.assert_allclose(stats["h_low"], over_running(low, running), atol=1e-12)
        return
    gates = saved[len(first)]  # after the states
    for k, name in enumerate(NAMES[cell]):
        if f"{name}_low" not in stats:
            assert (cell, name) == ("LSTM all", "i")  # which is 1 - f
            continue
        low, high = (-0.9, 0.9) if name in "gn" else (0.1, 0.9)
        for end, at_bound in (("low", gates[:, :, k] <= low), ("high", gates[:, :, k] >= high)):
            expected = over_running(at_bound, running)
            np.testing.assert_allclose(stats[f"{name}_{end}"], expected, atol=0.51 / H / B)


def test_a_plain_layer_has_no_gradient_to_show(rng):
    layer = pyoptk.RNN(2, 3, rng=rng)
    y, _ = layer.forward(rng.standard_normal((4, 2, 2)).astype(np.float32))
    layer.backward(y)
    assert [*layer.stats()["l0"]] == ["h"]


def test_after_backward_there_is_the_gradient_at_each_step(rng, tmp_path):
    layer = pyoptk.LSTM(4, 20, 2, bidirectional=True, rng=rng)
    x = rng.standard_normal((30, 3, 4)).astype(np.float32)
    y, _ = layer.forward(x)
    forward = layer.stats()
    assert [*forward] == ["l0", "l0_reverse", "l1", "l1_reverse"]
    layer.backward(np.concatenate([np.zeros_like(y[1:]), np.ones_like(y[:1])]))
    backward = layer.stats()
    np.testing.assert_array_equal(backward["l0"]["h"], forward["l0"]["h"])
    gradient = backward["l1"]["gradient"]  # of the last step's loss
    assert gradient.shape == (30,)
    assert 0 < gradient[0] < 1e-3 * gradient[-1]
    late = backward["l1_reverse"]["gradient"]  # in that direction it is the first step
    assert late[-1] > 0 == late[:-1].max()
    pytest.importorskip("matplotlib")
    for stats, panels in ((forward, 8), (backward, 4)):
        assert len(stats.plot(tmp_path / "stats.png").axes) == panels


def test_without_a_pass_or_without_gates_it_is_refused():
    with pytest.raises(RuntimeError, match=r"^stats: expected a forward with train=True before"):
        pyoptk.LSTM(2, 3).stats()
    with pytest.raises(RuntimeError, match=r"^stats: expected a layer with save='full'"):
        pyoptk.LSTM(2, 3, save="minimal").stats()
