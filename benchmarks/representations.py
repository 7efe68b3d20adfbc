"""What each recipe's encoder has learned: kNN and a linear probe on `emoji`, beside two that learned nothing.

    python -m benchmarks.representations --workdir=runs/representations --seeds=0,1,2

Trains what has not been trained in that folder yet, each run with its recipe's own settings, and evaluates on
`test_style`, drawings by a hand that no run has seen, by their subgroups. `raw pixels` are the pixels as features;
`untrained` are the same encoders as initialised. The linear probe chooses its settings on training images held out,
which are other drawings of concepts that it was trained on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import jax

from benchmarks import tables
from benchmarks.workers import ROOT
from vitfm import config as config_lib
from vitfm import evaluate, program
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.evals import base as evaluation
from vitfm.metrics import files

RECIPES = ("supervised", "clip", "dino", "mae")
EVALUATORS = ("knn", "linear_probe")
METRICS = {
    "kNN": "test_style/knn/top1",
    "linear": "test_style/linear_probe/top1",
    "linear top-5": "test_style/linear_probe/top5",
}
SOURCES = {"train": "tfds:emoji:train", "test": "tfds:emoji:test_style", "label": "subgroup"}


def config_file(recipe: str, arg: str) -> str:
    """What `--config` takes: the recipe's file, and the variant where one is given."""
    return f"{ROOT / 'configs' / recipe}.py" + (f":{arg}" if arg else "")


def trained(recipe: str, arg: str, seed: int, folder: pathlib.Path) -> dict[str, Any]:
    """`result.json` of a run of a recipe, which is trained and evaluated where that has not happened yet."""
    workdir = folder / f"{recipe}_{seed}"
    if not (workdir / files.RESULT).exists():
        options = [f"--config={config_file(recipe, arg)}", f"--workdir={workdir}", f"--config.seed={seed}"]
        command = [sys.executable, "-m", "vitfm.main", *options]
        subprocess.run(command, cwd=ROOT, check=True)
    for untrained, prefix in ((False, ""), (True, "untrained/")):
        result = json.loads((workdir / files.RESULT).read_text())
        if any(prefix + metric not in result for metric in METRICS.values()):
            evals = json.loads((workdir / files.CONFIG).read_text())["evals"]
            for name in EVALUATORS:
                given = {key: None if name in evals else value for key, value in SOURCES.items()}
                evaluate.evaluate(str(workdir), [name], given, [], untrained=untrained)
    return json.loads((workdir / files.RESULT).read_text())


def raw_pixels(recipe: str, arg: str) -> dict[str, float]:
    """The metrics of an encoder that returns what it is given, at the image size of a recipe."""
    built = program.build(recipes.parse(config_lib.load_file(config_file(recipe, arg))))
    pixels = {"features": lambda params, image: image.reshape(len(image), 1, 1, -1)}
    context = runs.eval_context(built.data, dataclasses.replace(built.objective, predict=pixels), built.mesh)
    found: dict[str, float] = {}
    for name in EVALUATORS:
        evaluator = evaluation.make(name, {"name": name, **SOURCES, "prefix": "test_style"}, context)
        found |= {metric: float(value) for metric, value in evaluator(jax.numpy.zeros(()))}
    return found


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints the table and returns what `--out` holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/representations", help="folder of the runs, RECIPE_SEED")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="of configs/ (default: %(default)s)")
    parser.add_argument("--arg", default="", help="variant of the recipes, such as tiny")
    parser.add_argument("--seeds", default="0,1,2", help="one run each (default: %(default)s)")
    parser.add_argument("--out", help="also write the numbers as JSON")
    options = parser.parse_args(argv)
    names, seeds = options.recipes.split(","), [int(seed) for seed in options.seeds.split(",")]
    folder = pathlib.Path(options.workdir).expanduser().resolve()
    results = {name: [trained(name, options.arg, seed, folder) for seed in seeds] for name in names}
    pixels = raw_pixels(names[0], options.arg)
    values = {"raw pixels": {title: [pixels[metric]] for title, metric in METRICS.items()}}
    for prefix, form in (("untrained/", "untrained, {}"), ("", "{}")):
        for name in names:
            row = {title: [result[prefix + metric] for result in results[name]] for title, metric in METRICS.items()}
            values[form.format(name)] = row
    rows = {name: [tables.spread(column, scale=100) for column in row.values()] for name, row in values.items()}
    tables.show(f"emoji test_style, 98 subgroups, top-1 %, seeds {options.seeds}", list(METRICS), rows)
    result = {"seeds": seeds, "values": values}
    tables.write(options.out, result)
    return result


if __name__ == "__main__":
    main()
