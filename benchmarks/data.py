"""Images a second of input pipelines, on the same JPEGs: vitfm beside torchvision, webdataset and tf.data.

Each runs in processes of its own. They take turns, an epoch at a time, so that a change of the machine's speed meets
all. What they had read ahead is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import flags, photographs, tables, workers


class Side(NamedTuple):
    """A row of the table: a worker of `benchmarks.pipelines` and what it is asked for."""

    module: str
    crops: str
    what: str
    options: Mapping[str, Any] = {}


SIDES = {
    "vitfm": Side("vitfm", "one", "its loader, in threads", {"processes": False}),
    "vitfm-processes": Side("vitfm", "one", "its loader, in worker processes", {"processes": True}),
    "torchvision": Side("torchvision", "one", "transforms of Pillow's images, torch's DataLoader"),
    "torchvision-v2": Side("torchvision", "one", "transforms.v2 of tensors, torch's DataLoader", {"tensors": True}),
    "webdataset": Side("webdataset", "one", "tar shards, Pillow, torchvision's transforms"),
    "tf.data": Side("tfdata", "one", "decode_and_crop_jpeg and resize, in threads; see --tensorflow-python"),
    "vitfm-ten": Side("vitfm", "ten", "2 crops of 224 and 8 of 96 pixels, in threads", {"processes": False}),
    "torchvision-ten": Side("torchvision", "ten", "the same as DINO makes them, bicubic", {"interpolation": "bicubic"}),
    "torchvision-ten-bilinear": Side("torchvision", "ten", "the same, bilinear", {"interpolation": "bilinear"}),
}
BESIDE = {"one": "torchvision", "ten": "torchvision-ten"}  # What a row is compared with.
_DEFAULTS = {"processes": True, "tensors": False, "interpolation": "bilinear"}
_READ_AHEAD = 8  # Batches, the most of all.
_PAUSE = 1.0  # Seconds in which a side reads ahead before another has its turn.

_HELP = """\
examples:
  python -m benchmarks.data --tensorflow-python=tf/bin/python           in tf, a virtual environment, is tensorflow-cpu
  python -m benchmarks.data --files=500 --epochs=2 --workers=1 --sides=vitfm,torchvision
  python -m benchmarks.data --epochs=10 --out=runs/benchmarks/data.json

reading the table:
  images/s       the median turn's, and the best
  a core         images a second of processor time, of all that a side has started: where other programs run, this is
                 the number to trust
  ratio          of that, over torchvision's with as many workers
  MiB            memory after the second epoch and after the last, what processes share counted once

sides:
""" + "".join(f"  {name:<25} {side.what}\n" for name, side in SIDES.items())

COLUMNS = ("workers", "images/s", "best", "a core", "ratio", "MiB", "at the end")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table and returns what `--out` holds."""
    arguments = _parse(argv)
    machine = tables.machine(workers.use_cores(max(arguments.workers)))
    root = photographs.make(arguments.folder, arguments.files)
    tables.warn_if_busy(machine)
    common = {"root": str(root), "shards": photographs.shards(root), "batch": arguments.batch}
    sides = measure(arguments, common)
    summary = {name: summarise(side) for name, side in sides.items() if side["turns"]}
    for name, row in summary.items():
        beside = summary.get(f"{BESIDE[SIDES[name.split()[0]].crops]} {row['workers']}")
        row["ratio"] = row["per_core"] / beside["per_core"] if beside else None
    result = {
        "benchmark": "data",
        "settings": vars(arguments),
        "machine": {**machine, "load_after": round(os.getloadavg()[0], 2)},
        "sides": sides,
        "summary": summary,
    }
    size = sum(path.stat().st_size for path in root.glob("*/*.jpg")) / arguments.files
    title = f"{arguments.files:,} JPEGs of {size / 1e3:.0f} kB, batches of {arguments.batch}, {machine['cores']} cores"
    tables.show(title, COLUMNS, {name: cells(row) for name, row in summary.items()})
    tables.write(arguments.out, result)
    return result


def measure(arguments: argparse.Namespace, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """ "Side workers" -> what its worker said, and what each of its turns took."""
    sides: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        running = {}
        for name, count in ((name, count) for name in arguments.sides for count in arguments.workers):
            side, called = SIDES[name], f"{name} {count}"
            settings = {**common, **_DEFAULTS, **side.options, "crops": side.crops, "workers": count}
            python = arguments.tensorflow_python if side.module == "tfdata" else sys.executable
            sides[called] = {"workers": count, "turns": []}
            try:
                worker = workers.Worker(f"benchmarks.pipelines.{side.module}", settings, python)
            except (RuntimeError, OSError) as error:
                print(f"{called} does not run here: {error}", file=sys.stderr)
                continue
            running[called] = stack.enter_context(worker)
            sides[called] |= worker.greeting
        request = {"skip": _READ_AHEAD, "batches": max(1, arguments.files // arguments.batch)}
        for epoch in range(arguments.epochs):
            for called, worker in running.items():
                turn = worker.ask(request)
                sides[called]["turns"].append(turn)
                time.sleep(_PAUSE)
                speed = turn["images"] / turn["seconds"]
                print(f"epoch {epoch + 1}/{arguments.epochs}  {called:<26} {speed:7,.0f} images/s", file=sys.stderr)
    return sides


def summarise(side: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row."""
    turns = side["turns"]
    speeds = [turn["images"] / turn["seconds"] for turn in turns]
    return {
        "workers": side["workers"],
        "images_per_second": statistics.median(speeds),
        "best": max(speeds),
        "per_core": statistics.median(turn["images"] / turn["processor_seconds"] for turn in turns),
        "memory_early": turns[min(1, len(turns) - 1)]["memory_bytes"],
        "memory_late": turns[-1]["memory_bytes"],
    }


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}x"
    memory = [f"{row[key] / 2**20:,.0f}" for key in ("memory_early", "memory_late")]
    speeds = [f"{row[key]:,.0f}" for key in ("images_per_second", "best", "per_core")]
    return [str(row["workers"]), *speeds, ratio, *memory]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.data",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sides", type=flags.names("side", SIDES), default=list(SIDES), metavar="NAME,NAME,...")
    counts = lambda text: [int(count) for count in text.split(",")]
    parser.add_argument("--workers", type=counts, default=[1, 2], metavar="N,N,...", help="of each side (1,2)")
    parser.add_argument("--files", type=int, default=2000, metavar="N", help="an epoch's images (2000)")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="turns of each side (3)")
    parser.add_argument("--batch", type=int, default=64, metavar="N", help="images in a batch (64)")
    parser.add_argument(
        "--folder", default="runs/benchmarks/photographs", help="where the JPEGs are made and kept (%(default)s)"
    )
    parser.add_argument("--tensorflow-python", default=sys.executable, metavar="PATH", help="that imports tensorflow")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
