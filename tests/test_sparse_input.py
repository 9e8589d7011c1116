"""`SparseRows`: what they take, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
from optim_rows import ROWS

import pyoptk

TAKEN = ("sgd", "adagrad", "adam")
TWO = np.ones((2, 3))
BAD_ROWS = {
    "float indices": ([0.0, 1.0], TWO, (4, 3), TypeError, r"^indices: .*integers, got float64"),
    "mask": ([True, False], TWO, (4, 3), TypeError, r"^indices: expected integers, got bool"),
    "two axes": ([[0, 1]], TWO, (4, 3), ValueError, r"^values: .* \(1, 2, 3\), got \(2, 3\)$"),
    "at two axes": ([[0, 4]], TWO[None], (4, 3), ValueError, r"^indices\[0, 1\]: .*3, got 4$"),
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


@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 1)], ids=str)
def test_rows_of_a_batch_and_a_padding_row(shape, padding_idx, dtype, rng):
    indices, start = rng.integers(0, 4, shape), rng.standard_normal((4, 5)).astype(dtype)
    values = rng.standard_normal((*shape, 5)).astype(dtype)
    expected = np.zeros_like(start)
    np.add.at(expected, indices.ravel(), values.reshape(-1, 5))
    if padding_idx is not None:
        expected[padding_idx] = 0
    grad = pyoptk.SparseRows(indices, values, (4, 5), padding_idx=padding_idx)
    np.testing.assert_allclose(grad.dense(), expected, atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(grad)).dense(), grad.dense())
    param = start.copy()
    pyoptk.AdamW(param, lr=0.1, weight_decay=0.5).step(grad)
    touched = np.isin(np.arange(4), indices[indices != padding_idx])
    assert ((param != start).any(axis=1) == touched).all()


@pytest.mark.parametrize(("row", "error"), [(4, ValueError), (-1, ValueError), (1.5, TypeError)])
def test_a_padding_row_is_one_of_the_table(row, error):
    with pytest.raises(error, match=rf"^padding_idx: expected a row in 0\.\.3, got {row}$"):
        pyoptk.SparseRows([0, 1], TWO, (4, 3), padding_idx=row)


def test_values_that_were_shrunk_later_are_not_read_past_their_end():
    table, rows = np.ones((4, 3)), pyoptk.SparseRows([0, 1], np.ones((2, 3)), (4, 3))
    rows.values.resize((1, 3), refcheck=False)
    with pytest.raises(ValueError, match=r"^grads.values: expected shape \(2, 3\), got \(1, 3\)"):
        pyoptk.SGD(table).step(rows)
    assert (table == 1).all()


def test_a_table_that_fits_no_memory_has_no_dense_form():
    rows = pyoptk.SparseRows([0], np.ones((1, 2)), (2**61, 2))
    with pytest.raises(MemoryError, match=r"^no array of float64 \(2305843009213693952, 2\)"):
        rows.dense()


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
