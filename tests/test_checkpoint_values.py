"""Lists and random generators in checkpoints, and targets of `load` that nobody could fill."""

import numpy as np
import pytest

import pyoptk
from pyoptk.checkpoint import fill_arrays, load, save

FORMATS = ["npz", "safetensors"]
SOME = np.arange(24.0).reshape(2, 3, 4)


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"state.{request.param}"


# ---- lists ---------------------------------------------------------------------------------------

LISTS = [
    [],
    (),
    [0.5, 0.25, 1 / 3],
    [1, True, None, "a", -0.0],
    [[1, 2], [], [[3.5]]],
    (1, (2, 3), [4]),
    [{"epoch": 1, "loss": 0.5}, {}],
    ["list", [1]],
    ["bits", "7ff8000000000000"],
    ["float32", [3]],
    [float("inf"), float("-inf")],
    list(range(5000)),
]


@pytest.mark.parametrize("value", LISTS, ids=lambda value: repr(value)[:30])
def test_lists_come_back_as_they_were(path, value):
    save(path, run={"history": value, "deep": {"er": value}}, history=list(value))
    found = load(path)
    assert found == {"run": {"history": value, "deep": {"er": value}}, "history": list(value)}
    assert repr(found["run"]["history"]) == repr(value)


def test_lists_of_numpy_scalars_come_back_as_numbers(path):
    save(path, losses=[np.float32(0.5), np.int8(3), np.float64("nan")])
    found = load(path)["losses"]
    assert (found[:2], [type(x) for x in found]) == ([0.5, 3], [float, int, float])


def test_lists_are_loaded_in_place(path):
    save(path, losses=[0.5, 0.25], run={"history": [1, 2, 3], "pair": (1, 2), "best": [1]})
    losses, history = [9.0], []
    run = {"history": history, "pair": (), "best": None}
    load(path, losses=losses, run=run)
    assert losses == [0.5, 0.25]
    assert run == {"history": [1, 2, 3], "pair": (1, 2), "best": [1]}
    assert run["history"] is history


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3.0, r"^run\['x'\]: expected a number or str, got list$"),
        (SOME, r"^run\['x'\]: expected float64 \(2, 3, 4\), got list$"),
        ({}, r"^run\['x'\]: expected a dict, got list$"),
    ],
)
def test_a_list_for_something_else_is_refused(path, target, message):
    save(path, run={"x": [1]})
    run = {"x": target}
    with pytest.raises(TypeError, match=message):
        load(path, run=run)
    assert run == {"x": target} or target is SOME
    save(path, run={"x": 1.5})
    with pytest.raises(TypeError, match=r"^run\['x'\]: expected a list, got float$"):
        load(path, run={"x": []})


# ---- random generators ---------------------------------------------------------------------------

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def generator(kind, seed=0):
    made = np.random.Generator(getattr(np.random, kind)(seed))
    made.random(7, np.float32)  # leaves half a draw behind
    return made


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_goes_on_where_it_was(path, kind, bare):
    def part(made):
        return made.bit_generator if bare else made

    first, nested = generator(kind), generator(kind, 1)
    save(path, rng=part(first), run={"rng": part(nested), "epoch": 3})
    wanted = first.random(5), first.random(3, np.float32), nested.integers(0, 9, 5)
    again, inner = generator(kind, 7), generator(kind, 8)
    run = {"rng": part(inner), "epoch": 0}
    load(path, rng=part(again), run=run)
    assert run["epoch"] == 3
    got = again.random(5), again.random(3, np.float32), inner.integers(0, 9, 5)
    for a, b in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_saved_state_is_loaded_into_the_generator(path):
    rng = generator("PCG64")
    save(path, rng=rng.bit_generator.state)
    wanted = rng.random(5)
    again = generator("PCG64", 5)
    load(path, rng=again)
    np.testing.assert_array_equal(again.random(5), wanted)
    made = np.random.default_rng()
    made.bit_generator.state = load(path)["rng"]
    np.testing.assert_array_equal(made.random(5), wanted)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_of_the_state_is_no_target(path, kind, nested):
    rng = generator(kind)
    state = rng.bit_generator.state
    save(path, rng={"rng": rng} if nested else rng)
    with pytest.raises(
        TypeError, match=r"^rng(\.rng)?: expected the Generator itself, got its state"
    ):
        load(path, rng={"rng": state} if nested else state)


WORDS = {**generator("PCG64").bit_generator.state, "state": {"state": "x", "inc": 1}}


@pytest.mark.parametrize(
    ("saved", "error", "message"),
    [
        (generator("MT19937"), ValueError, r"^rng: expected the state of PCG64, got MT19937$"),
        ({"a": 1}, ValueError, r"^rng: expected the state of PCG64, got None$"),
        (SOME, TypeError, r"^rng: expected a dict, got float64 \(2, 3, 4\)$"),
        ([1], TypeError, r"^rng: expected a dict, got list$"),
        (WORDS, ValueError, r"^rng: expected a state of PCG64, got one with "),
        ({"bit_generator": "PCG64"}, ValueError, r"^rng: expected 4 names, got none for 'state'"),
    ],
)
def test_a_state_of_another_generator_is_refused_and_changes_nothing(path, saved, error, message):
    save(path, rng=saved, w=SOME)
    rng, w = generator("PCG64"), np.zeros_like(SOME)
    before = rng.bit_generator.state
    with pytest.raises(error, match=message):
        load(path, rng=rng, w=w)
    assert rng.bit_generator.state == before
    assert not w.any()


# ---- targets that overlap ------------------------------------------------------------------------

MEMORY = np.zeros(100)
OVERLAPS = {
    "the same": (MEMORY[:4], MEMORY[:4]),
    "shifted": (MEMORY[:4], MEMORY[3:7]),
    "reversed": (MEMORY[:4], MEMORY[3::-1]),
    "strided": (MEMORY[:12:3], MEMORY[3:15:3]),
    "in a dict": (MEMORY[:4], {"x": MEMORY[2:6]}),
    "within a dict": ({"x": MEMORY[:4], "y": {"z": MEMORY[:4]}}, np.zeros(4)),
    "zero stride": (np.lib.stride_tricks.as_strided(MEMORY, (4,), (0,)), np.zeros(4)),
    "zero stride inside": (np.lib.stride_tricks.as_strided(MEMORY, (2, 4), (0, 8)), np.zeros(4)),
    "windows": (np.lib.stride_tricks.as_strided(MEMORY, (3, 4), (8, 8)), np.zeros(4)),
    "backward windows": (
        np.lib.stride_tricks.as_strided(MEMORY[50:], (3, 4), (-16, 8)),
        np.zeros(4),
    ),
}
APART = {
    "columns": tuple(np.zeros((4, 2)).T),
    "neighbours": (MEMORY[:4], MEMORY[4:8]),
    "interleaved": (MEMORY[:8:2], MEMORY[1:9:2]),
    "reversed": (MEMORY[3::-1], MEMORY[4:8]),
    "empty": (MEMORY[:0], MEMORY[:0]),
    "transposed": (MEMORY[:6].reshape(2, 3).T, MEMORY[6:10]),
    "one, stride 0": (np.lib.stride_tricks.as_strided(MEMORY, (1, 4), (0, 8)), MEMORY[4:8]),
}


def like(part):
    return {k: like(v) for k, v in part.items()} if isinstance(part, dict) else np.ones(part.shape)


@pytest.mark.parametrize("case", OVERLAPS)
def test_targets_that_overlap_are_refused(path, case):
    a, b = OVERLAPS[case]
    save(path, a=like(a), b=like(b))
    message = (
        r"^[ab](\.\w)*: expected (memory of its own, got .* overlaps [ab]|elements of their own)"
    )
    with pytest.raises(ValueError, match=message):
        load(path, a=a, b=b)
    assert not MEMORY.any()


@pytest.mark.parametrize("case", APART)
def test_targets_beside_each_other_are_filled(path, case):
    a, b = APART[case]
    save(path, a=like(a), b=like(b))
    load(path, a=a, b=b)
    assert (a == 1).all() and (b == 1).all()  # noqa: PT018
    a[:] = b[:] = MEMORY[:] = 0


def models_of(how):
    """Two parts that are filled, the second of the first's memory."""
    layer = pyoptk.layers.Linear(3, 3)
    model = pyoptk.layers.Sequential(layer, pyoptk.layers.Linear(3, 3))
    opt = pyoptk.Adam(model.params)
    parts = {
        "shared": (layer, layer.shared()),
        "parameter": (model, model.params["0.weight"]),
        "layer": (model, layer),
        "state": (opt, opt.state["m"]["1.bias"]),
        "wrapper's": (w := pyoptk.Lookahead(opt), w.slow["0.bias"]),
    }
    return parts[how]


@pytest.mark.parametrize("how", ["shared", "parameter", "layer", "state", "wrapper's"])
def test_objects_that_share_memory_are_refused(path, how):
    a, b = models_of(how)
    save(path, a=a, b=b)
    with pytest.raises(
        ValueError, match=r"^[ab](\.\S+)*: expected memory of its own, got an array"
    ):
        load(path, a=a, b=b)


def test_a_state_of_the_objects_own_arrays_is_read_before_it_changes(rng):
    """Exchanged names, which otherwise would give both the same values."""
    linear, lstm = pyoptk.layers.Linear, pyoptk.LSTM(3, 4, bidirectional=True)
    model = pyoptk.layers.Sequential(linear(3, 3), linear(3, 3))
    opt = pyoptk.Adam({"a": rng.random(4), "b": rng.random(4)})
    opt.step({"a": rng.random(4), "b": rng.random(4)})
    wrapper = pyoptk.Lookahead(opt)
    wrapper.slow["a"][:] = 7
    for part, one, other in (
        (model, "0.weight", "1.weight"),
        (lstm, "weight_hh_l0", "weight_hh_l0_reverse"),
        (opt, "m.a", "m.b"),
        (wrapper, "slow.a", "slow.b"),
    ):
        state = dict(part.state_dict())
        wanted = state[other].copy(), state[one].copy()
        part.load_state_dict(state | {one: state[other], other: state[one]})
        for name, array in zip((one, other), wanted, strict=True):
            np.testing.assert_array_equal(part.state_dict()[name], array, err_msg=name)


def test_a_column_that_another_target_lies_within_is_read_first():
    """The last target that begins before an array need not be the one that overlaps it."""
    table = np.arange(12.0).reshape(6, 2)
    targets = {"column": table[:, 0], "element": table[1:2, 1], "rest": np.zeros(2)}
    wanted = table[4:6, 0].copy()
    fill_arrays(targets, {"column": np.full(6, -1.0), "rest": table[4:6, 0]})
    np.testing.assert_array_equal(targets["rest"], wanted)


def test_many_targets_are_compared_in_little_time(path):
    memory = np.zeros((3000, 4))
    save(path, all={str(k): row for k, row in enumerate(memory)})
    load(path, all={str(k): row for k, row in enumerate(memory)})
