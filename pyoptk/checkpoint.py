"""Saving and loading of state: `save`, `load`, and the checks that every `load_state_dict` shares.

A file holds the arrays under the keys "part.name", and one JSON text with everything else: version,
structure, numbers, and a checksum over it all. In .npz the text is the member `pyoptk.json`, in
.safetensors the metadata entry "pyoptk". No pickle is ever written or read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, MutableMapping
from importlib import import_module
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Path = str | os.PathLike[str]

_VERSION = 1
_DTYPES = "?bBhHiIlLqQefd"  # the type codes of what both formats can hold


def save(path: Path, /, **parts: Any) -> None:
    """Write `parts` to the file at `path`, which is replaced as a whole or, on failure, not at all.

    Parameters
    ----------
    path : str or PathLike
        Ends in .npz, or in .safetensors, which needs the package safetensors. A new file gets the
        permissions that the umask gives, an old one keeps its own.
    **parts : object with ``state_dict()``, dict or array
        What to save, by name. Dicts may be nested and hold arrays (float16 to float64, integers,
        bool), int, float, bool, str and None. All come back as they were, bit for bit; only NumPy
        scalars come back as Python's.

    Raises
    ------
    TypeError
        For a value that cannot be saved; the message names it.
    ValueError
        For another suffix, and for names that are not printable or stand for two arrays.
    ImportError
        For .safetensors without the package.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from pyoptk import load, save
    >>> w, run = np.array([3.0, -2.0]), {"epoch": 7}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "run.npz")
    ...     save(path, w=w, run=run)
    ...     w[:], run["epoch"] = 0, 0
    ...     load(path, w=w, run=run)  # in place
    >>> w, run
    (array([ 3., -2.]), {'epoch': 7})
    """
    write, _ = _format(path)
    if not parts:
        raise ValueError("parts: expected at least one to save, got none")
    arrays: Arrays = {}
    header: dict[str, Any] = {"pyoptk_checkpoint": _VERSION, "parts": {}}
    for key, part in parts.items():
        value = part.state_dict() if hasattr(part, "state_dict") else part
        if not isinstance(value, np.ndarray | Mapping):
            _refuse_part(key, "state_dict", part)
        header["parts"][key] = _pack(key, value, arrays)
    header["crc32"] = _checksum(header["parts"], arrays)
    _replace(path, lambda temporary: write(temporary, json.dumps(header), arrays))


@overload
def load(path: Path, /) -> dict[str, Any]: ...
@overload
def load(path: Path, /, **parts: Any) -> None: ...
def load(path: Path, /, **parts: Any) -> dict[str, Any] | None:
    """Change `parts` in place to what `save` wrote; without parts, return it all as a dict.

    Everything is checked before anything is changed: the file, the names of the parts, and the
    names, shapes and dtypes within them. An object is checked by its ``check_state_dict(state)`` if
    it has one; those that have none are loaded first, so that an error there is still in time.

    Parameters
    ----------
    path : str or PathLike
        Ends in .npz or .safetensors.
    **parts : object with ``load_state_dict(state)``, dict or array
        All the parts in the file, by name. Arrays, also those in dicts, are filled in place;
        numbers in dicts are replaced.

    Returns
    -------
    dict or None
        Without parts, ``{part: {name: value}}``, or ``{part: array}`` for a single array.

    Raises
    ------
    FileNotFoundError
        If there is no file.
    TypeError, ValueError
        For a file that is foreign, damaged or of a newer version, and for one that does not fit
        `parts`; the message names what does not.
    ImportError
        For .safetensors without the package.
    """
    for key, part in parts.items():
        if not hasattr(part, "load_state_dict") and not isinstance(
            part, np.ndarray | MutableMapping
        ):
            _refuse_part(key, "load_state_dict", part)
    found = _read(path)
    if not parts:
        return found
    _check_names(parts, found, os.fsdecode(path), "parts")
    checked = {}
    for key, part in parts.items():
        has_method = hasattr(part, "load_state_dict")
        if has_method and not isinstance(found[key], dict):
            raise TypeError(f"{key}: expected a state dict, got {_kind(found[key])}")
        if hasattr(part, "check_state_dict"):
            part.check_state_dict(found[key])
        elif not has_method:
            check_value(part, found[key], key)
        checked[key] = hasattr(part, "check_state_dict") or not has_method
    for key in sorted(parts, key=checked.__getitem__):
        if hasattr(parts[key], "load_state_dict"):
            parts[key].load_state_dict(found[key])
        else:
            fill_arrays({key: parts[key]}, {key: found[key]})
    return None


def check_arrays(expected: Mapping[str, Any], got: Mapping[str, Any], what: str) -> None:
    """Change nothing; raise unless `got` has the names, shapes and dtypes of `expected`.

    Parameters
    ----------
    expected : dict
        The arrays that are to be filled, by name. A number stands for a number of any type; its
        range is left to its owner. Dicts may be nested.
    got : dict
        What they are to be filled with.
    what : str
        What messages call `got`.

    Raises
    ------
    TypeError, ValueError
        For missing and for extra names, else for the first value that does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from pyoptk.checkpoint import check_arrays
    >>> check_arrays({"m": np.zeros(3)}, {"m": np.zeros(4)}, "state")
    Traceback (most recent call last):
    ValueError: state['m']: expected float64 (3,), got float64 (4,)
    """
    check_mapping(got, what)
    _check_names(expected, got, what, "names")
    for name, value in expected.items():
        check_value(value, got[name], f"{what}[{name!r}]")


def check_mapping(got: Any, what: str) -> None:
    """Raise unless `got` is a dict; `what` is what messages call it."""
    if not isinstance(got, Mapping):
        raise TypeError(f"{what}: expected a dict, got {_kind(got)}")


def fill_arrays(target: MutableMapping[str, Any], got: Mapping[str, Any]) -> None:
    """Change the arrays of `target` in place to those of `got`, and replace its numbers.

    Nothing is checked; that is for `check_arrays`, before.
    """
    for name, value in got.items():
        if isinstance(value, np.ndarray):
            np.copyto(target[name], value)
        elif isinstance(value, Mapping):
            fill_arrays(target[name], value)
        else:
            target[name] = value


def _check_names(expected: Mapping[str, Any], got: Mapping[str, Any], what: str, kind: str) -> None:
    missing = [repr(name) for name in expected if name not in got]
    extra = [repr(name) for name in got if name not in expected]
    if missing or extra:
        parts = [f"none for {', '.join(missing)}"] if missing else []
        parts += [f"{', '.join(extra)} too"] if extra else []
        raise ValueError(f"{what}: expected {len(expected)} {kind}, got {' and '.join(parts)}")


def check_value(expected: Any, got: Any, what: str) -> None:
    """The same for one value; `what` is what messages call it."""
    if isinstance(expected, Mapping):
        check_arrays(expected, got, what)
    elif not isinstance(expected, np.ndarray):
        if isinstance(got, np.ndarray | Mapping):
            raise TypeError(f"{what}: expected a number or str, got {_kind(got)}")
    elif not _is_plain(got) or got.dtype != expected.dtype:
        raise TypeError(f"{what}: expected {_kind(expected)}, got {_kind(got)}")
    elif got.shape != expected.shape:
        raise ValueError(f"{what}: expected {_kind(expected)}, got {_kind(got)}")
    elif not expected.flags.writeable:
        raise ValueError(f"{what}: expected a writable array to fill, got a read-only one")


def _is_plain(value: Any) -> bool:
    return type(value) in (np.ndarray, np.memmap)  # others, such as masked arrays, hold more


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if _is_plain(value) else type(value).__name__


def _refuse_part(key: str, method: str, part: Any) -> NoReturn:
    raise TypeError(
        f"{key}: expected an array, a dict or an object with {method}(), got {_kind(part)}"
    )


def _pack(key: str, value: Any, arrays: Arrays) -> Any:
    """`value` for JSON: arrays go to `arrays`; what JSON has no word for becomes a list."""
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"{key}: expected names of type str, got {odd[0]!r}")
        return {name: _pack(f"{key}.{name}", entry, arrays) for name, entry in value.items()}
    if _is_plain(value):
        if value.dtype.char not in _DTYPES or not value.dtype.isnative:
            raise TypeError(
                f"{key}: expected floats up to 64 bit, integers or bool in native byte order, "
                f"got {_kind(value)}"
            )
        if key in arrays or key == "__metadata__" or not key.isprintable():
            raise ValueError(f"{key!r}: expected a printable name for one array, got this one")
        arrays[key] = np.asarray(value, order="C")
        return [value.dtype.name, list(value.shape)]
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) not in (bool, int, float, str, type(None)):
        raise TypeError(f"{key}: expected an array, a number, a str or None, got {_kind(value)}")
    if type(value) is float and not math.isfinite(value):
        return ["bits", struct.pack(">d", value).hex()]  # a NaN has a sign and a payload
    return value


def _unpack(key: str, value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        return {name: _unpack(f"{key}.{name}", entry, arrays) for name, entry in value.items()}
    if not isinstance(value, list):
        return value
    if value[0] == "bits":
        return struct.unpack(">d", bytes.fromhex(value[1]))[0]
    if value != [arrays[key].dtype.name, list(arrays[key].shape)]:
        raise ValueError(f"{key} is {_kind(arrays[key])}")
    return arrays[key]


def _checksum(parts: Any, arrays: Arrays) -> int:
    crc = zlib.crc32(json.dumps(parts).encode())
    for key in sorted(arrays):
        crc = zlib.crc32(arrays[key].data, crc)
    return crc


class _NewerVersion(Exception):
    pass


def _header(text: str | bytes | None) -> dict[str, Any]:
    if text is None:
        raise ValueError("nothing in it is from pyoptk")
    header: dict[str, Any] = json.loads(text)
    if (version := header["pyoptk_checkpoint"]) > _VERSION:
        raise _NewerVersion(f"expected a checkpoint of version {_VERSION}, got version {version}")
    return header


def _read(path: Path) -> dict[str, Any]:
    _, read = _format(path)
    with open(path, "rb") as file:  # a missing file fails as usual
        empty = not file.read(1)
    name = os.fsdecode(path)
    try:
        header, arrays = read(name)
        if header["crc32"] != _checksum(header["parts"], arrays):
            raise ValueError("the checksum is wrong")
        return {key: _unpack(key, value, arrays) for key, value in header["parts"].items()}
    except _NewerVersion as error:
        raise ValueError(f"{name}: {error}; update pyoptk") from None
    except Exception as error:  # bytes at random make zipfile, json and NumPy raise anything
        reason = "an empty file" if empty else f"a foreign or damaged file ({error})"
        raise ValueError(
            f"{name}: expected a checkpoint written by pyoptk.save, got {reason}"
        ) from error


def _replace(path: Path, write: Callable[[str], None]) -> None:
    """Put what `write` writes at `path` in one step: a crash leaves the old file or the new one."""
    path = os.path.realpath(os.fsdecode(path))  # the file behind a link, not the link
    folder = os.path.dirname(path)
    temporary = os.path.join(folder, f".pyoptk-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:  # unlike mkstemp, with the mode that the umask gives
            mode = os.fstat(file.fileno()).st_mode
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path).st_mode
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, stat.S_IMODE(mode))  # safetensors puts a new file in place of ours
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    with contextlib.suppress(OSError):  # not every system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_npz(path: str, text: str, arrays: Arrays) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # np.savez cannot save every name, "file" say
        with archive.open("pyoptk.json", "w") as member:
            member.write(text.encode())
        for key, array in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _read_npz(path: str) -> tuple[dict[str, Any], Arrays]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        # Ours are not compressed: a small file cannot ask for much memory.
        if sum(member.file_size for member in members) > os.path.getsize(path):
            raise ValueError("it is compressed")
        header = _header(archive.read("pyoptk.json") if "pyoptk.json" in names else None)
        arrays = {}
        for name in names:
            if name.endswith(".npy"):
                with archive.open(name) as file:
                    array = np.lib.format.read_array(file, allow_pickle=False)
                arrays[name.removesuffix(".npy")] = array
        return header, arrays


def _write_safetensors(path: str, text: str, arrays: Arrays) -> None:
    import_module("safetensors.numpy").save_file(arrays, path, {"pyoptk": text})


def _read_safetensors(path: str) -> tuple[dict[str, Any], Arrays]:
    with import_module("safetensors").safe_open(path, "np") as file:
        header = _header((file.metadata() or {}).get("pyoptk"))
        keys = file.keys()
        return header, {key: file.get_tensor(key) for key in keys}


_Write = Callable[[str, str, Arrays], None]
_Read = Callable[[str], tuple[dict[str, Any], Arrays]]


def _format(path: Path) -> tuple[_Write, _Read]:
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    if suffix == ".npz":
        return _write_npz, _read_npz
    if suffix != ".safetensors":
        raise ValueError(f"path: expected a name in .npz or .safetensors, got {os.fsdecode(path)}")
    try:
        import_module("safetensors.numpy")
    except ImportError as error:
        raise ImportError(
            f"{os.fsdecode(path)}: .safetensors needs a package: pip install safetensors"
        ) from error
    return _write_safetensors, _read_safetensors
