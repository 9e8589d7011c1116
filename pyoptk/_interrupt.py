"""Ctrl-C in `python -m pyoptk`: one line and exit status 130, at once, wherever the program is.

An exception would be lost inside a destructor, and some imports turn it into an error of their own.
The package imports this file first, because loading NumPy takes longest. Only the command line gets
the handler: a program that imports pyoptk keeps its own.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

before_leaving: set[Callable[[], object]] = set()  # such as killing a child process
_held = _pending = False


def leave(*_: object) -> None:
    """The signal handler: end the process, or, inside `held`, do so at its end."""
    global _pending
    if _held and not _pending:
        _pending = True
        return
    import signal

    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    with suppress(OSError):
        os.write(2, b"\ninterrupted\n")
    for end in tuple(before_leaving):
        with suppress(Exception):
            end()
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(130)


@contextmanager
def held() -> Iterator[None]:
    """Delay the end until a file is complete; a second Ctrl-C does not wait."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
        if _pending:
            leave()


def catch() -> None:
    """Install the handler, unless interrupts are ignored or somebody else's."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


# While Python looks for the module to run, argv is "-m" and its arguments.
_argv = getattr(sys, "argv", [])
if _argv[:1] == ["-m"] and sys.orig_argv[-len(_argv)].removeprefix("-m") == "pyoptk":
    catch()
