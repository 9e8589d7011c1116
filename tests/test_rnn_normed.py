"""Layer normalization within LSTM and GRU: PyTorch step by step, its definition, what is refused.

Every test of a layer takes both cells as well: NORMED in conftest.py.
"""

import copy
import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
from conftest import NORMED
from rnn_rows import ROWS, arrays_of, assert_near, by_pyoptk, by_twin, case, layer_of

import pyoptk

PEER = Path(pyoptk.__file__).parent / "duel" / "contenders" / "torch.py"
cells = pytest.mark.parametrize("cell", NORMED)


def by_torch(torch, layer, x, state, dy, dstate):
    """As by_pyoptk, by autograd through a loop over the steps of one direction after the other."""
    made = runpy.run_path(str(PEER))["Normed"]
    kind, D = type(layer).__name__, layer.directions
    parts, last, inputs = [], [], [torch.tensor(a, requires_grad=True) for a in (x, *state)]
    y = inputs[0]
    for i in range(layer.num_layers * D):
        suffix = f"_l{i // D}{'_reverse' * (i % D)}"
        part = made(kind, y.shape[2], layer.hidden_size, y.dtype)
        for name, param in part.named_parameters():
            param.data = torch.from_numpy(layer.params[name + suffix].copy())
        parts.append((suffix, part))
    for level in range(layer.num_layers):
        outputs = []
        for i in range(level * D, level * D + D):
            part, back = parts[i][1], [0] * (i % D)
            out, end = part(y.flip(back) if back else y, *(s[i] for s in inputs[1:]))
            outputs.append(out.flip(back) if back else out)
            last.append(end)
        y = torch.cat(outputs, 2)
    last = [torch.stack(some) for some in zip(*last, strict=True)]
    torch.autograd.backward([y, *last], [torch.from_numpy(a) for a in (dy, *dstate)])
    found = dict(zip(("y", "h", "c"), (y, *last), strict=False))
    found |= {n: a.grad for n, a in zip(("dx", "dh0", "dc0"), inputs, strict=False)}
    for suffix, part in parts:
        found |= {name + suffix: param.grad for name, param in part.named_parameters()}
    return {name: array.detach().numpy() for name, array in found.items()}


@cells
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((7, 5, 3, 20, 1), {}),
        ((5, 3, 4, 9, 2), {"bidirectional": True}),
        ((9, 17, 30, 33, 2), {"save": "minimal"}),
    ],
    ids=str,
)
def test_both_passes_equal_pytorch_step_by_step(shape, options, cell, dtype, rng):
    torch = pytest.importorskip("torch")
    if options.get("bidirectional"):
        shape = (*shape[:2], 18, *shape[3:])  # as wide as two directions: layers of one size
    layer, x, state, dy, dstate = case(rng, shape, dtype, cell, **options)
    exact = by_torch(torch, layer, x, arrays_of(state), dy, arrays_of(dstate))
    assert_near(by_pyoptk(layer, x, state, dy, dstate), exact, dtype)


@cells
@pytest.mark.parametrize("row", ROWS)
def test_every_option_equals_the_twin(row, cell, dtype, rng):
    shape, options, call = ROWS[row]
    arguments = case(rng, shape, dtype, cell, **options)
    call = call | {"resets": rng.random(shape[:2]) < 0.2, "reset_to": "initial"}
    for b, length in enumerate(call.get("lengths", [])):
        arguments[1][length:, b] = np.nan
    assert_near(by_pyoptk(*arguments, **call), by_twin(*arguments, **call), dtype)


@cells
def test_neither_scale_nor_shift_of_the_products_matters(cell, dtype, rng):
    """What normalization is about. The factors are large enough that eps, 1e-5, is nothing."""
    layer, x, state, *_ = case(rng, (6, 5, 4, 19, 1), dtype, cell)
    layer.flat_params[:] *= dtype.type(300)
    for name, array in layer.params.items():
        if not name.startswith("weight"):
            array /= dtype.type(300)
    expected, _ = layer.forward(x, state)
    parts = [slice(None)] if cell.startswith("LSTM") else [slice(0, 38), slice(38, None)]
    for name, factor in (("weight_ih_l0", 3), ("weight_hh_l0", 7)):
        for part in parts:
            weight = layer.params[name][part]
            weight *= factor
            weight += rng.standard_normal(weight.shape[1])  # the same for all units
    ours, _ = layer.forward(x, state)
    np.testing.assert_allclose(ours, expected, atol=1e-4 if dtype == np.float32 else 1e-6)


@cells
@pytest.mark.parametrize("init", ["torch", "keras"])
def test_it_begins_with_gains_of_1_and_biases_of_0(init, cell):
    layer = layer_of(cell, 3, 5, 2, init=init, bidirectional=True)
    for name, array in layer.params.items():
        if name.startswith("gain"):
            assert (array == 1).all()
        elif name.startswith("bias") and not (init == "keras" and "bias_ih" in name):
            assert (array == 0).all()
        elif name.startswith("weight"):
            assert array.std() > 0.1
    forget = layer.params["bias_ih_l0"][5:10]
    assert (forget == (init == "keras" and cell.startswith("LSTM"))).all()


@cells
def test_its_parameters_have_names_and_without_bias_there_is_none(cell):
    layer = layer_of(cell, 3, 5, bias=False)
    expected = ["weight_ih_l0", "weight_hh_l0", "gain_ih_l0", "gain_hh_l0"]
    of_c = cell.startswith("LSTM")
    assert [*layer.params] == expected + ["gain_c_l0"] * of_c
    more = [*layer_of(cell, 3, 5).params]
    assert more == [
        *expected[:2], "bias_ih_l0", "bias_hh_l0", *expected[2:], *["gain_c_l0", "bias_c_l0"] * of_c
    ]  # fmt: skip


@cells
def test_copies_pickles_and_files_compute_the_same(cell, rng, tmp_path):
    layer, x, state, *_ = case(rng, (4, 3, 5, 6, 2), np.dtype(np.float32), cell)
    expected, _ = layer.forward(x, state)
    other = layer_of(cell, 5, 6, 2)
    pyoptk.save(tmp_path / "normed.npz", model=layer)
    pyoptk.load(tmp_path / "normed.npz", model=other)
    for same in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), other, layer.shared()):
        assert repr(same) == repr(layer)
        assert "layer_norm=True" in repr(same)
        np.testing.assert_array_equal(same.forward(x, state)[0], expected)


REFUSED = [
    ("LSTM", {"peepholes": True}, "peepholes: expected False"),
    ("LSTM", {"coupled": True}, "coupled: expected False"),
    ("LSTM", {"cell_clip": 1.0}, "cell_clip: expected None"),
    ("LSTM", {"proj_size": 2}, "proj_size: expected 0"),
    ("LSTM", {"zoneout": (0.0, 0.1)}, r"zoneout: expected \(0.0, 0.0\)"),
    ("LSTM", {"recurrent_dropout": 0.1}, "recurrent_dropout: expected 0.0"),
    ("GRU", {"reset_after": False}, "reset_after: expected True"),
    ("GRU", {"zoneout": 0.1}, "zoneout: expected 0.0"),
    ("GRU", {"recurrent_dropout": 0.1}, "recurrent_dropout: expected 0.0"),
    ("GRU", {"compute": "bfloat16"}, "compute: expected None"),
]


@pytest.mark.parametrize(("cell", "options", "message"), REFUSED)
def test_options_that_it_excludes_are_refused_by_name(cell, options, message):
    with pytest.raises(ValueError, match=f"^{message} with layer_norm, got "):
        getattr(pyoptk, cell)(3, 4, layer_norm=True, **options)


@cells
@pytest.mark.parametrize("library", ["torch", "keras", "onnx"])
def test_other_libraries_do_not_have_it(library, cell):
    layer, plain = layer_of(cell, 3, 4), getattr(pyoptk, cell.split()[0])(3, 4)
    message = r"^layer_norm: expected False, as \w+ has nothing else, got True$"
    with pytest.raises(ValueError, match=message):
        getattr(layer, f"to_{library}")()
    given = getattr(plain, f"to_{library}")()
    given = [given] if isinstance(given, dict) else given
    with pytest.raises(ValueError, match=message):
        getattr(type(plain), f"from_{library}")(*given, layer_norm=True)


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_it_is_a_switch_of_two_cells(cell):
    error = TypeError
    with pytest.raises(error, match="layer_norm"):
        getattr(pyoptk, cell)(3, 4, layer_norm=1)
