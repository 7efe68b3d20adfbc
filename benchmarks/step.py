"""Throughput of a training step: vitfm against peers on the same architecture, batch, optimizer and precision.

Each side runs in a subprocess of its own. They take turns, round by round, so that a change of the machine's speed
meets both. A step is a batch in NumPy in, updated parameters out: pixels to floats, forward, loss, backward, AdamW.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks import flags, tables, workers
from benchmarks.sizes import SIZES


class Peer(NamedTuple):
    """A worker of `benchmarks.learners`: the objective whose step it takes, and what it is made of."""

    objective: str
    what: str


PEERS = {
    "open_clip": Peer("clip", "open_clip's CLIP and ClipLoss"),
    "timm": Peer("supervised", "timm's ViT, classifying"),
    "mae": Peer("mae", "transformers' ViTMAEForPreTraining"),
    "dino": Peer("dino", "student and teacher of timm's ViT with lightly's head and DINOLoss, two sizes of views"),
    "simclr": Peer("simclr", "timm's ViT with lightly's head and NTXentLoss"),
    "moco_v3": Peer("moco", "student and teacher of timm's ViT with lightly's heads, NTXentLoss both ways"),
    "simmim": Peer("simmim", "transformers' ViTForMaskedImageModeling"),
    "dinov2": Peer("dinov2", "as dino, masked, with lightly's DINOLoss, IBOTPatchLoss and KoLeoLoss"),
    "siglip": Peer("siglip", "transformers' SiglipModel and its loss"),
    "coca": Peer("coca", "open_clip's CoCa and CoCaLoss"),
}

_HELP = """\
examples:
  python -m benchmarks.step                               the embedded recipe's width: 64 px, batch 256
  python -m benchmarks.step --size=S16 --peer=timm        ViT-S/16 at 224 px, batch 16
  python -m benchmarks.step --peer=simclr,moco_v3,simmim,dinov2,siglip,coca
  python -m benchmarks.step --batch=64 --steps=20 --rounds=7 --out=runs/benchmarks/step.json

reading the table:
  images/s       from the median step
  ms, best ms    the median and the fastest of rounds x steps
  memory         the largest resident set of the process, libraries and all
  first step s   vitfm's holds the compilation
  ratio          vitfm over the peer
A machine that does anything else meanwhile slows both sides, and not alike: the fastest step suffers least.

peers:
""" + "".join(f"  {name:<10} {peer.what}\n" for name, peer in PEERS.items())

COLUMNS = ("images/s", "ms", "best ms", "memory GiB", "first step s", "parameters")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table and returns what `--out` holds."""
    arguments = _parse(argv)
    machine = tables.machine(workers.use_cores(arguments.cores))
    tables.warn_if_busy(machine)
    batch_size = arguments.batch or SIZES[arguments.size].batch_size
    sides, summary = {}, {}
    for peer in arguments.peer:
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "size": arguments.size,
                "objective": PEERS[peer].objective,
                "batch_size": batch_size,
                "cores": machine["cores"],
                "batch": str(pathlib.Path(folder) / "batch.npz"),
            }
            sides[peer] = measure(peer, settings, arguments.steps, arguments.rounds)
        summary[peer] = _compared(peer, sides[peer], batch_size)
    result = {
        "benchmark": "step",
        "settings": {**vars(arguments), "batch": batch_size},
        "machine": machine,
        "sides": sides,
        "summary": summary,
    }
    title = f"Training step, {arguments.size}, batch {batch_size}, float32, {machine['cores']} cores"
    rows = {
        name if name == peer else f"{name} {PEERS[peer].objective}": cells(name, row)
        for peer, compared in summary.items()
        for name, row in compared.items()
    }
    tables.show(title, COLUMNS, rows)
    tables.write(arguments.out, result)
    return result


def _compared(peer: str, sides: Mapping[str, Any], batch_size: int) -> dict[str, dict[str, float]]:
    """The rows of a peer: its own, vitfm's and the ratio."""
    rows = {name: summarise(side, batch_size) for name, side in sides.items()}
    return {**rows, "ratio": {key: rows["vitfm"][key] / rows[peer][key] for key in rows["vitfm"]}}


def measure(peer: str, settings: Mapping[str, Any], steps: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Side -> what its worker said, and the milliseconds of all its steps, in turns of `steps`."""
    with workers.Worker("benchmarks.learners.vitfm", settings) as ours:
        settings = {**settings, "facts": ours.greeting["facts"]}
        with workers.Worker(f"benchmarks.learners.{peer}", settings) as theirs:
            turns = {peer: theirs, "vitfm": ours}
            sides = {name: {**worker.greeting, "milliseconds": []} for name, worker in turns.items()}
            for turn in range(rounds):
                for name, worker in turns.items():
                    answer = worker.ask({"steps": steps})
                    sides[name]["milliseconds"] += answer["milliseconds"]
                    sides[name]["peak_memory_bytes"] = answer["peak_memory_bytes"]
                    print(f"round {turn + 1}/{rounds}  {name:<9}  {_typical(answer):.0f} ms a step", file=sys.stderr)
    return sides


def summarise(side: Mapping[str, Any], batch_size: int) -> dict[str, float]:
    """The numbers of a row."""
    return {
        "images_per_second": 1e3 * batch_size / _typical(side),
        "milliseconds": _typical(side),
        "best_milliseconds": min(side["milliseconds"]),
        "peak_memory_bytes": side["peak_memory_bytes"],
        "first_step_seconds": side["first_step_seconds"],
        "parameters": side["parameters"],
    }


def cells(name: str, row: Mapping[str, float]) -> list[str]:
    """A row of the table, in the order of `COLUMNS`."""
    if name == "ratio":
        return [f"{value:.2f}x" for value in row.values()]
    speed, typical, best, memory, first, parameters = row.values()
    return [
        f"{speed:,.1f}",
        f"{typical:,.0f}",
        f"{best:,.0f}",
        f"{memory / 2**30:.2f}",
        f"{first:.1f}",
        f"{parameters:,}",
    ]


def _typical(side: Mapping[str, Any]) -> float:
    return statistics.median(side["milliseconds"])


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.step",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--peer",
        type=flags.names("peer", PEERS),
        default=["open_clip"],
        metavar="NAME,NAME,...",
        help="whom to compare with, see below (open_clip)",
    )
    parser.add_argument(
        "--size", choices=list(SIZES), default="tiny", help="the architecture, see benchmarks/sizes.py (default: tiny)"
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (default: the size's)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps a side takes in its turn (10)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (5)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="cores each side may use (2)")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
