"""A recipe moved to other data than its own: `--config.data.source=folder:/my/images` and no more than that.

What a recipe says of its data, which features are labels and captions, what evaluators read, holds for that data alone.
Here the new source is asked instead, a tenth of it is held out for what needs unseen images, and every change is told.
What was given on the command line stays as it is.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from vitfm import config as config_lib
from vitfm.config import ConfigError
from vitfm.data import labels as labels_lib
from vitfm.data import parts, sources, tokenizer
from vitfm.data.sources import base
from vitfm.evals import labelled

HELDOUT = 50  # Images from which on a tenth of them says something.
_SAMPLE = 1000  # Captions that are measured.
_LONGEST = 77  # Tokens of a caption, as CLIP has it.
_READS = ("source", "train", "test")  # Keys of an evaluator that name a source.
_SIBLINGS = ("validation", "val", "test")  # What lies beside `train` where somebody has split the data.


def differs(source: Any, own: Any) -> bool:
    """Whether a source is of other data than the recipe's own, and not just another part or split of it."""
    return source is not None and own is not None and _collection(source) != _collection(own)


def fit(config: ml_collections.ConfigDict, own: Any, given: Collection[str]) -> list[str]:
    """Makes what `config` says of its data true of `config.data.source`.

    Args:
      config: a recipe whose source was replaced; it is changed.
      own: the source it was written for.
      given: dotted keys from the command line, which are left alone.

    Returns:
      What was changed, a line each.

    Raises:
      ConfigError: the source can't be opened, or lacks labels or captions that the recipe learns from.
    """
    spec = config.data.source
    source = sources.make(spec.to_dict() if isinstance(spec, ml_collections.ConfigDict) else spec)
    with config.unlocked(), config.ignore_type():
        return list(_fit(config, source, own, _Given(given)))


class _Given:
    """Keys of the command line."""

    def __init__(self, keys: Collection[str]):
        self._keys = keys

    def __contains__(self, key: str) -> bool:
        """Whether this key, one above it or one below it was given."""
        return any(f"{own}.".startswith(f"{key}.") or f"{key}.".startswith(f"{own}.") for own in self._keys)


def _fit(config: ml_collections.ConfigDict, source: base.Source, own: Any, given: _Given) -> Iterator[str]:
    data = config.data
    label, caption = (base.role(source, name) for name in ("label", "caption"))
    image = base.role(source, "image")
    if image and image != data.get("image", "image") and "data.image" not in given:
        data.image = image
        yield f"images are the feature {image!r}"
    other = data.get("channels", 3) != 3 or (data.get("input") or {}).get("dtype", "uint8") != "uint8"
    if data.get("alpha") and other and "data.alpha" not in given:
        data.alpha = False
        yield "images have no opacity: that is for 8-bit RGB"
    if data.get("label") is not None and "data.label" not in given:
        data.label = {"feature": _needed(label, "labels", "data.label.feature", source)}
        yield f"labels are the feature {label!r}"
    if data.get("captions") is not None and "data.captions" not in given:
        name = _needed(caption, "captions", "data.captions.name", source)
        data.captions = {"name": name, "tags": None, "templates": ("{}",)}
        yield f"captions are the feature {name!r}"
        if "data.tokenizer" not in given:
            options = dict(data.get("tokenizer", {}))
            length = _length(source, name, options)
            data.tokenizer = {**options, "length": length}
            yield f"texts are cut at {length} tokens, which nineteen of twenty captions fit into"
    if data.get("columns") and "data.columns" not in given:
        data.columns = dict.fromkeys(data.columns, data.captions["name"]) if data.get("captions") else {}
    if data.get("cache_gb") and "data.cache_gb" not in given:
        data.cache_gb = 0.0  # Made for a few thousand drawings: photographs would fill it and be decoded whole.
        if "data.threads" not in given:
            data.threads = os.cpu_count() or 1
    if "total" not in given:
        yield from _lengthened(config, len(source), own)
    yield from _evaluated(config, source, {"label": label, "caption": caption}, given)


def _lengthened(config: ml_collections.ConfigDict, examples: int, own: Any) -> Iterator[str]:
    """Fewer images than the recipe's own are seen more often: as many steps, not as many epochs."""
    epochs = re.fullmatch(r"(\d+(?:\.\d+)?) epochs?", str(config.total))
    try:
        most = len(sources.make(own)) if epochs else 0
    except ConfigError:  # It is not here.
        return
    if examples < most:
        steps = math.ceil(float(epochs[1]) * most / config.batch_size)
        yield f"{config.total} of so few images would be short: {steps} steps, as with the recipe's own"
        config.total = f"{steps} steps"


def _evaluated(
    config: ml_collections.ConfigDict, source: base.Source, roles: Mapping[str, str | None], given: _Given
) -> Iterator[str]:
    """Evaluators read a tenth that is held out, where there are labels or captions for what they ask."""
    if not config.get("evals") or "evals" in given:
        return
    spec = config.data.source
    parted, told = _parted(spec, source)
    labels = None if roles["label"] is None else _labels(source, roles["label"], parted)
    kept: dict[str, dict[str, Any]] = {}
    flaws: dict[str, dict[str, None]] = {}
    for evaluator in config.evals.to_dict().values():
        moved = _moved(evaluator, roles, spec, parted, texts=labels is not None and labels.texts)
        if moved is None or (parted.whole and "train" in moved):
            continue
        if flaw := labels.flaw(moved) if labels and not moved.keys().isdisjoint(("label", "tasks")) else "":
            flaws.setdefault(flaw, {})[moved["name"]] = None
            continue
        # Those that differed in what they read are one now: drawn where one of them was, and as often.
        shown = {key: moved[key] for key in ("every", "pictures") if moved.get(key)}
        kept[moved["name"]] = {**moved, **kept.get(moved["name"], {}), **shown}
    yield from (f"{', '.join(names)} can't be asked: {flaw}" for flaw, names in flaws.items())
    config.evals = kept
    if not kept:
        yield "no evaluator of the recipe can ask this data anything"
        return
    config.data.source = parted.train
    ours = labels and parted.split and config.data.get("label") is not None and "data.label" not in given
    if ours and not labels_lib.known(source, labels.name):  # Else a class of the tenth alone would be no class.
        config.data.label.classes = labels.classes
    yield f"{told} by {', '.join(kept)}"


class _Parted(NamedTuple):
    """What is trained on and what is evaluated on, by name and opened.

    Attributes:
      split: the two are all of one source, of which the second was held out.
    """

    train: Any
    test: Any
    sources: tuple[base.Source, base.Source]
    split: bool = False

    @property
    def whole(self) -> bool:
        """Nothing is held out."""
        return self.train == self.test


def _parted(spec: Any, source: base.Source) -> tuple[_Parted, str]:
    """The split beside `train`, or a tenth, is held out; and what a person is told."""
    siblings = [spec[: -len("train")] + name for name in _SIBLINGS] if str(spec).endswith((":train", "/train")) else []
    for test in siblings:
        with contextlib.suppress(ConfigError):  # It is not there.
            return _Parted(spec, test, (source, sources.make(test))), f"{test} is evaluated"
    if isinstance(spec, str) and len(source) >= HELDOUT:
        with contextlib.suppress(ConfigError):  # All examples have one key.
            train, test = (f"{spec}{part}" for part in _tenth(spec))
            opened = tuple(parts.make(source, parts.split(own)[1], own) for own in (train, test))
            return _Parted(train, test, opened, True), f"a tenth of the images is held out ({test}) and evaluated"
    return _Parted(spec, spec, (source, source)), "nothing is held out; training images are evaluated"


def _tenth(spec: str) -> tuple[str, str]:
    """Parts of a source: nine tenths and one, of what it is a part of already, by what that goes by."""
    start, end, by = 0.0, 1.0, None
    whole, part = parts.split(spec)
    while part is not None:
        if isinstance(part, parts.Part):
            start, end, by = max(start, part.start), min(end, part.end), by or part.by
        whole, part = parts.split(whole)
    percent = f"{100 * (start + 0.9 * (end - start)):.6f}".rstrip("0").rstrip(".")
    group = f"&by={by}" if by else ""
    return f"#:{percent}%{group}", f"#{percent}%:{group}"


def _moved(
    evaluator: Mapping[str, Any], roles: Mapping[str, str | None], whole: Any, parted: _Parted, *, texts: bool
) -> dict[str, Any] | None:
    """An evaluator's options for other data, `whole` before it was parted; None where that lacks what it asks for."""
    moved = {**evaluator, "prefix": "train" if parted.whole else "heldout"}
    for key in _READS:
        if key in evaluator:
            moved[key] = parted.train if key == "train" else parted.test
    if "label" in evaluator:
        moved["label"] = roles["label"]
    if evaluator["name"] in ("retrieval", "captions"):
        moved["caption"] = roles["caption"]
    if "tasks" in evaluator:
        moved["tasks"] = {"zeroshot": {"label": roles["label"], "classes": whole}} if texts else None
        moved["templates"] = ("{}", "a photo of {}")
    return None if any(value is None and evaluator.get(key, "") is not None for key, value in moved.items()) else moved


def _labels(source: base.Source, name: str, parted: _Parted) -> labelled.Labels:
    """The labels of both parts, read once; no image is."""
    train, test = (base.column(own, name, "data.label.feature") for own in parted.sources)
    classes: Sequence[str] = ()
    with contextlib.suppress(ConfigError):  # Numbers that are no classes.
        classes = labels_lib.known(source, name) or labels_lib.distinct([*train, *(test if parted.split else ())], name)
    return labelled.make(name, train, test, classes)


def _needed(feature: str | None, what: str, key: str, source: base.Source) -> str:
    if feature is None:
        hint = {
            "labels": "Put the images into a folder a class, or name the feature",
            "captions": "Put a text x.txt beside each x.jpg, or a metadata.csv with file_name and text, or name it",
        }[what]
        raise ConfigError(
            f"The recipe learns from {what}, and {source.name} has none that it knows of: its examples have "
            f"{', '.join(sorted(base.first(source)))}. {hint}: --config.{key}=..."
        )
    return feature


def _length(source: base.Source, caption: str, options: Mapping[str, Any]) -> int:
    """Tokens that hold nineteen of twenty captions, up to CLIP's 77; a multiple of 4."""
    tokenize = config_lib.call(tokenizer.make, {**options, "length": _LONGEST}, where="data.tokenizer")
    ids = np.linspace(0, len(source) - 1, min(len(source), _SAMPLE)).astype(int).tolist()
    chosen = base.some(source, caption, "data.captions.name", ids)
    flat = [str(text) for several in chosen for text in (several if isinstance(several, tuple) else (several,)) if text]
    longest = int(np.percentile(tokenize(flat)[1].sum(1), 95)) if flat else _LONGEST
    return min(-(-longest // 4) * 4, _LONGEST)


def _collection(source: Any) -> str:
    """What a source is a part of: `tfds:NAME`, or the whole of it."""
    if not isinstance(source, str):
        return str(source)
    whole = parts.split(source)[0]
    return ":".join(whole.split(":")[:2]) if whole.startswith("tfds:") else whole
