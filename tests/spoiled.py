"""The emoji with some spoiled images among them: `source = "tests.spoiled:SPLIT"`, for tests."""

from __future__ import annotations

from typing import Any

from vitfm.data import sources


class Source:
    """A split of the emoji; of nine images one ends early and one is empty."""

    def __init__(self, split: str):
        self.name = f"spoiled {split}"
        self._emoji = sources.make(f"tfds:emoji:{split}")

    def __len__(self) -> int:
        return len(self._emoji)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = self._emoji[index]
        kept = {4: 100, 7: 0}.get(range(len(self))[index] % 9)
        return {**example, "image": example["image"][:kept]}


def make(rest: str) -> Source:
    return Source(rest)
