"""Examples that lie in several files, one file after the other, and what looks at many files at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import rich.console
import rich.progress

from vitfm.data import files
from vitfm.data.texts import Texts

T = TypeVar("T")
_AT_ONCE = 16
_PATIENCE = 2.0  # Seconds before a progress bar is worth it.


class Shards:
    """Which example of a source lies in which row of which file.

    Attributes:
      paths: of the files, in their order.
      counts: int64 [F], the examples of each.
    """

    def __init__(self, paths: Sequence[str], counts: Sequence[int]):
        self.paths, self.counts = Texts(paths), np.array(counts, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)])
        prefix = os.path.commonprefix([files.parent(path) for path in paths])  # noqa: RUF071 - URLs are no paths to it.
        self._root = len(prefix[: prefix.rfind("/") + 1])

    def __len__(self) -> int:
        """Number of examples."""
        return int(self._starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """File and row of an example.

        Raises:
          IndexError: there are not so many.
        """
        index = range(len(self))[index]
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def name(self, file: int) -> str:
        """The path of a file, below the folder that all lie in."""
        return self.paths[file][self._root :]


def in_threads(action: Callable[[Any], T], items: Sequence[Any], what: str) -> Iterator[T]:
    """`action` of each item, in order, with a progress bar where it takes long on a terminal."""
    console = rich.console.Console(stderr=True)
    bar, started = None, time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            for number, result in enumerate(pool.map(action, items), start=1):
                yield result
                if bar is None and console.is_terminal and time.monotonic() - started > _PATIENCE:
                    bar = rich.progress.Progress(console=console, transient=True)
                    task = bar.add_task(what, total=len(items))
                    bar.start()
                if bar:
                    bar.update(task, completed=number)
        finally:
            if bar:
                bar.stop()
