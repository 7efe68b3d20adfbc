"""From requests to a data set: decides, writes all shards, makes them a split, and says so."""

from __future__ import annotations

import collections
import contextlib
import fcntl
import importlib.util
import os
import pathlib
from collections.abc import Iterator, Sequence

from vitfm.config import ConfigError, UserError
from vitfm.data import bad, files
from vitfm.data.prepare import info, kinds, local, planning, progress, store
from vitfm.data.prepare.plan import Plan, Request
from vitfm.data.prepare.shard import Mark
from vitfm.data.sources import base


def prepare(requests: Sequence[Request], *, workers: int, max_bad: float, beam: Sequence[str] | None = None) -> None:
    """Makes a data set of what is asked for: splits that are parts of one source.

    Args:
      requests: one a split, alike but for the split and the part.
      workers: processes; 0 for this one alone.
      max_bad: the share of examples that may be left out.
      beam: options of Apache Beam, which does it then.

    Raises:
      UserError: what the user can mend.
    """
    whole = requests[0].open()
    with _alone(requests[0].folder):
        for request in requests:
            source = request.opened(whole)
            plan = planning.decide(request, whole, source)
            marks = info.finished(plan)
            if marks is not None:
                print(f"{request.label} is there, and whole: {_counted(marks)}.")
                continue
            _say(plan, source)
            marks = _written(plan, source, workers, max_bad, beam)
            info.finish(plan, marks)
            print(f"{request.label} is done: {_counted(marks)}.")
            counts = collections.Counter(own.reason for mark in marks for own in mark.rejects)
            if counts:
                print(f"Left out: {bad.counted(counts)}; see {info.rejects(plan)}.")


def _say(plan: Plan, source: base.Source) -> None:
    examples, shards = _number(plan.examples, "example"), _number(plan.shards, "shard")
    print(f"{plan.request.label}: {examples} of {bad.printable(source.name)} into {shards}")
    for name, kind in plan.kinds.items():
        print(f"  {name}: {kinds.describe(kind)}")
    for note in plan.notes:
        print(f"  {note}")


def _written(plan: Plan, source: base.Source, workers: int, max_bad: float, beam: Sequence[str] | None) -> list[Mark]:
    """What is in each shard.

    Raises:
      UserError: they can't be written, or too much would be left out.
    """
    marks: dict[int, Mark] = {}
    left_out = 0

    def done(shard: int, mark: Mark) -> None:
        nonlocal left_out
        marks[shard], left_out = mark, left_out + len(mark.rejects)
        if left_out > max_bad * plan.examples:
            raise UserError(_too_many(list(marks.values()), plan.examples, max_bad))

    if beam is None:
        there = [plan.span(shard) for shard in range(plan.shards) if files.exists(plan.mark(shard))]
        kept = sum(end - start for start, end in there)
        with progress.Progress(plan.request.label, plan.examples, kept) as bar:
            local.write(plan, source, workers, bar.seen, done)
    else:
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError("--beam needs Apache Beam: pip install 'vitfm[beam]'.")
        from vitfm.data.prepare import beam as runner

        runner.write(plan, beam, done)
    return [marks[shard] for shard in range(plan.shards)]


def _too_many(marks: Sequence[Mark], examples: int, most: float) -> str:
    found = [own for mark in marks for own in mark.rejects]
    counts = collections.Counter(own.reason for own in found)
    return (
        f"{len(found):,} of {examples:,} examples can't be used, more than --max-bad={most:g} of them: "
        f"{bad.counted(counts)}. Some:\n{bad.explained(counts, found)}\n"
        "With a larger --max-bad the same command goes on, and leaves them out."
    )


def _counted(marks: Sequence[Mark]) -> str:
    size = sum(mark.size for mark in marks)
    examples = _number(sum(mark.examples for mark in marks), "example")
    return f"{examples}, {size / 1e6:,.1f} MB in {_number(len(marks), 'shard')}"


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Keeps others from writing into the same folder, and removes what a killed one has left half-written.

    Raises:
      UserError: there is another.
    """
    if store.remote(folder):
        yield
        return
    path = pathlib.Path(files.local(folder))
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror}.") from error
    try:
        with contextlib.suppress(OSError):  # Not all file systems have locks.
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"Another process is writing into {path}; wait for it, or stop it.") from None
        for left in [*path.glob("*.writing"), *path.glob("incomplete_*/*.writing")]:
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(lock)
