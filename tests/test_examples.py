"""The programs in `examples` run as they stand and reach what they are about."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

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


def steps_tensors(found):
    assert found["right"] > 0.95
    assert found["again"].state.keys() == set(found["model"].parameters())


def takes_less_memory_and_learns_as_well(found):
    float32, bfloat16, *bits8 = found["states"].values()
    assert bfloat16 < 0.51 * float32
    assert all(size < 0.35 * float32 for size in bits8)
    full, *_, minimal = found["kept"].values()
    assert minimal < full / 2
    ends = [np.mean(losses[-20:]) for losses in found["curves"].values()]
    assert max(ends) < 1.05 * min(ends)


def remembers(found):
    assert np.mean(found["curve"][-20:]) > 0.9
    assert np.mean(found["curve"][:20]) < 0.3
    assert found["resets"].any()


REACHED = {
    "characters": learns_to_write,
    "classify": separates_spirals,
    "classify_sequences": separates_sequences,
    "forecast": forecasts,
    "low_memory": takes_less_memory_and_learns_as_well,
    "policy": remembers,
    "pytorch": steps_tensors,
    "sentences": tells_praise_from_blame,
    "weather": forecasts_better_than_the_day_before,
    "optimizers": every_optimizer_makes_the_loss_small,
    "regression": finds_the_line,
}


# How long those are that take longer than a second: the program's first argument.
SHORT = {"characters": 60, "low_memory": 60, "policy": 120, "weather": 3}
NEEDS = {"classify": "matplotlib", "weather": "pandas", "pytorch": "torch"}


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
