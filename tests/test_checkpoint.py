"""Saved state loads bit for bit; a damaged or mismatched one is refused and changes nothing."""

import os
import struct
import sys

import numpy as np
import pytest

import pyoptk
from pyoptk.checkpoint import check_arrays, fill_arrays, load, save

FORMATS = ["npz", "safetensors"]
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"state.{request.param}"


def bits(number):
    return struct.pack("<d", number)


NAN_WITH_PAYLOAD = struct.unpack("<Q", struct.pack("<d", float("nan")))[0] | 1 << 63 | 12345
NUMBERS = [
    *[0, -1, 2**63 - 1, -(2**63), 2**64 - 1, True, False, None, "", "a.b\0\n\ud800ü€"],
    *[0.0, -0.0, 0.1, 1e308, 5e-324, 2.0**53 + 2, 1 / 3, float("inf"), float("-inf")],
    *[float("nan"), struct.unpack("<d", struct.pack("<Q", NAN_WITH_PAYLOAD))[0]],
]
SOME = np.arange(24.0).reshape(2, 3, 4)
ARRAYS = {
    **{dtype: np.arange(-3, 4).astype("i8").astype(dtype) for dtype in DTYPES},
    "nothing": np.zeros((3, 0, 2), np.float32),
    "one": np.array(np.float32(0.1)),
    "Fortran": np.asfortranarray(SOME),
    "transposed": SOME.T,
    "strided": SOME[:, ::-2, 1:],
    "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
    "unaligned": np.arange(33, dtype=np.uint8)[1:].view(np.float64),
    "NaNs": np.array([NAN_WITH_PAYLOAD, 1 << 63], np.uint64).view(np.float64),
    "a/b ü €": np.ones(1),
    "file": np.ones(2),
    "..": np.ones(3),
    "x.npy": np.ones(4),
    "": np.ones(5),
}


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def test_arrays_come_back_bit_for_bit(path):
    save(path, a=ARRAYS, **ARRAYS)
    found = load(path)
    assert list(found) == ["a", *ARRAYS]
    assert list(found["a"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert same(found[name], array), name
        assert same(found["a"][name], array), name
        assert found[name].flags.writeable, name


@pytest.mark.parametrize("number", NUMBERS, ids=ascii)
def test_numbers_come_back_with_type_and_value(path, number):
    save(path, part={"number": number, "nested": {"number": number}})
    for found in (load(path)["part"]["number"], load(path)["part"]["nested"]["number"]):
        assert type(found) is type(number)
        assert bits(found) == bits(number) if isinstance(number, float) else found == number


def test_numpy_scalars_come_back_as_numbers(path):
    save(path, p={"a": np.float64(0.1), "b": np.float32(0.1), "c": np.int8(3), "d": np.bool_(True)})
    found = load(path)["p"]
    assert found == {"a": 0.1, "b": float(np.float32(0.1)), "c": 3, "d": True}
    assert [type(value) for value in found.values()] == [float, float, int, bool]


def test_structure_comes_back(path):
    saved = {"m": {"w": 1, "b": {}}, "m.w": 2.0, "": {"": "x"}}
    save(path, empty={}, part=saved)
    assert load(path) == {"empty": {}, "part": saved}


def test_the_same_state_makes_the_same_file(path):
    save(path, a=SOME, b={"x": 1.5})
    before = path.read_bytes()
    save(path, a=SOME, b={"x": 1.5})
    assert path.read_bytes() == before


def test_others_can_read_the_arrays(path):
    save(path, w=SOME, opt={"m": SOME, "lr": 0.1})
    if path.suffix == ".npz":
        others = np.load(path, allow_pickle=False)
    else:
        others = pytest.importorskip("safetensors.numpy").load_file(path)
    assert same(others["w"], SOME)
    assert same(others["opt.m"], SOME)


class Model:
    """A model with weights; it has check_state_dict if `checks`."""

    def __init__(self, value=0.0, checks=True):
        self.w = np.full(3, value)
        if checks:
            self.check_state_dict = lambda state: check_arrays({"w": self.w}, state, "state")

    def state_dict(self):
        return {"w": self.w}

    def load_state_dict(self, state):
        check_arrays({"w": self.w}, state, "state")
        fill_arrays({"w": self.w}, state)


def test_objects_dicts_and_arrays_are_loaded_in_place(path):
    save(str(path), model=Model(7.0), run={"epoch": 3, "x": {"best": SOME}}, w=SOME, s=np.array(5))
    model, best, w, s = Model(), np.zeros_like(SOME), np.zeros_like(SOME), np.array(0)
    run = {"epoch": 0, "x": {"best": best}}
    assert load(str(path), s=s, w=w, run=run, model=model) is None
    assert (model.w == 7).all()
    assert run["epoch"] == 3
    assert run["x"]["best"] is best
    assert same(best, SOME)
    assert same(w, SOME)
    assert s == 5


# target to load into, which differs from what was saved; error, message
MISFITS = {
    "missing part": ({"w": None}, ValueError, r"state\.\w+: expected 3 parts, got 'w' too$"),
    "extra part": ({"ema": SOME}, ValueError, r"state\.\w+: expected 5 parts, got none for 'ema'$"),
    "shape": ({"w": np.zeros(5)}, ValueError, r"^w: expected float64 \(5,\), got float64 \(4,\)$"),
    "dtype": ({"w": np.zeros(4, "f4")}, TypeError, r"^w: expected float32 .*got float64 \(4,\)$"),
    "array for dict": ({"run": SOME}, TypeError, r"^run: expected float64 \(2, 3, 4\), got dict$"),
    "dict for array": ({"w": {}}, TypeError, r"^w: expected a dict, got float64 \(4,\)$"),
    "object for array": ({"w": Model()}, TypeError, r"^w: expected a state dict, got float64 \(4,"),
    "no target": (
        {"w": 3},
        TypeError,
        r"^w: expected an array, dict, list, Generator or .*load_state_dict\(\), g",
    ),
    "read-only": (
        {"w": np.broadcast_to(np.float64(1), 4)},
        ValueError,
        r"^w: expected a writable array to fill, got a read-only one$",
    ),
    "names": (
        {"run": {"epoch": 0, "y": np.zeros(2)}},
        ValueError,
        r"^run: expected 2 names, got none for 'y' and 'x' too$",
    ),
    "shape in dict": (
        {"run": {"epoch": 0, "x": np.zeros(3)}},
        ValueError,
        r"^run\['x'\]: expected float64 \(3,\), got float64 \(2,\)$",
    ),
    "number for array": (
        {"run": {"epoch": np.zeros(()), "x": np.zeros(2)}},
        TypeError,
        r"^run\['epoch'\]: expected float64 \(\), got int$",
    ),
    "array for number": (
        {"run": {"epoch": 0, "x": 0}},
        TypeError,
        r"^run\['x'\]: expected a number or str, got float64 \(2,\)$",
    ),
}


@pytest.mark.parametrize("checks", [True, False], ids=["checks", "checks late"])
@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_changes_nothing(path, misfit, checks):
    change, error, message = MISFITS[misfit]
    save(path, m=Model(1.0), w=np.ones(4), v=np.ones(4), run={"epoch": 3, "x": np.ones(2)})
    v, run, model = np.zeros(4), {"epoch": 0, "x": np.zeros(2)}, Model(checks=checks)
    parts = {"m": model, "v": v, "run": run, "w": np.zeros(4), **change}
    parts = {key: part for key, part in parts.items() if part is not None}
    with pytest.raises(error, match=message):
        load(path, **parts)
    assert not v.any()
    assert run["epoch"] == 0
    assert not run["x"].any()
    assert not model.w.any()


def test_an_object_that_refuses_late_still_comes_first(path):
    save(path, a=Model(1.0), b=np.ones(2), c={"w": np.ones(4)})
    a, b, c = Model(), np.zeros(2), Model(checks=False)
    with pytest.raises(
        ValueError, match=r"^state\['w'\]: expected float64 \(3,\), got float64 \(4"
    ):
        load(path, a=a, b=b, c=c)
    assert not a.w.any()
    assert not b.any()


def test_training_goes_on_as_if_never_interrupted(path, dtype, rng):
    grads = rng.normal(size=(10, 50)).astype(dtype)
    w, resumed = np.ones(50, dtype), np.zeros(50, dtype)
    opt = pyoptk.SGD(w, lr=0.1)
    for step, grad in enumerate(grads):
        opt.step(grad)
        if step == 4:
            save(path, w=w)
    load(path, w=resumed)
    opt = pyoptk.SGD(resumed, lr=0.1)
    for grad in grads[5:]:
        opt.step(grad)
    assert same(resumed, w)


FOREIGN = np.zeros(2, np.dtype("f4").newbyteorder())
CYCLE = {}
CYCLE["again"] = CYCLE

# value, error, message
UNSAVABLE = {
    "objects": (np.array([None]), TypeError, r"^part\.x: expected floats .*got object \(1,\)$"),
    "complex": (np.ones(2, complex), TypeError, r"^part\.x: .*got complex128 \(2,\)$"),
    "text": (np.array(["a"]), TypeError, r"^part\.x: .*got <U1 \(1,\)$"),
    "long double": (np.ones(2, np.clongdouble).real, TypeError, r"^part\.x: .*\(2,\)$"),
    "dates": (np.zeros(2, "M8[s]"), TypeError, r"^part\.x: .*got datetime64\[s\] \(2,\)$"),
    "swapped": (FOREIGN, TypeError, r"^part\.x: .*native byte order, got [<>]f4 \(2,\)$"),
    "masked": (np.ma.zeros(2), TypeError, r"^part\.x: expected an array.*got MaskedArray$"),
    "set": ({1, 2}, TypeError, r"^part\.x: expected an array, a number.*got set$"),
    "array in a list": ([1, SOME], TypeError, r"^part\.x\[1\]: expected a number.*got float64 \(2"),
    "array in a dict in a list": ([{"a": SOME}], TypeError, r"^part\.x\[0\]\.a: expected a numb"),
    "long int": (
        1 << 9000,
        ValueError,
        r"^part\.x: expected an int of at most 8,192 bits, got 9,0",
    ),
    "long name": (
        {"n" * 70_000: SOME},
        ValueError,
        r"^part\.x\.nn+\.\.\.: .* at most 65,531 bytes",
    ),
    "long name in UTF-8": (
        {"\u20ac" * 30_000: SOME},
        ValueError,
        r"at most 65,531 bytes, got 90,007",
    ),
    "dict in itself": (
        CYCLE,
        ValueError,
        r"^part: expected fewer dicts and lists inside each other",
    ),
    "complex number": (1j, TypeError, r"^part\.x: .*got complex$"),
    "bytes": (b"1", TypeError, r"^part\.x: .*got bytes$"),
    "int as name": ({1: 2}, TypeError, r"^part\.x: expected names of type str, got 1$"),
    "NUL in a name": ({"a\0": SOME}, ValueError, r"^'part\.x\.a\\x00': expected a printable name"),
    "surrogate": ({"\ud800": SOME}, ValueError, r"^'part\.x\.\\ud800': expected a printable name"),
}


@pytest.mark.parametrize("value", UNSAVABLE)
def test_what_cannot_be_saved_is_named_and_leaves_the_old_file(path, value):
    value, error, message = UNSAVABLE[value]
    path.write_bytes(b"old")
    with pytest.raises(error, match=message):
        save(path, good=SOME, part={"x": value})
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [path.name]


def test_bad_parts_and_names_are_refused(path):
    for parts, error, message in [
        ({}, ValueError, r"^parts: expected at least one to save, got none$"),
        (
            {"n": 3},
            TypeError,
            r"^n: expected an array, dict, list, Generator or an object with state_dict\(\), got",
        ),
        ({"m": {"w": SOME}, "m.w": SOME}, ValueError, r"^'m\.w': expected .*for one array"),
        ({"__metadata__": SOME}, ValueError, r"^'__metadata__': expected"),
    ]:
        with pytest.raises(error, match=message):
            save(path, **parts)


@pytest.mark.parametrize("name", ["state", "state.npy", "state.npz.bak", "npz", ".npz"])
def test_other_suffixes_are_refused(tmp_path, name):
    for call in (lambda path: save(path, w=SOME), load):
        with pytest.raises(
            ValueError, match=r"^path: expected a name in \.npz or \.safetensors, g"
        ):
            call(tmp_path / name)
        for path in (3, None, ["state.npz"]):
            with pytest.raises(
                TypeError, match=r"^path: expected str, bytes or os\.PathLike, got "
            ):
                call(path)


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="state"):
        load(path)
    with pytest.raises(FileNotFoundError):
        save(path.parent / "none" / path.name, w=SOME)


def test_safetensors_missing_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda path: save(path, w=SOME), load):
        with pytest.raises(ImportError, match=r"x\.safetensors: .*pip install safetensors$"):
            call(tmp_path / "x.safetensors")


def test_check_arrays_names_the_first_that_does_not_fit():
    expected = {"m": SOME, "lr": 0.1}
    check_arrays(expected, {"lr": 3, "m": -SOME}, "state")
    for got, error, message in [
        ([SOME, 0.1], TypeError, r"^state: expected a dict, got list$"),
        ({}, ValueError, r"^state: expected 2 names, got none for 'm', 'lr'$"),
        ({"m": SOME, "lr": 0.1, "v": 0}, ValueError, r"^state: expected 2 names, got 'v' too$"),
        ({"m": SOME[0], "lr": SOME}, ValueError, r"^state\['m'\]: .*got float64 \(3, 4\)$"),
        ({"m": SOME, "lr": SOME}, TypeError, r"^state\['lr'\]: expected a number or str, got fl"),
    ]:
        with pytest.raises(error, match=message):
            check_arrays(expected, got, "state")
