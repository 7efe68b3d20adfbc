"""Examples that a run could not use: counted by reason on all processes alike, listed, told, and too many refused.

`bad_examples.jsonl` of the workdir has a line for each of them, however often it came:
{"where": a source, "key": what it is called there, "reason", "message", "step": when it first came}, and of training
examples "id", the index in the source.
Counts and lines depend on the steps that were made alone: on neither processes nor workers nor interruptions.
"""

from __future__ import annotations

import collections
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vitfm.config import UserError
from vitfm.data import bad
from vitfm.data.loader import TrainLoader
from vitfm.metrics import files

FILE = "bad_examples.jsonl"
_ENOUGH = 1000  # Training examples, of which a share says something.


class TooManyBad(UserError):
    """A larger share of the training examples than `config.data.max_bad` can't be used; the state is saved."""


class _Note(NamedTuple):
    """A bad example that came; they are listed in the order of these fields, `row` being the source's if evaluated."""

    step: int
    evaluated: bool
    where: str
    row: int
    found: bad.Found


class BadData:
    """What is known of bad examples: noted by the process that met with them, brought together by `settle`.

    Attributes:
      counts: training examples by reason, up to the step that is settled.
    """

    def __init__(self, workdir: pathlib.Path, loader: TrainLoader | None = None, max_bad: float = 1.0):
        """Reads and writes nothing yet.

        Args:
          workdir: of the run.
          loader: of the training stream; None where nothing is trained.
          max_bad: the share of its examples that may be bad.
        """
        self.path = workdir / FILE
        self.counts: collections.Counter[bad.Reason] = collections.Counter()
        self._loader, self._max_bad = loader, max_bad
        self._before = self.counts.copy()  # When this call of the run began.
        self._first = self._settled = 0
        self._notes: list[_Note] = []
        self._unreadable: list[tuple[str, bad.Found]] = []
        self._met: list[bad.Found] = []
        self._listed: set[tuple[str, str]] = set()
        self._told = False

    def begin(self, step: int | None, counts: Mapping[bad.Reason, int] = {}) -> None:
        """Takes up counts and list as they were at a step; None only adds, as the evaluation of a finished run does."""
        self.counts, self._before = collections.Counter(counts), collections.Counter(counts)
        self._first = self._settled = step or 0
        if jax.process_index() == 0:
            self._listed = {(line["where"], line["key"]) for line in _rewound(self.path, step)}

    def replaced(self, step: int, found: Iterable[tuple[int, bad.Found]]) -> None:
        """Notes examples, with their rows of the batch, that others stand for in a step."""
        for row, own in found:
            self._met = [*self._met, own][: bad.SHOWN]
            self._notes.append(_Note(step, False, self._loader.source.name, row, own))

    def unreadable(self, where: str, found: bad.Found) -> None:
        """Notes an image of a source, which is evaluated as zeros."""
        self._unreadable.append((where, found))

    def settle(self, until: int) -> list[str]:
        """Counts and lists what was noted up to a step; all processes call this at the same steps.

        Returns:
          What a person should be told, once each.
        """
        ready = [note for note in self._notes if note.step <= until]
        self._notes = self._notes[len(ready) :]
        ready += [_Note(until, True, where, found.id, found) for where, found in self._unreadable]
        self._unreadable, self._settled = [], max(self._settled, until)
        notes = sorted(_of_all_processes([self._short(note) for note in ready]))
        self.counts.update(note.found.reason for note in notes if not note.evaluated)
        new: dict[tuple[str, str], _Note] = {}
        for note in notes:
            if (note.where, note.found.key) not in self._listed:
                new.setdefault((note.where, note.found.key), note)
        self._listed |= new.keys()
        if new and jax.process_index() == 0:
            with open(self.path, "ab") as file:
                file.write(b"".join(files.dumps(_line(note)) for note in new.values()))
        return [*self._trained(new.values()), *self._evaluated(new.values())]

    def due(self, step: int) -> bool:
        """Whether enough examples were seen by this step, for the first time, to know whether too many are bad."""
        return self._settled < self._first - (-self._enough // self._loader.batch_size) <= step

    def excess(self) -> str | None:
        """Why a run should stop: too large a share of the examples since it was last started is bad."""
        counts, seen = self.counts - self._before, (self._settled - self._first) * self._loader.batch_size
        total = counts.total()
        if seen < self._enough or total <= self._max_bad * seen:
            return None
        return (
            f"{total:,} of {seen:,} examples of {self._loader.source.name} can't be used. {total / seen:.1%} "
            f"is more than config.data.max_bad = {self._max_bad:g}: {bad.counted(counts)}.\n"
            f"{bad.explained(counts, self._met)}"
        )

    def metrics(self) -> dict[str, float]:
        """How many examples were replaced since the run began, and for which reasons."""
        named = {f"data/bad/{name}": self.counts[name] for name in bad.REASONS if self.counts[name]}
        return {"data/replaced": self.counts.total(), **named}

    @property
    def _enough(self) -> int:
        """Examples; of a small source, once all of it."""
        return min(_ENOUGH, self._loader.epoch)

    def _short(self, note: _Note) -> _Note:
        """Without its words, where all have heard them."""
        known = (note.where, note.found.key) in self._listed
        return note._replace(found=note.found._replace(message="")) if known else note

    def _trained(self, new: Iterable[_Note]) -> Iterator[str]:
        if self._told or all(note.evaluated for note in new):
            return
        self._told = True
        yield (
            f"Warning: {self.counts.total():,} training examples up to step {self._settled:,} can't be used and others "
            f"stand for them: {bad.counted(self.counts)}. See {self.path}."
        )

    def _evaluated(self, new: Iterable[_Note]) -> Iterator[str]:
        found: dict[str, list[bad.Found]] = {}
        for note in new:
            if note.evaluated:
                found.setdefault(note.where, []).append(note.found)
        for where, own in found.items():
            counts = collections.Counter(each.reason for each in own)
            yield (
                f"Warning: images of {where} can't be read and are evaluated as black ones: "
                f"{bad.counted(counts)}, the first {own[0].key}. See {self.path}."
            )


def _line(note: _Note) -> dict[str, Any]:
    found = note.found
    named = {"where": note.where, "key": found.key, "reason": found.reason, "message": found.message}
    return {**named, "step": note.step, **({} if note.evaluated else {"id": found.id})}


def _rewound(path: pathlib.Path, step: int | None) -> list[dict[str, Any]]:
    """The lines up to a step; those beyond, and a torn last one, are removed from the file."""
    lines = [line for line in files.read_rows(path) if step is None or line["step"] <= step]
    content = b"".join(map(files.dumps, lines))
    if path.exists() and content != path.read_bytes():
        files.replace(path, content) if lines else path.unlink()
    return lines


def _of_all_processes(notes: Sequence[_Note]) -> list[_Note]:
    """What all processes have noted."""
    if jax.process_count() == 1:
        return list(notes)
    content = np.frombuffer(json.dumps(notes).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(content)))
    if sizes.max() == len(json.dumps([])):
        return []
    padded = np.zeros(1 << int(sizes.max()).bit_length(), np.uint8)  # Few sizes: each is compiled.
    padded[: len(content)] = content
    gathered = multihost_utils.process_allgather(padded)
    lists = [json.loads(own[:size].tobytes()) for own, size in zip(gathered, sizes, strict=True)]
    return [_Note(*values, bad.Found(*found)) for own in lists for *values, found in own]
