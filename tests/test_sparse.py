"""Row-sparse gradients: against twins, dense gradients and PyTorch; refusals."""

import copy
import doctest

import numpy as np
import pytest
from conftest import everywhere
from optim_rows import COMMON, ROWS, SETTINGS, hyper_of

import pyoptk
from pyoptk import reference

TAKEN = ("sgd", "adagrad", "adam")
SPARSE = [(name, settings) for name, settings in SETTINGS if name in TAKEN]
# rows, rest of the shape, number of indices
TABLES = [(5, (3,), 0), (1, (4, 2), 9), (40, (), 30), (300, (7, 3), 200), (900, (65,), 700)]


def rows_of(rng, shape, count, dtype, scale=0.1):
    """Random indices; some rows come several times, also next to one another."""
    indices = np.sort(rng.integers(0, shape[0], count))
    indices[count // 2 :] = rng.permutation(indices[count // 2 :])
    values = (scale * rng.standard_normal((count, *shape[1:]))).astype(dtype)
    return pyoptk.SparseRows(indices, values, shape)


def by_twin(name, param, states, grad, step, hyper):
    rows, sums = reference.touched_rows(grad.indices, grad.values)
    parts = [array[rows] for array in (param, *states)]
    getattr(reference, name)(parts[0], sums, *parts[1:], step=step, **hyper)
    for array, part in zip((param, *states), parts, strict=True):
        array[rows] = part


@everywhere
@pytest.mark.parametrize("common", ["decoupled", "all"])
@pytest.mark.parametrize(("name", "settings"), SPARSE, ids=repr)
def test_touched_rows_equal_the_twin_and_others_stay(
    name, settings, common, dtype, isa, threads, rng
):
    for rows, rest, count in TABLES:
        shape = (rows, *rest)
        start = rng.standard_normal(shape).astype(dtype)
        opt = ROWS[name][0](start.copy(), lr=0.01, **settings, **COMMON[common])
        expected, states = start.copy(), [np.zeros_like(start) for _ in ROWS[name][1]]
        touched = np.zeros(rows, bool)
        for step in (1, 2, 3):
            grad = rows_of(rng, shape, count, dtype)
            opt.step(grad)
            by_twin(name, expected, states, grad, step, hyper_of(opt))
            touched[grad.indices] = True
        np.testing.assert_array_equal(opt.params, expected, err_msg=str(shape))
        for state, array in zip(ROWS[name][1], states, strict=True):
            if state in opt.state:
                np.testing.assert_array_equal(opt.state[state], array, err_msg=state)
                assert not opt.state[state][~touched].any()
        np.testing.assert_array_equal(opt.params[~touched], start[~touched])
        assert opt.steps == 3


@pytest.mark.parametrize("cls", [pyoptk.SGD, pyoptk.AdaGrad])
def test_without_momentum_a_step_equals_the_dense_one(cls, dtype, rng):
    ours, dense = (cls(np.ones((50, 6), dtype), lr=0.1, clip_value=0.2) for _ in range(2))
    for _ in range(5):
        grad = rows_of(rng, (50, 6), 40, dtype)
        ours.step(grad)
        dense.step(grad.dense())
    np.testing.assert_array_equal(ours.params, dense.params)


@pytest.mark.parametrize(
    "indices",
    [
        np.arange(5000),
        np.arange(5000)[::-1],
        np.zeros(5000, int),
        np.arange(5000) * 4096 % 5000,
        np.arange(5000) // 2 * 2,
        np.arange(5000) % 64,
    ],
    ids=["all", "backwards", "one", "4096 apart", "pairs", "64"],
)
def test_any_order_and_any_number_of_repetitions(indices, dtype, threads, rng):
    values = rng.standard_normal((5000, 9)).astype(dtype)
    opt = pyoptk.SGD(np.zeros((5000, 9), dtype), lr=1.0)
    opt.step(pyoptk.SparseRows(indices, values, (5000, 9)))
    rows, sums = reference.touched_rows(indices, values)
    expected = np.zeros((5000, 9), dtype)
    expected[rows] = -sums
    np.testing.assert_array_equal(opt.params, expected)


def test_the_same_bits_for_any_number_of_threads(dtype, rng):
    start = rng.standard_normal((3000, 33)).astype(dtype)
    grads = [rows_of(rng, start.shape, 2500, dtype) for _ in range(3)]
    outcomes = set()
    for threads in (1, 2, 5):
        pyoptk.set_num_threads(threads)
        opt = pyoptk.AdamW(start.copy(), max_norm=0.5)
        for grad in grads:
            opt.step(grad)
        outcomes.add((opt.params.tobytes(), opt.state["v"].tobytes(), opt.grad_norm))
    pyoptk.set_num_threads()
    assert len(outcomes) == 1


def test_the_norm_is_that_of_the_summed_gradient(dtype, threads, rng):
    table, bias = np.zeros((60, 5), dtype), np.zeros(4, dtype)
    opt = pyoptk.SGD([table, bias], lr=1.0, max_norm=0.5, grad_scale=2.0)
    grad = rows_of(rng, table.shape, 100, dtype)
    opt.step([grad, np.ones(4, dtype)])
    dense = grad.dense()
    # dense() has the same sums as the step: only the rounding of the norm differs
    norm = 2 * float(np.sqrt(np.sum(dense.astype(np.longdouble) ** 2) + 4))
    assert opt.grad_norm == pytest.approx(norm, rel=1e-13)
    factor = 2 * 0.5 / (norm + 1e-6)
    np.testing.assert_allclose(table, -dense * factor, rtol=3 * np.finfo(dtype).eps)
    np.testing.assert_allclose(bias, -factor, rtol=3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("bad", ["nan", "infinity", "sum"])
def test_a_non_finite_gradient_is_skipped_or_named(bad, dtype):
    values = np.ones((3, 2), dtype)
    if bad == "sum":
        values[[0, 2]] = np.finfo(dtype).max
    else:
        values[1, 1] = float(bad)
    grads = {"bias": np.ones(2, dtype), "table": pyoptk.SparseRows([4, 1, 4], values, (5, 2))}
    params = {"bias": np.ones(2, dtype), "table": np.ones((5, 2), dtype)}
    opt = pyoptk.Adam(params, on_nonfinite="skip")
    opt.step(grads)
    assert opt.skipped == 1
    opt.on_nonfinite = "raise"
    with pytest.raises(FloatingPointError, match=r"^grads\['table'\]: expected finite"):
        opt.step(grads)
    assert opt.steps == {"bias": 0, "table": 0}
    assert all((p == 1).all() for p in params.values())
    scaler = pyoptk.LossScaler(opt, scale=4.0)
    assert not scaler.step(grads)
    assert scaler.scale == 2


def test_groups_schedules_late_gradients_and_dense_ones_go_with_it(dtype, threads, rng):
    shapes = {
        "embed.word": (400, 30),
        "embed.place": (50, 30),
        "out.weight": (30, 400),
        "bias": (30,),
    }
    params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    settings = {"lr": pyoptk.schedules.cosine(0.1, 10), "weight_decay": 0.1}
    alone = {
        name: pyoptk.AdamW(p.copy(), **settings | ({"lr": 0.5} if "embed" in name else {}))
        for name, p in params.items()
    }
    opt = pyoptk.AdamW(params, groups={"embed*": {"lr": 0.5}}, **settings)
    for step in range(4):
        grads = {
            "embed.word": rows_of(rng, (400, 30), 300, dtype),
            "embed.place": rows_of(rng, (50, 30), 300, dtype) if step % 2 else None,
            "out.weight": rng.standard_normal((30, 400)).astype(dtype),
            "bias": rng.standard_normal(30).astype(dtype),
        }
        if step == 3:  # dense, for once
            grads["embed.word"] = grads["embed.word"].dense()
        opt.step(grads)
        for name, other in alone.items():
            if grads[name] is None:
                other._plan.calls += 1  # the schedule goes by the steps of all
            else:
                other.step(grads[name])
    assert opt.steps == {"embed.word": 4, "embed.place": 2, "out.weight": 4, "bias": 4}
    for name, p in params.items():
        np.testing.assert_array_equal(p, alone[name].params, err_msg=name)


def test_resumed_training_equals_uninterrupted_training_bit_for_bit(tmp_path, rng):
    def make():
        table = np.random.default_rng(1).standard_normal((30, 4))
        return table, pyoptk.Adam(table, amsgrad=True, max_norm=1.0)

    grads = [rows_of(rng, (30, 4), 20, np.float64) for _ in range(6)]
    (whole, opt), (table, first) = make(), make()
    for grad in grads:
        opt.step(grad)
    for grad in grads[:3]:
        first.step(grad)
    pyoptk.save(tmp_path / "half.npz", params=table, opt=first)
    table, second = make()
    pyoptk.load(tmp_path / "half.npz", params=table, opt=second)
    for grad in grads[3:]:
        second.step(grad)
    np.testing.assert_array_equal(table, whole)


def test_it_keeps_its_indices_and_reads_its_values_when_it_is_used():
    indices, values = np.array([1, 2]), np.ones((2, 3))
    grad = pyoptk.SparseRows(indices, values, (4, 3))
    indices[:] = 10**9
    values[:] = 5
    opt = pyoptk.SGD(np.zeros((4, 3)), lr=1.0)
    opt.step(grad)
    np.testing.assert_array_equal(opt.params[:, 0], [0, -5, -5, 0])
    np.testing.assert_array_equal(values, np.full((2, 3), 5.0))
    assert grad.indices.tolist() == [1, 2]
    assert not grad.indices.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        grad.indices.flags.writeable = True
    strided = pyoptk.SparseRows(np.uint8([3, 0]), np.ones((3, 2)).T, (4, 3))
    opt.step(strided)
    np.testing.assert_array_equal(opt.params[:, 0], [-1, -5, -5, -1])
    assert repr(strided) == "SparseRows(2 rows of float64 (4, 3))"


def test_the_example_in_its_docstring_runs():
    example = doctest.DocTestParser().get_doctest(
        pyoptk.SparseRows.__doc__, {}, "SparseRows", None, None
    )
    assert len(example.examples) == 5
    assert doctest.DocTestRunner().run(example).failed == 0


# ---- wrappers ------------------------------------------------------------------------------------


def test_accumulation_gathers_the_rows_of_all_micro_batches(dtype, rng):
    ours, mean = (pyoptk.Adam({"table": np.ones((20, 3), dtype)}) for _ in range(2))
    accumulation = pyoptk.Accumulation(ours, k=3)
    for _ in range(2):
        parts = [rows_of(rng, (20, 3), 8, dtype) for _ in range(3)]
        buffer = np.empty((8, 3), dtype)  # one for all micro-batches
        for part in parts:
            buffer[...] = part.values
            accumulation.step({"table": pyoptk.SparseRows(part.indices, buffer, (20, 3))})
        together = (
            np.concatenate([getattr(p, what) for p in parts]) for what in ("indices", "values")
        )
        mean.grad_scale = 1 / 3
        mean.step({"table": pyoptk.SparseRows(*together, (20, 3))})
    np.testing.assert_array_equal(ours.params["table"], mean.params["table"])
    assert accumulation.step({"table": None}) is False


def test_accumulation_refuses_a_mixture_and_to_be_saved_within_a_step():
    opt = pyoptk.SGD([np.ones((2, 1)), np.ones((2, 1))], lr=1.0)
    accumulation = pyoptk.Accumulation(opt, k=2)
    before = copy.deepcopy(accumulation.state_dict())
    rows, dense = pyoptk.SparseRows([0], np.ones((1, 1)), (2, 1)), np.ones((2, 1))
    accumulation.step([rows, dense])
    with pytest.raises(TypeError, match=r"^grads\[0\]: expected SparseRows as in .*got ndarray$"):
        accumulation.step([dense, dense])
    with pytest.raises(TypeError, match=r"^grads\[1\]: expected an array as in .*got SparseRows$"):
        accumulation.step([None, rows])
    with pytest.raises(RuntimeError, match=r"^state_dict: .*got 1 of 2 micro-batches$"):
        accumulation.state_dict()
    assert accumulation.step([rows, None])
    np.testing.assert_array_equal(opt.params[0], [[0], [1]])
    np.testing.assert_array_equal(opt.params[1], [[0.5], [0.5]])
    assert accumulation.state_dict()["count"] == 0
    accumulation.step([rows, dense])
    accumulation.load_state_dict(before)  # drops the micro-batch
    assert accumulation.step([rows, dense]) is False
    assert accumulation.step([rows, dense])


def test_lookahead_goes_around_it(rng):
    table = np.zeros((4, 2))
    lookahead = pyoptk.Lookahead(pyoptk.SGD(table, lr=1.0), k=2, alpha=0.5)
    for _ in range(2):
        lookahead.step(pyoptk.SparseRows([3], np.ones((1, 2)), (4, 2)))
    np.testing.assert_array_equal(table[:, 0], [0, 0, 0, -1])


# ---- PyTorch -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "theirs", "settings"),
    [
        (pyoptk.SGD, "SGD", {"lr": 0.1}),
        (pyoptk.SGD, "SGD", {"lr": 0.1, "maximize": True}),
        (pyoptk.AdaGrad, "Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
        (pyoptk.Adam, "SparseAdam", {"lr": 0.01}),
    ],
    ids=repr,
)
def test_fifty_steps_equal_pytorch_to_1e_12(cls, theirs, settings, rng):
    torch = pytest.importorskip("torch")
    param = rng.standard_normal((40, 6))
    their_param = torch.nn.Parameter(torch.from_numpy(param.copy()))
    opt = getattr(torch.optim, theirs)([their_param], **settings)
    ours = cls(param, **settings, **({"eps_hat": True} if cls is pyoptk.Adam else {}))
    with torch.sparse.check_sparse_tensor_invariants():
        for _ in range(50):
            grad = rows_of(rng, param.shape, 15, param.dtype)
            ours.step(grad)
            indices, values = (torch.from_numpy(a.copy()) for a in (grad.indices, grad.values))
            their_param.grad = torch.sparse_coo_tensor(indices[None], values, param.shape)
            opt.step()
    np.testing.assert_allclose(param, their_param.detach().numpy(), rtol=1e-12, atol=1e-12)
