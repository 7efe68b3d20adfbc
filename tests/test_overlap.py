"""The host runs ahead: a batch goes to the devices while the steps before it are still being computed."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from vitfm import program, train_lib
from vitfm.data.loader import REPLACED
from vitfm.metrics.timers import Timers

TOTAL = 8


class Loss:
    """A value that is there once it was waited for."""

    def __init__(self, step: int, happened: list[tuple[str, int]]):
        self._event, self._happened = ("finished", step), happened

    def block_until_ready(self) -> None:
        self._happened.append(self._event)


def test_batches_are_placed_while_steps_run(monkeypatch: pytest.MonkeyPatch):
    happened: list[tuple[str, int]] = []
    steps, placed = itertools.count(1), itertools.count(1)

    def compiled(state: Any, batch: Any) -> tuple[Any, dict[str, Loss]]:
        step = next(steps)
        happened.append(("dispatched", step))
        return state, {"loss": Loss(step, happened)}

    def place(mesh: Any, rows: Any) -> Any:
        happened.append(("placed", next(placed)))
        return rows

    def rows(first: int) -> Iterator[dict[str, np.ndarray]]:
        while True:
            yield {REPLACED: np.zeros((4, 8), np.uint8)}

    loader = types.SimpleNamespace(batches=rows, replaced=lambda step, column: [])
    fake = types.SimpleNamespace(loader=loader, mesh=None, total=TOTAL, compiled=lambda batch: compiled)
    fake.batches = lambda first: program.Program.batches(fake, first)
    never = types.SimpleNamespace(due=lambda step: False)
    session = types.SimpleNamespace(
        program=fake,
        first=0,
        intervals=types.SimpleNamespace(profiled=range(0), save=never),
        clock=Timers(),
        window=types.SimpleNamespace(add=lambda step, metrics: None),
        bad=types.SimpleNamespace(replaced=lambda step, found: None, excess=lambda: None),
        due=lambda step: [],
    )
    monkeypatch.setattr(program.meshes, "place_local", place)
    monkeypatch.setattr(train_lib, "_log", lambda session, state, until: None)
    monkeypatch.setattr(train_lib, "_in_flight", lambda: train_lib._IN_FLIGHT)  # As on one device or accelerators.
    train_lib._train(session, None, types.SimpleNamespace(received=lambda step: None))
    when = {event: number for number, event in enumerate(happened)}
    assert len(when) == len(happened)
    for step in range(1, TOTAL - train_lib._IN_FLIGHT):
        ahead = step + train_lib._IN_FLIGHT
        assert when["placed", ahead] < when["dispatched", ahead] < when["finished", step] < when["placed", ahead + 1]
