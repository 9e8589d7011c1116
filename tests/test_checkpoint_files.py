"""Checkpoint files that are damaged, foreign, or written while something goes wrong."""

import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib

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
        monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", crash)
    else:
        monkeypatch.setattr("pyoptk._files._write_safetensors", crash)
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


# ---- written while something else happens -------------------------------------------------------


def test_a_checkpoint_loads_whatever_another_thread_writes(path):
    """A good file is replaced by a good file or not at all, and an error says so."""
    w, stop, outcomes = np.zeros(300_000), threading.Event(), []

    def work():
        while not stop.is_set():
            w[:] += 1.0

    save(path, w=w)
    writer = threading.Thread(target=work)
    writer.start()
    try:
        for _ in range(20):
            try:
                save(path, w=w, run={"epoch": 1})
                outcomes.append("saved")
            except RuntimeError as error:
                assert "another thread changed an array" in str(error)  # noqa: PT017
                outcomes.append("refused")
            assert load(path)["w"].shape == w.shape
    finally:
        stop.set()
        writer.join()
    save(path, w=w)
    assert same(load(path)["w"], w)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("when", range(1, 7))
def test_a_change_at_any_moment_of_a_save_is_refused_or_saved_whole(path, monkeypatch, when):
    w, b = np.zeros(3 * checkpoint._files.PIECE // 8), np.zeros(3)
    save(path, w=w, b=b)
    before, calls, crc32 = path.read_bytes(), [0], zlib.crc32

    def change(data, start=0):
        calls[0] += 1
        if calls[0] == 2 * when:
            w[:] = b[:] = 1
        return crc32(data, start)

    monkeypatch.setattr("pyoptk._files.zlib.crc32", change)
    try:
        save(path, w=w, b=b)
    except RuntimeError:
        assert path.read_bytes() == before
    monkeypatch.undo()
    found = load(path)
    assert len({*found["w"], *found["b"]}) == 1
    assert len(os.listdir(path.parent)) == 1


SAVER = """
import os, signal, sys
import numpy as np
import pyoptk


def pour(array, write, crc):
    write(b"half")
    print("writing", flush=True)
    signal.pause()


pyoptk.checkpoint._checksum = lambda parts, arrays: 0
pyoptk._files.pour = pour
pyoptk.save(sys.argv[1], w=np.zeros(100_000))
"""


def test_what_a_killed_save_left_is_removed_by_the_next(path):
    command = [sys.executable, "-P", "-u", "-c", SAVER, str(path)]
    saver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert saver.stdout.readline() == "writing\n"
    other = path.parent / ".pyoptk-notes.tmp"
    other.touch()
    save(path, w=SOME)
    left = set(os.listdir(path.parent)) - {path.name, other.name}
    assert len(left) == 1  # of a process that lives
    saver.kill()
    saver.communicate()
    save(path, w=SOME)
    assert set(os.listdir(path.parent)) == {path.name, other.name}
    empty = path.parent / f".pyoptk-{'0' * 16}.tmp"
    empty.touch()
    save(path, w=SOME)
    assert empty.exists()  # a save may be about to lock it
    os.utime(empty, (time.time() - 100, time.time() - 100))
    save(path, w=SOME)
    assert not empty.exists()


def test_many_saves_at_once_leave_a_good_file_and_no_other(path):
    threads = [
        threading.Thread(target=lambda k=k: [save(path, w=np.full(999, k)) for _ in range(20)])
        for k in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(load(path)["w"])) == 1
    assert os.listdir(path.parent) == [path.name]


def test_a_full_disk_is_an_oserror_and_leaves_the_old_file(path):
    save(path, w=SOME)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, w=np.ones(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert same(load(path)["w"], SOME)
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_without_permission_is_an_oserror(path):
    folder = path.parent / "file"
    folder.touch()
    with pytest.raises(OSError, match="file"):
        save(folder / path.name, w=SOME)
    (path.parent / "own").mkdir()
    (path.parent / "own" / path.name).mkdir()
    with pytest.raises(IsADirectoryError):
        save(path.parent / "own" / path.name, w=SOME)
    assert os.listdir(path.parent / "own") == [path.name]


def test_too_little_memory_is_a_memory_error(path):
    save(path, w=np.zeros(40 << 20))
    code = f"""if True:
        import importlib, re, resource
        import pyoptk
        if {path.suffix == ".safetensors"}:
            importlib.import_module("safetensors.numpy")
        used = int(re.search(r"VmSize:\\s*(\\d+)", open("/proc/self/status").read())[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
        try:
            pyoptk.load({str(path)!r})
        except MemoryError:
            print("MemoryError")
    """
    if not os.path.exists("/proc/self/status"):
        pytest.skip("only Linux says how much memory is in use")
    shown = subprocess.check_output([sys.executable, "-P", "-c", code], text=True)
    assert shown.strip() == "MemoryError"


# ---- from a machine of the other byte order -----------------------------------------------------


def swapped(content, arrays, checksum_of_what_is_stored):
    """An .npz as a big-endian machine writes it (here, or a little-endian one, if this is big)."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    foreign = {k: a.astype(a.dtype.newbyteorder()) for k, a in arrays.items()}
    for key, array in foreign.items():
        members[f"{key}.npy"] = saved(np.save, array)
    if checksum_of_what_is_stored:
        header = json.loads(members["pyoptk.json"])
        header["crc32"] = checkpoint._checksum(header["parts"], foreign)
        members["pyoptk.json"] = json.dumps(header).encode()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, member in members.items():
            new.writestr(name, member)
    return file.getvalue()


@pytest.mark.parametrize("checksum_of_what_is_stored", [False, True])
def test_a_file_of_the_other_byte_order_is_converted(tmp_path, checksum_of_what_is_stored):
    path = tmp_path / "state.npz"
    arrays = {dtype: np.arange(-3, 4).astype("i8").astype(dtype) for dtype in DTYPES}
    save(path, **arrays, run={"epoch": 3})
    path.write_bytes(swapped(path.read_bytes(), arrays, checksum_of_what_is_stored))
    found, targets = load(path), {key: np.zeros_like(array) for key, array in arrays.items()}
    load(path, **targets, run={"epoch": 0})
    for key, array in arrays.items():
        assert found[key].dtype.isnative
        assert same(found[key], array), key
        assert same(targets[key], array), key
