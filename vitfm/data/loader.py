"""Batches as a function of the step: which examples, in which order, depends on (seed, step) alone.

Grain shuffles by a permutation that is computed, not stored, and reads ahead in threads or worker processes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from vitfm.config import ConfigError
from vitfm.data.balance import Balanced
from vitfm.data.sources.base import Source

# (example, generator) -> arrays of one example, nested for views; raises ValueError for what can't be read.
Load = Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]
REPLACED = "replaced"  # Column that counts, an example, how many unreadable ones it stands for.
_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class _Examples:
    """Example k of this process, counted from the first step it was asked for: what Grain's workers index."""

    loader: TrainLoader
    first_step: int

    def __len__(self) -> int:
        return np.iinfo(np.int64).max // 2

    def __getitem__(self, k: int) -> dict[str, Any]:
        step, row = divmod(k, self.loader.local_batch_size)
        return self.loader.example((self.first_step + step) * self.loader.batch_size + self.loader.first_row + row)


@dataclasses.dataclass(frozen=True)
class TrainLoader:
    """An endless, shuffled stream of batches, each process reading its rows of the global batch.

    Attributes:
      source: decoded examples.
      load: host transforms.
      batch_size: the global batch.
      seed: of the order and of every draw on the host.
      process_index, process_count: which rows are this process's: a contiguous block.
      threads: that read and decode; OpenCV releases Python's lock.
      workers: processes that do so instead, for decoding that one process can't keep up with; 0 for none.
      balanced: the order, where batches are shared out among classes; None for one permutation an epoch.
    """

    source: Source
    load: Load
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1
    threads: int = 2
    workers: int = 0
    balanced: Balanced | None = None

    def __post_init__(self) -> None:
        if self.batch_size % self.process_count:
            raise ConfigError(
                f"config.batch_size = {self.batch_size} does not divide among {self.process_count} processes."
            )

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count

    @property
    def first_row(self) -> int:
        return self.process_index * self.local_batch_size

    @functools.cached_property
    def order(self) -> grain.MapDataset | Balanced:
        """position -> example id: one permutation an epoch, each its own; constant memory at any length."""
        return self.balanced or grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat()

    def batch_ids(self, step: int) -> np.ndarray:
        """[B] ids of the examples in step `step`'s global batch, before any replacement of unreadable ones."""
        return np.array([self.order[step * self.batch_size + row] for row in range(self.batch_size)])

    def example(self, position: int) -> dict[str, Any]:
        """The example at a position of the stream; the next readable one in its place where it can't be read."""
        example_id = self.order[position]
        for attempt in range(_ATTEMPTS):
            rng = np.random.Generator(np.random.SFC64([self.seed, position, attempt]))
            try:
                loaded = self.load(self.source[(example_id + attempt) % len(self.source)], rng)
            except ConfigError:
                raise  # Not this example is wrong, but what is asked of all.
            except ValueError as error:
                last = error
                continue
            return {**loaded, REPLACED: np.int32(attempt)}
        raise ConfigError(f"{_ATTEMPTS} examples in a row of {self.source.name} can't be read; the last: {last}")

    def batches(self, first_step: int = 0) -> Iterator[dict[str, Any]]:
        """This process's rows of the batches from `first_step` on, read ahead."""
        examples = grain.MapDataset.source(_Examples(self, first_step)).batch(self.local_batch_size)
        # One element is a whole batch: a thread each, and as many read ahead.
        stream = examples.to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.threads + 1)
        )
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain's processes ask absl for flags, which vitfm's main has not.
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        return iter(stream)


def evaluation_batches(
    source: Source, load: Load, *, batch_size: int, process_index: int = 0, process_count: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order; the last batch is padded with its last example, and `valid` [B] is False there.

    Args:
      source, load: as for training; nothing may be drawn, so `load` gets a fixed generator.
      batch_size: the global batch; each process yields its contiguous rows of it.

    Raises:
      ConfigError: the batch does not divide among the processes, so examples would be lost.
    """
    if batch_size % process_count:
        raise ConfigError(f"An evaluation's batch_size = {batch_size} does not divide among {process_count} processes.")
    local = batch_size // process_count
    for start in range(0, len(source), batch_size):
        rows = range(start + process_index * local, start + (process_index + 1) * local)
        examples = [load(source[min(row, len(source) - 1)], np.random.default_rng(0)) for row in rows]
        batch = jax.tree.map(lambda *rows: np.stack(rows), *examples)
        yield {**batch, "valid": np.array([row < len(source) for row in rows])}
