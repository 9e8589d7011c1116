"""What tests/test_mpi.py runs under mpiexec: ``python -m mpi4py tests/ranks JOB FOLDER``.

A job is a function of this file. It takes the communicator and a folder, and returns what rank 0
writes there as JOB-RANKS.json. With ``--alone`` there is no MPI.
"""

import contextlib
import hashlib
import json
import os
import pickle
import random
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # the folder of alarm.py, under mpiexec

from alarm import Alarm, Stop

import pyoptk
from pyoptk import mpi
from pyoptk.mpi import duplicates

SHAPES = {"in.weight": (300, 100), "in.bias": (100,), "scale": (), "none": (0, 3), "big": (5, 4096)}
SHAPES |= {"out.weight": (4097, 3), "out.bias": (3,)}
GROUPS = {"in.*": {"lr": 0.02}, "*.bias": {"beta1": 0.8}}
WARM = pyoptk.schedules.linear_warmup(0.0, 0.01, 3)
# By name: class, micro-batches, hyper-parameters, and what `gradients` does to some gradients.
CASES = {
    "adam": (pyoptk.Adam, 8, {}, None),
    "one bucket": (pyoptk.Adam, 8, {"bucket": 1 << 20}, None),
    "double": (pyoptk.NAdam, 8, {"dtype": np.float64}, None),
    "clip": (pyoptk.AdamW, 8, {"max_norm": 0.7, "no_decay": ["*bias"], "groups": GROUPS}, None),
    "clip double": (pyoptk.SGD, 8, {"max_norm": 0.7, "momentum": 0.9, "dtype": np.float64}, None),
    "tiny norm": (pyoptk.SGD, 8, {"max_norm": 1e-160, "dtype": np.float64}, 1e-160),
    "huge norm": (pyoptk.SGD, 8, {"max_norm": 1e160, "dtype": np.float64}, 1e160),
    "schedule": (pyoptk.Lion, 8, {"lr": WARM, "grad_scale": 0.3, "clip_value": 0.01}, None),
    "ema": (pyoptk.RMSprop, 8, {"ema_decay": 0.9, "momentum": 0.5, "centered": True}, None),
    "late ema": (pyoptk.AdaGrad, 8, {"ema_decay": 0.9, "ema_from_first_step": True}, None),
    "amsgrad": (pyoptk.Adam, 8, {"amsgrad": True, "zero_grad": True}, None),
    "skip": (pyoptk.Adam, 8, {"on_nonfinite": "skip"}, np.nan),
    "some None": (pyoptk.Adadelta, 8, {}, "None"),
    "six": (pyoptk.Adam, 6, {"max_norm": 1.0}, None),
    "seven, sum": (pyoptk.Adamax, 7, {"reduction": "sum"}, None),
    "one": (pyoptk.Adam, 1, {"zero_grad": True}, None),
    "nested": (pyoptk.AdamW, 8, {"max_norm": 0.7, "nested": True, "no_decay": ["*bias"]}, None),
    "8 bits": (pyoptk.Adam, 8, {"state_dtype": "8bit", "max_norm": 0.7, "groups": GROUPS}, None),
    "all 8 bits": (pyoptk.Lion, 3, {"state_dtype": "8bit", "min_8bit_size": 0}, None),
    "16 bits": (pyoptk.AdaGrad, 2, {"state_dtype": "bfloat16", "initial_accumulator": 0.1}, None),
    "remainder": (
        pyoptk.AdamW,
        8,
        {"dtype": "bfloat16", "master": "remainder", "max_norm": 0.7, "zero_grad": True},
        None,
    ),
    "by chance": (
        pyoptk.Adam,
        3,
        {"dtype": "bfloat16", "master": "stochastic", "state_dtype": "8bit", "ema_decay": 0.9},
        "None",
    ),
    "copies": (pyoptk.SGD, 4, {"dtype": np.float16, "master": "float32", "momentum": 0.9}, None),
    "two": (pyoptk.RAdam, 2, {"maximize": True, "max_norm": 1e9}, None),
}
SHARED = ("one", "some None", "six", "remainder")
STEPS = 4
NARROW = ("bfloat16", np.float16)
RESUMED = {name: name for name in ("clip", "ema", "schedule", "8 bits", "remainder", "by chance")}
RESUMED |= {"8 bits from 32": "adam", "a master from halves": "remainder"}  # from whose files
CASES["8 bits from 32"] = pyoptk.Adam, 8, {"state_dtype": "8bit"}, None
WITH_MASTER = CASES["remainder"][2] | {"master": "float32"}
CASES["a master from halves"] = pyoptk.AdamW, 8, WITH_MASTER, None


def stored(numbers, dtype):
    """An array of them; the upper halves of float32, which is what bfloat16 is, in uint16."""
    if dtype == "bfloat16":
        return np.asarray(np.array(numbers, np.float32).view(np.uint32) >> 16, np.uint16)
    return np.array(numbers, dtype)


def numbers(array):
    """What it holds, in float32 if it is of 16 bits."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32) if array.dtype == np.float16 else array


def gradients(step, k, dtype, change=None):
    """Those of micro-batch k of a step: some None, all scaled, or one element not finite."""
    rng = np.random.default_rng([step, k])
    finite = change in (None, "None") or np.isfinite(change)
    scale = change if finite and isinstance(change, float) else 1.0
    dtype = np.float32 if k % 2 and dtype in NARROW else dtype
    found = {n: stored(scale * rng.normal(size=s), dtype) for n, s in SHAPES.items()}
    if change == "None":
        drop = ("scale", "big") if k % 2 else ("scale",) if step % 2 else ()
        return {name: None if name in drop else grad for name, grad in found.items()}
    if not finite and step == 1 and k == 3:
        found["out.weight"][17] = change
    return found


def params_of(dtype=np.float32):
    rng = np.random.default_rng(3)
    found = {name: stored(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}
    for name in ("in.bias", "big", "scale") if dtype in NARROW else ():
        found[name] = stored(rng.normal(size=SHAPES[name]), np.float32)
    return pickle.loads(pickle.dumps(found))  # as `comm.bcast` does: their dtypes are copies


def nested(entries):
    """What has dotted names, as dicts within a dict."""
    found = {}
    for name, entry in entries.items():
        *above, last = name.split(".")
        (found.setdefault(*above, {}) if above else found)[last] = entry
    return found


def made(comm, name, params):
    """The optimizer of a case."""
    optimizer, micro, given, _ = CASES[name]
    given = {"bucket": 16384, **given}
    if given.get("dtype") != "bfloat16":  # else a hyper-parameter
        given.pop("dtype", None)
    if given.pop("nested", False):
        params = nested(params)
    return mpi.Sharded(optimizer, params, comm, micro=micro, **given)


def digest(arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()


def train(comm, name, steps, opt, dtype, room=None):
    """Steps of a case; each micro-batch in another way. `room`: where gradients lie, if it fits."""
    change, norms = CASES[name][3], []
    shape = nested if "nested" in CASES[name][2] else dict
    for step in steps:
        for k in opt.mine:
            grads = gradients(step, k, dtype, change)
            for key, own in room.items() if room else ():
                if grads[key] is not None and grads[key].dtype == own.dtype:
                    own[...] = grads[key]
                    grads[key] = own
            if step % 2 or k % 2 == 0:
                opt.add(shape(grads))
            else:  # as a backward pass delivers them
                for key in reversed(grads):
                    opt.add(shape({key: grads[key]}))
        opt.step()
        norms.append(repr(opt.grad_norm))
    return norms


def ways(comm, shares=False):
    """By messages, as between machines; then as ranks of one machine do it; with shared memory."""
    several = comm is not None and comm.size > 1
    for way in ("messages", "", *["shared"] * shares) if several else ("",):
        os.environ["PYOPTK_MPI_MESSAGES"] = "1" if way == "messages" else ""
        yield way


def bits(comm, folder):
    """Hashes of parameters, of the whole checkpoint, and norms of every case."""
    found = {}
    for name, (*_, given, _) in CASES.items():
        dtype, results = given.get("dtype", np.float32), []
        for way in ways(comm, name in SHARED):
            params, room = params_of(dtype), None
            if way == "shared":
                params, room = mpi.shared(params), mpi.shared(params)
            if comm is not None and comm.rank:  # rank 0's are taken
                params["big"] += 1
            opt = made(comm, name, params)
            norms = train(comm, name, range(STEPS), opt, dtype, room)
            if room:
                assert not np.any(opt._exchange._processes) or name != "one"
                assert not np.any(opt._exchange._writers)
            path = folder / f"{name}-{opt._exchange.size}.npz"
            mpi.save(path, params=params, opt=opt)
            same = digest(params.values())
            if comm is not None:
                assert len(set(comm.allgather(same))) == 1
            results.append([same, digest([path.read_bytes()]), norms, opt.skipped])
        assert results[0] == results[-1], name
        found[name] = results[0]
    return found


def resume(comm, folder):
    """Goes on from the files that `bits` of 1 to 4 ranks wrote."""
    found = {}
    for name, source in RESUMED.items():
        dtype = CASES[name][2].get("dtype", np.float32)
        for path in sorted(folder.glob(f"{source}-*.npz")):
            params = params_of(dtype)
            opt = made(comm, name, params)
            train(comm, name, range(1), opt, dtype)  # what is loaded replaces this
            pyoptk.load(path, params=params, opt=opt)
            norms = train(comm, name, range(STEPS, 2 * STEPS), opt, dtype)
            found[path.stem.replace(source, name)] = [digest(params.values()), norms]
    return found


def load(comm, folder):
    """How often an exception within `load_state_dict` left a part of a state, on all ranks."""
    opt, plain = made(comm, "clip", params_of()), CASES["clip"][0](params_of(), **CASES["clip"][2])
    states, whole, parts, chance = [], set(), 0, random.Random(comm.rank)
    for step in range(2):
        plain.step(gradients(step, 0, np.float32))
        states.append(pickle.loads(pickle.dumps(plain.state_dict())))

    def look():
        return pickle.dumps((opt._shadow.state_dict(), opt.optimizer.state_dict()))

    for k in range(62):
        with contextlib.suppress(Stop), Alarm(chance.uniform(1e-5, 2e-3) if k > 1 else 10):
            opt.load_state_dict(states[k % 2])
        parts += k > 1 and look() not in whole
        whole |= {look()} if k < 2 else set()
    assert len(whole) == 2
    return comm.allreduce(parts)


def memory(comm, folder):
    """The share of each rank in the states of larger models; that averages are everywhere."""
    results = [_memory(comm, messages) for messages in ways(comm)]
    assert results[0] == results[-1]
    return results[0]


def _memory(comm, messages):
    shapes = [(1000, 1000), (1000,), (300, 700), (7,), (4096, 50), (900_000,)] * 2
    params = [np.zeros(shape, np.float32) for shape in shapes]
    opt = mpi.Sharded(pyoptk.Adam, params, comm, micro=4, ema_decay=0.5)
    mine = sum(a.size for states in opt.optimizer.state.values() for a in _values(states))
    for k in opt.mine:
        ones = [np.ones(shape, np.float32) for shape in shapes]
        if k + 1 in opt.mine:
            opt.add(ones)
        else:  # the first bucket travels before the last gradient is there
            opt.add(dict(list(enumerate(ones))[1:]))
            assert not messages or opt._exchange.flying
            opt.add({0: ones[0]})
    opt.step()
    held = vars(opt._exchange)
    rooms = held["_buffers"].values() if messages else []
    assert sum(room.nbytes for room in rooms) <= (4 if messages else 2) * 4 * (1 << 20)
    before = [param.copy() for param in params]
    with opt.averaged():
        middle = [float(param.mean()) for param in params]
        assert all(np.all(param == param.flat[0]) for param in params)
    assert all(np.array_equal(a, b) for a, b in zip(before, params, strict=True))
    elements = sum(param.size for param in params)
    narrow = mpi.Sharded(pyoptk.Adam, params, comm, micro=4, state_dtype="8bit")
    taken = sum(a.nbytes for states in narrow.optimizer.state.values() for a in _values(states)
                if a is not None)  # fmt: skip
    shares = [(mine / elements / 3, taken / elements / 2.03)]
    shares = shares if comm is None else comm.allgather(*shares)
    return {"shares": shares, "averages": middle}


def _values(states):
    return states.values() if isinstance(states, dict) else states


def many(comm, folder):
    """More than MPI has room for, which ranks drop at different times; two at once."""
    within, kept = comm.Dup(), []
    for k in range(5000):
        if k % 7 == comm.rank:
            kept.clear()
        kept.append(duplicates.Duplicate(within))
    assert len({one.comm.handle for one in kept}) == len(kept)
    count = len(kept[-1]._all.every)
    for _ in range(2 * count):  # each leaves its own when it is dropped
        mpi.Sharded(pyoptk.SGD, np.zeros(1), within, micro=1, lr=1.0)
    assert count == len(kept[-1]._all.every) > len(kept)
    kept.clear()
    dropped(within)
    within.Free()
    return count


def dropped(comm):
    """What is on its way to a `Sharded` that was dropped arrives in memory that nobody else has."""
    os.environ["PYOPTK_MPI_MESSAGES"] = "1"
    opt = mpi.Sharded(pyoptk.SGD, np.zeros(9000), comm, micro=2, lr=1.0)
    size, fresh = opt._exchange._shard.size, []
    if comm.rank:
        opt.add(np.full(9000, 7.0))
        del opt
        fresh = [np.zeros(size) for _ in range(30)]
    comm.Barrier()
    if not comm.rank:
        opt.add(np.full(9000, 3.0))
    comm.Barrier()
    assert not np.any(fresh)


def wrong(comm, folder):
    """The messages of what is wrong, those of all ranks joined."""
    told = {}

    def refused(name, call):
        try:
            call()
        except (TypeError, ValueError, RuntimeError, FloatingPointError, OSError) as error:
            every = comm.allgather(f"{type(error).__name__}: {error}")
            told[name] = sorted(set(every))
        else:
            raise AssertionError(name)

    def opt(params=None, optimizer=pyoptk.Adam, **given):
        return mpi.Sharded(optimizer, params or params_of(), comm, **{"micro": 4} | given)

    rank, other = comm.rank, comm.rank == comm.size - 1
    refused("lr", lambda: opt(lr=0.1 + other))
    refused("micro", lambda: opt(micro=4 + other))
    refused("class", lambda: opt(optimizer=pyoptk.AdamW if other else pyoptk.Adam))
    refused("shape", lambda: opt([np.zeros(3 + other)]))
    refused("dtype", lambda: opt([np.zeros(3, "f4" if other else "f8")]))
    refused("missing", lambda: opt().step())
    refused("folder", lambda: mpi.save(folder / "gone" / "x.npz", opt=opt()))
    refused("part", lambda: mpi.save(folder / "x.npz", opt=opt(), x=object()))
    for _ in ways(comm):
        spoiled = opt(on_nonfinite="raise", max_norm=1.0)
        before = digest(spoiled._tree.arrays)
        for k in spoiled.mine:
            spoiled.add(gradients(1, k + 3 - spoiled.mine[0], np.float32, np.nan))
        refused("raise", spoiled.step)
        assert digest(spoiled._tree.arrays) == before
        spoiled.on_nonfinite, spoiled.max_norm = "propagate", None
        for k in spoiled.mine:  # the micro-batches and their sums were dropped
            spoiled.add(gradients(1, k, np.float32))
        spoiled.step()
        assert spoiled.steps == dict.fromkeys(SHAPES, 1)
        assert all(np.isfinite(array).all() for array in spoiled._tree.arrays)
    assert rank == spoiled._exchange.rank
    return told


def crash(comm, folder, where="finish"):
    """One rank raises in a step; without `-m mpi4py` the others would wait for ever."""
    opt = made(comm, "clip", params_of())

    def wrong(*_):
        raise ValueError("the data of this rank are wrong")

    if comm.rank == comm.size - 1:
        setattr(opt._exchange, where, wrong)
    train(comm, "clip", range(1), opt, np.float32)


crash_looking, crash_norm = partial(crash, where="_look"), partial(crash, where="norm")


def kill(comm, folder):
    """Saves after every step until one rank is killed in the middle of the third."""
    params = params_of()
    opt = made(comm, "clip", params)
    for step in range(STEPS):
        if step == 2 and comm.rank == comm.size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        train(comm, "clip", [step], opt, np.float32)
        mpi.save(folder / "killed.npz", params=params, opt=opt, run={"step": step})


def after_kill(comm, folder):
    """Goes on from the file that `kill` left, to the end."""
    params, run = params_of(), {"step": 0}
    opt = made(comm, "clip", params)
    pyoptk.load(folder / "killed.npz", params=params, opt=opt, run=run)
    train(comm, "clip", range(run["step"] + 1, STEPS), opt, np.float32)
    return {"clip": digest(params.values()), "from": run["step"]}


def main(names, folder, alone):
    comm = None
    if not alone:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    for name in names.split(","):
        found = globals()[name](comm, folder)
        if comm is None or comm.rank == 0:
            ranks = 0 if comm is None else comm.size
            (folder / f"{name}-{ranks}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "--alone" in sys.argv)
