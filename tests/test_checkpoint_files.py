"""Checkpoint files that are damaged, foreign, or written while something goes wrong."""

import io
import json
import os
import struct
import zipfile

import numpy as np
import pytest

from pyoptk import checkpoint
from pyoptk.checkpoint import load, save

FORMATS = ["npz", "safetensors"]
DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    return tmp_path / f"state.{request.param}"


SOME = np.arange(24.0).reshape(2, 3, 4)


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def archive(compression=zipfile.ZIP_STORED, **members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name.replace("_", "."), content)
    return file.getvalue()


def saved(function, *args, **kwargs):
    file = io.BytesIO()
    function(file, *args, **kwargs)
    return file.getvalue()


class Bomb:
    def __reduce__(self):
        return exit, (3,)


PICKLE = saved(np.save, np.array([Bomb()]), allow_pickle=True)
HEADER = json.dumps({"pyoptk_checkpoint": 1, "parts": {"w": ["object", [1]]}, "crc32": 0})
HUGE = b"\x93NUMPY\x01\x00v\x00" + b"{'descr':'<f8','fortran_order':False,'shape':(%d,)}" % 10**15
FOREIGN = {
    "empty": b"",
    "bytes": bytes(range(256)) * 3,
    "JSON": b'{"pyoptk_checkpoint": 1}',
    "other npz": saved(np.savez, w=SOME),
    "npy": saved(np.save, SOME),
    "other zip": archive(a_txt="hello"),
    "empty zip": archive(),
    "no JSON": archive(pyoptk_json="{"),
    "deep JSON": archive(pyoptk_json="[" * 200_000),
    "long integer": archive(pyoptk_json='{"pyoptk_checkpoint": ' + "1" * 5000 + "}"),
    "list": archive(pyoptk_json="[]"),
    "no version": archive(pyoptk_json='{"version": 1}'),
    "no parts": archive(pyoptk_json='{"pyoptk_checkpoint": 1}'),
    "pickle": archive(pyoptk_json=HEADER, w_npy=PICKLE),
    "huge array": archive(pyoptk_json=HEADER, w_npy=HUGE.ljust(128)),
    "zip bomb": archive(zipfile.ZIP_DEFLATED, pyoptk_json=HEADER, w_npy=bytes(10**6)),
    "long safetensors header": struct.pack("<Q", 2**62) + b"{}",
    "other safetensors": struct.pack("<Q", 8) + b"{}      ",
    "safetensors with metadata": struct.pack("<Q", 28) + b'{"__metadata__":{"a":"b"}}  ',
}


@pytest.mark.parametrize("content", FOREIGN)
def test_foreign_files_are_refused(path, content):
    path.write_bytes(FOREIGN[content])
    got = "an empty file$" if content == "empty" else r"a foreign or damaged file \("
    message = rf"state\.\w+: expected a checkpoint written by pyoptk\.save, got {got}"
    with pytest.raises(ValueError, match=message):
        load(path)


def test_a_truncated_file_is_refused(path):
    save(path, w=SOME, opt={"m": SOME, "lr": 0.1})
    whole = path.read_bytes()
    w = np.zeros_like(SOME)
    for length in [*range(0, len(whole), 23), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="expected a checkpoint written by pyoptk"):
            load(path, w=w, opt={"m": w, "lr": 0.0})
    assert not w.any()


def test_a_flipped_bit_is_noticed_or_without_effect(path, rng):
    save(path, w=SOME, opt={"m": np.ones(5, np.float32), "lr": 0.1, "nan": float("nan")})
    whole, refused = path.read_bytes(), 0
    for at in rng.integers(0, 8 * len(whole), 300):
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        try:
            found = load(path)
        except ValueError as error:
            assert "expected a checkpoint" in str(error)  # noqa: PT017
            refused += 1
            continue
        assert same(found["w"], SOME)  # for example a date in a zip file
        assert same(found["opt"]["m"], np.ones(5, np.float32))
        assert found["opt"]["lr"] == 0.1
    assert refused > 150


def test_a_newer_version_is_refused_by_name(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_VERSION", 7)
    save(path, w=SOME)
    assert same(load(path)["w"], SOME)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"expected a checkpoint of version 1, got version 7; upd"):
        load(path)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["write", "os.fsync", "os.chmod", "os.replace"])
def test_a_crash_leaves_the_old_file_whole_and_no_other(path, monkeypatch, where, error):
    def crash(*_, **__):
        raise error("crash")

    save(path, w=SOME)
    if where != "write":
        monkeypatch.setattr(where, crash)
    elif path.suffix == ".npz":
        monkeypatch.setattr("numpy.lib.format.write_array", crash)
    else:
        monkeypatch.setattr("safetensors.numpy.save_file", crash)
    with pytest.raises(error, match="crash"):
        save(path, w=SOME + 1)
    monkeypatch.undo()
    assert same(load(path)["w"], SOME)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("old", [None, 0o640, 0o444, 0o600])
def test_permissions_are_kept_or_those_of_the_umask(path, old):
    umask = os.umask(0o026)
    try:
        if old is not None:
            path.touch()
            path.chmod(old)
        save(path, w=SOME)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o7777 == (0o640 if old is None else old)


def test_a_link_stays_a_link(path, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    path.symlink_to(folder / path.name)
    save(path, w=SOME)
    assert path.is_symlink()
    assert os.listdir(folder) == [path.name]
    assert same(load(path)["w"], SOME)
