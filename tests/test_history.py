"""`History`: data, table, file and picture."""

import pickle

import numpy as np
import pytest

import pyoptk


def some_history(n):
    history = pyoptk.History(["loss", "accuracy", "val_loss", "val_accuracy"])
    for k in range(1, n + 1):
        values = [k, 1 / k, 1 - 1 / k, 1 / k + k / 99, 0.9 - 1 / k, 0.1, 1.25]
        history.append(dict(zip(history, values, strict=True)))
    return history


def test_a_history_prints_as_a_small_table_and_is_data(tmp_path):
    history = some_history(40)
    lines = str(history).splitlines()
    assert lines[0].split() == [*history]
    assert len(lines) == 14
    assert [line.split()[0] for line in lines[4:7]] == ["4", "...", "33"]
    history.stopped = "stopped"
    assert str(history).endswith("\nstopped")
    with pytest.raises(TypeError, match=r"^path: expected str, bytes or os.PathLike, got NoneT"):
        history.to_csv(None)
    history.to_csv(tmp_path / "history.csv")
    table = np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True)
    for name, values in history.items():
        np.testing.assert_array_equal(table[name], values)
    again = pickle.loads(pickle.dumps(history))
    assert (again, again.stopped, repr(again)) == (history, "stopped", repr(history))
    assert str(pyoptk.History()) == "no epochs"


def test_a_row_without_a_column_is_refused_whole():
    history = some_history(1)
    with pytest.raises(ValueError, match=r"^row: expected all of epoch, loss, .*, got no 'loss'"):
        history.append({"epoch": 2, "lr": 0.1})
    assert {len(column) for column in history.values()} == {1}
    with pytest.raises(TypeError, match=r"^columns: expected a list of names, got 'loss'"):
        pyoptk.History("loss")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [1.0]}, r"^history\['loss'\]: expected 2 numbers, as 'epoch' has, got 1"),
        ({"lr": [0.1, "0.1"]}, r"^history\['lr'\]: expected numbers, got '0.1'"),
        ({"lr": 0.1}, r"^history\['lr'\]: expected a list, got float"),
        ({"mae": [1.0, 1.0]}, "^history: expected 7 names, got 'mae' too"),
    ],
    ids=str,
)
def test_columns_that_are_none_are_refused(change, message):
    history, state = some_history(1), some_history(2).state_dict()
    with pytest.raises((TypeError, ValueError), match=message):
        history.load_state_dict({**state, **change})
    assert history == some_history(1)
    history.load_state_dict({**state, "loss": [np.float32(1), np.float64(0.5)]})
    assert history == state


def test_a_history_is_drawn_into_a_file_or_a_figure_of_pyplot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    history = some_history(12)
    figure = history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    short = some_history(4).plot(tmp_path / "short.png")  # its losses are within a factor of 10
    assert [f.axes[0].get_yscale() for f in (figure, short)] == ["log", "linear"]
    assert pyplot.get_fignums() == []
    assert history.plot().number in pyplot.get_fignums()
    pyplot.close()


def watched_history():
    """Three layers whose gradients vanish from the last to the first; the bias stands still."""
    history = pyoptk.History(["loss"])
    for epoch in range(1, 6):
        told = {f"{k}.weight": {"ratio": 10.0**-k, "grad_norm": 2.0**-k / epoch} for k in range(3)}
        history.add_updates(epoch, told | {"bias": None})
    return history


def test_updates_are_kept_by_parameter_and_drawn(tmp_path):
    history = watched_history()
    assert [*history.updates] == ["0.weight", "1.weight", "2.weight"]
    assert history.updates["1.weight"]["epoch"] == [1, 2, 3, 4, 5]
    assert history.updates["1.weight"]["ratio"] == [0.1] * 5
    assert pickle.loads(pickle.dumps(history)).updates == history.updates
    pytest.importorskip("matplotlib")
    figure = history.plot_updates(tmp_path / "updates.png")
    assert (tmp_path / "updates.png").stat().st_size > 10_000
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    with pytest.raises(ValueError, match=r"^updates: expected optimizer.watch = True during fit"):
        pyoptk.History().plot_updates()


def test_fit_keeps_what_a_watched_optimizer_tells(rng):
    model = pyoptk.layers.Sequential(
        pyoptk.layers.Linear(4, 8, "tanh", rng=rng), pyoptk.layers.Linear(8, 1, rng=rng)
    )
    opt = pyoptk.Adam(model.params, lr=0.01)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    given = {"epochs": 3, "rng": rng, "progress": False}
    assert pyoptk.fit(model, pyoptk.losses.mse, opt, x, x[:, :1], **given).updates == {}
    opt.watch = True
    history = pyoptk.fit(model, pyoptk.losses.mse, opt, x, x[:, :1], **given)
    assert [*history.updates] == [*model.params]
    for name, told in history.updates.items():
        assert told["epoch"] == [1, 2, 3]
        assert told["ratio"][-1] == opt.watched[name]["ratio"] > 0
