"""ArrayRecord files of one's own making: `array_record:PATTERN`; those that TFDS prepared are `tfds:NAME`.

    array_record:/data/train-*.array_record

A record is an encoded image, the feature `image`, or a serialized tf.train.Example with features of its own. Bytes that
are text become `str`; one value stands alone, several are a tuple of texts or an array, none is None. `key` is the file
and the row.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.data import files, formats
from vitfm.data.bad import BadExample
from vitfm.data.shards import Shards, in_threads
from vitfm.data.texts import Texts

# The likeliest names of features; those with a slash are of TensorFlow's older converters.
_LIKELY = {
    "image": ("image", "image/encoded", "img", "jpg", "jpeg", "png"),
    "label": ("label", "image/class/label", "class"),
    "caption": ("caption", "text", "image/caption", "captions"),
}
_TAG = 0x0A  # The first byte of a tf.train.Example, and of no image.
_LOOKED_AT = 16  # Records, of which one has to have an image.


class Source:
    """The records of ArrayRecord files, in their order."""

    def __init__(self, name: str, shards: Shards):
        from array_record.python import array_record_data_source

        self.name = name
        self._shards = shards
        counts = zip(shards.paths, shards.counts.tolist(), strict=True)
        named = [f"{files.local(path)}[0:{count}]" for path, count in counts]  # It would open all files to count again.
        self._records = array_record_data_source.ArrayRecordDataSource(named)
        self.roles = self._looked_up()

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        key, example = self.key(index), self._features(index)
        if example.get(self.roles["image"]) is None:
            raise BadExample(
                "missing", f"{self.name}: {key} has no {self.roles['image']!r}, only {', '.join(example)}."
            )
        return {**example, "key": key}

    def column(self, feature: str) -> Sequence[Any]:
        """A feature of every record, which is read whole; None where it lacks it or can't be read."""
        if feature == "key":
            return self.keys()
        if feature == self.roles["image"]:
            raise ConfigError(f"{self.name}: {feature!r} of all examples is no column.")
        ends = np.cumsum(self._shards.counts)

        def values(file: int) -> list[Any]:
            return [
                self._or_none(index, feature) for index in range(ends[file] - self._shards.counts[file], ends[file])
            ]

        found = in_threads(values, range(len(ends)), f"Reading {feature}")
        return [value for own in found for value in own]

    def key(self, index: int) -> str:
        """The file, below the folder of all, and the row in it."""
        file, row = self._shards.place(index)
        return f"{self._shards.name(file)}[{row}]"

    def keys(self) -> Sequence[str]:
        """The keys of all records."""
        counts = enumerate(self._shards.counts.tolist())
        return Texts(f"{self._shards.name(file)}[{row}]" for file, count in counts for row in range(count))

    def _features(self, index: int) -> dict[str, Any]:
        where = f"{self.name}: {self.key(index)}"
        try:
            record = self._records[index]
        except RuntimeError as error:  # Of all that may be wrong with a file.
            raise BadExample("corrupt", f"{where} can't be read: {error}") from None
        if not record:
            raise BadExample("empty", f"{where} has 0 bytes.")
        return _parsed(record, where) if record[0] == _TAG else {"image": record}

    def _or_none(self, index: int, feature: str) -> Any:
        try:
            return self._features(index).get(feature)
        except BadExample:
            return None

    def _looked_up(self) -> dict[str, str]:
        """Which features are the image, the label and the caption, by the first record that has an image."""
        seen: dict[str, str] = {}
        for index in range(min(_LOOKED_AT, len(self))):
            try:
                example = self._features(index)
            except BadExample as error:
                seen[str(error)] = ""
                continue
            likely = {role: next(filter(example.__contains__, names), None) for role, names in _LIKELY.items()}
            images = [name for name, value in example.items() if isinstance(value, bytes) and _is_image(value)]
            likely["image"] = likely["image"] if likely["image"] in images else next(iter(images), None)
            if images:
                return {role: name for role, name in likely.items() if name}
            seen |= {name: f" ({type(value).__name__}, {value!r:.30})" for name, value in example.items()}
        features = ", ".join(f"{name}{what}" for name, what in seen.items())
        raise ConfigError(f"array_record:{self.name} has records with no encoded image, but {features}.")


def make(rest: str) -> Source:
    """Opens the files.

    Raises:
      ConfigError: no such file, one that is damaged, not here, or prepared by TFDS; or no images.
    """
    found = files.listing(rest)
    for path in found:
        if "://" in path and not path.startswith("file://"):
            raise ConfigError(f"{path!r}: ArrayRecord is read from local disks only; copy it to one.")
    for folder in sorted({files.parent(path) for path in found}):
        if files.exists(files.join(folder, "dataset_info.json")):
            raise ConfigError(
                f"array_record:{rest}: {folder or '.'} was prepared by TFDS, which knows features and classes. Read it "
                "as 'tfds:NAME:SPLIT', with $TFDS_DATA_DIR set to the folder that has NAME/VERSION."
            )
    paths = [path for path in found if ".array_record" in path or ".arrayrecord" in path] or found
    shards = Shards(paths, list(in_threads(_count, paths, "Opening files")))
    if not len(shards):
        raise ConfigError(f"array_record:{rest} has no records.")
    return Source(rest, shards)


def _count(path: str) -> int:
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(files.local(path))
        count = reader.num_records()
        reader.close()  # It says only now what was wrong.
    except RuntimeError as error:
        what = str(error).partition("\n")[0] or "its end is missing"
        raise ConfigError(f"{path!r} is no whole ArrayRecord file: {what}.") from None
    return count


def _is_image(value: bytes) -> bool:
    try:
        formats.kind(value)
    except BadExample:
        return False
    return True


@functools.cache
def _example() -> Any:
    from tensorflow_datasets.proto import tf_example_pb2  # Half a second, and no TensorFlow.

    return tf_example_pb2.Example


def _parsed(record: bytes, where: str) -> dict[str, Any]:
    """The features of a tf.train.Example."""
    from google.protobuf.message import DecodeError

    try:
        features: Mapping[str, Any] = _example().FromString(record).features.feature
    except DecodeError as error:
        raise BadExample("corrupt", f"{where} is no tf.train.Example: {error}.") from None
    return {name: _value(feature) for name, feature in sorted(features.items())}


def _value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    values = getattr(feature, kind).value if kind else ()
    if kind == "bytes_list":
        values = tuple(map(_text, values))
    elif kind:
        values = np.array(values, np.float32 if kind == "float_list" else np.int64)
    return values if len(values) > 1 else values[0] if len(values) else None


def _text(value: bytes) -> str | bytes:
    """Text in UTF-8 as `str`; no image is without zeros in its header."""
    try:
        return value if b"\0" in value else value.decode()
    except UnicodeDecodeError:
        return value
