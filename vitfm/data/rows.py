"""Images named by the rows of a table, as the sources `csv:` and `jsonl:` have them."""

from __future__ import annotations

import itertools
import posixpath
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import files
from vitfm.data.bad import BadExample
from vitfm.data.tables import Csv, Jsonl, Table

# Columns that hold paths of images, captions and labels where nobody says so, the likeliest first.
IMAGE = ("image", "file_name", "filename", "image_path", "file_path", "filepath", "path", "file")
CAPTION, LABEL = ("caption", "text"), ("label", "class")
_TRIED = 16  # Images, of which one has to be there.


class Source:
    """An image a row: `image` is read from the path in a column, beside the other columns."""

    def __init__(self, table: Table, image: str, roles: dict[str, str], name: str):
        self.name, self.roles = name, roles
        self._table, self._image = table, image

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self._table.row(range(len(self))[index])
        path = row[self._image]
        if not isinstance(path, str):
            raise BadExample("missing", f"{self._table.path}, row {index}: {self._image!r} = {path!r} is no path.")
        return {**row, "image": files.read(files.join(files.parent(self._table.path), path)), "key": path}

    def column(self, feature: str) -> list[Any]:
        """A feature of every row; None in damaged ones."""
        if feature == "image":
            raise ConfigError(f"{self.name}: the images of all rows are no column.")
        return self._table.column(self._image if feature == "key" else feature)

    def key(self, index: int) -> str:
        """The path of its image, as it is written; rows of one image have one key, damaged ones their number."""
        index = range(len(self))[index]
        try:
            return self._key(index, self._table.row(index)[self._image])
        except BadExample:
            return self._key(index, None)

    def keys(self) -> list[str]:
        """The keys of all rows."""
        return list(itertools.starmap(self._key, enumerate(self.column("key"))))

    def _key(self, index: int, path: Any) -> str:
        return f"{posixpath.basename(self._table.path)}[{index}]" if path is None else str(path)


def make(table: type[Jsonl] | type[Csv], rest: str) -> Source:
    """Opens `PATH[?image=COLUMN&caption=COLUMN&label=COLUMN]`.

    Raises:
      ConfigError: no such file or column, or none of its images is there.
    """
    path, mark, query = rest.rpartition("?")
    if not mark or "=" not in query:  # A path may have a question mark.
        path, query = rest, ""
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    return config.call(_source, options, where="data.source", table=table(path), name=rest)


def _source(
    *, image: str | None = None, caption: str | None = None, label: str | None = None, table: Table, name: str
) -> Source:
    path = _chosen(table, image, IMAGE)
    if path is None:
        raise ConfigError(
            f"{table.path!r} has no column for its images, such as 'image' or 'file_name': say which of "
            f"{', '.join(table.names)} it is, '{name}?image=COLUMN'."
        )
    roles = {"label": _chosen(table, label, LABEL), "caption": _chosen(table, caption, CAPTION)}
    source = Source(table, path, {"image": "image"} | {key: own for key, own in roles.items() if own}, name)
    _check_images(table, path, name)
    return source


def _chosen(table: Table, given: str | None, likely: Sequence[str]) -> str | None:
    """The column that is asked for, or else the first of the likely ones, in any case."""
    if given is not None and given not in table.names:
        raise ConfigError(f"{table.path!r} has no column {given!r}: {config.nearest(given, table.names)}")
    return given or next((own for name in likely for own in table.names if own.lower() == name), None)


def _check_images(table: Table, image: str, name: str) -> None:
    if not len(table):
        raise ConfigError(f"{name} has no rows.")
    numbers = np.unique(np.linspace(0, len(table) - 1, _TRIED).astype(int))
    looked = []
    for number in numbers:
        try:
            looked.append(files.join(files.parent(table.path), str(table.row(int(number))[image])))
        except BadExample:
            continue
        if files.exists(looked[-1]):
            return
    raise ConfigError(
        f"{name}: none of {len(numbers)} images is there, such as {looked[0] if looked else None!r}. Paths are "
        "relative to the folder of the file."
    )
