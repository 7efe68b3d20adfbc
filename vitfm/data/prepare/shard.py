"""One shard, written whole or not at all: the unit of work, and the same bytes whoever writes it."""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from vitfm.config import UserError
from vitfm.data import bad, files
from vitfm.data.prepare import store
from vitfm.data.prepare.plan import Plan
from vitfm.data.prepare.records import Records

T = TypeVar("T")
_THREADS = 8  # That read and decode ahead, in a process: more than cores, for they wait for files.


class Mark(NamedTuple):
    """What is in a shard.

    Attributes:
      examples: records.
      bytes: of all records, as TFDS counts them.
      size, sha256: of the file.
      rejects: examples that could not be used.
    """

    examples: int
    bytes: int
    size: int
    sha256: str
    rejects: Sequence[bad.Found]


# Told of each record: its bytes, 0 for an example that could not be used.
Seen = Callable[[int], None]


def make(records: Records, shard: int, seen: Seen) -> Mark:
    """Writes a shard, unless it is there and whole, and then its mark.

    Raises:
      UserError: it can't be written, or, as `ConfigError`, not an example is wrong but what is asked of all.
    """
    plan = records.plan
    mark = kept(plan, shard)
    if mark is None:
        mark = _written(records, shard, seen)
        store.write_json(plan.mark(shard), mark._asdict())
    return mark


def kept(plan: Plan, shard: int, *, whole: bool = True) -> Mark | None:
    """The mark of a shard that is there; with `whole`, if its bytes are those that were written."""
    found = store.read_json(plan.mark(shard))
    if found is None or not files.exists(plan.path(shard)) or files.size(plan.path(shard)) != found["size"]:
        return None
    if whole and not store.remote(plan.path(shard)) and store.digest(plan.path(shard)) != found["sha256"]:
        return None
    return Mark(**{**found, "rejects": [bad.Found(*own) for own in found["rejects"]]})


def _written(records: Records, shard: int, seen: Seen) -> Mark:
    from array_record.python import array_record_module

    rejects, count, total = [], 0, 0
    plan, path = records.plan, records.plan.path(shard)
    with store.scratch(path) as place:
        with _writing(path):
            writer = array_record_module.ArrayRecordWriter(place, "group_size:1")  # As TFDS has it.
        for record in _ahead(records, plan.indices(shard).tolist()):
            if isinstance(record, bad.Found):
                rejects.append(record)
                seen(0)
                continue
            with _writing(path):
                writer.write(record)
            count, total = count + 1, total + len(record)
            seen(len(record))
        with _writing(path):
            writer.close()
        mark = Mark(count, total, os.path.getsize(place), store.digest(place), rejects)
        store.put(place, path)
    return mark


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """The library knows no other error than this."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"{path} can't be written: {error}.") from error


def _ahead(function: Callable[[Any], T], items: Iterable[Any]) -> Iterator[T]:
    """`function` of each item, in order, a few at a time."""
    pending: collections.deque[Any] = collections.deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * _THREADS:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
