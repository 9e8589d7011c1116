"""The programs in `examples` run as they stand and reach what they are about."""

import copy
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import pyoptk

FOLDER = Path(__file__).parents[1] / "examples"


def forecasts(found):
    assert found["history"]["val_loss"][-1] < 0.006  # the noise alone is 0.0025
    window = found["windows"][-1:, 1:, None]
    assert abs(found["model"].predict(window)[0, 0] - np.sin(1100 / 8)) < 0.2


def separates_sequences(found):
    assert found["accuracy"] > 0.9


def separates_spirals(found):
    assert max(found["history"]["val_accuracy"]) > 0.97
    assert Path("classify.png").stat().st_size > 10_000


def finds_the_line(found):
    assert abs(found["slope"] - 3) < 0.05
    assert abs(found["intercept"] - 2) < 0.05


def every_optimizer_makes_the_loss_small(found):
    assert len(found["curves"]) == 5
    for losses in found["curves"].values():
        assert losses[-1] < losses[0] / 4


def learns_to_write(found):
    assert np.mean(found["curve"][-10:]) < 0.6 * found["curve"][0]
    assert len(found["written"]) > 400


def tells_praise_from_blame(found):
    assert found["history"]["val_accuracy"][-1] > 0.98
    assert min(found["lengths"]) < 5
    assert max(found["lengths"]) > 20


def forecasts_better_than_the_day_before(found):
    assert found["known"].to_numpy().mean() < 0.95
    ours, theirs = (np.nanmean(abs(found[name]), axis=0) for name in ("miss", "day_before"))
    assert (ours < theirs / 2).all()


def remembers(found):
    assert np.mean(found["curve"][-20:]) > 0.9
    assert np.mean(found["curve"][:20]) < 0.3
    assert found["resets"].any()


REACHED = {
    "characters": learns_to_write,
    "classify": separates_spirals,
    "classify_sequences": separates_sequences,
    "forecast": forecasts,
    "policy": remembers,
    "sentences": tells_praise_from_blame,
    "weather": forecasts_better_than_the_day_before,
    "optimizers": every_optimizer_makes_the_loss_small,
    "regression": finds_the_line,
}


# How long those are that take longer than a second: the program's first argument.
SHORT = {"characters": 60, "policy": 120, "weather": 3}
NEEDS = {"classify": "matplotlib", "weather": "pandas"}


def run(name, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *([str(SHORT[name])] if name in SHORT else [])])
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", REACHED)
def test_an_example_reaches_what_it_is_about(name, tmp_path, monkeypatch, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    REACHED[name](run(name, monkeypatch))
    assert capsys.readouterr().out


def test_every_example_is_listed():
    programs = {path.stem for path in FOLDER.glob("*.py")}
    assert programs == {*REACHED, "several_machines"}  # that one is for test_mpi
    listed = (FOLDER / "README.md").read_text()
    assert all(f"({name}.py)" in listed for name in programs)


def torch_curves(torch, start, x, y, settings):
    """The losses of the same loop in PyTorch, from the same weights, over the same batches."""
    nn = torch.nn
    lstm, linear = nn.LSTM(1, 32, 2, batch_first=True), nn.Linear(32, 1)
    both = nn.ModuleList([lstm, linear])
    own = [torch.tensor(array) for array in start.params.values()]
    both.load_state_dict(dict(zip(both.state_dict(), own, strict=True)))
    adam = torch.optim.Adam(both.parameters(), lr=0.003)
    rng, curve = settings["rng"], []
    kept = len(x) - round(len(x) * settings["validation"])
    x, y = torch.tensor(x[:kept].copy()), torch.tensor(y[:kept].copy())
    for _ in range(3):
        total, order = 0.0, rng.permutation(kept)
        for first in range(0, kept, 32):
            rows = torch.tensor(order[first : first + 32])
            loss = nn.functional.mse_loss(linear(lstm(x[rows])[0][:, -1]), y[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            total += loss.item() * len(rows)
        curve.append(total / kept)
    return curve


def test_the_forecast_has_the_curve_of_torch(monkeypatch):
    torch = pytest.importorskip("torch")
    fit, curves = pyoptk.fit, {}

    def spy(model, loss, optimizer, x, y, **settings):
        same = copy.deepcopy(settings)
        curves["torch"] = torch_curves(torch, model, x, y, same)
        history = fit(model, loss, optimizer, x, y, **settings)
        curves["pyoptk"] = history["loss"][:3]
        return history

    monkeypatch.setattr(pyoptk, "fit", spy)
    run("forecast", monkeypatch)
    # 81 steps of Adam from the same weights; float32 differs by 1e-7 a step and grows.
    np.testing.assert_allclose(curves["pyoptk"], curves["torch"], rtol=1e-3)
