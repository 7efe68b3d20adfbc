"""Quality after equal training time: a vitfm recipe against a peer, same data, machine and seconds.

Both learn from the same source through the same loader and crops, and are judged by the recipe's own evaluators. vitfm
is run as a user runs it, by `python -m vitfm.main`. Of the peer, only model, loss and optimizer differ. How many steps
fit into the time is measured first, since the learning-rate schedules end with the last one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks import tables, workers
from benchmarks.sizes import SIZES
from vitfm import config as config_lib
from vitfm import recipe as recipes

_HELP = """\
examples:
  python -m benchmarks.{name}                                   210 s of training a side: about 12 minutes
  python -m benchmarks.{name} --seeds=0,1,2 --out=runs/benchmarks/{name}.json
  python -m benchmarks.{name} --only={peer} --peer_batch=128 --peer_learning_rate=1e-3     tune the peer

reading the table:
  top-1, top-5         of --metric, the shares of the test images that are right
  examples/s           learned from a second of training
  training s           batches and steps; compilation, evaluation and the measuring of the speed are not in it
  preparation s        compilation (vitfm), or the first forward and backward pass (the peer)
  memory               the largest resident set, for vitfm evaluation included
Over several seeds each number is a mean ± half the range. A side that missed the time by more than --tolerance is run
again with the steps that the first attempt shows to fit.
"""

COLUMNS = ("top-1 %", "top-5 %", "examples/s", "steps", "training s", "preparation s", "memory GiB")
Run = Callable[[int, int, bool], dict[str, Any]]  # (steps, seed, whether to evaluate) -> facts


@dataclasses.dataclass(frozen=True)
class Match:
    """Who meets whom.

    Attributes:
      name: of the benchmark.
      peer: its learner, a file of `benchmarks/learners`.
      config: vitfm's recipe.
      metric: whose top-1 and top-5 are shown.
      description: for `--help`.
    """

    name: str
    peer: str
    config: str
    metric: str
    description: str


def run(match: Match, argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Trains both, prints the table and returns what `--out` holds."""
    arguments = parse(match, argv)
    machine = tables.machine(workers.use_cores(arguments.cores))
    tables.warn_if_busy(machine)
    recipe = recipes.plain(config_lib.load_file(arguments.config))
    sides = {
        match.peer: lambda *run: run_peer(match.peer, arguments, recipe, machine["cores"], *run),
        "vitfm": lambda *run: run_vitfm(arguments, *run),
    }
    sides = {name: run for name, run in sides.items() if arguments.only in (None, name)}
    runs = measure(sides, arguments)
    summary = {name: summarise(side, arguments.metric) for name, side in runs.items()}
    result = {
        "benchmark": match.name,
        "settings": vars(arguments),
        "recipe": recipe,
        "machine": machine,
        "runs": runs,
        "summary": summary,
        "ratio": ratio(summary, match.peer),
    }
    title = f"{arguments.seconds:g} s of training, {machine['cores']} cores, seeds {arguments.seeds}"
    rows = {name: cells(row) for name, row in summary.items()}
    if result["ratio"]:
        rows["ratio"] = [f"{value:.2f}x" for value in result["ratio"].values()]
    tables.show(title, COLUMNS, rows)
    tables.write(arguments.out, result)
    return result


def measure(sides: Mapping[str, Run], arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Side -> a run for each seed, of equal training time; the sides take turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    speeds = dict(zip(sides, arguments.speeds, strict=False))
    for name in sides.keys() - speeds.keys():
        speeds[name] = _speed(sides[name](arguments.calibration_steps, 0, False))
    for seed in arguments.seeds:
        for name, run in sides.items():
            done = _fitted(run, seed, speeds[name], arguments)
            speeds[name] = _speed(done)
            runs[name].append({"seed": seed, **done})
    return runs


def _fitted(run: Run, seed: int, speed: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """A run of `--seconds`, tried again while it is off by more than the tolerance."""
    for _ in range(arguments.attempts):
        done = run(max(1, round(speed * arguments.seconds)), seed, True)
        if abs(done["seconds"] / arguments.seconds - 1) <= arguments.tolerance:
            break
        speed = _speed(done)
        print(f"{done['seconds']:.1f} s instead of {arguments.seconds:g} s", file=sys.stderr)
    return done


def _speed(done: Mapping[str, Any]) -> float:
    return done["steps"] / done["seconds"]


def run_peer(
    peer: str,
    arguments: argparse.Namespace,
    recipe: Mapping[str, Any],
    cores: int,
    steps: int,
    seed: int,
    evaluate: bool,
) -> dict[str, Any]:
    """The peer, in a worker."""
    size = SIZES[arguments.peer_size]
    settings = {
        "peer": peer,
        "recipe": recipe,
        "size": arguments.peer_size,
        "batch_size": arguments.peer_batch or size.batch_size,
        "learning_rate": arguments.peer_learning_rate or size.learning_rate,
        "total": steps,
        "seed": seed,
        "cores": cores,
        "evaluate": evaluate,
    }
    with workers.Worker("benchmarks.train_peer", settings) as worker:
        return worker.greeting


def run_vitfm(arguments: argparse.Namespace, steps: int, seed: int, evaluate: bool) -> dict[str, Any]:
    """The recipe, run by `vitfm.main` in a folder of its own; what its result.json says."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vitfm.main", f"--config={arguments.config}", f"--workdir={folder}/run"]
        command += [f"--config.total={steps}", f"--config.seed={seed}"]
        command += [] if evaluate else ["--config.evals={}"]
        subprocess.run(command, check=True, cwd=workers.ROOT, stdout=sys.stderr)
        result = json.loads((pathlib.Path(folder) / "run" / "result.json").read_text())
    phases = result["phases"]
    return {
        "steps": result["step"],
        "batch_size": result["examples"] // result["step"],
        "seconds": phases["train"] + phases["data"],
        "waiting": phases["data"],
        "preparation": phases["compile"],
        "peak_memory_bytes": result["peak_memory_bytes"],
        "versions": result["versions"],
        "metrics": {name: value for name, value in result.items() if name.count("/") > 1},
    }


def summarise(runs: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
    """The numbers of a row, in the order of `COLUMNS`: one for each seed."""
    return {
        "top1": [_metric(run, f"{metric}/top1") for run in runs],
        "top5": [_metric(run, f"{metric}/top5") for run in runs],
        "pairs_per_second": [run["steps"] * run["batch_size"] / run["seconds"] for run in runs],
        "steps": [run["steps"] for run in runs],
        "training_seconds": [run["seconds"] for run in runs],
        "preparation_seconds": [run["preparation"] for run in runs],
        "peak_memory_bytes": [run["peak_memory_bytes"] for run in runs],
    }


def _metric(run: Mapping[str, Any], name: str) -> float:
    """A metric of a run: that of the moving average of the parameters where the recipe keeps one.

    Raises:
      SystemExit: there is none of this name.
    """
    metrics = run["metrics"]
    found = metrics.get(f"ema/{name}", metrics.get(name))
    if found is None:
        sys.exit(f"The evaluators measure no {name!r}; they measure {', '.join(metrics)}: choose by --metric.")
    return found


def ratio(summary: Mapping[str, Mapping[str, Sequence[float]]], peer: str) -> dict[str, float]:
    """vitfm's means over the peer's; empty where only one side ran."""
    if len(summary) < 2:
        return {}
    return {key: sum(ours) / max(sum(summary[peer][key]), 1e-9) for key, ours in summary["vitfm"].items()}


def cells(row: Mapping[str, Sequence[float]]) -> list[str]:
    """A row of the table."""
    forms = {"steps": ("{:.0f}", 1), "pairs_per_second": ("{:.0f}", 1), "peak_memory_bytes": ("{:.2f}", 2**-30)}
    shares = dict.fromkeys(("top1", "top5"), ("{:.1f}", 100))
    return [tables.spread(values, *(forms | shares).get(key, ("{:.1f}", 1))) for key, values in row.items()]


def parse(match: Match, argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        f"python -m benchmarks.{match.name}",
        description=match.description,
        epilog=_HELP.format(name=match.name, peer=match.peer),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=float, default=210, help="of training, a side (210)")
    add("--seeds", type=_integers, default=[0], metavar="N,N,...", help="one run a side for each (0)")
    add("--config", default=match.config, metavar="FILE[:ARG]", help=f"vitfm's recipe ({match.config})")
    add("--only", choices=[match.peer, "vitfm"], help="measure one side")
    add("--peer_size", choices=list(SIZES), default="tiny", help="the peer's model, see benchmarks/sizes.py (tiny)")
    add("--peer_batch", type=int, metavar="N", help="the peer's batch (the size's: 256)")
    add("--peer_learning_rate", type=float, metavar="RATE", help="the peer's (the size's: 5e-4)")
    add("--metric", default=match.metric, help=f"whose top-1 and top-5 are shown ({match.metric})")
    add("--calibration_steps", type=int, default=80, metavar="N", help="steps that measure the speed (80)")
    add(
        "--speeds",
        type=_numbers,
        default=[],
        metavar="N,N",
        help="known steps/s of the peer and vitfm; not measured then",
    )
    add("--tolerance", type=float, default=0.03, help="how far the training time may be off, relative (0.03)")
    add("--attempts", type=int, default=2, metavar="N", help="runs at most to meet it (2)")
    add("--cores", type=int, default=2, metavar="N", help="cores each side may use (2)")
    add("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]
