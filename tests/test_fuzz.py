"""A few hundred tries of every class of tests/fuzz, in a process of their own; and its parts."""

import numpy as np
import pytest
from fuzz import arrays, driver, threads, trial


def test_tries_of_every_class_find_nothing(capfd):
    report = driver.run(list(driver.classes()), seed=1, rounds=8)
    assert not report.faults, capfd.readouterr()[0]
    assert set(report.tries) == set(driver.classes())
    assert sum(report.compared.values()) > 1000


def test_a_try_is_a_function_of_class_seed_and_number():
    numbers = [
        trial.Try(*key).rng.random() for key in [("a", 1, 2)] * 2 + [("b", 1, 2), ("a", 1, 3)]
    ]
    assert numbers[0] == numbers[1]
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("layout", sorted({*arrays.READABLE, *arrays.UNREADABLE, "F", "rows"}))
def test_a_written_guard_byte_is_seen(layout, rng):
    memory = arrays.Memory(rng)
    array = memory.place(rng.standard_normal((3, 4)), layout)
    block = memory.blocks[0]
    memory.save()
    assert memory.written_outside(()) is None
    for at in np.flatnonzero(~block.owned)[[0, -1]]:
        block.raw[at] ^= 1
        assert "a guard byte" in memory.written_outside([array])
        block.raw[at] ^= 1
    block.raw[np.flatnonzero(block.owned)[-1]] ^= 1
    assert "an element" in memory.written_outside(())
    assert memory.written_outside([block.array]) is None


@pytest.mark.parametrize(
    ("error", "named"),
    [
        (ValueError("grads['a b'][2]: expected this"), True),
        (MemoryError("x: 5 TiB"), True),
        (MemoryError(), False),
        (TypeError("Layer.__init__() got an unexpected keyword argument"), False),
        (ValueError("The truth value of an array is ambiguous"), False),
        (AttributeError("x: no"), False),
    ],
)
def test_a_refusal_begins_with_a_name(error, named):
    if named:
        trial.check_refusal(error)
    else:
        with pytest.raises(trial.Fault, match="foreign words"):
            trial.check_refusal(error)


def test_a_crash_is_told_with_the_line_that_repeats_it(capfd):
    report = driver.run(["die"], seed=1, rounds=1)
    assert [fault[:2] for fault in report.faults] == [("die", 0)]
    assert (
        "python -m tests.fuzz --class die --seed 1 --try 0  # the process ended"
        in capfd.readouterr()[0]
    )


@pytest.mark.parametrize("size", [10, 200_000])
@pytest.mark.parametrize("kind", threads.KINDS, ids=lambda kind: kind.__name__)
def test_many_threads_at_once(kind, size):
    """Where the interpreter has no lock of its own, the guards of objects are all there is."""
    for number in range(3):
        kind(trial.Try("threads", 1, number), size, 8, 40)
