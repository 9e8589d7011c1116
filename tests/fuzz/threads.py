"""Several threads, small stacks and forks: calls are refused, or as if one after the other."""

import os
import signal
import sys
import threading
import warnings

import numpy as np

import pyoptk
from pyoptk import kernels

from .optimizers import CLASSES
from .trial import SANITIZED, copied


def at_once(works, stack=0):
    """Runs the functions on a thread each; raises what they raised."""
    errors, gate = [], threading.Barrier(len(works))

    def run(work):
        try:
            gate.wait()
            work()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threading.stack_size(stack)
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(old)
        threading.stack_size(0)
    if errors:
        raise errors[0]


def _sgd(size, **settings):
    param = np.zeros(size, np.float32)
    return param, pyoptk.SGD(param, lr=1.0, **settings), np.ones(size, np.float32)


def _tried(function, done):
    """Calls it; a refusal because of another thread does not count."""
    try:
        function()
    except RuntimeError as error:
        if "thread" not in str(error) and "averag" not in str(error):
            raise
    else:
        done.append(None)


def shared_optimizer(t, size, count, times):
    param, opt, grad = _sgd(size, ema_decay=t.pick([None, 0.5]))
    done = []
    at_once([lambda: [_tried(lambda: opt.step(grad), done) for _ in range(times)]] * count)
    t.equal("steps", opt.steps, len(done))
    t.equal("shared optimizer", param, np.full(size, -len(done), np.float32))


def optimizers(t, size, count, times):
    many = [_sgd(size) for _ in range(count)]
    at_once([lambda o=opt, g=grad: [o.step(g) for _ in range(times)] for _, opt, grad in many])
    for param, _, _ in many:
        t.equal("own optimizer", param, np.full(size, -times, np.float32))


def shared_accumulation(t, size, count, times):
    param, opt, grad = _sgd(size)
    outer, done = pyoptk.Accumulation(opt, k=2), []
    at_once([lambda: [_tried(lambda: outer.step(grad), done) for _ in range(times)]] * count)
    t.equal("micro-batches", outer.count, len(done) % 2)
    t.equal("shared accumulation", param, np.full(size, -(len(done) // 2), np.float32))


def _layer_of(seed):
    return pyoptk.LSTM(8, 16, rng=np.random.default_rng(seed))


def shared_layer(t, size, count, times):
    layer, x = _layer_of(0), t.normal((20, 16, 8), np.float32)
    exact = layer.forward(x)[0]
    found = []

    def work():
        for _ in range(times):
            _tried(lambda: found.append(layer.forward(x)[0]), [])

    at_once([work] * count)
    for y in found:
        t.equal("shared layer", y, exact)


def layers(t, size, count, times):
    x = t.normal((20, 16, 8), np.float32)

    def work(layer, kept):
        for _ in range(times):
            y, _ = layer.forward(x)
            dx, _ = layer.backward(y)
            kept.append((y, dx, layer.flat_grads.copy()))

    kept = [[] for _ in range(count)]
    at_once([lambda k=k: work(_layer_of(0), kept[k]) for k in range(count)])
    for results in kept:
        for result in results:
            t.equal("own layer", list(result), list(kept[0][0]))


def stream(t, size, count, times):
    layer, x = _layer_of(0), t.normal((16, 8), np.float32)
    exact, found = layer.step(x)[0], []
    at_once([lambda: [found.append(layer.step(x)[0]) for _ in range(times)]] * count)
    for y in found:
        t.equal("steps of a stream", y, exact)


def steps_and_loads(t, size, count, times):
    """Steps and loads at once: afterwards a whole number of steps, of everything alike."""
    _, opt, grad = _sgd(size, momentum=0.5)
    state = copied(dict(opt.state_dict()))
    works = [
        lambda: [_tried(lambda: opt.step(grad), []) for _ in range(times)],
        lambda: [_tried(lambda: opt.load_state_dict(state), []) for _ in range(times)],
    ]
    at_once(works * (count // 2))
    velocity = np.array(opt.state["velocity"])
    t.check(bool((velocity == velocity.flat[0]).all()), "velocity of a step in part")
    expected = 2 * (1 - 0.5**opt.steps) if opt.steps else 0.0
    t.check(
        abs(velocity.flat[0] - expected) < 1e-5,
        f"velocity {velocity.flat[0]} after {opt.steps} steps",
    )


# What several threads do at once: each takes a Try, a size, how many threads and how often.
KINDS = [
    shared_optimizer,
    optimizers,
    shared_accumulation,
    shared_layer,
    layers,
    stream,
    steps_and_loads,
]


def threads(t):
    """Threads on one object and on different ones: refused, or as if one after the other."""
    pyoptk.set_num_threads(t.pick([1, 2]))
    t.pick(KINDS)(t, t.pick([10, 3000, 200_000]), t.pick([2, 3, 4]), t.pick([5, 20]))


def small_stack(t):
    """A public call on a thread with a small stack."""
    size = t.pick([64, 64, 128, 256]) * 1024 * (64 if SANITIZED else 1)
    threads_, isas = t.pick([1, 2]), [name for name, usable in pyoptk.isas().items() if usable]
    pyoptk.set_num_threads(threads_)
    pyoptk.use_isa(t.pick(isas))
    n, dtype = t.pick([100, 5000, 300_000]), np.dtype(t.pick(["f4", "f8"]))

    def passes():
        y, _ = layer.forward(x)
        layer.backward(y)

    works = {
        "passes": passes,
        "step": lambda: cls(np.ones(n, dtype), **settings).step(np.ones(n, dtype)),
        "rows": lambda: pyoptk.Adam(np.ones((99, 50), dtype)).step(
            pyoptk.SparseRows(np.arange(99), np.ones((99, 50), dtype), (99, 50))
        ),
        "stream": lambda: layer.step(x[0]),
        "matmul": lambda: kernels.matmul(a, a, np.empty_like(a)),
        "dropout": lambda: kernels.dropout(x, np.empty_like(x), 0.5, seed=1),
        "exp": lambda: kernels.exp(np.ones(n, dtype), np.ones(n, dtype)),
        "norm": lambda: pyoptk.global_norm(np.ones(n, dtype)),
    }
    name = t.pick(list(works))
    cls, settings = (
        t.pick(CLASSES),
        {"max_norm": t.pick([None, 1.0]), "ema_decay": t.pick([None, 0.5])},
    )
    H = t.pick([3, 40, 200])
    layer = pyoptk.LSTM(
        t.pick([3, 100]),
        H,
        2,
        bidirectional=t.chance(0.3) and name != "stream",
        dtype=dtype,
        save=t.pick(["full", "minimal"]),
    )
    x, a = (
        np.ones((9, t.pick([1, 40]), layer.input_size), dtype),
        np.ones((t.pick([5, 300]),) * 2, dtype),
    )

    at_once([works[name]], stack=size)
    t.check(True, name)


def fork(t):
    """A child steps what the parent made, and the parent goes on; also out of several threads."""
    pyoptk.set_num_threads(t.pick([1, 2, 3]))
    param, opt, grad = _sgd(t.pick([10, 200_000]))
    opt.step(grad)
    # AddressSanitizer before LLVM 18 and GCC 14 does not take its own locks around a fork, so that
    # pthread_create may hang in the child (llvm-project #75290; CPython's tests leave it out, too).
    stop, busy = threading.Event(), t.chance(0.5) and not SANITIZED
    _, others, ones = _sgd(200_000)

    def work():
        while not stop.is_set():
            others.step(ones)

    caller = threading.Thread(target=work)
    if busy:
        caller.start()
    try:
        for _ in range(t.pick([1, 3])):
            code = _in_child(lambda: _child_steps(param, opt, grad, others if busy else None, ones))
            t.check(code == 0, f"the child's code is {code}")
        opt.step(grad)
    finally:
        stop.set()
        if busy:
            caller.join()
    t.equal("the parent's", param, np.full(len(param), -2, np.float32))


def _child_steps(param, opt, grad, others, ones):
    for _ in range(3):
        opt.step(grad)
    if not (param == -4).all():
        return 3
    if others is not None:
        others.step(ones)  # another thread may have been in a step of it, in the parent
    return 0


def _in_child(work):
    """The exit code of a forked process; 99 if it hangs, 98 if it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        code = 98
        try:
            signal.alarm(20)
            code = work()
        except BaseException as error:  # noqa: BLE001
            os.write(2, f"in a forked child: {error!r}\n".encode())
        finally:
            os._exit(code)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)
