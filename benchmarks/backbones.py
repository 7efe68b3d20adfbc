"""Encoders beside timm's on this processor: images a second in inference and in training steps, and peak memory.

Each side runs in a subprocess of its own. They take turns, round by round, so that a change of the machine's speed
meets both. A step is a batch in NumPy in, logits or updated parameters out: forward, loss, backward, AdamW.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import flags, tables, workers
from benchmarks.learners.backbones import MODELS

_HELP = """\
examples:
  python -m benchmarks.backbones                                    all four models at 224 px, batch 8
  python -m benchmarks.backbones --models=resnet50 --size=128 --cores=1
  python -m benchmarks.backbones --models=convnext_t,swin_t --modes=train --out=runs/benchmarks/backbones.json

reading the table:
  images/s       from the median step: ours, timm's, and ours over timm's
  processor      seconds of processor time that timm's median step takes over ours: where other programs run, this
                 is the ratio to trust, best with --cores=1, as threads that wait for each other count as busy
  memory         the largest resident set of the process, libraries and all, in GiB, and ours over timm's
timm's images lie in memory channels first or last, whichever is faster.
"""
COLUMNS = ("images/s", "timm", "ratio", "processor", "memory GiB", "timm", "ratio")
MODES = ("inference", "train")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table and returns what `--out` holds."""
    arguments = _parse(argv)
    machine = tables.machine(workers.use_cores(arguments.cores))
    tables.warn_if_busy(machine)
    sides, summary = {}, {}
    for model in arguments.models:
        for mode in arguments.modes:
            settings = {"model": model, "mode": mode, "batch": arguments.batch, "size": arguments.size}
            name = f"{model} {mode}"
            sides[name] = measure({**settings, "cores": machine["cores"]}, arguments.steps, arguments.rounds)
            summary[name] = summarise(sides[name], arguments.batch)
    result = {
        "benchmark": "backbones",
        "settings": vars(arguments),
        "machine": machine,
        "sides": sides,
        "summary": summary,
    }
    title = f"{arguments.size} px, batch {arguments.batch}, float32, {machine['cores']} cores"
    tables.show(title, COLUMNS, {name: cells(row) for name, row in summary.items()})
    tables.write(arguments.out, result)
    return result


def measure(settings: Mapping[str, Any], steps: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Side -> what its worker said, and the milliseconds of all its steps, in turns of `steps`."""
    module = "benchmarks.learners.backbones"
    with (
        workers.Worker(module, {**settings, "side": "vitfm"}) as ours,
        workers.Worker(module, {**settings, "side": "timm"}) as theirs,
    ):
        turns = {"vitfm": ours, "timm": theirs}
        sides = {name: {**worker.greeting} for name, worker in turns.items()}
        for turn in range(rounds):
            for name, worker in turns.items():
                answer = worker.ask({"steps": steps})
                for key in ("milliseconds", "processor_milliseconds"):
                    sides[name][key] = sides[name].get(key, []) + answer[key]
                sides[name]["peak_memory_bytes"] = answer["peak_memory_bytes"]
                typical = statistics.median(answer["milliseconds"])
                where = f"{settings['model']} {settings['mode']}"
                print(f"{where}  round {turn + 1}/{rounds}  {name:<5}  {typical:.0f} ms a step", file=sys.stderr)
    return sides


def summarise(sides: Mapping[str, Mapping[str, Any]], batch_size: int) -> dict[str, float]:
    """The numbers of a row, in the order of `COLUMNS`."""
    typical = lambda side, key: statistics.median(sides[side][key])
    speeds = [1e3 * batch_size / typical(side, "milliseconds") for side in ("vitfm", "timm")]
    memory = [sides[side]["peak_memory_bytes"] for side in ("vitfm", "timm")]
    return {
        "images_per_second": speeds[0],
        "timm_images_per_second": speeds[1],
        "ratio": speeds[0] / speeds[1],
        "processor_ratio": typical("timm", "processor_milliseconds") / typical("vitfm", "processor_milliseconds"),
        "peak_memory_bytes": memory[0],
        "timm_peak_memory_bytes": memory[1],
        "memory_ratio": memory[0] / memory[1],
    }


def cells(row: Mapping[str, float]) -> list[str]:
    """A row of the table."""
    speed, theirs, ratio, processor, memory, their_memory, memory_ratio = row.values()
    shown = [f"{speed:,.1f}", f"{theirs:,.1f}", f"{ratio:.2f}x", f"{processor:.2f}x"]
    return [*shown, f"{memory / 2**30:.2f}", f"{their_memory / 2**30:.2f}", f"{memory_ratio:.2f}x"]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.backbones",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    models = [name for name in MODELS if name != "nano"]  # That one is for tests.
    parser.add_argument(
        "--models", type=flags.names("model", MODELS), default=models, metavar="NAME,...", help=", ".join(models)
    )
    parser.add_argument(
        "--modes", type=flags.names("mode", MODES), default=list(MODES), metavar="NAME,...", help=", ".join(MODES)
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="images a step (8)")
    parser.add_argument("--size", type=int, default=224, metavar="N", help="side of the images in pixels (224)")
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="steps a side takes in its turn (2)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (5)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="cores each side may use (2)")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
