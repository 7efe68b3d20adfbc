"""Many texts in little memory: a million paths are one piece of bytes and where each of them ends."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence


class Texts(Sequence[str]):
    """A sequence of texts, which travels to other processes as quickly as its bytes."""

    def __init__(self, texts: Iterable[str]):
        content, ends = bytearray(), array("q", [0])
        for text in texts:
            content += text.encode("utf-8", "surrogateescape")  # Of file names that are no UTF-8.
            ends.append(len(content))
        self._content, self._ends = bytes(content), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]
        return self._content[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for start, end in itertools.pairwise(self._ends):
            yield self._content[start:end].decode("utf-8", "surrogateescape")
