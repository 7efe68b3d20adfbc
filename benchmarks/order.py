"""What order costs, at any size of a source: microseconds an index, milliseconds to the first batch of any step."""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tables

SIZES = (10**3, 10**6, 10**9)
_INDICES = 20_000
_HELP = """\
examples:
  python -m benchmarks.order
  python -m benchmarks.order --repeats=9 --out=runs/benchmarks/order.json

reading the table:
  µs an index   of processor time, to find which example is at a position
  ms to seek    to the first batch of 256 from a step far ahead, whose examples cost nothing to read
  MiB           that the process has grown by at its largest
"""


@dataclasses.dataclass(frozen=True)
class _Fake:
    """A source of so many examples."""

    size: int
    name: str = "fake"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": index}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.order",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each number (default: 5)")
    parser.add_argument("--out", help="a JSON file for the numbers")
    arguments = parser.parse_args(argv)
    facts = tables.machine(1)
    tables.warn_if_busy(facts)
    found = {size: _measured(size, arguments.repeats) for size in SIZES}
    rows = {
        f"{size:,} examples": [
            tables.spread(own["index"], "{:.1f}", 1e6),
            tables.spread(own["seek"], "{:.1f}", 1e3),
            f"{own['memory'] / 2**20:.1f}",
        ]
        for size, own in found.items()
    }
    tables.show("Order as a function", ("µs an index", "ms to seek", "MiB"), rows)
    tables.write(arguments.out, {"machine": facts, "sizes": {str(size): own for size, own in found.items()}})


def _measured(size: int, repeats: int) -> Mapping[str, Any]:
    """Seconds an index and to seek, one a repetition, and bytes."""
    import numpy as np

    from vitfm.data.loader import TrainLoader

    load = lambda example, rng: {"id": np.int64(example["id"])}
    loader = TrainLoader(_Fake(size), load, 256, 0, threads=1)
    before, indices, seeks = _peak(), [], []
    for repeat in range(repeats):
        begun = time.process_time()
        for k in range(_INDICES):
            loader.order[k * 7919 + repeat]
        indices.append((time.process_time() - begun) / _INDICES)
        begun = time.perf_counter()
        stream = loader.batches(10**9 + repeat)
        next(stream)
        seeks.append(time.perf_counter() - begun)
        stream.close()
    return {"index": indices, "seek": [statistics.median(seeks)], "memory": _peak() - before}


def _peak() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
