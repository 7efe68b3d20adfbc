"""Sources: where examples come from. `tfds:emoji:train` is `vitfm/data/sources/tfds.py` reading `emoji:train`.

A source is a random-access sequence of examples whose images are still encoded, so that opening one is cheap and the
loader decides in which process an image is decoded. The word before the first colon names a module here, or, dotted, a
module of your own (`my_project.my_source:anything`); its `make(rest)` receives what follows the colon.

    folder:/my/images                             see docs/data.md for all
    folder:/my/images#:90%                        a part of any source, by a hash of each example's key
    folder:/scans#90%:&by=patient                 by a hash of a feature: no patient is on both sides
    folder:/my/images#keep=keep.txt               those whose keys a file lists
    tfds:emoji:test_concept#where=style:noto      those with a feature of that value
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm import config
from vitfm.data import mixture, parts
from vitfm.data.sources.base import Source


def make(spec: str | Mapping[str, Any]) -> Source:
    """Opens the source that `spec` names, `SCHEME:REST[#PART]`, or a mixture: options of `vitfm.data.mixture.make`.

    Raises:
      ConfigError: no such scheme, or the scheme's module refuses the rest.
    """
    if isinstance(spec, Mapping):
        return config.call(mixture.make, spec, where="data.source", open_source=make)
    whole, part = parts.split(spec)
    if part is not None:
        return parts.make(make(whole), part, spec)
    scheme, colon, rest = spec.partition(":")
    if not colon:
        raise config.ConfigError(
            f"Source {spec!r} lacks its scheme: write 'SCHEME:REST', such as 'folder:/my/images' or 'tfds:emoji:train'."
        )
    if rest.startswith("//") and "." not in scheme:  # A module of the user may read what it likes.
        raise config.ConfigError(
            f"Source {spec!r} is a URL that lacks its scheme: write 'folder:{spec}' for images below it, or "
            "'webdataset:', 'parquet:', 'csv:', 'jsonl:' before it."
        )
    module = config.module("data.sources", scheme)
    if not hasattr(module, "make"):
        raise config.ConfigError(f"Source module {module.__name__!r} has no function `make(rest: str)`.")
    return module.make(rest)
