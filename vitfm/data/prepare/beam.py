"""All shards by a runner of Apache Beam, for collections that outgrow one machine: `--beam --runner=...`.

An element is a shard. Each worker opens the source anew and writes the very bytes that `local.py` would write. DIR has
to be where all workers and the machine of the command can write: a URL, or a file system that they share. A shard that
is tried again after a failure, or by two workers at once, is written whole by each of them, and is the same.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from vitfm.config import UserError
from vitfm.data.prepare import plan as plan_lib
from vitfm.data.prepare import planning
from vitfm.data.prepare import shard as shards
from vitfm.data.prepare.plan import Plan
from vitfm.data.prepare.records import Records
from vitfm.data.prepare.shard import Mark

_OURS = re.compile(r"(?:vitfm\.config\.)?(?:UserError|ConfigError): (.*?)(?: \[while running|\Z)", re.DOTALL)


class _Write(beam.DoFn):
    """Shard -> its number, once it is there. What is in it is counted among the runner's metrics."""

    def __init__(self, plan: Plan):
        self._plan = json.dumps(plan.as_json())  # A source with a million paths is too much for some runners.
        self._folder = plan.request.folder

    def setup(self) -> None:
        self._records = _records(self._plan, self._folder)

    def process(self, shard: int) -> Iterator[int]:
        mark = shards.make(self._records, shard, lambda size: None)
        Metrics.counter("vitfm", "examples").inc(mark.examples)
        Metrics.counter("vitfm", "bytes").inc(mark.bytes)
        for reject in mark.rejects:
            Metrics.counter("vitfm", f"rejected_{reject.reason}").inc()
        yield shard


@functools.lru_cache(1)
def _records(stored: str, folder: str) -> Records:
    """Those of a plan, whose source is opened once in a process.

    Raises:
      UserError: the source is not the one that the plan was made of.
    """
    plan = plan_lib.from_json(json.loads(stored), folder)
    source = plan.request.opened(plan.request.open())
    if not planning.is_of(plan, source):
        raise UserError(f"{source.name} has other examples on a worker than where the command was given.")
    return Records(source, plan)


def write(plan: Plan, options: Sequence[str], done: Callable[[int, Mark], None]) -> None:
    """Runs the pipeline, and waits for it.

    Args:
      plan: which shards there are to be.
      options: of Beam, as on a command line.
      done: called with each shard, in their order.

    Raises:
      UserError: a shard can't be written.
    """
    try:
        with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
            _ = pipeline | beam.Create(range(plan.shards)) | beam.Reshuffle() | beam.ParDo(_Write(plan))
    except Exception as error:  # A runner has its own for what its workers raise.
        found: Any = _OURS.search(f"{type(error).__name__}: {error}")
        if not found:
            raise
        raise UserError(found[1]) from None
    for shard in range(plan.shards):
        mark = shards.kept(plan, shard, whole=False)
        if mark is None:
            raise UserError(
                f"{plan.path(shard)} is not there: DIR has to be where Beam's workers and this machine can write."
            )
        done(shard, mark)
