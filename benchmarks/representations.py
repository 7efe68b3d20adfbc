"""What each recipe's encoder has learned: probes of its frozen features on `emoji`, beside two that learned nothing.

    python -m benchmarks.representations --out=numbers.json --markdown=docs/recipes/README.md
    python -m benchmarks.representations --recipes=mae,moco:v3 --seeds=0

Trains each recipe with its own settings, after the one it learns or starts from, and evaluates by subgroups on
`test_style`, drawings by a hand that no run has seen, and on `test_concept`, things that none has seen. `raw pixels`
are the pixels as features; `untrained` are the encoders as initialised with the first seed. What is in `--out` already
is not measured again, and a run that is in `--workdir` not trained again: a command that was stopped goes on. The
linear probe chooses its settings on training images held out, which are other drawings of concepts that it was trained
on. Zero-shot is by name: of all names, and for `test_concept` of its own.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
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

TEACHERS = {"vqkd": "clip", "beit": "vqkd", "deit": "deit:teacher", "distill": "clip"}  # Whose runs teach others.
STARTS = {"lit": "supervised"}  # Whose runs others start from.
SUPERVISED = ("supervised", "deit:teacher", "deit", "triplet")
WITH_TEXT = ("clip", "siglip", "siglip2", "coca", "lit")
CONTRASTIVE = ("simclr", "moco", "moco:v3")
SELF_DISTILLED = ("dino", "ibot", "dinov2", "dinov2:gram")
RECONSTRUCTING = ("mae", "simmim", "aim")
TAUGHT = ("vqkd", "beit", "distill")
RECIPES = (*SUPERVISED, *WITH_TEXT, *CONTRASTIVE, *SELF_DISTILLED, *RECONSTRUCTING, "rotation", "dvae", *TAUGHT)
EVALUATORS = ("linear_probe", "knn", "fewshot")
TRAIN, LABEL = "tfds:emoji:train", "subgroup"
SPLITS = {"style": "test_style", "concept": "test_concept"}
METRICS = {"linear": "linear_probe/top1", "kNN": "knn/top1", "10 shots": "fewshot/top1_10shot"}
PROBED = {f"{short} {title}": f"{split}/{of}" for short, split in SPLITS.items() for title, of in METRICS.items()}
ZERO_SHOT = {"style zero-shot": "test_style/zeroshot/top1", "concept zero-shot": "test_concept/zeroshot_heldout/top1"}
COLUMNS = {**PROBED, **ZERO_SHOT, "minutes": "seconds"}
RAW_PIXELS, UNTRAINED = "raw pixels", "{}, untrained"  # Rows of what has learned nothing.
BESIDE = tuple(UNTRAINED.format(title) for title in PROBED if "shots" not in title)
TABLE = (*PROBED, *BESIDE, *ZERO_SHOT, "minutes", "seeds")
_GIVEN = ("train", "test", "label")
_MARKS = "<!-- python -m benchmarks.representations -->", "<!-- end of the table -->"

Numbers = dict[str, dict[str, dict[str, float]]]  # row -> seed -> column -> number; a column without one is not there.


def config_file(recipe: str) -> str:
    """What `--config` takes for NAME or NAME:VARIANT."""
    name, _, variant = recipe.partition(":")
    return f"{ROOT / 'configs' / name}.py" + (f":{variant}" if variant else "")


def workdir_of(recipe: str, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Where the run of a recipe is."""
    return folder / f"{recipe.replace(':', '_')}_{seed}"


def trained(recipe: str, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """The workdir of a run, which is trained where that has not happened yet, after what it learns or starts from."""
    workdir = workdir_of(recipe, seed, folder)
    if not (workdir / files.RESULT).exists():
        start = f":{trained(STARTS[recipe], seed, folder)}" if recipe in STARTS else ""
        options = [f"--config={config_file(recipe)}{start}", f"--workdir={workdir}", f"--config.seed={seed}"]
        if recipe in TEACHERS:
            options.append(f"--config.teacher.run={trained(TEACHERS[recipe], seed, folder)}")
        subprocess.run([sys.executable, "-m", "vitfm.main", *options], cwd=ROOT, check=True)
    return workdir


def measured(workdir: pathlib.Path, *, untrained: bool = False) -> dict[str, Any]:
    """`result.json` of a run, after probes that are not in it yet."""
    prefix = "untrained/" if untrained else ""
    read = lambda: json.loads((workdir / files.RESULT).read_text())
    evals = json.loads((workdir / files.CONFIG).read_text())["evals"]
    for split in SPLITS.values():
        result = read()
        if any(f"{prefix}{split}/{metric}" not in result for metric in METRICS.values()):
            sources = _sources(split)
            pairs = [(f"{own}.{key}", sources[key]) for own in EVALUATORS if own in evals for key in ("test", "prefix")]
            given = {key: None if len(pairs) == 2 * len(EVALUATORS) else sources[key] for key in _GIVEN}
            evaluate.evaluate(str(workdir), EVALUATORS, given, pairs, untrained=untrained)
    return {name.removeprefix(prefix): value for name, value in read().items() if name.startswith(prefix)}


def _sources(split: str) -> dict[str, str]:
    return {"train": TRAIN, "test": f"tfds:emoji:{split}", "label": LABEL, "prefix": split}


def pixels(recipe: str) -> evaluation.Context:
    """Of an encoder that returns what it is given, at the image size of a recipe; its parameters may be anything."""
    built = program.build(recipes.parse(config_lib.load_file(config_file(recipe))))
    given = {"features": lambda params, image: image.reshape(len(image), 1, 1, -1)}
    return runs.eval_context(built.data, dataclasses.replace(built.objective, predict=given), built.mesh)


def raw_pixels(recipe: str) -> dict[str, float]:
    """The metrics of raw pixels."""
    context, found = pixels(recipe), {}
    for name in EVALUATORS:
        for split in SPLITS.values():
            evaluator = evaluation.make(name, {"name": name, **_sources(split)}, context)
            found |= {metric: float(value) for metric, value in evaluator(jax.numpy.zeros(()))}
    return found


def columns_of(result: Mapping[str, Any], metrics: Mapping[str, str]) -> dict[str, float]:
    """The columns that a run has."""
    return {title: float(result[metric]) for title, metric in metrics.items() if metric in result}


def fill(numbers: Numbers, names: Sequence[str], seeds: Sequence[int], folder: pathlib.Path) -> Iterator[None]:
    """Adds what is not among the numbers yet, a run at a time."""
    first = str(seeds[0])
    if RAW_PIXELS not in numbers:
        numbers[RAW_PIXELS] = {first: columns_of(raw_pixels(names[0]), PROBED)}
        yield
    for name in names:
        if UNTRAINED.format(name) not in numbers:
            result = measured(trained(name, seeds[0], folder), untrained=True)
            numbers[UNTRAINED.format(name)] = {first: columns_of(result, PROBED)}
            yield
        for seed in seeds:
            if str(seed) not in numbers.setdefault(name, {}):
                numbers[name][str(seed)] = columns_of(measured(trained(name, seed, folder)), COLUMNS)
                yield


def cells(numbers: Numbers, name: str) -> list[str]:
    """As they are printed: accuracies in %, mean and half the range over seeds; the longest run's minutes."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    for form in ("{}", UNTRAINED):
        for row in numbers.get(form.format(name), {}).values():
            for title, number in row.items():
                values[form.format(title)].append(number)
    shown = {title: tables.spread(row, scale=100) for title, row in values.items()}
    if "minutes" in values:
        shown["minutes"] = f"{max(values['minutes']) / 60:.1f}"
    if name != RAW_PIXELS:
        shown["seeds"] = str(len(numbers.get(name, {})))
    return [shown.get(title, "") for title in TABLE]


def main(argv: Sequence[str] | None = None) -> Numbers:
    """Prints the table and returns what `--out` holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/representations", help="folder of the runs, RECIPE_SEED")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="NAME or NAME:VARIANT (default: %(default)s)")
    parser.add_argument("--seeds", default="0,1,2", help="one run each (default: %(default)s)")
    parser.add_argument("--markdown", help=f"a file whose table, between {_MARKS[0]} and {_MARKS[1]}, is written anew")
    parser.add_argument("--out", help="a JSON file of the numbers: those in it are taken, new ones are added")
    options = parser.parse_args(argv)
    names, seeds = options.recipes.split(","), [int(seed) for seed in options.seeds.split(",")]
    numbers: Numbers = (files.read_json(pathlib.Path(options.out)) if options.out else None) or {}
    for _ in fill(numbers, names, seeds, pathlib.Path(options.workdir).expanduser().resolve()):
        tables.write(options.out, numbers)
    rows = {name: cells(numbers, name) for name in (RAW_PIXELS, *names)}
    tables.show("emoji, 98 subgroups, top-1 %", TABLE, rows)
    if options.markdown:
        tables.rewrite(pathlib.Path(options.markdown), _MARKS, ["", *TABLE], rows)
    return numbers


if __name__ == "__main__":
    main()
