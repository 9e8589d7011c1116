"""An exception at any moment leaves a `Sharded` of one process as before a call or after it."""

import random

import numpy as np
import pytest
from alarm import Alarm, Stop, needs_timer

import pyoptk
from pyoptk import mpi

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
