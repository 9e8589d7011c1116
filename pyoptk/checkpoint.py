"""Saving and loading of state: `save`, `load`, and the checks that every `load_state_dict` shares.

A file holds the arrays under the keys "part.name", little-endian, and one JSON text with everything
else: version, structure, numbers, and a checksum over it all. In .npz the text is the member
`pyoptk.json`, in .safetensors the metadata entry "pyoptk". No pickle is ever written or read.
"""

from __future__ import annotations

import math
import os
import struct
import sys
import zlib
from collections.abc import Mapping, MutableMapping
from importlib import import_module
from typing import Any, overload

import numpy as np

from . import _files
from ._checks import advice
from ._files import DTYPES, Arrays, Path
from ._memory import apart, check_targets, filled

_VERSION = 1
_BFLOAT16 = "bfloat16"  # NumPy's name for ml_dtypes's; stored as uint16
_LONGEST_NAME = 65_531  # bytes; with ".npy" as many as a zip file can hold


def save(path: Path, /, **parts: Any) -> None:
    """Write `parts` to the file at `path`, which is replaced as a whole or, on failure, not at all.

    The temporary file beside it is removed; that of a process that was killed, by the next save.

    Parameters
    ----------
    path : str or PathLike
        Ends in .npz, or in .safetensors, which needs the package safetensors. A new file gets the
        permissions that the umask gives, an old one keeps its own.
    **parts : object with ``state_dict()``, dict, list, array or numpy.random.Generator
        What to save, by name. Dicts may be nested and hold all of these, int, float, bool, str and
        None; lists and tuples hold no arrays. Arrays are float16 to float64, integers or bool, or
        bfloat16 (from ml_dtypes; uint16 where that is missing when they are loaded). All load as
        they were, bit for bit; only NumPy scalars become Python's, a Generator a dict.

    Raises
    ------
    TypeError
        For a value that cannot be saved; the message names it.
    ValueError
        For another suffix, and for names that are not printable, too long or stand for two arrays.
    RuntimeError
        If another thread changed an array meanwhile; the file at `path` is the old one.
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
    if not parts:
        raise ValueError("parts: expected at least one to save, got none")
    arrays: Arrays = {}
    header: dict[str, Any] = {"pyoptk_checkpoint": _VERSION, "parts": {}}
    for key, part in parts.items():
        value = part.state_dict() if hasattr(part, "state_dict") else part
        _check_part(key, value, part, Mapping, "state_dict")
        try:
            header["parts"][key] = _pack(key, value, arrays)
        except RecursionError:
            raise ValueError(f"{key}: expected fewer dicts and lists inside each other") from None
    import json  # here, and below: few programs need it and it takes 2 ms

    header["crc32"] = _checksum(header["parts"], arrays)
    text, start = json.dumps(header), _checksum(header["parts"], {})
    if not _files.write(path, text, arrays, start, header["crc32"]):
        raise RuntimeError(f"{os.fsdecode(path)}: another thread changed an array that is saved")


@overload
def load(path: Path, /) -> dict[str, Any]: ...
@overload
def load(path: Path, /, **parts: Any) -> None: ...
def load(path: Path, /, **parts: Any) -> dict[str, Any] | None:
    """Change `parts` in place to what `save` wrote; without parts, return it all as a dict.

    Everything is checked before anything is changed: the file, the names of the parts, and the
    names, shapes and dtypes within them. An object is checked by its ``check_state_dict(state)`` if
    it has one; those that have none are loaded first, so that an error there is still in time, and
    arrays before the states that belong to them.

    Parameters
    ----------
    path : str or PathLike
        Ends in .npz or .safetensors.
    **parts : object with ``load_state_dict(state)``, dict, list, array or numpy.random.Generator
        All the parts in the file, by name. Arrays, lists and Generators, also those in dicts,
        change in place; numbers in dicts are replaced.

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
    plain = {key: part for key, part in parts.items() if not hasattr(part, "load_state_dict")}
    for key, part in plain.items():
        _check_part(key, part, part, MutableMapping, "load_state_dict")
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
    check_targets({key: filled(part) for key, part in parts.items()})
    for key in sorted(parts, key=lambda key: (checked[key], key not in plain)):
        if hasattr(parts[key], "load_state_dict"):
            parts[key].load_state_dict(found[key])
        else:
            fill_arrays({key: parts[key]}, {key: found[key]})
    return None


def check_arrays(expected: Mapping[str, Any], got: Mapping[str, Any], what: str) -> None:
    """Change nothing; raise unless `got` has the names, shapes and dtypes of `expected`.

    `expected` has the arrays that are to be filled, by name; a number stands for one of any type,
    whose range is left to its owner; dicts may be nested. Messages call `got` `what`. A TypeError
    or ValueError is for missing and extra names, else for the first value that does not fit.

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
    """Raise unless `got` is a dict, which messages call `what`."""
    if not isinstance(got, Mapping):
        help_ = "; its .state_dict() is one" if hasattr(got, "state_dict") else ""
        raise TypeError(f"{what}: expected a dict, got {_kind(got)}{help_}")


def check_keys(got: Mapping[Any, Any], what: str) -> None:
    """Raise unless `got` is a dict whose keys are names."""
    check_mapping(got, what)
    for name in got:
        if not isinstance(name, str):
            raise TypeError(f"{what}: expected names as keys, got {name!r}")


def fill_arrays(target: MutableMapping[str, Any], got: Mapping[str, Any]) -> None:
    """Change the arrays of `target` in place to those of `got`, and replace its numbers.

    Nothing is checked; that is for `check_arrays`, before.
    """
    for name, value in apart(got, target.values()).items():
        old = target.get(name)
        if isinstance(value, np.ndarray):
            np.copyto(target[name], value)
        elif bits := _bits(old):
            bits.state = value
        elif isinstance(value, Mapping):
            fill_arrays(target[name], value)
        elif isinstance(old, list):
            old[:] = value
        else:
            target[name] = value


def _bits(value: Any) -> Any:
    """The BitGenerator of a random generator; None of anything else."""
    if "numpy.random" not in sys.modules:  # importing it would take 11 ms
        return None
    value = value.bit_generator if isinstance(value, np.random.Generator) else value
    return value if isinstance(value, np.random.BitGenerator) else None


def _check_names(expected: Mapping[str, Any], got: Mapping[str, Any], what: str, kind: str) -> None:
    missing = [repr(name) for name in expected if name not in got]
    extra = [repr(name) for name in got if name not in expected]
    if missing or extra:
        parts = [f"none for {', '.join(missing)}"] if missing else []
        parts += [f"{', '.join(extra)} too"] if extra else []
        raise ValueError(f"{what}: expected {len(expected)} {kind}, got {' and '.join(parts)}")


def check_value(expected: Any, got: Any, what: str) -> None:
    """`check_arrays` for one value, which messages call `what`."""
    if bits := _bits(expected):
        check_mapping(got, what)
        if (name := got.get("bit_generator")) != bits.state["bit_generator"]:
            raise ValueError(f"{what}: expected the state of {type(bits).__name__}, got {name}")
        check_arrays(bits.state, got, what)
        try:
            type(bits)().state = got
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{what}: expected a state of {name}, got one with {error}") from error
    elif isinstance(expected, Mapping):
        check_arrays(expected, got, what)
    elif not isinstance(expected, np.ndarray):
        several = isinstance(expected, list | tuple)
        if isinstance(got, np.ndarray | Mapping) or (
            expected is not None and several != isinstance(got, list | tuple)
        ):
            one = "a list" if several else "a number or str"
            raise TypeError(f"{what}: expected {one}, got {_kind(got)}")
    elif not _is_plain(got) or got.dtype != expected.dtype:
        raise TypeError(f"{what}: expected {_kind(expected)}, got {_kind(got)}{advice(got)}")
    elif got.shape != expected.shape:
        raise ValueError(f"{what}: expected {_kind(expected)}, got {_kind(got)}")
    elif not expected.flags.writeable:
        raise ValueError(f"{what}: expected a writable array to fill, got a read-only one")


def _is_plain(value: Any) -> bool:
    return type(value) in (np.ndarray, np.memmap)  # others, such as masked arrays, hold more


def _kind(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if _is_plain(value) else type(value).__name__


def _check_part(key: str, value: Any, part: Any, dicts: Any, method: str) -> None:
    if not (isinstance(value, np.ndarray | dicts | list) or _bits(value)):
        raise TypeError(
            f"{key}: expected an array, dict, list, Generator or an object with {method}(),"
            f" got {_kind(part)}{advice(part)}"
        )


def _pack(key: str, value: Any, arrays: Arrays | None) -> Any:
    """`value` for JSON: arrays go to `arrays`; types that JSON lacks become lists."""
    if bits := _bits(value):
        value = bits.state
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"{key}: expected names of type str, got {odd[0]!r}")
        return {name: _pack(f"{key}.{name}", entry, arrays) for name, entry in value.items()}
    if type(value) in (list, tuple):
        inside = [_pack(f"{key}[{k}]", entry, None) for k, entry in enumerate(value)]
        return [type(value).__name__, inside]
    if _is_plain(value) and arrays is not None:
        name = value.dtype.name
        value = value.view(np.uint16) if name == _BFLOAT16 else value
        if value.dtype.char not in DTYPES or not value.dtype.isnative:
            raise TypeError(
                f"{key}: expected floats up to 64 bit, integers or bool in native byte order, "
                f"got {_kind(value)}"
            )
        if key in arrays or key == "__metadata__" or not key.isprintable():
            raise ValueError(f"{key!r}: expected a printable name for one array, got this one")
        if (length := len(key.encode())) > _LONGEST_NAME:
            raise ValueError(
                f"{key[:40]}...: expected a name of at most {_LONGEST_NAME:,} bytes, got {length:,}"
            )
        arrays[key] = np.asarray(value, value.dtype.newbyteorder("<"), order="C")
        return [name, list(value.shape)]
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) not in (bool, int, float, str, type(None)):
        array = "" if arrays is None else "an array, "
        raise TypeError(f"{key}: expected {array}a number, a str or None, got {_kind(value)}")
    if type(value) is float and not math.isfinite(value):
        return ["bits", struct.pack(">d", value).hex()]  # a NaN has a sign and a payload
    if type(value) is int and value.bit_length() > 8192:  # JSON is read to 4,300 digits
        raise ValueError(
            f"{key}: expected an int of at most 8,192 bits, got {value.bit_length():,}"
        )
    return value


def _unpack(key: str, value: Any, arrays: Arrays) -> Any:
    if isinstance(value, dict):
        return {name: _unpack(f"{key}.{name}", entry, arrays) for name, entry in value.items()}
    if not isinstance(value, list):
        return value
    kind, inside = value
    if kind == "bits":
        return struct.unpack(">d", bytes.fromhex(inside))[0]
    if kind in ("list", "tuple"):
        entries = [_unpack(f"{key}[{k}]", entry, {}) for k, entry in enumerate(inside)]
        return entries if kind == "list" else tuple(entries)
    stored = "uint16" if kind == _BFLOAT16 else kind
    if [stored, inside] != [arrays[key].dtype.name, list(arrays[key].shape)]:
        raise ValueError(f"{key} is {_kind(arrays[key])}")
    return _as_bfloat16(arrays[key]) if kind == _BFLOAT16 else arrays[key]


def _as_bfloat16(halves: Any) -> Any:
    """With the dtype of ml_dtypes; as they are without that package."""
    try:
        return halves.view(import_module("ml_dtypes").bfloat16)
    except ImportError:
        return halves


def _checksum(parts: Any, arrays: Arrays) -> int:
    import json

    crc = zlib.crc32(json.dumps(parts).encode())
    for key in sorted(arrays):
        crc = _files.pour(arrays[key], len, crc)
    return crc


class _NewerVersion(Exception):
    pass


def _header(text: str | bytes | None) -> dict[str, Any]:
    import json

    if text is None:
        raise ValueError("nothing in it is from pyoptk")
    header: dict[str, Any] = json.loads(text)
    if (version := header["pyoptk_checkpoint"]) > _VERSION:
        raise _NewerVersion(f"expected a checkpoint of version {_VERSION}, got version {version}")
    return header


def _read(path: Path) -> dict[str, Any]:
    _files.suffix(path)
    name = os.fsdecode(path)
    with open(name, "rb") as file:  # a missing file fails as usual
        empty = not file.read(1)
    try:
        header, stored = _files.read(name, _header)
        parts = header["parts"]
        versions = _files.ordered(stored, "<"), stored  # some big-endian machines sum what they see
        if all(header["crc32"] != _checksum(parts, arrays) for arrays in versions):
            raise ValueError("the checksum is wrong")
        arrays = _files.ordered(stored, "=")
        return {key: _unpack(key, value, arrays) for key, value in parts.items()}
    except (MemoryError, ImportError):
        raise
    except _NewerVersion as error:
        raise ValueError(f"{name}: {error}; update pyoptk") from None
    except Exception as error:  # bytes at random make zipfile, json and NumPy raise anything
        reason = "an empty file" if empty else f"a foreign or damaged file ({error})"
        raise ValueError(
            f"{name}: expected a checkpoint written by pyoptk.save, got {reason}"
        ) from error
