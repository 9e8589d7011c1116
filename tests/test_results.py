"""The memory of large results, which later results take again."""

import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import pyoptk
from pyoptk.layers import Activation, Dropout, Last, LayerNorm, Linear

handler_of = getattr(np, "_core", None) or np.core
handler_of = handler_of.multiarray.get_handler_name
KEPT, LARGE, OURS = 1 << 26, 1 << 14, "pyoptk"  # csrc/memory.h
HUGE = 1 << 21  # a page
SIZES = [(2, 3), (63, 64), (64, 64), (65, 64), (5, 40, 40), (300, 1000), (600, 1000)]


@pytest.fixture(autouse=True)
def _nothing_is_kept():
    pyoptk.release_memory()
    yield
    pyoptk.release_memory()


def result(shape, dtype=np.float32):
    """The gradient of a loss: a new array."""
    zeros = np.zeros(shape, dtype)
    return pyoptk.losses.mse(zeros, zeros)[1]


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SIZES)
def test_a_result_is_an_ordinary_array(shape, dtype):
    y = result(shape, dtype)
    large = y.nbytes >= LARGE
    assert (handler_of(y) == OURS) == large
    assert type(y) is np.ndarray
    assert y.base is None
    assert y.flags.owndata
    assert y.flags.carray
    assert not large or address(y) % 64 == 0
    assert y.nbytes < HUGE or sys.platform != "linux" or address(y) % HUGE == 0
    assert handler_of(np.empty(shape, dtype)) != OURS
    y[...] = 1
    for other in (y.copy(), pickle.loads(pickle.dumps(y)), y.reshape(-1).view()):
        assert (other == 1).all()
    y.resize((2 * y.size,), refcheck=False)
    assert (y[: y.size // 2] == 1).all()
    y.resize((3,), refcheck=False)
    assert (y == 1).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [s for s in SIZES if np.prod(s) * 4 >= LARGE])
def test_memory_that_nothing_refers_to_is_taken_again(shape, dtype):
    y = result(shape, dtype)
    before = address(y)
    held, view = result(shape, dtype), result(shape, dtype)[1:]
    del y
    y = result(shape, dtype)
    assert address(y) == before
    assert not any(np.shares_memory(y, other) for other in (held, view))
    held[...], view[...] = 1, 2
    more = [result(shape, dtype) for _ in range(3)]
    for i, other in enumerate(more):
        other[...] = 3 + i
    assert (held == 1).all()
    assert (view == 2).all()
    assert all((other == 3 + i).all() for i, other in enumerate(more))


def test_every_layer_takes_it():
    rng = np.random.default_rng(0)
    x, steps = np.ones((128, 64), np.float32), np.ones((16, 16, 64), np.float32)
    for layer, given in (
        (Linear(64, 64, "gelu", rng=rng), x), (Activation("relu"), x), (LayerNorm(64), x),
        (Dropout(0.5, seed=1), x), (Last(), steps), (pyoptk.LSTM(64, 64, rng=rng), steps),
    ):  # fmt: skip
        y = layer.forward(given)
        y = y[0] if isinstance(y, tuple) else y
        dx = layer.backward(np.ones_like(y))
        dx = dx[0] if isinstance(dx, tuple) else dx
        assert [handler_of(a) for a in (y, dx) if a.nbytes >= LARGE] == [OURS] * (
            1 + (y.nbytes >= LARGE)
        ), type(layer).__name__
    assert pyoptk.release_memory() > 0


def test_what_is_kept_is_bounded_and_released():
    sizes = [LARGE + 8192 * i for i in range(90)] * 2 + [1 << 24] * 5 + [KEPT]
    arrays = [result(n // 4) for n in sizes]
    assert pyoptk.release_memory() <= KEPT  # scratch memory of the losses
    del arrays[:-1]
    one = pyoptk.release_memory()
    assert 0 < one <= KEPT
    del arrays
    assert pyoptk.release_memory() == 0  # too large to be kept
    for n in sizes:  # a size that is not used any more makes room
        result(n // 4)
    assert 0 < pyoptk.release_memory() <= KEPT
    assert pyoptk.release_memory() == 0


def test_a_refused_call_leaves_numpys_memory_as_it_was():
    layer = Linear(64, 1 << 20, rng=np.random.default_rng(0))
    with pytest.raises(MemoryError):
        pyoptk._core.new_array((1 << 40, 1 << 40), np.dtype("f4"))
    with pytest.raises(MemoryError):
        pyoptk._core.new_array((1 << 44,), np.dtype("f8"))
    with pytest.raises(ValueError, match=r"^x: "):
        layer.forward(np.zeros((64, 65), np.float32))
    assert handler_of(np.empty(1 << 20)) != OURS


def test_threads_never_have_the_same_memory():
    wrong, shapes = [], [(64, 64), (64, 65), (128, 128)]

    def work(n):
        held = []
        for i in range(200):
            y = result(shapes[i % 3])
            y[...] = n
            held = [*held[-5:], y[1:] if i % 2 else y]
            wrong.extend(a for a in held if not (a == n).all())
            if i % 50 == 49:
                pyoptk.release_memory()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_its_own():
    held = result((128, 128))
    held[...] = 1
    result((128, 128))  # is kept
    child = os.fork()
    if not child:
        y = [result((128, 128)) for _ in range(3)]
        for other in y:
            other[...] = 2
        os._exit(0 if (held == 1).all() and pyoptk.release_memory() >= 0 else 1)
    y = result((128, 128))
    y[...] = 3
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (held == 1).all()
    assert (y == 3).all()


@pytest.mark.skipif(sys.platform != "linux", reason="counts the page faults of Linux")
def test_a_training_step_has_no_page_faults():
    code = """if True:
        import resource
        import numpy as np, pyoptk
        layers = pyoptk.LSTM(1, 32), pyoptk.LSTM(32, 32), pyoptk.layers.Last()
        model = pyoptk.layers.Sequential(*layers)
        x, target = np.zeros((10, 256, 1), np.float32), np.zeros((256, 32), np.float32)
        def step():
            model.backward(pyoptk.losses.mse(model.forward(x), target)[1])
        def faults(n):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(n): step()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults(5)
        print(faults(20))
    """
    environment = os.environ | {"PYOPTK_NUM_THREADS": "1"}
    found = subprocess.check_output([sys.executable, "-P", "-c", code], env=environment, text=True)
    assert int(found) < 20  # 4,000 without the memory that is kept
