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
    history.to_csv(tmp_path / "history.csv")
    table = np.genfromtxt(tmp_path / "history.csv", delimiter=",", names=True)
    for name, values in history.items():
        np.testing.assert_array_equal(table[name], values)
    again = pickle.loads(pickle.dumps(history))
    assert (again, again.stopped, repr(again)) == (history, "stopped", repr(history))
    assert str(pyoptk.History()) == "no epochs"


def test_a_history_is_drawn_into_a_file_or_a_figure_of_pyplot(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    history = some_history(12)
    figure = history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").stat().st_size > 10_000
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [3, 3]
    assert pyplot.get_fignums() == []
    assert history.plot().number in pyplot.get_fignums()
    pyplot.close()
