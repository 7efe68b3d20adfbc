"""Batches as the model sees them: read, cut, preprocessed, mixed and masked by the functions and keys of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vitfm import train_step
from vitfm.data import bad, viewable
from vitfm.data import loader as loading
from vitfm.data.sources import base
from vitfm.program import Program


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a row of a batch comes from.

    Attributes:
      row: of the global batch.
      index, key: of the example in the source.
      text: its caption as it was drawn, before the tokenizer cuts it; None without captions.
      passed: the examples that it stands for.
    """

    row: int
    index: int
    key: str
    text: str | None
    passed: tuple[bad.Found, ...]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of the batch of one step.

    Attributes:
      step: which.
      size: of the global batch.
      origins: of the rows.
      columns: the rows as the loss gets them, NumPy arrays, nested for views and patches.
      masks: name -> bool [R,h,w] or [R,V,h,w], what the loss hides from the encoder; none where it hides nothing.
    """

    step: int
    size: int
    origins: tuple[Origin, ...]
    columns: Mapping[str, Any]
    masks: Mapping[str, np.ndarray]


class Viewer:
    """The training stream of a program, looked at step by step; nothing but preprocessing is compiled."""

    def __init__(self, program: Program, source: base.Source):
        """Looks at `program`, whose examples `source` has: their keys are asked for there."""
        self._program, self._source = program, source
        self._log = _Log()
        self._loader = _watched(program.loader, self._log)
        self._prepare = jax.jit(self._prepared)

    def batch(self, step: int, rows: int) -> Batch:
        """The first `rows` of a step's batch. Where rows are mixed all are made, as each depends on the one before."""
        size = self._loader.batch_size
        rows = min(rows, size)
        made = size if self._program.data.mix is not None else rows
        read = [self._example(step * size + row, row) for row in range(made)]
        columns = jax.tree.map(lambda *leaves: np.stack(leaves), *(example for example, _ in read))
        keys = train_step.example_keys(self._program.recipe.seed, step, size)[:made]
        ready, masks = jax.tree.map(lambda leaf: np.asarray(leaf)[:rows], self._prepare(columns, keys))
        return Batch(step, size, tuple(origin for _, origin in read[:rows]), ready, masks)

    def thumbnail(self, index: int) -> np.ndarray | None:
        """The image of an example, uint8 [H,W,3]; None where it can't be read."""
        try:
            return viewable.pixels(self._source[index][self._program.data.image_key])
        except bad.BadExample:
            return None

    def _prepared(self, batch: Any, keys: jax.Array) -> tuple[Any, Any]:
        """(batch, keys [B]) -> the batch as the loss gets it, and what the loss hides of it."""
        data, objective = self._program.data, self._program.objective
        ready = dict(train_step.prepared(data.preprocess_train, data.mix)(batch, keys))
        return ready, {} if objective.masks is None else objective.masks(ready, train_step.loss_keys(keys))

    def _example(self, position: int, row: int) -> tuple[dict[str, Any], Origin]:
        self._log.clear()
        example = {name: value for name, value in self._loader.example(position).items() if name != loading.REPLACED}
        *passed, index = self._log.reads
        text = self._log.texts[-1] if self._log.texts else None
        stood_for = tuple(
            bad.found(one, base.key(self._source, one), error)
            for one, error in zip(passed, self._log.errors, strict=True)
        )
        return example, Origin(row, index, bad.printable(base.key(self._source, index)), text, stood_for)


@dataclasses.dataclass(frozen=True)
class _Log:
    """What a loader does on the way to one example: the examples it reads, why it passes them over, texts it cuts."""

    reads: list[int] = dataclasses.field(default_factory=list)
    errors: list[ValueError] = dataclasses.field(default_factory=list)
    texts: list[str] = dataclasses.field(default_factory=list)

    def clear(self) -> None:
        for noted in (self.reads, self.errors, self.texts):
            noted.clear()


@dataclasses.dataclass(frozen=True)
class _Source:
    """A source that notes what is read of it."""

    whole: Any
    log: _Log

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        self.log.reads.append(int(index))
        try:
            return self.whole[index]
        except ValueError as error:
            self.log.errors.append(error)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def _watched(loader: loading.TrainLoader, log: _Log) -> loading.TrainLoader:
    """The same loader, which notes what it does."""
    tokenize = loader.load.tokenize

    def noted(text: str) -> Any:
        log.texts.append(text)
        return tokenize(text)

    inner = dataclasses.replace(loader.load, tokenize=tokenize and noted)

    def load(example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        try:
            return inner(example, rng)
        except ValueError as error:
            log.errors.append(error)
            raise

    return dataclasses.replace(loader, source=_Source(loader.source, log), load=load)
