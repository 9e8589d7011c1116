"""Parameters of 16 bits: each `master` against its twin, what it keeps, and what it works with."""

import numpy as np
import pytest
from optim_rows import COMMON, ROWS, SETTINGS, data, hyper_of

import pyoptk
from pyoptk import _optim, reference

F32, U16 = np.dtype(np.float32), np.dtype(np.uint16)
MASTERS = ["float32", "remainder", "stochastic"]
SIZES = [0, 1, 63, 257, 4097, 40_003]
ALL = {**COMMON["all"], "ema_decay": 0.9, "zero_grad": True}
FIRST = {name: next(s for n, s in SETTINGS[::-1] if n == name) for name in ROWS}
STATES = [
    (name, kind)
    for name in ROWS
    for kind in ("float32", "bfloat16", "8bit")
    if kind == "float32" or _optim.ROWS[name].narrow_states
]


def bf16(values):
    return reference.round_bfloat16(np.asarray(values, np.float32))


def made(cls, params, master, **settings):
    return cls(params, master=master, dtype="bfloat16", **settings)


def stepped_by_twin(name, numbers, grads, hyper, stochastic, seed):
    """The float32 parameter after steps of the twin, and its moving average."""
    states = [np.zeros_like(numbers) for _ in ROWS[name][1]]
    param, ema = numbers.copy(), numbers.copy()
    for step, grad in enumerate(grads, 1):
        getattr(reference, name)(param, grad, *states, step=step, **hyper)
        ema[...] = np.float32(0.9) * ema + np.float32(1 - 0.9) * param
        if stochastic:
            halves = reference.round_by_chance(param, seed=seed, step=step)
            param[...] = reference.from_bfloat16(halves)
    return param, ema


@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize("name", ROWS)
def test_a_step_equals_its_twin_bit_for_bit(name, master, isa, threads, rng):
    params, grads = [], []
    for size in SIZES:
        param, more = data(rng, size, F32, 2)
        params.append(bf16(param))
        grads.append([bf16(grad) for grad in more])
    settings = {k: v for k, v in FIRST[name].items() if k != "centered"}
    opt = made(ROWS[name][0], [p.copy() for p in params], master, lr=0.01, **settings, **ALL)
    for each in zip(*grads, strict=True):
        opt.step([g.copy() for g in each])
    for i, (param, more) in enumerate(zip(params, grads, strict=True)):
        wide = [reference.from_bfloat16(grad) for grad in more]
        numbers = reference.from_bfloat16(param)
        expected, ema = stepped_by_twin(
            name, numbers, wide, hyper_of(opt), master == "stochastic", i
        )
        np.testing.assert_array_equal(opt.state_values("master")[i], expected)
        np.testing.assert_array_equal(opt.ema[i], ema)
        if master == "remainder":
            high, low = reference.split_float32(expected)
            np.testing.assert_array_equal(opt.state["remainder"][i], low)
            np.testing.assert_array_equal(reference.join_float32(high, low), expected)
        else:
            high = bf16(expected)
        np.testing.assert_array_equal(opt.params[i], high)


@pytest.mark.parametrize("wide_grads", [False, True])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("master", [None, *MASTERS])
def test_a_plain_step_of_adam(master, kind, wide_grads, isa, threads, rng):
    """With nothing but its rule; a watched step, which has another loop, has the same bits."""
    starts = [rng.standard_normal(size).astype(np.float32) for size in SIZES]
    if master:
        starts = [bf16(start) for start in starts]
    storage = {"state_dtype": kind, "dtype": "bfloat16", "master": master}
    opt, watched = (pyoptk.Adam([s.copy() for s in starts], **storage) for _ in range(2))
    watched.watch = True
    grads = [[rng.standard_normal(size).astype(np.float32) for size in SIZES] for _ in range(2)]
    for each in grads:
        given = each if wide_grads else [bf16(grad) for grad in each]
        opt.step(given)
        watched.step(given)
    for name, array in watched.state_dict().items():
        np.testing.assert_array_equal(opt.state_dict()[name], array)
    for one, other in zip(opt.params, watched.params, strict=True):
        np.testing.assert_array_equal(one, other)
    if kind == "float32" and master:
        hyper = hyper_of(opt)
        for i, start in enumerate(starts):
            wide = [g[i] if wide_grads else reference.from_bfloat16(bf16(g[i])) for g in grads]
            begin = reference.from_bfloat16(start)
            expected, _ = stepped_by_twin("adam", begin, wide, hyper, master == "stochastic", i)
            np.testing.assert_array_equal(opt.state_values("master")[i], expected)


@pytest.mark.parametrize(("name", "kind"), STATES)
def test_a_master_is_float32_training(name, kind, rng):
    """1,000 steps of all kinds of gradients, clipped and cautious, with every storage of states."""
    size, steps = 300, 1000 if kind == "float32" else 50
    settings = {"max_norm": 1.0, "ema_decay": 0.9, "lr": 1e-3, "weight_decay": 0.01}
    if _optim.ROWS[name].cautious and name not in ("sgd", "rmsprop"):
        settings["cautious"] = True
    if name == "sgd":
        settings["momentum"] = 0.9
    start = bf16(rng.standard_normal(size))
    masters = ("float32", "remainder")
    storage = {} if kind == "float32" else {"state_dtype": kind, "min_8bit_size": 0}
    opts = [made(ROWS[name][0], [start.copy()], m, **settings, **storage) for m in masters]
    plain = ROWS[name][0]([reference.from_bfloat16(start)], **settings, **storage)
    wide = rng.standard_normal(size).astype(np.float32)
    half, cut = wide.astype(np.float16), bf16(wide)
    kinds = [
        (wide, wide),
        (half, half.astype(np.float32)),
        (cut, reference.from_bfloat16(cut)),
    ]
    for step in range(steps):
        given, as_wide = kinds[step % 3]
        at = step % size  # other numbers in each step
        plain.step([np.roll(as_wide, at)])
        for opt in opts:
            opt.step([np.roll(given, at)])
    for opt in opts:
        np.testing.assert_array_equal(opt.state_values("master")[0], plain.params[0])
        np.testing.assert_array_equal(opt.ema[0], plain.ema[0])
        for state, arrays in plain.state.items():
            np.testing.assert_array_equal(opt.state[state][0], arrays[0])
        away = reference.from_bfloat16(opt.params[0]) - plain.params[0]
        assert (np.abs(away) <= 2.0**-8 * np.abs(plain.params[0])).all()


@pytest.mark.parametrize("zero", [0, 0x8000])
def test_a_parameter_set_to_zero_is_zero_whatever_its_lower_half(zero, isa):
    """As by pruning between steps; a lower half from 0x8000 on counts as below the upper one."""
    lower = np.arange(1 << 16).astype(np.uint16)
    opt = pyoptk.SGD(np.full(lower.size, zero, np.uint16), dtype="bfloat16", master="remainder")
    opt.state["remainder"][:] = lower
    values = opt.state_values("master")
    np.testing.assert_array_equal(values, reference.join_float32(opt.params, lower))
    assert (np.abs(values) < 1e-38).all()
    assert (values[1 << 15 :] == 0).all()


def test_rounding_by_chance_keeps_the_mean_of_tiny_steps():
    """10,000 steps of 2**-19 from 1, a two-thousandth of a rounding each."""
    opt = made(pyoptk.SGD, bf16(np.ones(20_000)), "stochastic", lr=2.0**-19)
    grad = bf16(-np.ones(20_000))
    for _ in range(10_000):
        opt.step(grad)
    distance = 10_000 * 2.0**-19
    moved = reference.from_bfloat16(opt.params) - 1.0
    assert abs(moved.mean() / distance - 1) < 0.01
    nearest = made(pyoptk.SGD, bf16(np.ones(20)), "float32", lr=2.0**-19)
    for _ in range(100):
        nearest.step(grad[:20])
    assert (nearest.params == 0x3F80).all()  # not yet half a rounding
    assert (nearest.state["master"] == 1 + np.float32(100 * 2.0**-19)).all()


def test_float16_parameters_beside_float32_ones(rng):
    """Each parameter has its own dtype; a float32 one has no master."""
    half = rng.standard_normal((30, 41)).astype(np.float16)
    params = {"half": half.copy(), "wide": rng.standard_normal(9).astype(np.float32)}
    plain = {k: p.astype(np.float32) for k, p in params.items()}
    opt, other = pyoptk.AdamW(params, master="float32"), pyoptk.AdamW(plain)
    for _ in range(5):
        grads = {k: rng.standard_normal(p.shape).astype(np.float16) for k, p in params.items()}
        opt.step(grads)
        other.step({k: g.astype(np.float32) for k, g in grads.items()})
    assert opt.state["master"]["wide"] is None
    np.testing.assert_array_equal(opt.state["master"]["half"], plain["half"])
    np.testing.assert_array_equal(params["half"], plain["half"].astype(np.float16))
    np.testing.assert_array_equal(params["wide"], plain["wide"])
    np.testing.assert_array_equal(opt.state_values("master")["wide"], plain["wide"])


def test_a_float32_master_may_begin_at_other_numbers(rng):
    """So a float32 model is stepped, and a copy in bfloat16 follows it."""
    weights = rng.standard_normal(1000).astype(np.float32)
    copy, plain = bf16(weights), pyoptk.Adam(weights.copy())
    opt = made(pyoptk.Adam, copy, "float32")
    opt.state["master"][...] = weights
    for _ in range(3):
        grad = rng.standard_normal(1000).astype(np.float32)
        plain.step(grad)
        opt.step(grad)
    np.testing.assert_array_equal(opt.state["master"], plain.params)
    np.testing.assert_array_equal(copy, bf16(plain.params))


def test_the_names_of_dtypes_are_those_of_ml_dtypes(rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    w = rng.standard_normal(500).astype(bfloat16)
    opts = [
        pyoptk.Adam(w.copy(), master="remainder"),
        made(pyoptk.Adam, w.view(np.uint16).copy(), "remainder"),
    ]
    for _ in range(3):
        grad = rng.standard_normal(500).astype(bfloat16)
        opts[0].step(grad)
        opts[1].step(grad.view(np.uint16))
    np.testing.assert_array_equal(opts[0].params.view(np.uint16), opts[1].params)


# ---- with everything else ------------------------------------------------------------------------


@pytest.mark.parametrize("master", MASTERS)
def test_averages_guards_watching_and_accumulation(master, rng):
    start = bf16(rng.standard_normal(700))
    settings = {"ema_decay": 0.5, "ema_from_first_step": True, "on_nonfinite": "skip"}
    opts = [made(pyoptk.Adam, start.copy(), master, **settings) for _ in range(3)]
    grads = [bf16(rng.standard_normal(700)) for _ in range(4)]
    opts[1].watch = True
    accumulation = pyoptk.Accumulation(opts[2], k=1)
    for i, grad in enumerate(grads):
        opts[0].step(grad)
        opts[1].step(grad)
        accumulation.step(grad)
        if i == 0:
            np.testing.assert_array_equal(opts[0].ema, opts[0].state_values("master"))
    bad = grads[0].copy()
    bad[3] = 0x7F80
    opts[0].step(bad)
    assert opts[0].skipped == 1
    for opt in opts[1:]:
        np.testing.assert_array_equal(opt.params, opts[0].params)
        np.testing.assert_array_equal(opt.ema, opts[0].ema)
    norm = np.linalg.norm(opts[1].state_values("master").astype(float))
    assert abs(opts[1].watched["param_norm"] / norm - 1) < (1e-5, 1e-3)[master == "stochastic"]
    before = opts[0].params.copy()
    with opts[0].averaged():
        np.testing.assert_array_equal(opts[0].params, bf16(opts[0].ema))
    np.testing.assert_array_equal(opts[0].params, before)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
@pytest.mark.parametrize("master", MASTERS)
def test_resuming_changes_no_bit(master, ending, tmp_path, rng):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    try:
        from ml_dtypes import bfloat16 as dtype
    except ImportError:
        dtype = U16

    def new():
        rng = np.random.default_rng(1)
        params = {k: bf16(rng.standard_normal(n)).view(dtype) for k, n in (("a", 5000), ("b", 9))}
        opt = pyoptk.AdamW(params, master=master, state_dtype="8bit", dtype="bfloat16")
        return params, opt

    grads = [{"a": bf16(rng.standard_normal(5000)), "b": bf16(np.ones(9))} for _ in range(4)]
    (w, through), (first_w, first), (later_w, later) = new(), new(), new()
    for grad in grads:
        through.step(grad)
    for grad in grads[:2]:
        first.step(grad)
    pyoptk.save(path := tmp_path / f"run.{ending}", w=first_w, opt=first)
    later.step(grads[3])
    pyoptk.load(path, w=later_w, opt=later)
    assert pyoptk.load(path)["w"]["a"].dtype == first_w["a"].dtype
    for grad in grads[2:]:
        later.step(grad)
    for key, param in w.items():
        np.testing.assert_array_equal(later_w[key].view(U16), param.view(U16))
    for one, other in zip(later.state_dict().values(), through.state_dict().values(), strict=True):
        np.testing.assert_array_equal(one, other)


HALF = np.zeros(6, np.float16)
RAW = np.zeros(6, np.uint16)
REFUSED = {
    "none": (
        lambda: pyoptk.Adam({"w": HALF}),
        r"master: expected 'float32', 'remainder' or 'stochastic' for params\['w'\] of float16, ",
    ),
    "unknown": (lambda: pyoptk.Adam(HALF, master="kahan"), "master: expected "),
    "float16": (
        lambda: pyoptk.Adam(HALF, master="stochastic"),
        "master: expected 'float32' for params of float16, because 'stochastic' is for bfloat16",
    ),
    "wide": (
        lambda: pyoptk.Adam(np.zeros(3), master="float32"),
        "master: expected None, because no parameter is float16 or bfloat16, got 'float32'",
    ),
    "integers": (
        lambda: pyoptk.Adam(RAW, master="remainder"),
        r"params: expected float32, .* got uint16 \(6,\); dtype='bfloat16' takes it as bfloat16",
    ),
    "dtype": (lambda: pyoptk.Adam(RAW, dtype="float16"), "dtype: expected "),
    "float64": (
        lambda: pyoptk.Adam([HALF, np.zeros(3)], master="float32"),
        r"params\[1\]: expected float32 where others have 16 bits, got float64",
    ),
    "strided": (
        lambda: pyoptk.Adam(np.zeros(6, np.float16)[::2], master="float32"),
        "params: expected a writable C-contiguous array, because a step writes it",
    ),
    "twice": (
        lambda: pyoptk.Adam([HALF, HALF], master="float32"),
        r"params\[1\]: expected memory of its own",
    ),
    "Lookahead": (
        lambda: pyoptk.Lookahead(pyoptk.SGD(HALF, master="float32")),
        "opt: expected parameters of float32 or float64",
    ),
    "SWA": (lambda: pyoptk.SWA(HALF), "params: expected float32 or float64"),
    "rows": (
        lambda: pyoptk.Adam(np.zeros((3, 2), np.float16), master="float32").step(
            pyoptk.SparseRows([0], np.ones((1, 2), np.float32), (3, 2))
        ),
        "grads: expected an array where master is on",
    ),
    "gradient": (
        lambda: pyoptk.Adam(HALF, master="float32").step(np.zeros(6)),
        "grads: expected float32",
    ),
    "shape": (
        lambda: pyoptk.Adam(HALF, master="float32").step(np.zeros(5, np.float16)),
        r"grads: expected shape \(6,\) like params, got \(5,\)",
    ),
    "overlap": (
        lambda: pyoptk.Adam(HALF, master="float32").step(HALF),
        "grads: expected memory of its own, got an array that overlaps params",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        call()


@pytest.mark.filterwarnings("ignore:Setting the dtype:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["i2", "u1"])
def test_a_parameter_that_was_given_another_dtype_in_place_is_refused(dtype):
    param = np.ones(6, np.float16)
    opt = pyoptk.Adam(param, master="float32")
    param.dtype = dtype
    with pytest.raises(TypeError, match=r"^params: expected float16 as it was at first, got "):
        opt.step(np.ones(6, np.float32))
    assert (param.view(np.float16) == 1).all()


def test_a_gradient_in_the_memory_of_a_master_is_refused():
    for master, state in (("float32", "master"), ("remainder", "remainder")):
        opt = made(pyoptk.Adam, [bf16(np.ones(40)), bf16(np.ones(20))], master)
        inside = opt.state[state][0].view(np.uint16)[:20]
        with pytest.raises(ValueError, match=r"^grads\[1\]: .*overlap"):
            opt.step([bf16(np.ones(40)), inside])
        assert (opt.params[1] == 0x3F80).all()
