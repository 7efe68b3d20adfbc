"""Sources: where examples come from. `tfds:emoji:train` is `vitfm/data/sources/tfds.py` reading `emoji:train`.

A source is a random-access sequence of examples whose images are still encoded, so that opening one is cheap and the
loader decides in which process an image is decoded. The word before the first colon names a module here, or, dotted, a
module of your own (`my_project.my_source:anything`); its `make(rest)` receives what follows the colon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from vitfm import config


@runtime_checkable
class Source(Protocol):
    """What `make` of a source module returns. It can be pickled, since Grain sends it to worker processes.

    It may have a method `classes(feature) -> Sequence[str] | None` too: the names of the classes that a feature's
    integers stand for, known without reading a single example, or None for a feature that is no class label.

    Attributes:
      name: what messages and reports call it, usually the words after the scheme.
    """

    name: str

    def __len__(self) -> int:
        """Number of examples."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example: images as encoded `bytes`, strings as `str`, sequences of them as tuples, numbers as NumPy."""


def feature(example: Mapping[str, Any], name: str, where: str) -> Any:
    """A feature of an example; `where` is the key of the recipe that asks for it.

    Raises:
      ConfigError: there is no such feature, with the nearest name.
    """
    if name not in example:
        raise config.ConfigError(f"config.{where} = {name!r} is no feature: {config.nearest(name, list(example))}")
    return example[name]


def make(spec: str) -> Source:
    """Opens the source that `spec` names, `SCHEME:REST`.

    Raises:
      ConfigError: no such scheme, or the scheme's module refuses the rest.
    """
    scheme, colon, rest = spec.partition(":")
    if not colon:
        raise config.ConfigError(f"Source {spec!r} lacks its scheme: write 'SCHEME:REST', such as 'tfds:emoji:train'.")
    module = config.module("data.sources", scheme)
    if not hasattr(module, "make"):
        raise config.ConfigError(f"Source module {module.__name__!r} has no function `make(rest: str)`.")
    return module.make(rest)
