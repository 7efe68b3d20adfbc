"""Seconds by phase, by a clock that the test moves."""

import pytest

from vitfm.metrics import timers


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_phases_accumulate(clock):
    timer = timers.Timers(clock)
    for seconds in (2, 3):
        with timer("train"):
            clock.now += seconds
        clock.now += 50  # outside of every phase
    assert timer.seconds == {"train": 5}


def test_a_second_belongs_to_the_innermost_phase(clock):
    timer = timers.Timers(clock)
    with timer("train"):
        clock.now += 1
        with timer("eval"):
            clock.now += 10
            with timer("compile"):
                clock.now += 4
        clock.now += 2
        assert timer.seconds == {"train": 3, "eval": 10, "compile": 4}


def test_an_error_closes_the_phase(clock):
    timer = timers.Timers(clock)
    with pytest.raises(RuntimeError), timer("train"):
        clock.now += 1
        raise RuntimeError
    clock.now += 5
    assert timer.seconds == {"train": 1}


def test_laps_and_the_share_of_waiting(clock):
    timer = timers.Timers(clock)
    for wait in (1, 3):
        with timer("train"):
            with timer("data"):
                clock.now += wait
            clock.now += 9
        lap = timer.lap()
        assert lap == {"train": 9, "data": wait}
        assert timers.share(lap, "data", of=("data", "train")) == wait / (wait + 9)
    assert timers.share(timer.lap(), "data", of=("data", "train")) == 0


def test_the_real_clock_runs():
    timer = timers.Timers()
    with timer("train"):
        pass
    assert timer.seconds["train"] >= 0
