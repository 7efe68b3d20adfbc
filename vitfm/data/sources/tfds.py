"""TFDS data sets prepared in ArrayRecord, read without TensorFlow: `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`.

    tfds:emoji                         the data set inside vitfm, split `train`
    tfds:emoji:test_style              another split
    tfds:imagenet2012:train[:99%]      a slice, in TFDS's own notation
    tfds:my_set/large:1.*.*:train      a configuration and a version

Any other name than the embedded one is looked up where TFDS keeps prepared data: in $TFDS_DATA_DIR if that is set, in
~/tensorflow_datasets if not. `python -m vitfm.data prepare` makes such a data set of any other source.

A class label of -1, which TFDS has for unknown ones, is None. The key of an example is its feature `key`, where it has
that, as `prepare` writes it, and else its file and row.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError, nearest
from vitfm.data.bad import BadExample
from vitfm.data.shards import Shards, in_threads
from vitfm.data.texts import Texts

EMBEDDED = pathlib.Path(__file__).parents[1]  # vitfm/data, which holds emoji/1.0.0.
_SPEC = re.compile(r"(?P<name>[\w./-]+)(:(?P<version>\d[\w.*]*))?(:(?P<split>[^\d].*))?")
_BLOCK = 64  # Records that a thread reads at once.


class Source:
    """One split of a prepared data set."""

    def __init__(self, directory: str, split: str, name: str):
        import tensorflow_datasets as tfds  # Half a second, so only for those who read TFDS.

        builder = tfds.builder_from_directory(directory)
        features = builder.info.features
        images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
        self.name = name
        self.roles = _roles(features, images, builder.info.supervised_keys)
        self._arguments = (directory, split, name)
        self._features, self._encoded = features, frozenset(images)
        self._decoders = {key: tfds.decode.SkipDecoding() for key in images}
        self._records = _open(builder, split, name)
        self._parts = builder.info.splits[split].file_instructions
        self._shards = Shards([part.filename for part in self._parts], [part.take for part in self._parts])
        self._keyed = "key" in features and isinstance(features["key"], tfds.features.Text)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]  # The range knows negative indices and raises IndexError.
        try:
            record = self._records[index]
        except RuntimeError as error:  # Of all that may be wrong with a file.
            raise BadExample("corrupt", f"{self.name}: {self._place(index)} can't be read: {error}") from None
        return self._example(record, self._features)

    def column(self, feature: str) -> list[Any]:
        """A feature of every example, of which the records are read, but nothing else in them is looked at.

        Raises:
          ConfigError: it is an image.
        """
        if feature in self._encoded:
            raise ConfigError(f"{self.name}: {feature!r} of all examples is no column.")
        blocks = range(0, len(self), _BLOCK)
        read = lambda start: self._values(range(start, min(start + _BLOCK, len(self))), feature)
        return [value for block in in_threads(read, blocks, f"Reading {feature}") for value in block]

    def key(self, index: int) -> str:
        """The feature `key`, or the file and the row in it."""
        index = range(len(self))[index]
        key = self._values(range(index, index + 1), "key")[0] if self._keyed else None
        return self._place(index) if key is None else key

    def keys(self) -> Sequence[str]:
        """The keys of all examples."""
        keys = self.column("key") if self._keyed else [None] * len(self)
        return Texts(self._place(index) if key is None else key for index, key in enumerate(keys))

    def _place(self, index: int) -> str:
        file, row = self._shards.place(index)
        return f"{os.path.basename(self._shards.paths[file])}[{self._parts[file].skip + row}]"

    def _values(self, indices: range, feature: str) -> list[Any]:
        """A feature of some examples; None of those that can't be read."""
        only = type(self._features)({feature: self._features[feature]})
        try:
            return [self._example(record, only)[feature] for record in self._records.__getitems__(indices)]
        except RuntimeError:
            return [None] if len(indices) == 1 else [self._values(range(i, i + 1), feature)[0] for i in indices]

    def _example(self, record: bytes, features: Any) -> dict[str, Any]:
        decoders = {key: skip for key, skip in self._decoders.items() if key in features}
        found = features.deserialize_example_np(record, decoders=decoders)
        return {key: value if key in self._encoded else _plain(value, features[key]) for key, value in found.items()}

    def classes(self, feature: str) -> tuple[str, ...] | None:
        """Names of a class label's values, or of those of a sequence of class labels; None for other features.

        Raises:
          KeyError: there is no such feature.
        """
        kind = self._features[feature]
        names = getattr(getattr(kind, "feature", kind), "names", None)
        return None if names is None else tuple(names)

    def __reduce__(self) -> tuple[type[Source], tuple[str, str, str]]:
        return Source, self._arguments  # A worker process opens the files anew.


def make(rest: str) -> Source:
    """Opens `NAME[/CONFIG][:VERSION][:SPLIT]`, the split being `train` where none is given.

    Raises:
      ConfigError: the data set is not prepared, or not in ArrayRecord, or lacks the split.
    """
    spec = _SPEC.fullmatch(rest)
    if not spec:
        raise ConfigError(f"'tfds:{rest}' should read 'tfds:NAME[:SPLIT]', such as 'tfds:emoji:train[:90%]'.")
    return Source(_directory(spec["name"], spec["version"]), spec["split"] or "train", name=rest)


def _directory(name: str, version: str | None) -> str:
    """The folder of the prepared data set: .../NAME[/CONFIG]/VERSION."""
    import tensorflow_datasets as tfds

    embedded = (EMBEDDED / name / "1.0.0").is_dir()
    data_dir = str(EMBEDDED) if embedded else os.environ.get("TFDS_DATA_DIR")  # None is TFDS's own default.
    try:
        full = f"{name}:{version}" if version else name
        return str(tfds.core.read_only_builder.builder_from_files(full, data_dir=data_dir).data_path)
    except tfds.core.DatasetNotFoundError:
        looked = pathlib.Path(data_dir or "~/tensorflow_datasets").expanduser()
        found = [*looked.glob("*/*/dataset_info.json"), *looked.glob("*/*/*/dataset_info.json")]
        known = {"emoji", *(path.relative_to(looked).parts[0] for path in found)}
        raise ConfigError(
            f"No data set {full!r} is prepared in {looked} ($TFDS_DATA_DIR, or else ~/tensorflow_datasets): "
            f"{nearest(name, sorted(known))} Prepare it with\n  {_command(name)}\n"
            "Some data sets need TensorFlow for that one step; reading them never does."
        ) from None


def _open(builder: Any, split: str, name: str) -> Any:
    """TFDS's random access to the records of `split`, which are bytes."""
    import tensorflow_datasets as tfds

    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        folder = builder.data_path
        raise ConfigError(
            f"{name!r} is prepared in {folder} as {' and '.join(sorted(formats))}, which has no random access. "
            f"Remove that folder and prepare it again with\n  {_command(builder.name)}\n"
            "or, where TensorFlow is installed, convert it with\n"
            f"  tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        )
    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw, file_format="array_record")
    except (ValueError, AssertionError) as error:
        hint = nearest(re.split(r"[\[+]", split)[0], list(builder.info.splits))
        raise ConfigError(f"{name!r} has no examples {split!r}: {str(error).splitlines()[-1]}; {hint}") from None


def _roles(features: Mapping[str, Any], images: Sequence[str], supervised: Any) -> dict[str, str]:
    """Which features are the image, the label and the caption.

    The data set may say so of the first two (`supervised`); else they are known by their names, or the only ones of
    their kind.
    """
    pair = supervised if supervised and len(supervised) == 2 and supervised[0] in images else (None, None)
    said = dict(zip(("image", "label"), pair, strict=True))
    classes = [key for key, kind in features.items() if getattr(getattr(kind, "feature", kind), "names", None)]
    named = lambda *names: [name for name in names if name in features]
    only = lambda keys: keys if len(keys) == 1 else []
    likely = {"image": only(images), "label": only(classes), "caption": named("text")}
    chosen = {role: said.get(role) or next(iter([*named(role), *own]), None) for role, own in likely.items()}
    return {role: key for role, key in chosen.items() if isinstance(key, str)}


def _command(name: str) -> str:
    code = f"import tensorflow_datasets as t; t.builder('{name}', file_format='array_record').download_and_prepare()"
    return f'python -c "{code}"'


def _plain(value: Any, kind: Any = None) -> Any:
    """TFDS's bytes to `str`, sequences of bytes to tuples of `str`; numbers, and bytes that are no text, as is."""
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return tuple(_plain(v) for v in value)
    if isinstance(value, dict):
        return {key: _plain(v, kind[key] if hasattr(kind, "keys") else None) for key, v in value.items()}
    if not isinstance(value, bytes):
        return None if hasattr(kind, "names") and value == -1 else value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
