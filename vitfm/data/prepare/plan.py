"""What is to be written, and where; kept beside the shards, so that whoever goes on writes the same bytes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.data import files, parts, sources
from vitfm.data.permutation import permuted
from vitfm.data.prepare import kinds, values
from vitfm.data.prepare.kinds import Kinds
from vitfm.data.sources import base


@dataclasses.dataclass(frozen=True)
class Request:
    """What a user asks for, of one split; see `command.py`.

    Attributes:
      source: SCHEME:REST, or a mixture.
      part: "#:90%" and the like, of the source; None for all of it.
      folder: of the data set, DIR/NAME/VERSION.
      feature: name -> one of `kinds.GIVEN`.
      seed: of the order; None for the source's.
    """

    source: str | Mapping[str, Any]
    part: str | None
    folder: str
    name: str
    split: str
    shards: int | None
    shard_mb: float
    seed: int | None
    check: bool
    resize: int | None
    sample: int
    feature: Mapping[str, str]

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name}:{self.split}"

    def open(self) -> base.Source:
        """All of the source."""
        return sources.make(self.source)

    def opened(self, whole: base.Source) -> base.Source:
        """The part of it that is the split."""
        if self.part is None:
            return whole
        spec = (self.source if isinstance(self.source, str) else f"mixture:{whole.name}") + self.part
        rest, part = parts.split(spec)
        if part is None or rest + self.part != spec:
            raise ConfigError(f"--splits: {self.split}={self.part} is no part, such as {self.split}=#:90%.")
        return parts.make(whole, part, spec)

    def example(self, source: base.Source, index: int) -> dict[str, Any]:
        """An example with its key, and with features as they are asked for.

        Raises:
          BadExample: it can't be read, or made so.
        """
        example = {**source[index], "key": base.key(source, index)}
        caption = base.role(source, "caption")
        if caption not in ("caption", "text") and caption in example and "caption" not in example:
            example["caption"] = example.pop(caption)  # By its name readers of TFDS know it.
        for name, kind in self.feature.items():
            if kind == "none":
                example.pop(name, None)
            elif name in example:
                example[name] = values.given(example[name], kind)
        return example


@dataclasses.dataclass(frozen=True)
class Plan:
    """What follows from a request and a source.

    Attributes:
      request: it.
      examples: of the source.
      digest: of some of their keys.
      shards: into how many they go.
      kinds: of the features that are written.
      images: feature -> (channels, type) that TFDS is told of.
      classes: names of the classes that the source's integers stand for.
      roles: which features are the image, the label and the caption.
      notes: what the user should know.
    """

    request: Request
    examples: int
    digest: str
    shards: int
    kinds: Kinds
    images: Mapping[str, tuple[int, str]]
    classes: Mapping[str, Sequence[str]]
    roles: Mapping[str, str]
    notes: Sequence[str] = ()

    def features(self) -> Any:
        """TFDS's features."""
        import tensorflow_datasets as tfds

        made = {name: values.feature(kind, *self.images.get(name, ())) for name, kind in self.kinds.items()}
        return tfds.features.FeaturesDict(made)

    def indices(self, shard: int) -> np.ndarray:
        """Examples of a shard, in their order, int64 [N]."""
        positions = np.arange(*self.span(shard))
        seed = self.request.seed
        return positions if seed is None else permuted(positions, self.examples, seed)

    def span(self, shard: int) -> tuple[int, int]:
        """The first position of the order that is in a shard, and the one after its last."""
        return self.examples * shard // self.shards, self.examples * (shard + 1) // self.shards

    def path(self, shard: int) -> str:
        """The file of a shard, as TFDS calls it."""
        name = f"{self.request.name}-{self.request.split}.array_record-{shard:05}-of-{self.shards:05}"
        return files.join(self.request.folder, name)

    def mark(self, shard: int) -> str:
        """The file that says what is in a shard, as soon as it is whole."""
        return files.join(work(self.request), f"{shard:05}.json")

    def as_json(self) -> dict[str, Any]:
        """It, for `from_json`, without the folder, which may be moved."""
        stored = dataclasses.asdict(self) | {"kinds": kinds.as_json(self.kinds)}
        del stored["request"]["folder"]
        return stored


def from_json(stored: Mapping[str, Any], folder: str) -> Plan:
    """What `Plan.as_json` made JSON of."""
    made = {"request": Request(**stored["request"], folder=folder), "kinds": kinds.from_json(stored["kinds"])}
    return Plan(**{**stored, **made})


def work(request: Request) -> str:
    """The folder of what is not finished."""
    return files.join(request.folder, f"incomplete_{request.split}")


def finished(request: Request) -> str:
    """The plan of a split that is finished."""
    return files.join(request.folder, f"prepared_{request.split}.json")
