"""What masking saves: a masked autoencoder's step as its recipe has it against one whose encoder sees every patch.

Both are compiled as `vitfm.main` does, in one process, and take turns, so that a change of the machine's speed meets
both. "All visible" hides one patch, so that there is something to predict. The images are emoji, whatever the recipe.

  python -m benchmarks.mae_saving                                               the embedded recipe
  python -m benchmarks.mae_saving --config=configs/mae_b16_in1k.py --batch=8    ViT-B/16 at 224 px
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import learners, tables, workers
from vitfm import config as config_lib
from vitfm import host

COLUMNS = ("visible patches", "images/s", "ms", "best ms", "temporaries GiB")


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints the table and returns what `--out` holds."""
    arguments = _parse(argv)
    machine = tables.machine(workers.use_cores(arguments.cores))
    tables.warn_if_busy(machine)
    host.prepare()  # Before JAX starts, as in vitfm.main.
    spec = config_lib.load_file(arguments.config).to_dict()
    spec["batch_size"] = arguments.batch or spec["batch_size"]
    spec["data"]["source"] = "tfds:emoji:train"
    patches = (spec["data"]["image_size"] // spec["objective"]["model"]["patch_size"]) ** 2
    ratios = {"masked": spec["objective"].get("mask_ratio", 0.75), "all visible": 1 / patches}
    at = lambda ratio: {**spec, "objective": {**spec["objective"], "mask_ratio": ratio}}
    sides = {name: prepared(at(ratio)) for name, ratio in ratios.items()}
    milliseconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(arguments.rounds):
        for name, (step, _) in sides.items():
            milliseconds[name] += learners.timed(step, arguments.steps)
            typical = statistics.median(milliseconds[name])
            print(f"round {turn + 1}/{arguments.rounds}  {name:<11}  {typical:.0f} ms a step", file=sys.stderr)
    summary = {
        name: {
            "visible": round(patches * (1 - ratios[name])),
            "images_per_second": 1e3 * spec["batch_size"] / statistics.median(times),
            "milliseconds": statistics.median(times),
            "best_milliseconds": min(times),
            "temporaries_gib": sides[name][1] / 2**30,
        }
        for name, times in milliseconds.items()
    }
    summary["ratio"] = {key: summary["masked"][key] / summary["all visible"][key] for key in summary["masked"]}
    title = f"Training step of {arguments.config}, batch {spec['batch_size']}, {machine['cores']} cores"
    tables.show(title, COLUMNS, {name: [f"{value:,.2f}" for value in row.values()] for name, row in summary.items()})
    result = {"benchmark": "mae_saving", "settings": vars(arguments), "machine": machine, "summary": summary}
    tables.write(arguments.out, {**result, "milliseconds": milliseconds})
    return result


def prepared(spec: dict[str, Any]) -> tuple[Callable[[], None], int]:
    """A function that makes one update, the first of which is made, and the bytes of its temporaries."""
    import jax

    from vitfm import program, recipe
    from vitfm.data import loader
    from vitfm.parallel import mesh

    built = program.build(recipe.parse(spec))
    batch = {key: value for key, value in next(built.loader.batches(0)).items() if key != loader.REPLACED}
    state = built.init(jax.random.key(0))
    compiled = built.compiled(mesh.place_local(built.mesh, batch))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, mesh.place_local(built.mesh, batch))
        jax.block_until_ready((state, metrics))

    step()
    return step, compiled.memory_analysis().temp_size_in_bytes


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks.mae_saving", description=__doc__, formatter_class=formatter)
    parser.add_argument("--config", default="configs/mae.py", metavar="FILE", help="the recipe (configs/mae.py)")
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (default: the recipe's)")
    parser.add_argument("--steps", type=int, default=10, metavar="N", help="steps a side takes in its turn (10)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each side (5)")
    parser.add_argument("--cores", type=int, default=2, metavar="N", help="cores to use (2)")
    parser.add_argument("--out", metavar="FILE", help="write all numbers as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
