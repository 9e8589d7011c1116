"""What tests/test_mpi_ends.py runs under mpiexec: ``python -m mpi4py tests/ranks/ends.py JOB``.

In `leave` the last rank is in an error while the others wait for its message: had it to wait for
them, the run would hang. In the other jobs it ends the run.
"""

import os
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI

import pyoptk
from pyoptk import mpi, schedules
from pyoptk.__main__ import main
from pyoptk.demo import parallel

sys.path.append(str(Path(__file__).parents[2]))  # last, as in tests/test_mpi.py

from bench import ranks as figures

WORLD = MPI.COMM_WORLD
LAST = WORLD.size - 1
IS_LAST = WORLD.rank == LAST
SHAPES = {"a": (300, 50), "b": (70_000,), "c": ()}


class Stop(Exception):
    pass


def arrays(dtype=np.float32):
    return {name: np.ones(shape, dtype) for name, shape in SHAPES.items()}


def made(params=None, comm=WORLD, **given):
    settings = {"micro": 2 * WORLD.size, "ema_decay": 0.5, "bucket": 16384}
    return mpi.Sharded(pyoptk.Adam, params or arrays(), comm, **settings | given)


def added(opt):
    for _ in opt.mine:
        opt.add(arrays())


def told(call):
    """What the call raises."""
    try:
        call()
    except (AttributeError, RuntimeError, TypeError, ValueError, Stop) as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError("no error")


def go_on():
    """The last rank lets the others, who wait here, go on."""
    WORLD.bcast(None, LAST)


def stop(steps=1):
    """A schedule that raises on the last rank in the second step."""
    if steps and IS_LAST:
        raise Stop("the data of this rank are wrong")
    return 1.0


def leave_averages():
    """All ranks leave `averaged` by an exception, the last one first; nothing is missing then."""
    opt = made()
    params = opt._tree.arrays
    added(opt)
    opt.step()
    before = [array.copy() for array in params]
    try:
        with opt.averaged():
            assert all((array != old).all() for array, old in zip(params, before, strict=True))
            assert "within averaged()" in told(partial(step, opt))
            if IS_LAST:
                raise Stop
            go_on()
            raise Stop
    except Stop:
        assert all(map(np.array_equal, params, before))
    if IS_LAST:
        go_on()
    opt.step()  # by what was added within
    assert len(set(WORLD.allgather(params[1].tobytes()))) == 1


def step(opt):
    added(opt)
    opt.step()


def leave_step(**given):
    """A step ends on the last rank after its sums were sent; others have not stepped yet."""
    opt = made(**given)
    step(opt)
    added(opt)
    if IS_LAST and given:
        assert [told(opt.step)[:5] for _ in range(2)] == ["Stop:"] * 2
    elif IS_LAST:
        vars(opt)["_take_step"] = stop
        assert told(opt.step).startswith("Stop")
        assert told(partial(step, opt)).startswith("RuntimeError: Sharded: expected ranks that")
    go_on()
    if given:  # a schedule raised before anything was exchanged
        setattr(opt, *given, 1.0)
        opt.step()


def leave_save():
    """An error that only the last rank finds."""
    opt = made()
    if IS_LAST:
        assert told(partial(mpi.save, "x.npz")).startswith("ValueError: parts: expected a Sharded")
    go_on()
    del opt


def refuse():
    """What ranks have to find out together, or before they begin."""
    opt = made()
    for name, value in {"max_norm": 0.5, "lr": 0.5, "on_nonfinite": "skip"}.items():
        before = getattr(opt, name)
        if IS_LAST:
            setattr(opt, name, value)
        message = told(partial(step, opt))
        assert message == (f"ValueError: {name}: expected the same on all ranks, got another on "
                           f"rank {LAST} than on rank 0")  # fmt: skip
        setattr(opt, name, before)
    step(opt)  # nothing was exchanged before
    assert told(lambda: setattr(opt.optimizer, "max_norm", 1.0)).startswith(
        "AttributeError: max_norm: expected to be assigned to the Sharded"
    )
    if IS_LAST:
        opt._shadow._plan.calls += 1
    assert told(partial(step, opt)).startswith("ValueError: calls: expected the same on all ranks")
    params = arrays()
    opt = made(params, micro=WORLD.size)
    for grads in (params, {"b": params["b"]}):
        for call in (opt.step, opt.add):
            wrong = f"ValueError: grads[{next(iter(grads))!r}]: expected memory of"
            assert told(partial(call, grads)).startswith(wrong)
    step(opt)  # nothing was added
    grads, moved = arrays(), "ValueError: grads: expected the arrays that were added, got another"
    opt.add({"a": grads["a"]})
    grads["a"].shape = -1
    rest = partial(opt.add, {"b": grads["b"], "c": grads["c"]})
    if os.environ["PYOPTK_MPI_MESSAGES"]:
        assert told(rest).startswith(moved)
    else:
        rest()
    assert told(opt.step).startswith(moved)
    grads["a"].shape = SHAPES["a"]
    opt.step()
    opt = made(params, micro=WORLD.size)
    params["b"].flags.writeable = False
    assert told(partial(step, opt)).startswith("ValueError: params['b']: expected a writable array")
    params = {**arrays(), "d": np.ones(3, np.float32)} if IS_LAST else arrays()
    assert told(partial(made, params)).startswith("ValueError: params: expected the same on all")
    within = WORLD.Dup()
    opt = made(comm=within)
    alone = made(comm=MPI.COMM_SELF)
    assert told(partial(mpi.save, "x.npz", opt=opt, other=alone)) == (
        "ValueError: other: expected the communicator of opt, got another"
    )
    first = made()
    within.Free()
    assert told(partial(mpi.save, "x.npz", a=first, b=opt)) == (
        "RuntimeError: b: expected a Sharded whose communicator can be used, got one that was "
        "freed since"
    )
    for call in (partial(step, opt), opt.averaged().__enter__):
        assert told(call).startswith("RuntimeError: comm: expected a communicator, got one that")
    for comm in (within, MPI.COMM_NULL, "world"):
        assert told(partial(made, comm=comm)).startswith("TypeError: comm: expected an mpi4py.MPI.")


class Half(pyoptk.Adam):
    """Assigns what a shard has no own value of, too."""

    def __init__(self, params, **given):
        super().__init__(params, **given)
        self.lr, self.max_norm, self.groups = 0.25, 1.0, {"a": {"lr": 0.5}}


def assign():
    """What classes assign themselves, and what ranks may have of their own."""
    groups = {"a": {"lr": 0.1}}
    whole, shared = arrays(), arrays()
    plain = Half(whole, groups=groups)
    opt = mpi.Sharded(Half, shared, WORLD, micro=2 * WORLD.size, bucket=16384, groups=groups)
    step(opt)
    plain.step(arrays())
    assert (opt.lr, opt.max_norm, opt.optimizer.max_norm) == (0.25, 1.0, None)
    assert all(np.array_equal(whole[name], shared[name]) for name in SHAPES)
    assert type(opt.optimizer).__doc__ == Half.__doc__
    assert type(opt.optimizer).__module__ == Half.__module__
    assert told(lambda: setattr(opt.optimizer, "lr", 1.0)).startswith("AttributeError: lr: expec")

    keys = sorted(SHAPES, reverse=IS_LAST)
    plateau = schedules.ReduceOnPlateau(1.0, patience=0)
    opt = made(lr=plateau, groups={key: {"beta1": 0.5} for key in keys})
    for loss in (1.0, 2.0, 3.0):
        if IS_LAST:
            plateau.update(loss)
        plateau.value = WORLD.bcast(plateau.value, LAST)
        opt.eps = loss * 1e-8
        step(opt)
    plateau.cooldown = int(IS_LAST)
    opt.lr = plateau
    assert told(partial(step, opt)).startswith("ValueError: lr: expected the same on all ranks")
    plateau.cooldown = 1
    for _ in range(2):  # the numbers that ranks compare differ, what they are of does not
        step(opt)
    assert len(set(WORLD.allgather(opt._exchange.token))) == 1
    wrong = {key: {"lr": 1.0 + (key == "a")} for key in ("*", "a")}
    wrong = dict(sorted(wrong.items(), reverse=IS_LAST))
    assert told(partial(made, groups=wrong)).startswith("ValueError: groups: expected the same")


def count():
    """Counts of steps as large as a checkpoint may have."""
    opt = made()
    state = pyoptk.Adam(arrays(), ema_decay=0.5).state_dict()
    opt.load_state_dict({**state, "calls": 2**62})
    step(opt)
    assert opt._shadow._plan.calls == 2**62 + 1


def average_beside_a_step():
    """A second thread is refused while ranks step."""
    begun, done, found = threading.Event(), threading.Event(), []

    def slow(steps):
        if not done.is_set() and threading.current_thread() is not threading.main_thread():
            begun.set()
            done.wait(10)
        return 1e-3

    opt = made(grad_scale=slow)
    added(opt)
    other = threading.Thread(target=opt.step)
    other.start()
    begun.wait(10)
    found.append(told(opt.averaged().__enter__))
    done.set()
    other.join()
    assert found[0].startswith("RuntimeError: averaged: this optimizer is stepping in another")
    with opt.averaged():
        assert told(opt.averaged().__enter__).startswith("RuntimeError: averaged: expected the pa")
    step(opt)


def leave():
    for way in ("", "1"):
        os.environ["PYOPTK_MPI_MESSAGES"] = way
        leave_averages()
        leave_step(lr=stop)
        leave_step(grad_scale=stop)
        leave_step()
        leave_save()
        refuse()
        assign()
        count()
        average_beside_a_step()


def alone():
    """With one rank `shared` needs no files; with several such arrays are as good as others."""
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    copy = mpi.shared({"w": np.ones(70_000, np.float32)})
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before
    assert copy["w"].flags.owndata
    figures.ROUNDS = 1
    assert [len(times) for pair in figures.measure(WORLD, 2, 1000) for times in pair] == [1] * 4


def demo():
    """Only the last rank lacks the file."""
    parallel.WAIT = 0.1
    sys.exit(main(["demo", "--mpi", "--no-plot", *["--data", "the data.csv"] * IS_LAST]))


def crash_averaged():
    opt = made()
    with opt.averaged():
        stop()
        WORLD.Barrier()


def crash_sent():
    os.environ["PYOPTK_MPI_MESSAGES"] = "1"
    opt = made(grad_scale=stop)
    step(opt)
    step(opt)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
