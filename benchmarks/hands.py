"""Where on `test_concept` what is learned shows: the linear probe by hands it was trained on, and by one it was not.

    python -m benchmarks.hands --recipes=dino,mae --out=numbers.json --markdown=docs/recipes/README.md

Trains one run of each recipe as `benchmarks.representations` does, and shares its runs. A hand that trained the probe
draws new things by its old templates, which pixels tell; Noto is a hand that no run has seen. In brackets are 95%
intervals of differences of a bootstrap over things, since several hands' drawings of one thing are not independent.
`--out` holds which drawings were right, as 0 and 1 in the order of the split; what is in it is not measured again.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks import representations, tables
from benchmarks.representations import LABEL, RAW_PIXELS, TRAIN, UNTRAINED
from vitfm import program
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.data import sources
from vitfm.evals import base as evaluation
from vitfm.evals import embeddings, linear_probe, probing
from vitfm.metrics import files

RECIPES = ("supervised", *representations.CONTRASTIVE, *representations.SELF_DISTILLED)
RECIPES += (*representations.RECONSTRUCTING, "rotation", "vqkd", "beit")
NEW_HAND = "noto"
TEST = f"tfds:emoji:{representations.SPLITS['concept']}"
KNOWN = ("known hands", "known hands, untrained")
NEW = ("new hand", "new hand, untrained", "new hand over pixels", "new hand over untrained")
COLUMNS = (*KNOWN, *NEW, "all", "all over pixels")
_MARKS = "<!-- python -m benchmarks.hands -->", "<!-- end of the hands -->"
_SAMPLES = 4000

Right = dict[str, str]  # row -> a digit a drawing: whether the probe was right


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Those of the test split, of N drawings and T things.

    Attributes:
      things: [N] in [0, T), what each shows.
      new: bool [N], whether the hand that drew it has trained no probe.
    """

    things: np.ndarray
    new: np.ndarray

    def interval(self, differences: np.ndarray, among: np.ndarray) -> tuple[float, float, float]:
        """The mean of [N] differences among some drawings, and its 95% interval over things drawn with replacement."""
        count = self.things.max() + 1
        summed = np.bincount(self.things[among], differences[among], count)
        size = np.bincount(self.things[among], minlength=count)
        times = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _SAMPLES)
        low, high = np.percentile((times @ summed) / (times @ size), [2.5, 97.5])
        return differences[among].mean(), low, high


def drawings() -> Drawings:
    """The split's."""
    examples = sources.make(TEST)
    told = [(example["codepoint"], example["style"]) for example in (examples[row] for row in range(len(examples)))]
    things, styles = np.array(told).T
    return Drawings(np.unique(things, return_inverse=True)[1], styles == NEW_HAND)


def right(context: evaluation.Context, params: Any) -> str:
    """Which drawings a linear probe has right, by the evaluator's protocol and its default options."""
    train_labels, labels, classes = context.labels(LABEL, TRAIN, TEST)
    parts = probing.divided(context, len(train_labels), heldout=0.1)
    train, test = (embeddings.features_of(context, params, source, batch_size=256) for source in (TRAIN, TEST))
    lengths = {"classes": len(classes), "epochs": 10, "minibatch_size": 256}
    probe, _ = linear_probe.choose(context, train, train_labels, parts, **lengths)
    ranks = linear_probe.ranks(context, probe, test, labels, np.arange(len(labels)))[0, 0]
    return "".join(str(int(rank < 1)) for rank in ranks)


def of_run(workdir: pathlib.Path, *, untrained: bool = False) -> str:
    """Which drawings are right by the encoder of a run, or by that encoder as initialised."""
    recipe = recipes.parse(files.read_json(workdir / files.CONFIG))
    built = program.build(recipe)
    context = runs.eval_context(built.data, built.objective, built.mesh)
    fresh = lambda: built.evaluated(built.init(jax.random.key(recipe.seed)))[""]
    return right(context, fresh() if untrained else runs.load(str(workdir)).params)


def fill(found: Right, names: Sequence[str], seed: int, folder: pathlib.Path) -> Iterator[None]:
    """Adds what is not among the rows yet, a row at a time."""
    if RAW_PIXELS not in found:
        found[RAW_PIXELS] = right(representations.pixels(names[0]), jax.numpy.zeros(()))
        yield
    for name in names:
        for row, untrained in ((name, False), (UNTRAINED.format(name), True)):
            if row not in found:
                found[row] = of_run(representations.trained(name, seed, folder), untrained=untrained)
                yield


def cells(found: Right, name: str, split: Drawings) -> list[str]:
    """As they are printed: accuracies and differences of them in %."""
    numbers = lambda row: np.array(list(found[row]), float) if row in found else None
    own, untrained = numbers(name), numbers(UNTRAINED.format(name))
    pixels = None if name == RAW_PIXELS else numbers(RAW_PIXELS)
    whole = np.full_like(split.new, True)
    share = lambda row, among: "" if row is None else f"{100 * row[among].mean():.1f}"

    def over(row: np.ndarray | None, among: np.ndarray) -> str:
        if row is None:
            return ""
        mean, low, high = (100 * value for value in split.interval(own - row, among))
        return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"

    known = [share(own, ~split.new), share(untrained, ~split.new)]
    new = [share(own, split.new), share(untrained, split.new), over(pixels, split.new), over(untrained, split.new)]
    return [*known, *new, share(own, whole), over(pixels, whole)]


def main(argv: Sequence[str] | None = None) -> Right:
    """Prints the table and returns what `--out` holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/representations", help="folder of the runs, RECIPE_SEED")
    parser.add_argument("--recipes", default=",".join(RECIPES), help="NAME or NAME:VARIANT (default: %(default)s)")
    parser.add_argument("--seed", default=0, type=int, help="of the runs (default: %(default)s)")
    parser.add_argument("--markdown", help=f"a file whose table, between {_MARKS[0]} and {_MARKS[1]}, is written anew")
    parser.add_argument("--out", help="a JSON file: the rows in it are taken, new ones are added")
    options = parser.parse_args(argv)
    names = options.recipes.split(",")
    found: Right = (files.read_json(pathlib.Path(options.out)) if options.out else None) or {}
    for _ in fill(found, names, options.seed, pathlib.Path(options.workdir).expanduser().resolve()):
        tables.write(options.out, found)
    split = drawings()
    rows = {name: cells(found, name, split) for name in (RAW_PIXELS, *names)}
    title = f"test_concept, linear probe, top-1 %: {(~split.new).sum()} by known hands, {split.new.sum()} by a new one"
    tables.show(title, COLUMNS, rows)
    if options.markdown:
        tables.rewrite(pathlib.Path(options.markdown), _MARKS, ["", *COLUMNS], rows)
    return found


if __name__ == "__main__":
    main()
