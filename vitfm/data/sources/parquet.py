"""Parquet files with images in them, as Hugging Face keeps data sets: `parquet:PATTERN[?image=COLUMN&...]`.

    parquet:/data/train-*.parquet
    parquet:s3://bucket/set/{000..127}.parquet?image=photo&caption=alt&columns=photo,alt

The column of images holds their bytes, or structs of `bytes` and `path`, where a path is seen from the file's folder.
Which column it is, and which those of captions and labels, is known by their names, or given as `image`, `caption` and
`label`. All columns, or those that `columns` lists, are features, beside `key`, the file and the row.

A file is read by row groups, of which some stay in memory: in random order, an example costs the decoding of one.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import re
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import files, parquet_file, tables
from vitfm.data.bad import BadExample
from vitfm.data.parquet_file import Footer
from vitfm.data.recent import Recent
from vitfm.data.shards import Shards, in_threads
from vitfm.data.texts import Texts

_KEPT = 512 * 2**20  # Bytes of row groups, in a process.
_LARGE = 64 * 2**20  # Bytes of a row group that are much for one example: some 50 ms.
_FOOTERS = 256  # Kept, in a process.
_SPLIT = re.compile(r"(?:^|[/_.-])(train|val|valid|validation|dev|test)(?=[/_.-])", re.IGNORECASE)


class Source:
    """The rows of Parquet files, in their order."""

    def __init__(
        self, name: str, shards: Shards, footers: Sequence[Footer], columns: Sequence[str], roles: dict[str, str]
    ):
        self.name, self.roles = name, roles
        self._shards, self._columns = shards, tuple(columns)
        # First row of each row group, in its file; and where in this those of a file begin.
        self._starts = np.concatenate([np.cumsum([0, *own.rows])[:-1] for own in footers])
        self._first = np.cumsum([0, *(len(own.rows) for own in footers)])
        self._schema = footers[0].schema
        self._images = frozenset(name for name in columns if parquet_file.of_images(self._schema.field(name).type))
        self._reset()

    def _reset(self) -> None:
        self._groups = Recent(_KEPT)
        self._footer = functools.lru_cache(_FOOTERS)(self._read_footer)

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, row = self._shards.place(index)
        starts = self._starts[self._first[file] : self._first[file + 1]]
        group = int(np.searchsorted(starts, row, side="right")) - 1
        table = self._groups.get((file, group), lambda: self._read(file, group))
        try:
            values = {name: table.column(name)[row - int(starts[group])].as_py() for name in self._columns}
        except UnicodeDecodeError as error:
            raise BadExample(
                "corrupt", f"{self.name}: {self.key(index)} has a text that is no UTF-8: {error}."
            ) from None
        example = {name: self._plain(name, value, file) for name, value in values.items()}
        key, image = self.key(index), self.roles["image"]
        if example[image] is None:
            raise BadExample("missing", f"{self.name}: {key} has no {image!r}.")
        return {**example, "key": key}

    def classes(self, feature: str) -> tuple[str, ...] | None:
        """Names of the classes, where the files have them as Hugging Face writes them."""
        names = parquet_file.described(self._schema, feature).get("names")
        return tuple(names) if names else None

    def column(self, feature: str) -> Sequence[Any]:
        """A feature of every row; None in files that are damaged."""
        if feature == "key":
            return self.keys()
        if feature not in self._columns or feature in (*self._images, self.roles["image"]):
            raise ConfigError(f"{self.name}: {feature!r} of all examples is no column.")

        def values(file: int) -> list[Any]:
            try:
                return [tables.plain(value) for value in self._read(file, None, [feature]).column(feature).to_pylist()]
            except (BadExample, UnicodeDecodeError):
                return [None] * int(self._shards.counts[file])

        found = in_threads(values, range(len(self._shards.paths)), f"Reading {feature}")
        return [value for own in found for value in own]

    def key(self, index: int) -> str:
        """The file, below the folder of all, and the row in it."""
        file, row = self._shards.place(index)
        return f"{self._shards.name(file)}[{row}]"

    def keys(self) -> Sequence[str]:
        """The keys of all rows."""
        counts = enumerate(self._shards.counts.tolist())
        return Texts(f"{self._shards.name(file)}[{row}]" for file, count in counts for row in range(count))

    def _plain(self, name: str, value: Any, file: int) -> Any:
        """A value without Arrow's types; what is the path of an image is read."""
        if name not in self._images and name != self.roles["image"]:
            return tables.plain(value)
        if isinstance(value, dict):
            value = value.get("path") if value["bytes"] is None else value["bytes"]
        if isinstance(value, str):
            return files.read(files.join(files.parent(self._shards.paths[file]), value))
        return value

    def _read(self, file: int, group: int | None, columns: Sequence[str] | None = None) -> Any:
        """A table of a row group, or of the whole file."""
        import pyarrow

        path, columns = self._shards.paths[file], list(columns or self._columns)
        try:
            with parquet_file.opened(path, self._footer(file)) as opened:
                if group is None:
                    return opened.read(columns, use_threads=False)
                return opened.read_row_group(group, columns, use_threads=False)
        except (FileNotFoundError, ConfigError) as error:
            raise BadExample("missing", f"{path} can't be read: {error}") from None
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise BadExample("corrupt", f"{path}, row group {group}: {error}") from None

    def _read_footer(self, file: int) -> Any:
        with parquet_file.opened(self._shards.paths[file]) as opened:
            return opened.metadata

    def __getstate__(self) -> dict[str, Any]:
        return {name: own for name, own in self.__dict__.items() if name not in ("_groups", "_footer")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


def make(rest: str) -> Source:
    """Opens the files, whose footers are read.

    Raises:
      ConfigError: no such file or column, one that is damaged, no images, several splits, or no pyarrow.
    """
    if importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"'parquet:{rest}' needs pyarrow: pip install 'vitfm[parquet]'.")
    pattern, mark, query = rest.rpartition("?")
    if not mark or "=" not in query:  # A pattern may have a question mark.
        pattern, query = rest, ""
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    found = files.listing(pattern)
    paths = [path for path in found if path.lower().endswith((".parquet", ".pq"))] or found
    footers = list(in_threads(parquet_file.footer, paths, "Reading footers"))
    shards = Shards(paths, [sum(own.rows) for own in footers])
    if not len(shards):
        raise ConfigError(f"parquet:{pattern} has no rows.")
    _check_splits(pattern, [shards.name(file) for file in range(len(paths))])
    return config.call(_source, options, where="data.source", shards=shards, footers=footers, name=rest)


def _source(
    *,
    image: str | None = None,
    caption: str | None = None,
    label: str | None = None,
    columns: str | None = None,
    shards: Shards,
    footers: Sequence[Footer],
    name: str,
) -> Source:
    schema = footers[0].schema
    given = [column for column in (image, caption, label) if column]
    listed = list(dict.fromkeys([*columns.split(","), *given])) if columns else schema.names
    for column in (*listed, *given):
        for path, own in zip(shards.paths, footers, strict=True):
            if column not in own.schema.names:
                raise ConfigError(f"{path!r} has no column {column!r}: {config.nearest(column, own.schema.names)}")
    roles = {
        "image": image or parquet_file.image(schema, listed),
        "caption": caption or parquet_file.caption(schema, listed),
        "label": label or parquet_file.label(schema, listed),
    }
    types = ", ".join(f"{column} ({schema.field(column).type})" for column in listed)
    if roles["image"] is None:
        raise ConfigError(f"parquet:{name}: which column has the images? Say '?image=COLUMN', one of {types}.")
    kind = schema.field(roles["image"]).type
    if not (parquet_file.of_images(kind) or parquet_file.of_texts(kind)):
        raise ConfigError(f"parquet:{name}: {roles['image']!r} has neither bytes of images nor paths: {types}.")
    _warn(name, [size for own in footers for size in own.bytes])
    return Source(name, shards, footers, listed, {role: column for role, column in roles.items() if column})


def _check_splits(pattern: str, names: Sequence[str]) -> None:
    """Refuses to train on test images, unless the pattern says so."""
    found = {match[1].lower() for name in names for match in _SPLIT.finditer(name)}
    if len(found) > 1 and not all(split in pattern.lower() for split in found):
        raise ConfigError(
            f"parquet:{pattern} holds {' and '.join(sorted(found))}: name the files of one of them, such as "
            f"'*{max(found)}*.parquet'."
        )


def _warn(name: str, sizes: Sequence[int]) -> None:
    mean = sum(sizes) / len(sizes)
    if sum(sizes) > _KEPT and mean > _LARGE:
        logging.getLogger(__name__).warning(
            "%s: row groups have %d MB, and in random order each example costs the decoding of one. "
            "`python -m vitfm.data prepare` makes a data set of it that is read example by example.",
            name,
            mean / 2**20,
        )
