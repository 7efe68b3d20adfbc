"""Tables in .jsonl and .csv files, whose rows are read one by one from where each begins.

A row costs eight bytes of memory. Numbers are numbers, lists are tuples, and what a row lacks is None.
"""

from __future__ import annotations

import csv
import io
import json
import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from vitfm.config import ConfigError
from vitfm.data import files
from vitfm.data.bad import BadExample

_LOOKED_AT = 1000  # Objects of a .jsonl file whose keys are its columns.
_INTEGER = re.compile(r"-?(0|[1-9]\d{0,17})", re.ASCII)  # Not 007, which is a name.
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?|-?\.\d+(e[-+]?\d+)?|nan|-?inf", re.ASCII | re.IGNORECASE)


class Table(Protocol):
    """Rows of a file.

    Attributes:
      path: the file.
      names: of its columns; a row has all of them.
    """

    path: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of rows, empty lines not counted."""

    def row(self, index: int) -> dict[str, Any]:
        """Column -> value.

        Raises:
          BadExample: it is damaged.
        """

    def column(self, name: str) -> list[Any]:
        """The values of all rows; None in those that are damaged."""


def make(path: str) -> Table:
    """The table of a file, by its ending.

    Raises:
      ConfigError: it is none.
    """
    return (Jsonl if path.endswith(".jsonl") else Csv)(path)


class Jsonl:
    """One JSON object a line; the columns are the keys of the first thousand, and other keys are left out."""

    def __init__(self, path: str):
        self.path = path
        starts, names, end = array("q"), {}, 0
        with files.stream(path) as lines:
            for line in lines:
                if line.strip():
                    if len(starts) < _LOOKED_AT:
                        names |= dict.fromkeys(json_object(line) or ())
                    starts.append(end)
                end += len(line)
        if not names:
            raise ConfigError(f'{path!r} has no JSON object, such as {{"image": "a.jpg"}}, in a line of its own.')
        self.names = tuple(names)
        self._starts = np.array([*starts, end], np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, index: int) -> dict[str, Any]:
        line = _piece(self, self._starts, index)
        found = json_object(line)
        if found is None:
            raise BadExample("corrupt", f"{self.path}, row {index}, is no JSON object: {line[:60]!r}.")
        return {name: plain(found.get(name)) for name in self.names}

    def column(self, name: str) -> list[Any]:
        with files.stream(self.path) as lines:
            return [plain((json_object(line) or {}).get(name)) for line in lines if line.strip()]


class Csv:
    """A line of names, and values separated by commas, tabs, semicolons or bars; quoted ones may hold line breaks.

    A column is of integers, or of numbers, where all its values are; an empty value is None.
    """

    def __init__(self, path: str):
        self.path = path
        with files.stream(path) as lines:
            head = lines.readline()
        if head.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ConfigError(f"{path!r} is written in UTF-16; save it as UTF-8.")
        fields = lambda mark: len(next(csv.reader([head.decode("utf-8", "replace")], delimiter=mark), ()))
        self._delimiter = "\t" if path.endswith(".tsv") else max(",\t;|", key=fields)
        starts = array("q")
        with files.stream(path) as lines:
            text = _Text(lines)
            reader = self._reader(text)
            try:
                self._fields = [name.strip() for name in next(reader, ())]
                kinds = _Kinds(len(self._fields))
                end = text.read
                for row in reader:
                    if any(row):
                        starts.append(end)
                        kinds.see(row)
                    end = text.read
            except csv.Error as error:
                raise ConfigError(f"{path!r}, row {len(starts)}: {error}; is a quote left open?") from None
        self.names = tuple(filter(None, self._fields))
        if not self.names or len(set(self.names)) < len(self.names):
            raise ConfigError(f"{path!r} must begin with the names of its columns, each another: {head[:80]!r}.")
        self._casts = kinds.casts()
        self._starts = np.array([*starts, end], np.int64)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def row(self, index: int) -> dict[str, Any]:
        piece = _piece(self, self._starts, index)
        try:
            values = next(self._reader(io.StringIO(piece.decode(), newline="\n")))
        except UnicodeDecodeError as error:
            raise BadExample("corrupt", f"{self.path}, row {index}, is no UTF-8: {error}.") from None
        if len(values) > len(self._fields):
            raise BadExample("corrupt", f"{self.path}, row {index}, has {len(values)} values: {piece[:60]!r}.")
        return {name: self._value(values, number) for number, name in enumerate(self._fields) if name}

    def column(self, name: str) -> list[Any]:
        number = self._fields.index(name)
        with files.stream(self.path) as lines:
            text = _Text(lines)
            reader = self._reader(text)
            next(reader)
            text.replaced()
            damaged = lambda row: text.replaced() or len(row) > len(self._fields)  # Those that `row` refuses.
            return [None if damaged(row) else self._value(row, number) for row in reader if any(row)]

    def _reader(self, lines: Any) -> Iterator[list[str]]:
        return csv.reader(lines, delimiter=self._delimiter, skipinitialspace=True)

    def _value(self, values: Sequence[str], number: int) -> Any:
        text = values[number].strip() if number < len(values) else ""
        return self._casts[number](text) if text else None


class _Text:
    """The lines of a file as text, and how many bytes of it have been read; what is no UTF-8 does not stop it."""

    def __init__(self, lines: BinaryIO):
        self._lines, self.read, self._replaced = lines, 0, False

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            encoding = "utf-8" if self.read else "utf-8-sig"  # Excel begins with a mark.
            self.read += len(line)
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError:
                text, self._replaced = line.decode(encoding, "replace"), True
            yield text

    def replaced(self) -> bool:
        """Whether a line was no UTF-8, of those since this was asked last."""
        replaced, self._replaced = self._replaced, False
        return replaced


class _Kinds:
    """Of which columns all values that were seen are integers, or numbers."""

    def __init__(self, count: int):
        self._count = count
        self._open = dict.fromkeys(range(count), _INTEGER)  # Column -> what its values match.

    def see(self, row: Sequence[str]) -> None:
        for number, pattern in tuple(self._open.items()):
            value = row[number].strip() if number < len(row) else ""
            if value and not pattern.fullmatch(value):
                self._open[number] = _NUMBER
                if not _NUMBER.fullmatch(value):
                    del self._open[number]

    def casts(self) -> list[type]:
        return [{_INTEGER: int, _NUMBER: float}.get(self._open.get(number), str) for number in range(self._count)]


def plain(value: Any) -> Any:
    """A value of JSON with tuples for its lists."""
    if isinstance(value, list):
        return tuple(map(plain, value))
    return {key: plain(own) for key, own in value.items()} if isinstance(value, dict) else value


def json_object(text: bytes) -> dict[str, Any] | None:
    """The JSON object that is written there, if one is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _piece(table: Table, starts: np.ndarray, index: int) -> bytes:
    """The bytes of a row, and of empty lines behind it."""
    start, end = (int(position) for position in starts[index : index + 2])
    return files.read_range(table.path, start, end - start)
