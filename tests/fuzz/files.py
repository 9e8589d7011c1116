"""Checkpoints: whole, mutated, and of a process that is killed while it saves."""

import io
import json
import os
import signal
import struct
import tempfile
import time
import warnings
import zipfile

import numpy as np

import pyoptk

from .arrays import junk
from .trial import Refused, copied

DTYPES = ["f4", "f8", "f2", "i1", "u2", "i4", "u8", "?"]
try:
    import safetensors  # noqa: F401

    SUFFIXES = [".npz", ".npz", ".safetensors"]
except ImportError:
    SUFFIXES = [".npz"]


def value(t, depth=0):
    """Something that can be saved."""
    kind = t.pick(["array", "array", "number", "str", "dict" if depth < 2 else "number"])
    if kind == "array":
        shape = t.pick([(), (0,), (3,), (2, 3), (50,)])
        return np.array(100 * t.rng.standard_normal(shape)).astype(t.pick(DTYPES))
    if kind == "number":
        return t.pick([0, 1, -(2**63), 2**70, 0.1, float("nan"), -float("inf"), True, None, 1e-320])
    if kind == "str":
        return t.pick(["", "x", "é\0\n", "pyoptk", "a" * 1000])
    return {
        t.pick(["a", "b", "c.d", "file", "m", ""]): value(t, depth + 1)
        for _ in range(t.pick([0, 1, 3]))
    }


def parts_of(t):
    """Parts to save: values, an optimizer after a step, a layer."""
    parts = {name: value(t) for name in ("run", "w")[: t.pick([1, 2])]}
    parts = {n: v if isinstance(v, np.ndarray | dict) else {"v": v} for n, v in parts.items()}
    if t.chance(0.5):
        params = {"a": t.normal((3, 4), np.float32), "b": t.normal((), np.float32)}
        parts["params"] = params
        parts["opt"] = pyoptk.Adam(params, lr=0.01, amsgrad=t.chance(0.5))
        parts["opt"].step({name: np.ones_like(p) for name, p in params.items()})
    if t.chance(0.3):
        parts["lstm"] = pyoptk.LSTM(2, 3, 2, dropout=0.5, rng=np.random.default_rng(1))
    return parts


def snapshot(parts):
    """A deep copy of what the parts hold."""
    return copied(
        {n: dict(p.state_dict()) if hasattr(p, "state_dict") else p for n, p in parts.items()}
    )


def folder():
    return tempfile.TemporaryDirectory(prefix="fuzz-")


def checkpoint(t):
    """Saved and loaded: the same bits; then mutated: refused, or still the same."""
    with folder() as place:
        path = os.path.join(place, "run" + t.pick(SUFFIXES))
        parts = parts_of(t)
        if isinstance(t.call(pyoptk.save, path, **parts), Refused):
            t.check(os.listdir(place) == [], "a refused save left a file")
            return
        expected = snapshot(parts)
        t.equal("loaded", t.call(pyoptk.load, path, must=False), expected)
        with open(path, "rb") as file:
            whole = file.read()
        for _ in range(t.pick([1, 3])):
            with open(path, "wb") as file:
                file.write(mutated(t, whole, path))
            found = t.call(pyoptk.load, path)
            if not isinstance(found, Refused):
                t.equal("loaded after a mutation", found, expected)
            changed = snapshot(parts)
            t.call(pyoptk.load, path, same=lambda: snapshot(parts), **parts)
            t.equal("parts after a mutation", snapshot(parts), changed)
        before = os.listdir(place)
        t.call(pyoptk.save, path, x={"a": junk(t.rng)})
        t.check(os.listdir(place) == before, "a temporary file was left")
        if t.chance(0.3):
            t.call(
                pyoptk.save, path, **{t.pick(["a", "é", "\n", "a/b", "x" * 70000]): {"v": value(t)}}
            )


def mutated(t, data, path):
    """The file with something wrong, or nearly nothing."""
    kind = t.pick(["flip", "flip", "cut", "insert", "zero", "text", "members", "random", "size"])
    bytes_ = bytearray(data)
    at = int(t.rng.integers(max(len(data), 1)))
    if kind == "flip":
        for _ in range(t.pick([1, 1, 2, 8])):
            bytes_[int(t.rng.integers(len(data)))] ^= 1 << int(t.rng.integers(8))
    elif kind == "cut":
        del bytes_[at:]
    elif kind == "insert":
        bytes_[at:at] = t.rng.bytes(t.pick([1, 8, 100]))
    elif kind == "zero":
        bytes_[at : at + 64] = bytes(len(bytes_[at : at + 64]))
    elif kind == "random":
        return t.rng.bytes(t.pick([0, 1, 100, 5000]))
    elif kind == "size":
        bytes_[at : at + 8] = struct.pack("<Q", t.pick([0, 1, 2**31, 2**62, 2**64 - 1]))
    elif path.endswith(".npz"):
        return _zip_again(t, data, kind)
    else:
        return _safetensors_again(t, data)
    return bytes(bytes_)


def _zip_again(t, data, kind):
    """A sound archive whose members are others: swapped, missing, twice, compressed, edited."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(m.filename, archive.read(m)) for m in archive.infolist()]
    i, k = (int(t.rng.integers(len(members))) for _ in range(2))
    how = t.pick(["swap", "missing", "twice", "edit", "compress", "more"])
    if kind == "text":
        members = [(n, _edited(t, b) if n == "pyoptk.json" else b) for n, b in members]
    elif how == "swap":
        (n1, b1), (n2, b2) = members[i], members[k]
        members[i], members[k] = (n1, b2), (n2, b1)
    elif how == "missing":
        del members[i]
    elif how == "more":
        members.append((t.pick(["x.npy", "run.npy", "../y.npy", "z"]), members[k][1]))
    elif how == "twice":
        members.append((members[i][0] + " ", members[k][1]))
    elif how == "edit":
        members[i] = members[i][0], t.rng.bytes(50)
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", zipfile.ZIP_DEFLATED if how == "compress" else zipfile.ZIP_STORED
    ) as archive:
        for name, content in members:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a name that comes twice
                archive.writestr(name, content)
    return out.getvalue()


def _edited(t, text):
    """JSON with one value replaced, whose checksum is then wrong unless it stayed the same."""
    header = json.loads(text)
    where = t.pick([header, header["parts"]])
    if where:
        where[t.pick(list(where))] = t.pick(
            [0, -1, 2, "x", None, [], {}, [1], ["f4", [1]], 2**100, 1.5]
        )
    return json.dumps(header).encode()


def _safetensors_again(t, data):
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    inner = json.loads(header["__metadata__"]["pyoptk"])
    header["__metadata__"]["pyoptk"] = _edited(t, json.dumps(inner)).decode()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def kill(t):
    """A process is killed while it saves: the file is the old one or the new one."""
    with folder() as place:
        path = os.path.join(place, "run" + t.pick(SUFFIXES))
        size = t.pick([10, 1000, 100_000])
        pyoptk.save(path, w=np.zeros(size), run={"epoch": 0})
        process = os.fork()
        if process == 0:
            try:
                for epoch in range(1, 100_000):
                    pyoptk.save(path, w=np.full(size, float(epoch)), run={"epoch": epoch})
            finally:
                os._exit(1)
        time.sleep(float(t.rng.uniform(0, 0.02)))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        found = t.call(pyoptk.load, path, must=False)
        t.equal("w", found["w"], np.full(size, float(found["run"]["epoch"])))
        left = [name for name in os.listdir(place) if name != os.path.basename(path)]
        t.check(len(left) <= 1, f"files left by one kill: {left}")
        pyoptk.save(path, w=np.zeros(size))
