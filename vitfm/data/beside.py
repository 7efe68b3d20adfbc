"""What a folder says of its images: in which folder they lie, texts and objects beside them, tables of metadata.

Each is a table with a row an image, `names`, `row(index)` and `column(name)`, as those of `vitfm.data.tables`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from vitfm.config import ConfigError
from vitfm.data import files, tables
from vitfm.data.bad import BadExample, printable
from vitfm.data.shards import in_threads
from vitfm.data.texts import Texts

OURS = ("image", "key")  # Features of every image, which nothing beside it may be called.
_LOOKED_AT = 16  # Objects whose keys are features.
_BLOCK = 64  # Files that a thread reads.


class Columns(Protocol):
    """Features of images, by their numbers.

    Attributes:
      names: of the features.
    """

    names: tuple[str, ...]

    def row(self, index: int) -> dict[str, Any]:
        """Feature -> value, None where this image has none.

        Raises:
          BadExample: what lies beside it can't be read.
        """

    def column(self, name: str) -> Sequence[Any]:
        """A feature of all images; None of those whose row can't be read."""


class Folders:
    """`label`: the first folder of each path, as it can be printed."""

    names = ("label",)

    def __init__(self, paths: Texts, classes: Sequence[str]):
        self.classes = tuple(map(printable, classes))
        self._paths = paths

    def row(self, index: int) -> dict[str, Any]:
        return {"label": _folder(self._paths[index])}

    def column(self, name: str) -> list[str]:
        return list(map(_folder, self._paths))


def _folder(path: str) -> str:
    return printable(path.partition("/")[0])


class Sidecars:
    """`caption` from `x.txt` or `x.json` beside `x.jpg`, and the other keys of the latter.

    The keys are those of the first few objects; other keys of later ones are left out.
    """

    def __init__(self, root: str, paths: Texts, texts: Mapping[str, str], objects: Mapping[str, str]):
        """Finds which images have something beside them.

        Args:
          root: the folder.
          paths: of the images, below it.
          texts, objects: paths of all files that end in .txt and in .json, without these endings -> the ending as it
            is written: .txt, .TXT.
        """
        self._root, self._paths = root, paths
        self._suffixes = ("", *sorted({*texts.values(), *objects.values()}))
        number = {suffix: index for index, suffix in enumerate(self._suffixes)}
        stems = lambda: (posixpath.splitext(path)[0] for path in paths)
        numbers = lambda found: np.fromiter((number[found.get(stem, "")] for stem in stems()), np.uint8, len(paths))
        self._texts, self._objects = numbers(texts), numbers(objects)  # Of an image's suffixes, 0 for no file.
        keys: dict[str, None] = {}
        for index in np.flatnonzero(self._objects)[:_LOOKED_AT]:
            try:
                keys |= dict.fromkeys(self._object(int(index)))
            except BadExample:
                continue
        self._caption = "caption" if "caption" in keys else "text"
        captioned = self._texts.any() or self._caption in keys
        others = [key for key in keys if key not in (*OURS, self._caption)]
        self.names = ("caption", *others) if captioned else tuple(others)

    def row(self, index: int) -> dict[str, Any]:
        found = dict.fromkeys(self.names)
        if self._objects[index]:
            own = self._object(index)
            found |= {name: tables.plain(own.get(name)) for name in self.names}
            if "caption" in found:
                found["caption"] = tables.plain(own.get(self._caption)) or None
        if self._texts[index]:
            found["caption"] = self._text(index) or found["caption"]
        return found

    def column(self, name: str) -> list[Any]:
        return self.some(name, range(len(self._paths)))

    def some(self, name: str, indices: Sequence[int]) -> list[Any]:
        """A feature of these images, in threads; None of those whose row can't be read."""
        values = lambda block: [self._or_none(int(index), name) for index in block]
        blocks = [indices[start : start + _BLOCK] for start in range(0, len(indices), _BLOCK)]
        return [value for own in in_threads(values, blocks, f"Reading {name}") for value in own]

    def _or_none(self, index: int, name: str) -> Any:
        try:
            return self.row(index)[name]
        except BadExample:
            return None

    def _text(self, index: int) -> str:
        path, content = self._read(index, self._texts)
        try:
            return content.decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise BadExample("caption", f"{path} is no text in UTF-8: {error}.") from None

    def _object(self, index: int) -> dict[str, Any]:
        path, content = self._read(index, self._objects)
        found = tables.json_object(content)
        if found is None:
            raise BadExample("corrupt", f"{path} is no JSON object.")
        return found

    def _read(self, index: int, numbers: np.ndarray) -> tuple[str, bytes]:
        stem = posixpath.splitext(self._paths[index])[0]
        path = files.under(self._root, stem + self._suffixes[numbers[index]])
        return path, files.read(path)


class Metadata:
    """The columns of tables with the path of an image, seen from where the table lies, in `file_name`."""

    def __init__(self, root: str, paths: Texts, found: Sequence[str]):
        """Finds the row of each image; where two tables have one, the last counts.

        Args:
          root: the folder.
          paths: of the images, below it.
          found: paths of the tables, below it; those without `file_name` are of something else.

        Raises:
          ConfigError: there is no image of those that they name.
        """
        opened = [(path, tables.make(files.under(root, path))) for path in found]
        opened = [(path, table) for path, table in opened if "file_name" in table.names]
        self._tables = [table for _, table in opened]
        self._table, self._row = np.full(len(paths), -1, np.int32), np.zeros(len(paths), np.int64)
        index_of = {path: index for index, path in enumerate(paths)} if opened else {}
        for number, (path, table) in enumerate(opened):
            if not len(table):
                raise ConfigError(f"{table.path!r} has no rows: give each image one, or remove the table.")
            for row, name in enumerate(table.column("file_name")):
                index = index_of.get(posixpath.normpath(f"{files.parent(path)}{name}"))
                if index is not None:
                    self._table[index], self._row[index] = number, row
            if not (self._table == number).any():
                raise ConfigError(
                    f"{table.path!r}: there is no image of those in its column 'file_name', such as {name!r}. They are "
                    "paths from the folder of the table."
                )
        every = dict.fromkeys(name for table in self._tables for name in table.names)
        self.names = tuple(name for name in every if name not in (*OURS, "file_name"))

    def row(self, index: int) -> dict[str, Any]:
        own = self._tables[self._table[index]].row(int(self._row[index])) if self._table[index] >= 0 else {}
        return {name: own.get(name) for name in self.names}

    def column(self, name: str) -> list[Any]:
        columns = [table.column(name) if name in table.names else None for table in self._tables]
        own = lambda number, row: None if number < 0 or columns[number] is None else columns[number][row]
        return [own(number, row) for number, row in zip(self._table, self._row, strict=True)]
