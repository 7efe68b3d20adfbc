"""All shards by processes of this machine, which go on where others were killed."""

from __future__ import annotations

import concurrent.futures
import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from vitfm.config import UserError
from vitfm.data.prepare import shard as shards
from vitfm.data.prepare.plan import Plan
from vitfm.data.prepare.records import Records
from vitfm.data.prepare.shard import Mark
from vitfm.data.sources import base

_LOOKS = 0.2  # Seconds between two looks at what was done.
_worker: Any = None  # Of a process that writes shards: (records, counts).


class _Stopped(Exception):
    """Another shard could not be written, or the user has stopped all."""


class Counts:
    """Examples, bytes, and whether to stop: shared with the processes that write."""

    def __init__(self, context: Any = multiprocessing):
        self._values = context.Array(ctypes.c_longlong, 3)

    def __call__(self, size: int) -> None:
        """One more example."""
        with self._values.get_lock():
            self._values[0] += 1
            self._values[1] += size
            stopped = self._values[2]
        if stopped:
            raise _Stopped

    def stop(self) -> None:
        """Has whoever counts stop at the next example."""
        self._values[2] = 1

    @property
    def seen(self) -> tuple[int, int]:
        """Examples and bytes."""
        with self._values.get_lock():
            return self._values[0], self._values[1]


def write(
    plan: Plan,
    source: base.Source,
    workers: int,
    told: Callable[[tuple[int, int]], None],
    done: Callable[[int, Mark], None],
) -> None:
    """Writes all shards that are not there and whole.

    Args:
      plan: which these are.
      source: whose examples they hold.
      workers: processes; 0 for this one alone.
      told: called now and then with (examples, bytes) that were written.
      done: called with each shard, in any order.

    Raises:
      UserError: a shard can't be written, or a process died.
    """
    order: Sequence[int] = range(plan.shards)
    if workers < 1:
        counts = Counts()
        records = Records(source, plan)

        def seen(size: int) -> None:
            counts(size)
            told(counts.seen)

        for shard in order:
            done(shard, shards.make(records, shard, seen))
        return
    context = multiprocessing.get_context("spawn")  # A fork of a process with threads may hang.
    counts = Counts(context)
    setup = (plan, source, counts)
    with concurrent.futures.ProcessPoolExecutor(min(workers, plan.shards), context, _start, setup) as pool:
        try:
            for shard, mark in _as_finished(pool, order, lambda: told(counts.seen)):
                done(shard, mark)
        except BrokenProcessPool:
            raise UserError(
                "A process that writes shards died; often memory has run out: take fewer --workers. The same command "
                "goes on where it stopped."
            ) from None
        finally:
            counts.stop()
            pool.shutdown(cancel_futures=True)


def _as_finished(pool: Any, order: Sequence[int], idle: Callable[[], None]) -> Iterator[tuple[int, Mark]]:
    pending = {pool.submit(_work, shard): shard for shard in order}
    while pending:
        ready, _ = concurrent.futures.wait(pending, _LOOKS, concurrent.futures.FIRST_COMPLETED)
        idle()
        for future in ready:
            yield pending.pop(future), future.result()


def _start(plan: Plan, source: base.Source, counts: Counts) -> None:
    """Begins a process that writes shards."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The one that started it says when to stop.
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker = Records(source, plan), counts


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(shard: int) -> Mark:
    records, counts = _worker
    return shards.make(records, shard, counts)
