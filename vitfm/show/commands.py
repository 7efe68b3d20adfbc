"""`python -m vitfm.data show` and `duplicates`: what they are asked for, and what they say."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Sequence

_SHOW = """\
Writes a page with batches as the model sees them and what is in their source.

The batches are those of a run with this config: the same examples, draws and keys, step by step. Nothing is trained,
and nothing but preprocessing is compiled.
"""
_SHOW_EXAMPLES = """\
examples:
  python -m vitfm.data show --config=configs/clip.py
  python -m vitfm.data show --config=configs/mae.py --config.data.source=folder:/my/images
  python -m vitfm.data show --config=configs/dino.py --step=1000 --batches=1 --rows=64 --out=dino.html
  python -m vitfm.data show --config=configs/supervised.py --config.data.source=folder:/my/images --decode
"""
_DUPLICATES = """\
Finds images that are nearly the same, within a source and between sources: leakage from train to test.

By default images are compared by what is seen in them: resized, recompressed, brightened and slightly cropped copies
are found. With --run they are compared by a model's embeddings: other pictures of the same thing are found, too.
"""
_DUPLICATES_EXAMPLES = """\
examples:
  python -m vitfm.data duplicates folder:/my/images
  python -m vitfm.data duplicates folder:/my/train folder:/my/test --json=leakage.json
  python -m vitfm.data duplicates folder:/my/train folder:/my/test --keep=keep.txt
  python -m vitfm.main --config=configs/mae.py --config.data.source='folder:/my/train#keep=keep.txt'
  python -m vitfm.data duplicates tfds:emoji:train tfds:emoji:test_style --run=runs/clip --distance=0.03
"""


def add_show(subparsers: argparse._SubParsersAction) -> None:
    """Adds `show` to the commands of `python -m vitfm.data`."""
    parser = _added(subparsers, "show", _SHOW, _SHOW_EXAMPLES)
    parser.add_argument("--config", required=True, metavar="FILE[:ARG]", help="the recipe whose data is shown")
    parser.add_argument("--batches", type=int, default=2, metavar="N", help="steps that are shown (default: 2)")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="the first of them (default: 0)")
    parser.add_argument("--rows", type=int, default=32, metavar="N", help="rows of each batch (default: 32)")
    parser.add_argument("--out", metavar="FILE", help="the page (default: runs/data/<name of the config file>.html)")
    parser.add_argument(
        "--summary-sample", type=int, default=5000, metavar="N", help="examples that the summary reads (default: 5000)"
    )
    parser.add_argument("--decode", action="store_true", help="decode these, to find what is broken beyond its header")
    parser.add_argument(
        "--config.KEY", metavar="VALUE", dest="_", help="overrides a key of the config; dots reach deeper"
    )
    parser.set_defaults(run=show)


def add_duplicates(subparsers: argparse._SubParsersAction) -> None:
    """Adds `duplicates` to the commands of `python -m vitfm.data`."""
    parser = _added(subparsers, "duplicates", _DUPLICATES, _DUPLICATES_EXAMPLES)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="SCHEME:REST; the first is the training set")
    parser.add_argument(
        "--method",
        choices=("perceptual", "embedding"),
        help="how images are compared (default: perceptual, or by --run)",
    )
    parser.add_argument("--run", metavar="DIR", dest="model", help="the run whose embeddings are compared")
    parser.add_argument(
        "--distance", type=float, metavar="X", help="bits of 64 (default: 7), or one minus the cosine (default: 0.05)"
    )
    parser.add_argument("--flips", action="store_true", help="find mirrored copies, too (perceptual)")
    parser.add_argument("--image", metavar="FEATURE", help="the feature with the image (default: what the source says)")
    parser.add_argument("--out", metavar="FILE", help="the page (default: runs/data/duplicates_<sources>.html)")
    parser.add_argument("--json", metavar="FILE", help="all that was found, for programs")
    parser.add_argument(
        "--keep", metavar="FILE", help="keys of the first source: one of each group, none that another source has"
    )
    parser.set_defaults(run=duplicates)


def _added(
    subparsers: argparse._SubParsersAction, name: str, description: str, examples: str
) -> argparse.ArgumentParser:
    return subparsers.add_parser(
        name,
        help=description.partition("\n")[0].rstrip("."),
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def show(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the page, and says where it is and what was found.

    Args:
      arguments: the named flags.
      rest: `--config.KEY=VALUE` and what is unknown.

    Raises:
      UserError: what the user can mend.
    """
    from vitfm import host, overrides
    from vitfm.config import ConfigError

    flags = ("--config", "--batches", "--step", "--rows", "--out", "--summary-sample", "--decode")
    pairs = overrides.split(rest, "--config", flags)
    for name, least in (("batches", 0), ("step", 0), ("rows", 1), ("summary_sample", 1)):
        if getattr(arguments, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')}={getattr(arguments, name)} must be at least {least}.")
    config = overrides.load(arguments.config, pairs)
    file, _, argument = arguments.config.partition(":")
    name = "_".join(filter(None, (pathlib.Path(file).stem, argument.replace("/", "_"))))
    host.prepare()
    from vitfm.show import data, terminal  # JAX is imported once the command line is known to make sense.

    path, found = data.write(
        config.to_dict(),
        arguments.out or f"runs/data/{name}.html",
        title=name,
        workdir=f"runs/{name}",
        steps=range(arguments.step, arguments.step + arguments.batches),
        rows=arguments.rows,
        sample=arguments.summary_sample,
        decode=arguments.decode,
    )
    terminal.findings(found)
    print(path)


def duplicates(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the page and the files asked for, and says where they are and what was found.

    Raises:
      UserError: what the user can mend.
    """
    from vitfm import host
    from vitfm.config import ConfigError, nearest

    flags = ("--method", "--run", "--distance", "--flips", "--image", "--out", "--json", "--keep")
    if rest:
        raise ConfigError(f"Unknown argument {rest[0]!r}: {nearest(rest[0].partition('=')[0], flags)}")
    method = arguments.method or ("embedding" if arguments.model else "perceptual")
    if (method == "embedding") != bool(arguments.model):
        raise ConfigError("--method=embedding needs --run=DIR, whose embeddings are compared, and only it reads that.")
    if arguments.flips and method == "embedding":
        raise ConfigError("--flips is for --method=perceptual; to a model mirrored images are alike, or they are not.")
    distance = arguments.distance
    if distance is not None and method == "perceptual" and not distance.is_integer():
        raise ConfigError(f"--distance={distance:g} counts bits of 64: a whole number. One minus a cosine needs --run.")
    host.prepare()
    from vitfm.metrics import files
    from vitfm.show import duplicates as looking
    from vitfm.show import pairs, terminal

    options = {"image": arguments.image}
    if method == "embedding":
        options |= {} if distance is None else {"distance": distance}
        found = looking.embedded(arguments.sources, arguments.model, **options)
    else:
        options |= {} if distance is None else {"distance": int(distance)}
        found = looking.perceptual(arguments.sources, flips=arguments.flips, **options)
    name = "_".join(re.sub(r"\W+", "_", source).strip("_") for source in arguments.sources)[:100]
    path, said = pairs.write(found, arguments.out or f"runs/data/duplicates_{name}.html")
    if len(arguments.sources) > 1:
        terminal.table(*pairs.table(found))
    terminal.findings(said)
    print(path)
    if arguments.json:
        files.replace(pathlib.Path(arguments.json), files.dumps(pairs.as_json(found), indent=2))
        print(arguments.json)
    if arguments.keep:
        keys = pairs.kept(found)
        files.replace(
            pathlib.Path(arguments.keep), "".join(f"{key}\n" for key in keys).encode("utf-8", "surrogateescape")
        )
        print(f"{arguments.keep}: {len(keys):,} keys; read them with {arguments.sources[0]}#keep={arguments.keep}")
