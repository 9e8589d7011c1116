"""Row-sparse gradients: against twins, dense gradients and PyTorch; refusals."""

import copy
import doctest
import pickle

import numpy as np
import pytest
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


def test_indices_of_a_batch_and_a_row_of_padding():
    indices, values = np.array([[1, 0, 3], [3, 0, 0]]), np.arange(18.0).reshape(2, 3, 3)
    table = np.ones((4, 3))
    flat = pyoptk.SparseRows(indices.ravel(), values.reshape(6, 3), table.shape)
    batch = pyoptk.SparseRows(indices, values, table.shape)
    assert np.shares_memory(batch.values, values)
    np.testing.assert_array_equal(batch.dense(), flat.dense())
    padded = pyoptk.SparseRows(indices, values, table.shape, padding_idx=0)
    np.testing.assert_array_equal(padded.dense()[1:], flat.dense()[1:])
    pyoptk.AdamW(table, weight_decay=0.5).step(padded)  # a gradient of 0 would decay the row
    np.testing.assert_array_equal((table == 1).all(axis=1), [True, False, True, False])
    for wrong in (4, -1, 0.5, True):
        with pytest.raises((TypeError, ValueError), match=r"^padding_idx: expected None or a row"):
            pyoptk.SparseRows(indices, values, table.shape, padding_idx=wrong)


# ---- what is refused -----------------------------------------------------------------------------

TWO = np.ones((2, 3))
BAD_ROWS = {
    "float indices": ([0.0, 1.0], TWO, (4, 3), TypeError, r"^indices: .*integers, got float64"),
    "mask": ([True, False], TWO, (4, 3), TypeError, r"^indices: expected integers, got bool"),
    "no axis": (0, TWO, (4, 3), ValueError, r"^indices: expected at least one axis, got"),
    "two axes": ([[0, 1]], TWO, (4, 3), ValueError, r"^values: .* \(1, 2, 3\), got \(2, 3\)$"),
    "a batch": ([[0, 5]], TWO[None], (4, 3), ValueError, r"^indices\[0, 1\]: .* in 0..3, got 5$"),
    "too large": ([0, 4], TWO, (4, 3), ValueError, r"^indices\[1\]: .* row in 0..3, got 4$"),
    "negative": ([-1, 4], TWO, (4, 3), ValueError, r"^indices\[0\]: .* row in 0..3, got -1$"),
    "beyond int64": (np.uint64([0, 2**63]), TWO, (4, 3), ValueError, r"^indices\[1\]: .*got 9223"),
    "no rows": ([0], TWO[:1], (0, 3), ValueError, r"^indices\[0\]: expected a row in"),
    "too few values": ([0, 1, 2], TWO, (4, 3), ValueError, r"^values: .* \(3, 3\), got \(2, 3\)$"),
    "other width": ([0, 1], TWO, (4, 2), ValueError, r"^values: expected shape \(2, 2\), got"),
    "flat": ([0, 1], np.ones(2), (4, 1), ValueError, r"^values: expected shape \(2, 1\), got"),
    "int values": ([0, 1], TWO.astype(int), (4, 3), TypeError, r"^values: expected float32 or"),
    "no array": ([0, 1], [[1.0], [2.0]], (4, 1), TypeError, r"^values: expected a float32"),
    "number": ([0, 1], TWO, 4, TypeError, r"^shape: expected the shape of an array, got 4$"),
    "fraction": ([0, 1], TWO, (4, 3.0), TypeError, r"^shape: expected the shape of an array"),
    "scalar": ([0, 1], TWO, (), ValueError, r"^shape: .*with rows, got \(\)$"),
    "less than none": ([0, 1], TWO, (4, -3), ValueError, r"^shape: .*with rows, got \(4, -3\)$"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_are_refused_by_name(bad):
    indices, values, shape, error, message = BAD_ROWS[bad]
    with pytest.raises(error, match=message):
        pyoptk.SparseRows(indices, values, shape)


def test_values_that_were_shrunk_later_are_not_read_past_their_end():
    table, rows = np.ones((4, 3)), pyoptk.SparseRows([0, 1], np.ones((2, 3)), (4, 3))
    rows.values.resize((1, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"^grads.values: expected shape \(2, 3\), got \(1, 3\)"):
        pyoptk.SGD(table).step(rows)
    assert (table == 1).all()


@pytest.mark.parametrize("empty", [[], (), np.zeros(0, int)], ids=repr)
def test_a_batch_may_touch_no_row(empty):
    table = np.ones((4, 3))
    opt = pyoptk.Adam(table)
    opt.step(pyoptk.SparseRows(empty, np.ones((0, 3)), (4, 3)))
    assert (table == 1).all()
    assert opt.steps == 1


@pytest.mark.parametrize(
    "how", [copy.copy, copy.deepcopy, lambda rows: pickle.loads(pickle.dumps(rows))]
)
def test_copies_and_pickles_are_whole(how):
    rows = pyoptk.SparseRows([2, 0], np.ones((2, 2)), (3, 2))
    np.testing.assert_array_equal(how(rows).dense(), rows.dense())


ROW = pyoptk.SparseRows([1], np.ones((1, 3)), (4, 3))
# function that makes the optimizer, gradient (or a function of the parameter), error, message
UNFIT = {
    "shape": (pyoptk.SGD, {}, pyoptk.SparseRows([1], np.ones((1, 2)), (4, 2)), ValueError,
              r"^grads\['w'\]: expected rows of float64 \(4, 3\) like params\['w'\], got Sparse"),
    "dtype": (pyoptk.SGD, {}, pyoptk.SparseRows([1], np.ones((1, 3), "f4"), (4, 3)), TypeError,
              r"^grads\['w'\]: expected rows of float64 .*got SparseRows\(1 rows of float32"),
    "own rows": (pyoptk.SGD, {}, lambda w: pyoptk.SparseRows([1], w[1:2], (4, 3)), ValueError,
                 r"^grads\['w'\]: expected memory of its own, .*overlaps params\['w'\]$"),
    "average": (pyoptk.SGD, {"ema_decay": 0.9}, ROW, TypeError, r"^grads\['w'\]: .*ema_decay"),
    "zeroed": (pyoptk.Adam, {"zero_grad": True}, ROW, TypeError, r"^grads\['w'\]: .*zero_grad"),
    "cautious": (pyoptk.Adam, {"cautious": True}, ROW, TypeError, r"^grads\['w'\]: .*cautious"),
    **{cls.__name__: (cls, {}, ROW, TypeError, r"^grads\['w'\]: expected an array, .*dense\(\)")
       for name, (cls, _, _) in ROWS.items() if name not in TAKEN},
}  # fmt: skip


@pytest.mark.parametrize("unfit", UNFIT)
def test_rows_that_do_not_fit_are_refused_and_nothing_is_written(unfit):
    cls, settings, grad, error, message = UNFIT[unfit]
    params = {"v": np.ones(2), "w": np.ones((4, 3))}
    opt = cls(params, **settings)
    before = copy.deepcopy({k: np.array(v) for k, v in opt.state_dict().items()})
    with pytest.raises(error, match=message):
        opt.step({"v": np.ones(2), "w": grad(params["w"]) if callable(grad) else grad})
    assert all((p == 1).all() for p in params.values())
    for name, value in opt.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_what_takes_arrays_only_says_so():
    for call in (
        lambda: pyoptk.global_norm([ROW]),
        lambda: pyoptk.clip_by_value([ROW], 1.0),
        lambda: pyoptk.kernels.sgd(np.ones((4, 3)), ROW),
    ):
        with pytest.raises(TypeError, match=r"^grads?(\[0\])?: expected a float32 .*SparseRows$"):
            call()


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
