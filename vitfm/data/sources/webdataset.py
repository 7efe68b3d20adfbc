"""Tar shards, as img2dataset and webdataset write them: `webdataset:PATTERN`.

    webdataset:/data/{00000..00331}.tar     0001.jpg, 0001.txt and 0001.json are one example
    webdataset:s3://bucket/cc12m            all .tar in a folder

Features of an example are `image`, the bytes of its .jpg, .png, ...; `caption`, the text of its .txt, or what is called
"caption" or "text" in its .json; the other keys of that; `label`, the integer in its .cls; `key`, its shard and name;
and the bytes of any other member, by its extension. A feature that it lacks is None.

A shard is looked through once, header by header (`vitfm.data.tar_index`); from then on any example is one read.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from vitfm.config import ConfigError
from vitfm.data import files, tables, tar_index
from vitfm.data.bad import BadExample
from vitfm.data.shards import Shards, in_threads
from vitfm.data.sources import folder
from vitfm.data.texts import Texts

_IMAGES = (suffix.removeprefix(".") for suffix in folder.SUFFIXES)
_FEATURES = dict.fromkeys(_IMAGES, "image") | {"txt": "caption", "cls": "label"}
_COMPRESSED = {"gz": "gunzip", "tgz": "gunzip", "bz2": "bunzip2", "xz": "unxz", "zst": "unzstd"}
_ENDING = re.compile(r"\.(tgz|(?<=\.tar\.)(?:gz|bz2|xz|zst))$", re.IGNORECASE)
_OPEN = 128  # Indexes, in a process.
_APART = 2**16  # Bytes of other examples between members of one that are read with them.
_LOOKED_AT = 16  # Objects whose keys are features.
_SHOWN = 5  # Extensions in a message.


class _Facts(NamedTuple):
    """Of an index, which is closed again."""

    stamp: str
    count: int
    extensions: tuple[str, ...]
    note: str


class Source:
    """The examples of tar shards, in their order."""

    def __init__(self, name: str, paths: Sequence[str], facts: Sequence[_Facts]):
        self.name = name
        self._shards = Shards(paths, [own.count for own in facts])
        self._stamps = Texts(own.stamp for own in facts)
        self._index = functools.lru_cache(_OPEN)(self._opened)
        extensions = dict.fromkeys(extension for own in facts for extension in own.extensions)
        self._keys, self._caption = self._keys_of_objects() if "json" in extensions else ((), "caption")
        features = [_feature(extension) for extension in extensions if extension != "json"]
        self._names = tuple(dict.fromkeys([*features, *self._keys, "key"]))
        image = "image" if "image" in self._names else next(filter(_is_image, extensions))  # Such as input.jpg.
        self.roles = {"image": image} | {role: role for role in ("label", "caption") if role in self._names}

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        shard, row = self._shards.place(index)
        key, contents = self.key(index), self._contents(shard, row)
        if self.roles["image"] not in map(_feature, contents):
            raise BadExample("missing", f"{self.name}: {key} has no image, only {', '.join(contents)}.")
        return dict.fromkeys(self._names) | self._features(contents, key) | {"key": key}

    def column(self, feature: str) -> Sequence[Any]:
        """A feature of every example; None where it lacks it or can't be read."""
        if feature == "key":
            return self.keys()
        wanted = self._wanted(feature)

        def values(shard: int) -> list[Any]:
            return [self._value(shard, row, wanted, feature) for row in range(self._shards.counts[shard])]

        shards = range(len(self._shards.paths))
        return [value for own in in_threads(values, shards, f"Reading {feature}") for value in own]

    def some(self, feature: str, indices: Sequence[int]) -> Sequence[Any]:
        """A feature of these examples, as `column` has it."""
        if feature == "key":
            return [self.key(index) for index in indices]
        wanted = self._wanted(feature)
        value = lambda index: self._value(*self._shards.place(index), wanted, feature)
        return list(in_threads(value, indices, f"Reading {feature}"))

    def key(self, index: int) -> str:
        """The shard, below the folder of all, and the name of the example in it."""
        shard, row = self._shards.place(index)
        return f"{self._shards.name(shard)}/{self._index(shard).key(row)}"

    def keys(self) -> Sequence[str]:
        """The keys of all examples."""
        shards = range(len(self._shards.paths))
        return Texts(f"{self._shards.name(shard)}/{key}" for shard in shards for key in self._index(shard).all_keys())

    def _wanted(self, feature: str) -> Callable[[str], bool]:
        """Which extensions a feature is read from.

        Raises:
          ConfigError: it is none, or the image, which is not read without need.
        """
        if feature == "image" or feature not in self._names:
            raise ConfigError(f"{self.name}: {feature!r} of all examples is no column.")
        in_objects = feature in self._keys
        return lambda extension: feature == _feature(extension) or (in_objects and extension == "json")

    def _opened(self, shard: int) -> tar_index.Index:
        return tar_index.make(self._shards.paths[shard], self._stamps[shard])

    def _contents(self, shard: int, row: int, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, bytes]:
        """Extension -> bytes, of the members that are wanted."""
        path, members = self._shards.paths[shard], self._index(shard).members(row)
        spans = {extension: span for extension, span in members.items() if wanted(extension)}
        first = min((start for start, _ in spans.values()), default=0)
        length = max((start + own for start, own in spans.values()), default=0) - first
        if length > sum(own for _, own in spans.values()) + _APART:
            return {extension: files.read_range(path, *span) for extension, span in spans.items()}
        piece = files.read_range(path, first, length)
        return {extension: piece[start - first : start - first + own] for extension, (start, own) in spans.items()}

    def _features(self, contents: Mapping[str, bytes], key: str) -> dict[str, Any]:
        example: dict[str, Any] = {}
        if self._keys and "json" in contents:
            own = _object(contents["json"], f"{self.name}: {key}.json")
            example = {name: tables.plain(own.get(self._caption if name == "caption" else name)) for name in self._keys}
        given = set()
        for extension, content in contents.items():
            if extension != "json":
                name = _feature(extension)
                name = extension if name in given else name  # Of two images, the first is `image`.
                given.add(name)
                value = _value(extension, content, f"{self.name}: {key}.{extension}")
                example[name] = example.get(name) if value is None else value
        return example

    def _value(self, shard: int, row: int, wanted: Callable[[str], bool], feature: str) -> Any:
        try:
            return self._features(self._contents(shard, row, wanted), "").get(feature)
        except BadExample:
            return None

    def _keys_of_objects(self) -> tuple[tuple[str, ...], str]:
        """Features of the first few .json, and what that which is the caption is called there."""
        keys: dict[str, None] = {}
        for index in range(min(_LOOKED_AT, len(self))):
            try:
                contents = self._contents(*self._shards.place(index), lambda extension: extension == "json")
                keys |= dict.fromkeys(_object(contents["json"], "") if contents else ())
            except BadExample:
                continue
        caption = "caption" if "caption" in keys else "text"
        return tuple("caption" if key == caption else key for key in keys if key not in ("image", "key")), caption

    def __getstate__(self) -> dict[str, Any]:
        return {name: own for name, own in self.__dict__.items() if name != "_index"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = functools.lru_cache(_OPEN)(self._opened)


def make(rest: str) -> Source:
    """Opens the shards, and looks through those that are new or have changed.

    Raises:
      ConfigError: no such file, or one that is no tar or compressed; no example, or none with an image.
    """
    found = [path for path in files.listing(rest) if not path.endswith(tar_index.SUFFIX)]
    for path in found:
        if ending := _ENDING.search(path):
            raise ConfigError(tar_index.compressed(path, _COMPRESSED[ending[1].lower()]))
    paths = [path for path in found if path.lower().endswith(".tar")] or found
    facts = list(in_threads(_facts, paths, "Looking through tars"))
    noted = [f"{path} {own.note}" for path, own in zip(paths, facts, strict=True) if own.note]
    if noted:
        logging.getLogger(__name__).warning("%d of %d tars: %s.", len(noted), len(paths), ". ".join(noted[:3]))
    found = sorted({extension for own in facts for extension in own.extensions})
    images = [extension for extension in found if _is_image(extension)]
    numbered = len(images) > _SHOWN and not any(extension in _FEATURES for extension in images)  # As in x.0001.jpg.
    if not images or numbered:
        raise ConfigError(
            f"webdataset:{rest}: {sum(own.count for own in facts)} examples in {len(paths)} tars, none with an image, "
            f"but {', '.join(found[:_SHOWN]) or 'nothing'}{', ...' * (len(found) > _SHOWN)}. The members of one are "
            "called 0001.jpg, 0001.txt, ..., with no other dot in the name."
        )
    return Source(rest, paths, facts)


def _facts(path: str) -> _Facts:
    index = tar_index.make(path)
    return _Facts(index.stamp, len(index), index.extensions, index.note)


def _feature(extension: str) -> str:
    """What the content of a member is called: `image`, `caption`, `label`, or as its extension."""
    return _FEATURES.get(extension, extension)


def _kind(extension: str) -> str:
    """What it is read as: mask.png as png."""
    return extension.rpartition(".")[2]


def _is_image(extension: str) -> bool:
    """Whether it is one, be it the feature `image` or another, as mask.png is."""
    return _feature(_kind(extension)) == "image"


def _value(extension: str, content: bytes, where: str) -> Any:
    """A text, a number or bytes; None for an empty text."""
    kind = _kind(extension)
    try:
        if kind == "txt":
            return content.decode("utf-8-sig").strip() or None
        return int(content) if kind == "cls" else content
    except UnicodeDecodeError as error:
        raise BadExample("caption", f"{where} is no text in UTF-8: {error}.") from None
    except ValueError:
        raise BadExample("corrupt", f"{where} is no integer: {content[:40]!r}.") from None


def _object(content: bytes, where: str) -> dict[str, Any]:
    found = tables.json_object(content)
    if found is None:
        raise BadExample("corrupt", f"{where} is no JSON object: {content[:40]!r}.")
    return found
