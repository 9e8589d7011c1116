"""How many threads kernels use; safety with Python threads, forks and signals."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import pyoptk
from pyoptk import kernels

SIZE = 1 << 17  # enough that a kernel uses several threads


@pytest.fixture(autouse=True)
def _default_threads_afterwards():
    yield
    pyoptk.set_num_threads(None)


def output_of(code, *arguments, **environment):
    """The output of `code` in a new process with these environment variables."""
    ours = ("PYOPTK_NUM_THREADS", "OMP_NUM_THREADS")
    clean = {k: v for k, v in os.environ.items() if k not in ours}
    command = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.check_output(command, env=clean | environment, text=True).strip()


def descend(steps, param):
    """`steps` exact steps of size 1 towards minus infinity."""
    grad = np.ones_like(param)
    for _ in range(steps):
        kernels.sgd(param, grad, lr=1.0)


def test_backend_is_a_known_one():
    assert pyoptk.threads_backend() in ("pool", "openmp", "none")


def test_number_of_threads_is_set_and_reset():
    default = pyoptk.get_num_threads()
    assert default >= 1
    pyoptk.set_num_threads(3)
    assert pyoptk.get_num_threads() == 3
    pyoptk.set_num_threads(None)
    assert pyoptk.get_num_threads() == default
    pyoptk.set_num_threads(5)
    pyoptk.set_num_threads()
    assert pyoptk.get_num_threads() == default


@pytest.mark.parametrize("n", [-1, 1.5, "2"])
def test_number_of_threads_must_be_a_positive_integer(n):
    with pytest.raises((TypeError, ValueError), match=r"^n: "):
        pyoptk.set_num_threads(n)


# What is no number of threads is ignored, as OpenMP does: the next variable counts.
WORDS = dict.fromkeys(["", " ", "0", "-0", "-3", "1e9", "0x4", "4x", "4.5", "4;2", "x4", "4 2"], 6)
WORDS |= {" 4 ": 4, "\t4\n": 4, "+4": 4, "004": 4, "256": 256, "257": 256, "1000000000": 256}
WORDS |= {"9" * 30: 256, "-" + "9" * 30: 6, "\u0664": 6}
LISTS = {"4,2": 4, " 4 , 2": 4, "4,": 4, "4,x": 4, "300,2": 256}


ENVIRONMENTS = [
    ({"PYOPTK_NUM_THREADS": "5"}, 5),
    ({"OMP_NUM_THREADS": "6"}, 6),
    ({"OMP_NUM_THREADS": "4,2"}, 4),
    ({"PYOPTK_NUM_THREADS": "5", "OMP_NUM_THREADS": "6"}, 5),
    ({"PYOPTK_NUM_THREADS": "many", "OMP_NUM_THREADS": "6"}, 6),
    ({"PYOPTK_NUM_THREADS": "-1", "OMP_NUM_THREADS": "6"}, 6),
    *(({"PYOPTK_NUM_THREADS": text, "OMP_NUM_THREADS": "6"}, n) for text, n in WORDS.items()),
    *(({"OMP_NUM_THREADS": text, "PYOPTK_NUM_THREADS": ""}, n) for text, n in LISTS.items()),
]
# Each in a child that imports pyoptk anew; a process for each would import NumPy as often.
IN_CHILDREN = """
import json, os, sys, numpy
for environment in json.loads(sys.argv[1]):
    if os.fork() == 0:
        os.environ.update(environment)
        import pyoptk
        print(pyoptk.get_num_threads(), flush=True)
        os._exit(0)
    os.wait()
"""


def test_environment_sets_the_default():
    environments = [environment for environment, _ in ENVIRONMENTS]
    said = map(int, output_of(IN_CHILDREN, json.dumps(environments)).split())
    assert list(zip(environments, said, strict=True)) == ENVIRONMENTS
    assert output_of("import pyoptk; print(pyoptk.get_num_threads())", **environments[0]) == "5"


def test_default_is_what_the_process_may_use():
    code = "import pyoptk; print(pyoptk.get_num_threads())"
    assert 1 <= int(output_of(code)) <= (os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        pinned = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        assert output_of(pinned + code) == "1"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_result_does_not_depend_on_the_number_of_threads(dtype):
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, SIZE + 3)).astype(dtype)
    outcomes = []
    for threads in (1, 2, 3, 8):
        pyoptk.set_num_threads(threads)
        param, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
        for step in (1, 2, 3):
            kernels.adam(param, grad, m, v, step=step)
        outcomes.append(param.tobytes() + m.tobytes() + v.tobytes())
    assert len(set(outcomes)) == 1


def test_many_python_threads_at_once():
    """A call that finds the workers busy runs on its own thread and does all of its work."""
    pyoptk.set_num_threads(3)
    params = np.zeros((6, SIZE))
    callers = [threading.Thread(target=descend, args=(100, param)) for param in params]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert (params == -100).all()


def in_forked_child(work, *args):
    """The exit code of a forked process that calls work(*args); fails if that hangs."""
    child = multiprocessing.get_context("fork").Process(target=work, args=args)
    child.start()
    child.join(30)
    if child.is_alive():
        child.kill()
        pytest.fail("the forked child hung")
    return child.exitcode


def descend_and_check():
    param = np.zeros(SIZE)
    descend(10, param)
    sys.exit(not (param == -10).all())


if hasattr(os, "fork"):

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_fork_after_a_parallel_kernel():
        """Workers do not survive a fork: a child that waited for them would hang for ever."""
        pyoptk.set_num_threads(3)
        descend_in_parent = np.zeros(SIZE)
        descend(5, descend_in_parent)
        assert in_forked_child(descend_and_check) == 0
        descend(5, descend_in_parent)
        assert (descend_in_parent == -10).all()

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_fork_while_another_thread_is_in_a_kernel():
        pyoptk.set_num_threads(3)
        stop = threading.Event()
        param = np.zeros(SIZE)

        def work():
            while not stop.is_set():
                descend(1, param)

        caller = threading.Thread(target=work)
        caller.start()
        try:
            for _ in range(5):
                assert in_forked_child(descend_and_check) == 0
        finally:
            stop.set()
            caller.join()


if sys.platform == "linux" and pyoptk.threads_backend() == "pool":

    def test_workers_leave_signals_to_the_program():
        code = """if True:
            import os
            import numpy as np
            import pyoptk.kernels
            before = set(os.listdir("/proc/self/task"))
            pyoptk.set_num_threads(4)
            pyoptk.kernels.sgd(np.zeros(1 << 20), np.zeros(1 << 20))
            for task in set(os.listdir("/proc/self/task")) - before:
                with open(f"/proc/self/task/{task}/status") as status:
                    print(next(line.split()[1] for line in status if "SigBlk" in line))
        """
        blocked = [int(mask, 16) for mask in output_of(code).split()]
        assert len(blocked) == 3
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD):
            assert all(mask >> (number - 1) & 1 for mask in blocked)


def test_loading_and_stepping_in_two_threads_do_not_mix():
    """Whatever is refused, all elements, which had the same gradients, stay the same."""
    param = np.zeros(200_000)  # of a size at which a step lets other threads run
    opt = pyoptk.Adam(param)
    opt.watch = True
    opt.step(np.ones_like(param))
    state = pickle.loads(pickle.dumps(opt.state_dict()))
    errors, stop = [], threading.Event()

    def repeat(call):
        while not stop.is_set():
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    calls = (
        lambda: opt.step(np.ones_like(param)),
        lambda: opt.load_state_dict(state),
        lambda: (opt.hyper, opt.watched, opt.state_dict()),  # reads what the others replace
    )
    threads = [threading.Thread(target=repeat, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join()
    for array in (param, opt.state["m"], opt.state["v"]):
        assert (array == array[0]).all()
    assert all("thread" in error for error in errors)


# Each moves an element by 1 a call, on average of two calls.
SHARED = {
    "SGD": lambda param: pyoptk.SGD(param, lr=1.0),
    "Accumulation": lambda param: pyoptk.Accumulation(pyoptk.SGD(param, lr=2.0), 2),
    "Lookahead": lambda param: pyoptk.Lookahead(pyoptk.SGD(param, lr=1.0), k=5, alpha=1.0),
    "LossScaler": lambda param: pyoptk.LossScaler(pyoptk.SGD(param, lr=1.0), scale=1.0),
}


@pytest.mark.parametrize("size", [1, 1000, SIZE])
@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_no_step_on_a_shared_object_is_lost(make, size):
    """Four threads step one object: a call is refused, or its step is in the parameters."""
    param, grad = np.zeros(size), np.ones(size)
    opt, taken, others = make(param), [], []

    def step(calls):
        for _ in range(calls):
            try:
                opt.step(grad)
                taken.append(1)
            except RuntimeError as error:
                others.append(str(error))

    threads = [threading.Thread(target=step, args=[40 if size == SIZE else 400]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    step(len(taken) % 2)  # the end of an accumulation
    assert (param == -len(taken)).all()
    assert all("in another thread" in error for error in others)
    assert len(taken) > 1


SMALL_STACK = """
import threading, numpy as np, pyoptk
from pyoptk.layers import Linear
pyoptk.set_num_threads(1)
def both(layer, *shape):
    x = np.ones(shape, np.float32)
    y = layer.forward(x)
    layer.backward(np.ones_like(y[0] if isinstance(y, tuple) else y))
def step(cls, **settings):
    cls(np.ones(5000, np.float32), **settings).step(np.ones(5000, np.float32))
works = [
    (40, lambda: both(Linear(64, 64, "relu"), 8, 64)), (40, lambda: both(Linear(60, 64), 3, 60)),
    (40, lambda: both(Linear(90, 90), 99, 90)),
    (64, lambda: both(Linear(90, 200, compute="bfloat16"), 99, 90)),
    (64, lambda: both(pyoptk.LSTM(40, 90), 5, 70, 40)),
    (64, lambda: both(pyoptk.LSTM(40, 90, compute="bfloat16"), 5, 70, 40)),
    (64, lambda: both(pyoptk.GRU(3, 90), 5, 70, 3)),
    (64, lambda: step(pyoptk.LAMB)), (64, lambda: step(pyoptk.Adam, state_dtype="8bit")),
]
for size, work in works:
    work()  # imports what it needs
    threading.stack_size(size << 10)
    done = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    assert done
"""


def test_threads_with_a_small_stack_may_call_everything(isa):
    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("a sanitizer needs stack itself")
    assert not output_of(SMALL_STACK, PYOPTK_ISA=isa)
