"""The files of checkpoint.py: .npz and .safetensors, read with care and replaced in one step.

`write` and `read` are all that checkpoint.py needs. A file holds arrays and one text. Arrays are
written in pieces that are copied first, so that the checksum is that of the bytes in the file.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
import struct
import sys
import time
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

if sys.platform != "win32":
    import fcntl

Arrays = dict[str, NDArray[Any]]
Path = str | os.PathLike[str]
Text = str | bytes | None

DTYPES = "?bBhHiIlLqQefd"  # the type codes of what both formats can hold
PIECE = 1 << 20  # bytes


def write(path: Path, text: str, arrays: Arrays, crc: int, expected: int) -> bool:
    """Replace the file at `path`, unless the checksum of what is written is not `expected`.

    `arrays` are C-contiguous and little-endian. `crc` is that of what comes before them; `expected`
    continues it with their bytes, sorted by name. Returns whether the file was replaced.
    """
    fill = _write_npz if suffix(path) == ".npz" else _write_safetensors
    return replace(path, lambda file: fill(file, text, arrays, crc) == expected)


def replace(path: Path, fill: Callable[[IO[bytes]], bool]) -> bool:
    """Replace the file at `path` by what `fill` writes; not if it returns False, nor if it raises.

    Returns whether the file was replaced.
    """
    check_type(path)
    path = os.path.realpath(os.fsdecode(path))  # the file behind a link, not the link
    folder = os.path.dirname(path)
    _remove_abandoned(folder)
    temporary = os.path.join(folder, f".pyoptk-{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:  # unlike mkstemp, with the mode that the umask gives
            with contextlib.suppress(OSError):  # until the end: see _remove_abandoned
                if sys.platform != "win32":
                    fcntl.flock(file, fcntl.LOCK_EX)
            mode = os.fstat(file.fileno()).st_mode
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(path).st_mode
            good = fill(file)
            if good:
                file.flush()
                os.fsync(file.fileno())
                os.chmod(temporary, stat.S_IMODE(mode))
                if sys.platform == "win32":  # which renames no file that is open
                    file.close()
                os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    with contextlib.suppress(OSError):  # not every system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return good


def read(path: str, check: Callable[[Text], Any]) -> tuple[Any, Arrays]:
    """What `check` makes of the text, before the arrays are read, and the arrays as stored."""
    return (_read_npz if suffix(path) == ".npz" else _read_safetensors)(path, check)


def ordered(arrays: Arrays, order: Literal["<", "="]) -> Arrays:
    """The arrays in this byte order: little-endian or the machine's own."""
    return {k: a.astype(a.dtype.newbyteorder(order), copy=False) for k, a in arrays.items()}


def pour(array: NDArray[Any], write: Callable[[bytes], object], crc: int) -> int:
    """Write the bytes of `array` in pieces that no other thread can change; continue `crc`."""
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PIECE):
        piece = flat[start : start + PIECE].tobytes()
        write(piece)
        crc = zlib.crc32(piece, crc)
    return crc


def check_type(path: Any, what: str = "path") -> None:
    """Raise a TypeError unless it can be a path."""
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError(f"{what}: expected str, bytes or os.PathLike, got {type(path).__name__}")


def suffix(path: Path, what: str = "path") -> str:
    """The format of the file at `path`; raise if there is none, or if a package is missing."""
    check_type(path, what)
    name = os.fsdecode(path)
    ending = os.path.splitext(name)[1].lower()
    if ending not in (".npz", ".safetensors"):
        raise ValueError(f"{what}: expected a name in .npz or .safetensors, got {name}")
    if ending == ".safetensors":
        try:
            import_module("safetensors.numpy")
        except ImportError as error:
            raise ImportError(
                f"{name}: .safetensors needs a package: pip install safetensors"
            ) from error
    return ending


def _remove_abandoned(folder: str) -> None:
    """Remove temporary files whose process was killed: nobody holds them locked.

    On Windows no file is removed that is open anywhere, which is as good.
    """
    ours = re.compile(r"\.pyoptk-[0-9a-f]{16}\.tmp").fullmatch
    with contextlib.suppress(OSError):
        for name in filter(ours, os.listdir(folder)):
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError), open(path, "rb") as file:
                found = os.fstat(file.fileno())
                old = found.st_mtime < time.time() - 60  # else perhaps not yet locked
                if sys.platform == "win32":
                    file.close()
                elif old or found.st_size:
                    old = True
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if old:
                    os.unlink(path)


def _write_npz(file: IO[bytes], text: str, arrays: Arrays, crc: int) -> int:
    from zipfile import ZipFile  # here, because few programs need it and it takes 8 ms

    archive = ZipFile(file, "w")  # np.savez cannot save every name, "file" say
    try:
        with archive.open("pyoptk.json", "w") as member:
            member.write(text.encode())
        for key in sorted(arrays):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                header = np.lib.format.header_data_from_array_1_0(arrays[key])
                np.lib.format.write_array_header_1_0(member, header)
                crc = pour(arrays[key], member.write, crc)
        archive.close()
    finally:
        archive.fp = None  # to close it after an interrupt would raise an error of its own
    return crc


def _read_npz(path: str, check: Callable[[Text], Any]) -> tuple[Any, Arrays]:
    from zipfile import ZipFile

    with ZipFile(path) as archive:
        members = {member.filename: member for member in archive.infolist()}
        # Ours are not compressed: a small file cannot ask for much memory.
        if sum(member.file_size for member in members.values()) > os.path.getsize(path):
            raise ValueError("it is compressed")
        header = check(archive.read("pyoptk.json") if "pyoptk.json" in members else None)
        arrays = {}
        for name, member in members.items():
            if name.endswith(".npy"):
                with archive.open(member) as file:
                    arrays[name.removesuffix(".npy")] = _read_npy(file, member.file_size)
        return header, arrays


def _read_npy(file: IO[bytes], size: int) -> NDArray[Any]:
    """The array of a member; its shape must fill the member before memory is taken for it."""
    np.lib.format.read_magic(file)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    fits = file.tell() + dtype.itemsize * math.prod(shape) == size
    if fortran or dtype.char not in DTYPES or not fits:
        raise ValueError("its shape or dtype is not that of an array of ours")
    array: NDArray[Any] = np.empty(shape, dtype)
    flat = array.reshape(-1).view(np.uint8)
    for start in range(0, flat.size, PIECE):
        file.readinto(flat[start : start + PIECE])  # type: ignore[attr-defined]
    return array


def _write_safetensors(file: IO[bytes], text: str, arrays: Arrays, crc: int) -> int:
    import json

    entries: dict[str, Any] = {"__metadata__": {"pyoptk": text}}
    end = 0
    for key, array in sorted(arrays.items(), key=lambda entry: -entry[1].itemsize):  # all aligned
        code = "BOOL" if array.dtype == bool else f"{array.dtype.kind.upper()}{8 * array.itemsize}"
        offsets = [end, end := end + array.nbytes]
        entries[key] = {"dtype": code, "shape": array.shape, "data_offsets": offsets}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > 100_000_000:  # readers refuse more
        raise ValueError(
            f".safetensors: expected at most 100 MB of text, got {len(header):,} bytes"
        )
    file.write(struct.pack("<Q", len(header)) + header)
    for key in sorted(arrays):
        file.seek(8 + len(header) + entries[key]["data_offsets"][0])
        crc = pour(arrays[key], file.write, crc)
    return crc


def _read_safetensors(path: str, check: Callable[[Text], Any]) -> tuple[Any, Arrays]:
    with import_module("safetensors").safe_open(path, "np") as file:
        header = check((file.metadata() or {}).get("pyoptk"))
        keys = file.keys()
        return header, {key: file.get_tensor(key) for key in keys}
