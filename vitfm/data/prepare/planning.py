"""Decides what is to be written: looks at examples, or finds what was decided before."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import files, formats, labels
from vitfm.data.bad import BadExample
from vitfm.data.prepare import images, kinds, store
from vitfm.data.prepare import plan as plan_lib
from vitfm.data.prepare.kinds import Kind, Kinds
from vitfm.data.shards import in_threads
from vitfm.data.sources import base

_KEYS = 1000  # That tell a source from another.
_DECODED = 32  # Images that tell how many channels there are.
_TRIED = 100  # Of the first examples, of which one has to be good.
_OTHERS = 500  # Bytes of a record beside its images.
_MANY = 100_000  # Classes, beyond which a label is rather a number.


def decide(request: plan_lib.Request, whole: base.Source, source: base.Source) -> plan_lib.Plan:
    """The plan, which is the one that is kept where this was asked for before.

    Args:
      request: what is asked for.
      whole: the source; its examples tell the kinds of features.
      source: the part of it that is the split.

    Raises:
      ConfigError: something else was asked for before, the source has changed, or TFDS can't store it.
    """
    kept = files.join(plan_lib.work(request), "plan.json")
    stored = store.read_json(plan_lib.finished(request)) or store.read_json(kept)
    if stored is None:
        plan = _made(request, whole, source)
        store.write_json(kept, {"plan": plan.as_json()})
        return plan
    plan = plan_lib.from_json(stored["plan"], request.folder)
    changed = config.differences(dataclasses.asdict(plan.request), dataclasses.asdict(request))
    if not is_of(plan, source):
        changed.append(f"the source: {plan.examples:,} examples -> {len(source):,}, or others")
    if changed:
        raise ConfigError(
            f"{request.folder} has {request.split!r}, or the beginning of it, from another call:\n  "
            + "\n  ".join(changed)
            + "\nRepeat that call to go on with it, choose another --name, --version or --split, or remove that folder."
        )
    others = _others(request)
    if others not in (None, plan.kinds):  # They were finished after this one was begun.
        raise ConfigError(
            f"{request.split!r} was begun with other features than the other splits of {request.folder} have now: "
            f"remove {plan_lib.work(request)}, so that it begins anew."
        )
    return plan


def is_of(plan: plan_lib.Plan, source: base.Source) -> bool:
    """Whether a plan was made of this source."""
    return plan.examples == len(source) and plan.digest == _digest(source)


def _made(request: plan_lib.Request, whole: base.Source, source: base.Source) -> plan_lib.Plan:
    """A new plan.

    Raises:
      ConfigError: TFDS can't store the source, or not in this data set.
    """
    image = base.role(whole, "image") or "image"
    if image in request.feature:
        raise ConfigError(f"--feature={image}={request.feature[image]}: {image!r} is the image, and stays it.")
    numbers = np.unique(np.linspace(0, len(whole) - 1, request.sample).astype(int))
    shown: list[Mapping[str, Any]] = []
    found, unknown = kinds.infer(_looked_at(request, whole, image, numbers, shown))
    if found.get(image) != Kind("image"):
        raise ConfigError(f"{whole.name}: the feature {image!r} holds no image in {len(numbers):,} examples.")
    roles = {"image": image} | {role: role for role in ("caption", "text") if role in found}
    if (label := base.role(whole, "label")) in found:
        roles["label"] = label
    classes = {name: own for name in found if (own := _classes(request, whole, name, found[name], roles))}
    found |= {name: Kind("class", found[name].shape, tuple(own)) for name, own in classes.items()}
    notes = [f"{name!r} is None in all examples that were looked at, and left out." for name in unknown]
    found = _like_others(request, found, notes)
    each = np.mean([sum(len(own) for own in example.values() if isinstance(own, bytes)) for example in shown]) + _OTHERS
    shards = min(len(source), request.shards or math.ceil(len(source) * each / (request.shard_mb * 1e6)))
    pictures = [name for name, kind in found.items() if kind == Kind("image")]
    facts = {name: images.facts([example[name] for example in shown if name in example]) for name in pictures}
    return plan_lib.Plan(request, len(source), _digest(source), shards, found, facts, classes, roles, notes)


def _looked_at(
    request: plan_lib.Request, source: base.Source, image: str, numbers: np.ndarray, shown: list[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, example) of those that are images, of which some, as they will be stored, are put into `shown`.

    Raises:
      ConfigError: there is none.
    """
    reason, each = "there are none", max(1, len(numbers) // _DECODED)

    def read(number: int) -> tuple[str, Mapping[str, Any]] | BadExample:
        try:
            example = request.example(source, number)
            if not isinstance(example.get(image), bytes):
                raise BadExample("missing", f"{base.key(source, number)} has no bytes in {image!r}.")
            formats.kind(example[image])
            return base.key(source, number), example
        except BadExample as error:
            return error

    for turn, found in enumerate(in_threads(read, numbers.tolist(), "Looking at examples")):
        if isinstance(found, BadExample):
            reason = str(found)
            continue
        if turn % each == 0 or (turn < _TRIED and not shown):
            try:
                shown.append({**found[1], image: images.stored(found[1][image], request.check, request.resize)})
            except BadExample as error:
                reason = str(error)
        yield found
    if not shown:
        raise ConfigError(f"{source.name}: none of {len(numbers):,} examples can be used; the last: {reason}")


def _classes(
    request: plan_lib.Request, source: base.Source, name: str, kind: Kind | Kinds, roles: Mapping[str, str]
) -> Sequence[str] | None:
    """Names of the classes that a feature's values are of; None where it is no class label."""
    asked = request.feature.get(name)
    one = isinstance(kind, Kind) and len(kind.shape) < 2 and (kind.type == "text" or "int" in kind.type)
    if not one or name in ("key", "caption") or asked not in (None, "class"):
        return None
    own = getattr(source, "classes", None)
    known = own(name) if own else None
    if known or not (asked or (name == roles.get("label") and hasattr(source, "column"))):
        return known
    try:
        found = labels.make(feature=name, open_source=lambda: source).classes
    except ConfigError:
        if asked:
            raise
        return None
    return found if asked or len(found) <= _MANY else None


def _others(request: plan_lib.Request) -> Kinds | None:
    """The kinds of the splits that are there; None where there are none.

    Raises:
      ConfigError: the data set was made by something else.
    """
    if not files.exists(files.join(request.folder, "dataset_info.json")):
        return None
    for path in files.below(request.folder):
        if re.fullmatch(r"prepared_\w+\.json", path) and (stored := store.read_json(files.join(request.folder, path))):
            return kinds.from_json(stored["plan"]["kinds"])
    raise ConfigError(f"{request.folder} was not made by `prepare`, which adds no splits to it; take another --name.")


def _like_others(request: plan_lib.Request, found: dict[str, Any], notes: list[str]) -> Kinds:
    """The kinds of the splits that are there, which those of this one have to fit.

    Raises:
      ConfigError: they don't.
    """
    before = _others(request)
    if before is None:
        return found
    for name, kind in found.items():
        if name not in before:
            raise ConfigError(
                f"The feature {name!r} is in none of the splits of {request.folder}: leave it out, "
                f"--feature={name}=none, or take another --name."
            )
        _check_like(name, before[name], kind)
    notes += [f"{name!r}, which other splits have, is None in all of this one." for name in before if name not in found]
    return before


def _check_like(name: str, before: Kind | Kinds, kind: Kind | Kinds) -> None:
    hint = f"--feature={name}=TYPE makes it another, or prepare all splits at once, by --splits."
    if isinstance(before, Kind) and isinstance(kind, Kind) and before.type == "class":
        others = [own for own in kind.names if own not in before.names]
        if others:
            raise ConfigError(f"{name!r} has classes that other splits lack, such as {others[0]!r}: {hint}")
        return
    try:
        same = kinds.widened(before, kind) == before
    except kinds.Unlike:
        same = False
    if not same:
        raise ConfigError(f"{name!r} is {kinds.describe(kind)}, and in other splits {kinds.describe(before)}: {hint}")


def _digest(source: base.Source) -> str:
    """A hash of some keys, which tells whether a source is what it was."""
    numbers = np.unique(np.linspace(0, len(source) - 1, _KEYS).astype(int))
    keys = "\n".join(base.key(source, int(number)) for number in numbers)
    return hashlib.sha256(keys.encode("utf-8", "surrogateescape")).hexdigest()
