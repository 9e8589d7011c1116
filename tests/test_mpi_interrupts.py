"""An exception at any moment leaves a `Sharded` of one process as before a call or after it.

Also what ranks do where they cannot reach each other.
"""

import mmap
import os
import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from alarm import Alarm, Stop, needs_timer

import pyoptk
from pyoptk import _pieces, mpi
from pyoptk.mpi import memory, transport

EXCEPTIONS, MOST = 60, 10  # of each row; calls in a try
GRADS = {"w": np.array([1.0, 2.0]), "b": np.ones(3)}


def add(opt):
    opt.add(GRADS)


def step(opt):
    """Of two micro-batches, the last of which comes with the step."""
    if not opt._exchange.begun:
        opt.add(GRADS)
    opt.step(GRADS)


def averaged(opt):
    with opt.averaged():
        pass


@needs_timer
@pytest.mark.parametrize(("call", "micro"), [(add, 32), (step, 2), (averaged, 2)])
def test_a_call_has_happened_wholly_or_not_at_all(call, micro):
    chance, kept = random.Random(micro), []

    def made():
        params = {"w": np.zeros(2), "b": np.zeros(3)}
        return mpi.Sharded(pyoptk.Adam, params, micro=micro, ema_decay=0.5)

    def state(opt):
        exchange = opt._exchange
        sums = [] if call is step else [exchange.seen, exchange.given, exchange.levels]
        return repr((opt._tree.arrays, opt.optimizer.state_dict(), sums))

    opt, states = made(), []
    for _ in range(MOST + 2):
        states.append(state(opt))
        call(opt)
    while len(kept) < EXCEPTIONS:
        opt, done = made(), []
        try:
            with Alarm(chance.uniform(1e-6, 4e-4)):
                while len(done) < MOST:
                    call(opt)
                    done.append(opt)
        except Stop as stop:  # a notebook keeps the exception, and with it the frames
            kept.append(stop)
        assert state(opt) in states[len(done) : len(done) + 2]
        call(opt)  # and it goes on


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no files in memory here")
def test_what_cannot_be_mapped_leaves_no_file_open_and_is_read_otherwise(monkeypatch):
    own = mpi.shared(np.ones(3))
    _, segments = memory.segments()
    addresses = np.array([own.ctypes.data])
    assert memory.View(os.getpid(), segments).of(addresses)[1] == 0

    def refused(*_, **__):
        raise OSError("no memory")

    monkeypatch.setattr(mmap, "mmap", refused)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="no memory"):
        mpi.shared(np.ones(3))
    found = memory.View(os.getpid(), segments).of(addresses)
    assert (found[0].tolist(), found[1]) == (addresses.tolist(), os.getpid())
    assert len(os.listdir("/proc/self/fd")) == before


def test_buffers_of_messages_that_have_begun_are_kept_whatever_is_raised():
    def begin(message, room):
        if message == "refused":
            raise Stop
        return f"request of {message}"

    messages = [("first", np.ones(2)), ("refused", np.ones(3)), ("third", np.ones(4))]
    exchange = transport.Messages.__new__(transport.Messages)
    exchange.flying, exchange._comm = [], SimpleNamespace(Ialltoallv=begin)
    with pytest.raises(Stop):
        exchange._begin(messages, bool)
    assert exchange.flying == [(["request of first"], bool, messages)]


NOBODY = 2**22 + 1  # more than the number of any process on Linux


@pytest.mark.parametrize(("process", "works"), [(0, True), (os.getpid(), True), (NOBODY, False)])
def test_pieces_are_pushed_or_an_error_says_that_they_could_not_be(process, works):
    if process and sys.platform != "linux":
        works = False
    own, other = np.arange(6.0), np.zeros(6)
    numbers = [[(0, 1, 3, 8, 0), (0, 5, 1, 8, 3)], [2], [0], [0], [[own.ctypes.data]]]
    numbers += [[own.ctypes.data], [process], [[other.ctypes.data]]]
    pieces = _pieces.Pieces(*(np.array(some, np.intp) for some in numbers), 8)
    if works:
        pieces.push()
        assert other.tolist() == [0, 1, 2, 3, 0, 5]
        return
    with pytest.raises(OSError, match="expected to reach the memory of another process"):
        pieces.push()
    assert not other.any()
