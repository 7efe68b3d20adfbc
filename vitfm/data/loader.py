"""Batches as a function of the step: which examples, in which order, depends on (seed, step) alone.

Grain shuffles by a permutation that is computed, not stored, and reads ahead in threads or worker processes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np
from absl import flags

from vitfm.config import ConfigError, UserError
from vitfm.data import bad
from vitfm.data.balance import Balanced
from vitfm.data.draws import Draws
from vitfm.data.sources import base
from vitfm.data.sources.base import Order, Source

# (example, generator) -> arrays of one example, nested for views; raises ValueError for what can't be read.
Load = Callable[[Mapping[str, Any], np.random.Generator], dict[str, Any]]
REPLACED = "replaced"  # Column, for the host alone, with what is wrong with the example that another stands for.
_SAYS = 240  # Bytes of that.
_ATTEMPTS = 100
_DIED = re.compile(r"terminated unexpectedly with exit code (-?\d+)")  # What Grain says of a process.


@dataclasses.dataclass(frozen=True)
class _Batches:
    """Batch k of this process, counted from the first step it was asked for: what Grain's threads and workers index."""

    loader: TrainLoader
    first_step: int

    def __len__(self) -> int:
        return np.iinfo(np.int64).max // 2

    def __getitem__(self, k: int) -> dict[str, Any]:
        return self.loader.batch(self.first_step + k)


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
      balanced: the order, where batches are shared out among classes; None for...
      mixed: ... that of the source, where it has one, as mixtures do; None for one permutation an epoch.
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
    mixed: Order | None = None

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

    @property
    def epoch(self) -> int:
        """Examples in an epoch."""
        return getattr(self.order, "epoch", len(self.source))

    @functools.cached_property
    def order(self) -> grain.MapDataset | Balanced | Order:
        """position -> example id: one permutation an epoch, each its own; constant memory at any length."""
        own = self.balanced or self.mixed
        return own or grain.MapDataset.range(len(self.source)).seed(self.seed).shuffle().repeat()

    def batch_ids(self, step: int) -> np.ndarray:
        """[B] ids of the examples in step `step`'s global batch, before any replacement of unreadable ones."""
        return np.array([self.order[step * self.batch_size + row] for row in range(self.batch_size)])

    def batch(self, step: int) -> dict[str, Any]:
        """This process's rows of the batch of a step."""
        first, draws = step * self.batch_size + self.first_row, Draws(self.seed)
        examples = (self.example(position, draws) for position in range(first, first + self.local_batch_size))
        return _stacked(examples, self.local_batch_size)

    def example(self, position: int, draws: Draws | None = None) -> dict[str, Any]:
        """The example at a position of the stream; where it can't be used, the one that has its row an epoch later.

        So what stands for it depends on seed and position alone, and for many that lie side by side, as in a damaged
        archive, as many others stand.

        Raises:
          ConfigError: none of a hundred can be used.
          UserError: the machine is to blame, and not an example; nothing is replaced then.
        """
        draws = draws or Draws(self.seed)
        later = -(-self.epoch // self.batch_size) * self.batch_size
        found: list[bad.Found] = []
        for attempt in range(_ATTEMPTS):
            index = self.order[position + attempt * later]
            loaded = _loaded(self.source, self.load, index, draws(position, attempt))
            if not isinstance(loaded, bad.Found):
                return {**loaded, REPLACED: _column(found[0] if found else None)}
            found.append(loaded)
        counts = collections.Counter(own.reason for own in found)
        raise ConfigError(
            f"{_ATTEMPTS} examples in a row of {self.source.name} can't be used: {bad.counted(counts)}. The first:\n"
            f"{bad.explained(counts, found)}"
        )

    def replaced(self, step: int, column: np.ndarray) -> list[tuple[int, bad.Found]]:
        """Rows of the global batch of a step for which another example stands, and which were to be there.

        Args:
          step: whose batch it is.
          column: `REPLACED` of this process's rows, uint8 [B, length].
        """
        found = []
        for local in np.flatnonzero(column.any(1)):
            row = self.first_row + int(local)
            reason, _, message = column[local].tobytes().rstrip(b"\0").decode(errors="ignore").partition(": ")
            index = int(self.order[step * self.batch_size + row])
            key = bad.printable(base.key(self.source, index))
            found.append((row, bad.Found(index, key, reason, message)))
        return found

    def batches(self, first_step: int = 0) -> Iterator[dict[str, Any]]:
        """This process's rows of the batches from `first_step` on, read ahead.

        Raises:
          UserError: a worker process died.
        """
        # One element is a whole batch: a thread each, and as many read ahead.
        stream = grain.MapDataset.source(_Batches(self, first_step)).to_iter_dataset(
            grain.ReadOptions(num_threads=self.threads, prefetch_buffer_size=self.threads + 1)
        )
        if self.workers:
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()  # Grain's processes ask absl for flags, which vitfm's main has not.
            stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=self.workers))
        iterator = iter(stream)
        try:
            yield from iterator
        except RuntimeError as error:
            died = _DIED.search(str(error))
            if not died:
                raise
            raise UserError(
                f"One of config.data.workers = {self.workers} processes that read examples died, exit code {died[1]}. "
                "-9 is often the system's, when memory runs out: take fewer workers, or a smaller config.data.cache_gb "
                "which each has for itself. -7 is often too little shared memory: in Docker, see --shm-size."
            ) from None
        finally:
            iterator.close()


def evaluation_batches(
    source: Source,
    load: Load,
    *,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 1,
    unreadable: Callable[[bad.Found], None] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order; the last batch is padded with its last example, and `valid` [B] is False there.

    Args:
      source, load: as for training; nothing may be drawn, so `load` gets a fixed generator.
      batch_size: the global batch; each process yields its contiguous rows of it.
      threads: that read ahead, a batch each.
      unreadable: told of each example of this process that can't be read: it comes as zeros, and `valid`. None refuses.

    Raises:
      ConfigError: the batch does not divide among the processes, so examples would be lost; or no example can be read.
      BadExample: one can't be, and `unreadable` is None.
    """
    if batch_size % process_count:
        raise ConfigError(f"An evaluation's batch_size = {batch_size} does not divide among {process_count} processes.")
    local, last = batch_size // process_count, len(source) - 1
    draw = lambda index: _loaded(source, load, index, np.random.default_rng(0), refuse=unreadable is None)

    @functools.cache
    def zeros() -> dict[str, Any]:
        good = next((found for found in map(draw, range(last + 1)) if not isinstance(found, bad.Found)), None)
        if good is None:
            raise ConfigError(f"{source.name}: no example can be read; the first: {draw(0).message}")
        return jax.tree.map(np.zeros_like, good)

    def read(start: int) -> tuple[range, list[Any]]:
        rows = range(start + process_index * local, start + (process_index + 1) * local)
        return rows, [draw(min(row, last)) for row in rows]

    def made(rows: range, examples: list[Any]) -> dict[str, np.ndarray]:
        for row, found in zip(rows, examples, strict=True):
            if isinstance(found, bad.Found) and row <= last:
                unreadable(found)
        examples = [zeros() if isinstance(found, bad.Found) else found for found in examples]
        batch = jax.tree.map(lambda *rows: np.stack(rows), *examples)
        return {**batch, "valid": np.array([row <= last for row in rows])}

    ahead: collections.deque[Any] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(source), batch_size):
            ahead.append(pool.submit(read, start))
            if len(ahead) > threads:
                yield made(*ahead.popleft().result())
        while ahead:
            yield made(*ahead.popleft().result())


def _loaded(
    source: Source, load: Load, index: int, rng: np.random.Generator, *, refuse: bool = False
) -> dict[str, Any] | bad.Found:
    """An example's arrays, or what is wrong with it, which is raised if `refuse`.

    Raises:
      ConfigError: not this example is wrong, but what is asked of all.
      UserError: the machine is to blame.
    """
    try:
        return load(source[index], rng)
    except ConfigError:
        raise
    except ValueError as error:
        if refuse:
            raise
        return bad.found(index, base.key(source, index), error)
    except OSError as error:
        raise UserError(
            f"{base.key(source, index)} of {source.name}: {error}. That is no fault of the example: it is not replaced."
        ) from error
    except Exception as error:
        error.add_note(f"Example {base.key(source, index)} of {source.name}.")
        raise


def _stacked(examples: Iterable[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """Arrays of `count` examples; each is copied to its row at once, while it is in the processor's cache."""
    for row, example in enumerate(examples):
        leaves, structure = jax.tree.flatten(example)
        if row == 0:
            arrays = [np.empty((count, *np.shape(leaf)), np.asarray(leaf).dtype) for leaf in leaves]
        for array, leaf in zip(arrays, leaves, strict=True):
            array[row] = leaf
    return jax.tree.unflatten(structure, arrays)


def _column(found: bad.Found | None) -> np.ndarray:
    """One row of `REPLACED`: text of a fixed length, which processes share as they do pixels; zeros for nothing."""
    text = b"" if found is None else f"{found.reason}: {found.message}".encode()[:_SAYS]
    return np.frombuffer(text.ljust(_SAYS, b"\0"), np.uint8)
