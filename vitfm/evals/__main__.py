"""Evaluates a run after training. What is found joins the run: its rows, TensorBoard, pictures, result and report."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from vitfm import host, overrides
from vitfm.config import UserError

_FLAGS = ("--run", "--eval", "--train", "--test", "--label", "--step", "--random")
_HELP = """\
examples:
  python -m vitfm.evals --run=runs/clip                         all evaluators of the run's recipe, once more
  python -m vitfm.evals --run=runs/clip --eval=test_style       one of them, by its key in the recipe's `evals`
  python -m vitfm.evals --run=runs/clip --eval=knn,linear_probe,fewshot --label=subgroup --test=tfds:emoji:test_style
  python -m vitfm.evals --run=runs/clip --eval=knn --label=subgroup --test=tfds:emoji:test_style --evals.knn.k='[5, 20]'
  python -m vitfm.evals --run=runs/clip --eval=knn --label=subgroup --test=tfds:emoji:test_style --random
  python -m vitfm.evals --run=runs/clip --eval=features --test=tfds:emoji:test_style --evals.features.path=test.npz

A name that is no key of the recipe is a module of vitfm/evals (attention, features, fewshot, knn, linear_probe,
retrieval, ...): --train, --test and --label fill in the options it has of that sort, and metrics are named after the
split that --test names. Any option of any evaluator is set by --evals.NAME.OPTION=VALUE, and so is a new evaluator:
--evals.mine.name=knn --evals.mine.train=... --eval=mine.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 to be mended by the user, 130 interrupted."""
    try:
        arguments, pairs = _parse(sys.argv[1:] if argv is None else argv)
        host.prepare()
        from vitfm import evaluate  # JAX is imported once the command line is known to make sense.

        given = {"train": arguments.train, "test": arguments.test, "label": arguments.label}
        names = arguments.eval.split(",") if arguments.eval else []
        evaluate.evaluate(arguments.run, names, given, pairs, step=arguments.step, untrained=arguments.random)
    except UserError as error:
        print(f"vitfm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vitfm: stopped; evaluators that had finished are written.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The named flags, and overrides as (dotted key, text)."""
    parser = argparse.ArgumentParser(
        "python -m vitfm.evals",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, metavar="DIR", help="the workdir of the run")
    parser.add_argument("--eval", metavar="NAME,...", help="which evaluators (default: all of the recipe)")
    parser.add_argument("--train", metavar="SOURCE", help="images to learn a probe from (default: the run's own)")
    parser.add_argument("--test", metavar="SOURCE", help="images to measure on")
    parser.add_argument("--label", metavar="FEATURE", help="the feature with the class (default: the run's own)")
    parser.add_argument("--step", type=int, metavar="N", help="which checkpoint (default: the latest)")
    parser.add_argument("--random", action="store_true", help="the untrained model instead, as `untrained/...`")
    parser.add_argument(
        "--evals.NAME.OPTION", metavar="VALUE", dest="_", help="sets an option of an evaluator; dots reach deeper"
    )
    arguments, rest = parser.parse_known_args(list(argv))
    return arguments, overrides.split(rest, "--evals", _FLAGS)


if __name__ == "__main__":
    sys.exit(main())
