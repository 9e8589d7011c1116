"""Bad input is refused by name before anything is written."""

import copy
import ctypes
import pickle
import re
import subprocess
import sys
import types
import weakref
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import pyoptk
from pyoptk import _plan, _rnn, kernels

F32, F64 = np.float32, np.float64
FOREIGN = np.dtype(F32).newbyteorder()  # the other byte order, whichever this machine has


def ones(*shape, dtype=F32):
    return np.ones(shape, dtype)


def frozen(array):
    array.flags.writeable = False
    return array


SHARED = ones(8)

# params, error, message
BAD_PARAMS = {
    "int": (
        np.ones(3, int),
        TypeError,
        r"^params: expected float32, float64, float16 or bfloat16 in native byte order",
    ),
    "float16": (
        [ones(3), ones(3, dtype=np.float16)],
        ValueError,
        r"^master: expected 'float32', 'remainder' or 'stochastic' for params\[1\] of float16",
    ),
    "object": (np.array([1.0], object), TypeError, r"^params: expected .*got object"),
    "complex": (np.ones(3, complex), TypeError, r"^params: expected .*got complex128"),
    "dates": (np.zeros(3, "M8[s]"), TypeError, r"^params: expected .*got datetime64"),
    "swapped bytes": (
        np.ones(3, FOREIGN),
        TypeError,
        rf"^params: .*native byte order.*got {FOREIGN.str}",
    ),
    "unaligned": (np.zeros(13, np.uint8)[1:].view(F32), TypeError, r"^params: .*aligned"),
    "list of numbers": ([1.0, 2.0], TypeError, r"^params\[0\]: expected a float32, .*got float$"),
    "number": (1.0, TypeError, r"^params: expected a float32, .* or bfloat16 array, got float$"),
    "None": (None, TypeError, r"^params: expected a float32, .* array, got NoneType$"),
    "int16": (
        np.ones(3, np.int16),
        TypeError,
        r"^params: expected float32, float64, float16 or bfloat16 in .*got int16",
    ),
    "two dtypes": (
        [ones(3), ones(3, dtype=F64)],
        TypeError,
        r"^params\[1\]: expected float32 like",
    ),
    "read-only": ({"w": frozen(ones(3))}, ValueError, r"^params\['w'\]: .*writable.*read-only"),
    "strided": (
        ones(8)[::2],
        ValueError,
        r"^params: expected a C-contiguous array, got strides \(8,\)",
    ),
    "Fortran": (np.asfortranarray(ones(3, 2)), ValueError, r"^params: expected a C-contiguous"),
    "twice": ([SHARED, SHARED], ValueError, r"^params\[1\]: .*overlaps params\[0\]"),
    "masked": (
        np.ma.masked_array(ones(3)),
        TypeError,
        r"^params: expected a plain array, got a masked",
    ),
    "overlapping": (
        {"a": SHARED[:5], "b": ones(3), "c": SHARED[4:]},
        ValueError,
        r"^params\['c'\]: expected memory of its own, got an array that overlaps params\['a'\]",
    ),
}


@pytest.mark.parametrize("bad", BAD_PARAMS)
@pytest.mark.parametrize(
    "cls",
    [*pyoptk.Optimizer.__subclasses__(), pyoptk.AdamW],
)
def test_bad_parameters_are_refused(cls, bad):
    params, error, message = BAD_PARAMS[bad]
    with pytest.raises(error, match=message):
        cls(params)


# grads in place of [ones(3, 4), ones(5)], or a function that makes them from the parameters
BAD_GRADS = {
    "missing": ([ones(3, 4)], ValueError, r"^grads: expected 2 arrays, got 1$"),
    "extra": ([ones(3, 4), ones(5), ones(1)], ValueError, r"^grads: expected 2 arrays, got 3$"),
    "no list": (ones(3, 4), TypeError, r"^grads: expected a list or tuple like params, got float32"),
    "dict": ({0: ones(3, 4), 1: ones(5)}, TypeError, r"^grads: expected a list or tuple .*got dict$"),
    "transposed": ([ones(4, 3), ones(5)], ValueError, r"^grads\[0\]: expected float32 \(3, 4\) like .*got float32 \(4, 3\)$"),
    "flat": ([ones(12), ones(5)], ValueError, r"^grads\[0\]: expected float32 \(3, 4\) like params\[0\], got float32 \(12,\)$"),
    "too long": ([ones(3, 4), ones(6)], ValueError, r"^grads\[1\]: expected float32 \(5,\)"),
    "float64": ([ones(3, 4), ones(5, dtype=F64)], TypeError, r"^grads\[1\]: .*got float64 \(5,\); grads\[1\]\.astype\(numpy\.float32\) has that"),
    "int": ([ones(3, 4), np.ones(5, int)], TypeError, r"^grads\[1\]: expected float32, float16 or bfloat16.*int64"),
    "a number": ([ones(3, 4), 1.0], TypeError, r"^grads\[1\]: .*got float$"),
    "a parameter": (lambda p: [ones(3, 4), p[1]], ValueError, r"^grads\[1\]: .*overlaps params\[1\]$"),
    "part of another": (
        lambda p: [ones(3, 4), p[0].ravel()[7:]],
        ValueError,
        r"^grads\[1\]: expected memory of its own, got an array that overlaps params\[0\]$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_GRADS)
@pytest.mark.parametrize("max_norm", [None, 1.0])
def test_bad_gradients_are_refused_and_nothing_is_written(bad, max_norm):
    grads, error, message = BAD_GRADS[bad]
    params = [ones(3, 4), ones(5)]
    opt = pyoptk.Adam(params, max_norm=max_norm)
    with pytest.raises(error, match=message):
        opt.step(grads(params) if callable(grads) else grads)
    assert all((p == 1).all() for p in params)
    assert all((s == 0).all() for states in opt.state.values() for s in states)
    assert opt.steps == [0, 0]
    opt.step([ones(3, 4), ones(5)])  # and the optimizer is as good as new
    assert opt.steps == [1, 1]


def test_a_gradient_may_not_be_a_state_of_the_optimizer():
    opt = pyoptk.Adam(ones(5))
    with pytest.raises(ValueError, match=r"^grads: .*overlaps m$"):
        opt.step(opt.state["m"])


def test_a_list_that_lies_about_its_length_is_counted():
    class Liar(list):
        def __len__(self):
            return 3

    opt = pyoptk.Adam([ones(2), ones(2), ones(2)])
    with pytest.raises(ValueError, match=r"^grads: expected 3 arrays, got 0$"):
        opt.step(Liar())


def test_bad_gradient_dicts_are_refused():
    opt = pyoptk.SGD({"a": ones(2), "b": ones(3)})
    for grads, error, message in [
        ({"a": ones(2)}, ValueError, r"^grads: expected 2 keys, got none for 'b'"),
        ({"a": ones(2), "b": ones(3), "z": ones(1)}, ValueError, r"^grads: .*got 'z' too$"),
        ([ones(2), ones(3)], TypeError, r"^grads: expected a dict like params, got list$"),
        (types.SimpleNamespace(grads={}), TypeError, r"^grads: .*; its .grads is one$"),
        ({"a": ones(2), "b": ones(2)}, ValueError, r"^grads\['b'\]: expected float32 \(3,\)"),
    ]:
        with pytest.raises(error, match=message):
            opt.step(grads)
    assert opt.steps == {"a": 0, "b": 0}


NAN, INF = float("nan"), float("inf")
NOT_NEGATIVE = [NAN, -1.0, INF, -INF, "x", None, [1], 10**400, True]
FRACTION = [NAN, -0.1, 1.0, 2, "x", None, False]
SWITCH = [1, 0, None, "yes"]
BAD_HYPER = {
    pyoptk.SGD: {"lr": NOT_NEGATIVE, "momentum": FRACTION, "dampening": [NAN, -0.1, 1.1], "nesterov": [*SWITCH, True],
                 "lr_in_momentum": SWITCH, "weight_decay": NOT_NEGATIVE, "maximize": SWITCH, "decoupled": SWITCH,
                 "grad_scale": NOT_NEGATIVE, "clip_value": [NAN, -1, INF, "x", True],
                 "max_norm": [NAN, -1, -INF, "x", True]},
    pyoptk.AdaGrad: {"lr": NOT_NEGATIVE, "lr_decay": NOT_NEGATIVE, "eps": NOT_NEGATIVE, "eps_inside_sqrt": SWITCH,
                     "initial_accumulator": NOT_NEGATIVE},
    pyoptk.RMSprop: {"lr": NOT_NEGATIVE, "rho": FRACTION, "eps": NOT_NEGATIVE, "momentum": FRACTION, "centered": SWITCH,
                     "eps_inside_sqrt": SWITCH, "lr_in_momentum": SWITCH},
    pyoptk.Adam: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "eps": NOT_NEGATIVE, "amsgrad": SWITCH,
                  "eps_hat": SWITCH, "amsgrad_on_corrected": [*SWITCH, True], "weight_decay": NOT_NEGATIVE,
                  "cautious": SWITCH},
    pyoptk.Adadelta: {"lr": NOT_NEGATIVE, "rho": FRACTION, "eps": NOT_NEGATIVE},
    pyoptk.NAdam: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "eps": NOT_NEGATIVE,
                   "momentum_decay": NOT_NEGATIVE},
    pyoptk.RAdam: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "eps": NOT_NEGATIVE, "eps_hat": SWITCH},
    pyoptk.Adamax: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "eps": NOT_NEGATIVE,
                    "eps_outside_max": SWITCH},
    pyoptk.Lion: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "decoupled": SWITCH},
    pyoptk.LAMB: {"lr": NOT_NEGATIVE, "beta1": FRACTION, "beta2": FRACTION, "eps": NOT_NEGATIVE,
                  "weight_decay": NOT_NEGATIVE, "decoupled": SWITCH},
}  # fmt: skip
BAD_VALUES = [
    (cls, name, value)
    for cls, row in BAD_HYPER.items()
    for name, values in row.items()
    for value in values
]


@pytest.mark.parametrize(
    ("cls", "name", "value"), BAD_VALUES, ids=lambda v: getattr(v, "__name__", repr(v))
)
def test_bad_hyper_parameters_are_refused_by_name(cls, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .*(got|, got )"):
        cls(ones(3), **{name: value})
    if name == "initial_accumulator":
        return
    opt = cls(ones(3))
    before = dict(opt.hyper)
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
        setattr(opt, name, value)
    assert opt.hyper == before


@pytest.mark.parametrize(("name", "value"), [("lr", 1e39), ("eps", 1e-50), ("weight_decay", 1e300)])
def test_a_number_must_fit_the_dtype(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected a number that float32 can hold, got"):
        pyoptk.Adam(ones(3), **{name: value})
    with pytest.raises(ValueError, match=rf"^{name}: expected a number that float32 can hold, got"):
        kernels.adam(ones(3), ones(3), ones(3), ones(3), **{name: value})
    pyoptk.Adam(ones(3, dtype=F64), **{name: value}).step(ones(3, dtype=F64))


def test_a_first_state_must_fit_the_dtype():
    with pytest.raises(ValueError, match=r"^initial_accumulator: .* float32 can hold, got 1e\+39"):
        pyoptk.AdaGrad(ones(3), initial_accumulator=1e39)
    assert pyoptk.AdaGrad(ones(3, dtype=F64), initial_accumulator=1e39).state["s"][0] == 1e39


def test_hyper_parameters_are_the_optimizers_own():
    lr = np.array(0.5)
    opt = pyoptk.SGD(ones(2), lr=lr)
    lr[...] = 5
    assert opt.lr == 0.5
    with pytest.raises(TypeError, match="item assignment"):
        opt.hyper["lr"] = 0.1


STATES = {"sgd": ["velocity"], "adagrad": ["s"], "rmsprop": ["v"], "adadelta": ["v", "acc_delta"], "adam": ["m", "v"],
          "nadam": ["m", "v"], "radam": ["m", "v"], "adamax": ["m", "u"], "lion": ["m"],
          "lamb": ["m", "v"]}  # fmt: skip


@pytest.mark.parametrize("kernel", STATES)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"step": 0}, ValueError, r"^step: expected an integer >= 1, got 0$"),
        ({"step": 1.5}, ValueError, r"^step: expected an integer >= 1, got 1.5$"),
        ({"lr": NAN}, ValueError, r"^lr: expected"),
        (
            {"grad": ones(4)},
            ValueError,
            r"^grad: expected float32 \(5,\) like param, got float32 \(4,\)$",
        ),
        ({"grad": ones(5, dtype=F64)}, TypeError, r"^grad: expected float32 like param"),
        ({"param": ones(10)[::2]}, ValueError, r"^param: expected a C-contiguous"),
        ({"param": frozen(ones(5))}, ValueError, r"^param: expected a writable"),
        ({"state": ones(6)}, ValueError, r"^\w+: expected float32 \(5,\) like param"),
        ({"state": None}, TypeError, r"^\w+: expected a float32 or float64 array, got NoneType$"),
        ({"state": "param"}, ValueError, r"^\w+: expected memory of its own, .*overlaps param$"),
        ({"grad": "param"}, ValueError, r"^grad: expected memory of its own, .*overlaps param$"),
    ],
    ids=str,
)
def test_bare_kernels_refuse_bad_arguments_and_write_nothing(kernel, change, error, message):
    param = change.get("param", ones(5))
    state = STATES[kernel][0]
    arguments = {"param": param, "grad": ones(5)} | {name: ones(5) for name in STATES[kernel]}
    arguments |= {"momentum": 0.5} if kernel == "sgd" else {}
    arguments |= {state if key == "state" else key: value for key, value in change.items()}
    arguments = {k: param if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(error, match=message):
        getattr(kernels, kernel)(**arguments)
    assert all((a == 1).all() for a in arguments.values() if isinstance(a, np.ndarray))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_optimizer_refuses_to_be_copied(how):
    with pytest.raises(TypeError, match=r"^Adam: cannot be copied .* state_dict"):
        how(pyoptk.Adam(ones(3)))


def test_functions_and_products_refuse_bad_arguments():
    for call, error, message in [
        (lambda: kernels.exp(ones(3), ones(4)), ValueError, r"^y: expected float32 \(3,\) like x"),
        (lambda: kernels.tanh(SHARED[:4], SHARED[2:6]), ValueError, r"^y: .*overlaps x"),
        (lambda: kernels.matmul(ones(2, 3), ones(4, 5), ones(2, 5)), ValueError, r"^b: expected shape"),
        (lambda: kernels.matmul(ones(2, 3), ones(3, 5), ones(2, 4)), ValueError, r"^c: expected shape"),
        (lambda: kernels.matmul(ones(6), ones(3, 5), ones(2, 4)), ValueError, r"^a: expected 2 axes"),
        (lambda: kernels.global_norm([ones(3), ones(3, dtype=F64)]), TypeError, r"^grads\[1\]: expected"),
        (lambda: kernels.global_norm([ones(3), 5]), TypeError, r"^grads\[1\]: expected"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            call()


@pytest.mark.parametrize("kind", [_plan.Plan, _rnn.Plan, _rnn.Stepper])
def test_a_compiled_class_cannot_be_made_in_part(kind):
    with pytest.raises(TypeError, match="positional argument"):
        kind.__new__(kind)


def test_buffers_without_strides_are_arrays_too():
    x, y = (ctypes.c_float * 4)(), (ctypes.c_float * 4)()
    kernels.exp(x, y)
    assert list(y) == [1] * 4
    with pytest.raises(ValueError, match=r"^y: expected memory of its own"):
        kernels.exp(x, (ctypes.c_float * 4).from_buffer(x))
    pyoptk.SGD(x, lr=1.0).step(y)
    assert list(x) == [-1] * 4


def test_import_loads_nothing_that_few_programs_need(tmp_path):
    """Each takes longer than most of the package."""
    late = {"dataclasses", "difflib", "importlib.metadata", "json", "numpy.random", "secrets"}
    late |= {"matplotlib", "pandas", "signal", "subprocess", "tempfile", "tqdm", "zipfile"}
    late |= {f"pyoptk.{name}" for name in ("demo", "fitting", "layers", "losses", "schedules")}
    code = (
        "import sys, numpy; old = set(sys.modules); import pyoptk; print(*set(sys.modules) - old)"
    )
    # Elsewhere: where the tests lie, the folder would be imported, not what is installed.
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(found.stdout.split())
    assert "pyoptk.checkpoint" in loaded
    assert loaded & late == set()


def test_the_header_has_the_version_of_the_package():
    header = Path(__file__).parents[1] / "csrc/include/pyoptk.h"
    macros = dict(re.findall(r"#define PK_VERSION(\w*) (.*)", header.read_text()))
    parts = ("_MAJOR", "_MINOR", "_PATCH")
    assert macros[""] == f'"{pyoptk.__version__}"'
    assert metadata.version("pyoptk") == pyoptk.__version__
    assert ".".join(macros[part] for part in parts) == pyoptk.__version__


def test_an_optimizer_keeps_its_parameters_alive_and_lets_go_of_gradients():
    params, gradient, refused = ones(5), ones(5), ones(4)
    opt = pyoptk.SGD([params], lr=1.0)
    opt.step([gradient])
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^grads"):
            opt.step([refused])
    alive = [weakref.ref(array) for array in (params, gradient, refused)]
    del params, gradient, refused
    assert [ref() is not None for ref in alive] == [True, False, False]
    del opt
    assert alive[0]() is None
