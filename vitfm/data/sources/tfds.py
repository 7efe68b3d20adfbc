"""TFDS data sets prepared in ArrayRecord, read without TensorFlow: `tfds:NAME[/CONFIG][:VERSION][:SPLIT]`.

    tfds:emoji                         the data set inside vitfm, split `train`
    tfds:emoji:test_style              another split
    tfds:imagenet2012:train[:99%]      a slice, in TFDS's own notation
    tfds:my_set/large:1.*.*:train      a configuration and a version

Any other name than the embedded one is looked up where TFDS keeps prepared data: in $TFDS_DATA_DIR if that is set, in
~/tensorflow_datasets if not.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.config import ConfigError, nearest

EMBEDDED = pathlib.Path(__file__).parents[1]  # vitfm/data, which holds emoji/1.0.0.
_SPEC = re.compile(r"(?P<name>[\w./-]+)(:(?P<version>\d[\w.*]*))?(:(?P<split>[^\d].*))?")


class Source:
    """One split of a prepared data set."""

    def __init__(self, directory: str, split: str, name: str):
        import tensorflow_datasets as tfds  # Half a second, so only for those who read TFDS.

        builder = tfds.builder_from_directory(directory)
        images = [key for key, feature in builder.info.features.items() if isinstance(feature, tfds.features.Image)]
        self.name = name
        self._arguments = (directory, split, name)
        self._encoded = frozenset(images)
        self._features = builder.info.features
        self._records = _open(builder, split, name, {key: tfds.decode.SkipDecoding() for key in images})

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[range(len(self))[index]]  # The range knows negative indices and raises IndexError.
        return {key: value if key in self._encoded else _plain(value) for key, value in record.items()}

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


def _open(builder: Any, split: str, name: str, decoders: Mapping[str, Any]) -> Any:
    """TFDS's random access to the records of `split`."""
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
        return builder.as_data_source(split, decoders=dict(decoders), file_format="array_record")
    except (ValueError, AssertionError) as error:
        hint = nearest(re.split(r"[\[+]", split)[0], list(builder.info.splits))
        raise ConfigError(f"{name!r} has no examples {split!r}: {str(error).splitlines()[-1]}; {hint}") from None


def _command(name: str) -> str:
    code = f"import tensorflow_datasets as t; t.builder('{name}', file_format='array_record').download_and_prepare()"
    return f'python -c "{code}"'


def _plain(value: Any) -> Any:
    """TFDS's bytes to `str`, sequences of bytes to tuples of `str`; numbers, and bytes that are no text, as is."""
    if isinstance(value, list) or (isinstance(value, np.ndarray) and value.dtype == object):
        return tuple(_plain(v) for v in value)
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
