"""`python -m vitfm.data prepare SOURCE DIR --name=NAME`: what it is asked for, and what it says."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitfm.config import ConfigError, nearest
from vitfm.data.prepare import conversion, kinds, store
from vitfm.data.prepare.plan import Request
from vitfm.data.sources.tfds import EMBEDDED

_WHAT = """\
Makes a TFDS data set in ArrayRecord of any source: shuffled once, so that reading on is reading at random, and every
example is one read. It is then read as tfds:NAME:SPLIT with TFDS_DATA_DIR=DIR, by vitfm and by TFDS without TensorFlow.

Images are stored as they are, byte for byte. What can't be decoded is left out, counted and listed. If it is killed,
the same command goes on where it stopped, and the result is the same, bit for bit.
"""
_EXAMPLES = """\
examples:
  python -m vitfm.data prepare folder:/my/images /data --name=my_set
  TFDS_DATA_DIR=/data python -m vitfm.main --config=configs/mae.py --config.data.source=tfds:my_set:train

  python -m vitfm.data prepare 'webdataset:/raw/{00000..00331}.tar' /data --name=cc3m --workers=16
  python -m vitfm.data prepare folder:/raw/train /data --name=birds --split=train
  python -m vitfm.data prepare folder:/raw/val /data --name=birds --split=validation
  python -m vitfm.data prepare csv:/raw/scans.csv /data --name=scans --splits 'train=#:90%&by=patient' 'test=#90%:&by=patient'
  python -m vitfm.data prepare folder:/raw/photos /data --name=small --resize=512 --shard-mb=100
  python -m vitfm.data prepare mixture.json /data --name=mine --feature=score=float --feature=exif=none

  python -m vitfm.data prepare 'folder:gs://raw/images' gs://prepared --name=large --beam --runner=DataflowRunner ...
"""  # noqa: E501 - Commands are typed in one line.


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `prepare` to the commands of `python -m vitfm.data`."""
    parser = subparsers.add_parser(
        "prepare",
        help="Makes a TFDS data set in ArrayRecord of any source",
        description=_WHAT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("source", metavar="SOURCE", help="SCHEME:REST, or a .json file with a mixture, {'parts': [{'source': ...}]}")
    add("folder", metavar="DIR", help="the data set goes to DIR/NAME/VERSION")
    add("--name", required=True, help="of the data set: small letters, digits and _")
    add("--version", default="1.0.0", help="of the data set (default: 1.0.0)")
    add("--split", help="what the source becomes (default: train); call again for others")
    add("--splits", nargs="+", metavar="SPLIT=PART", help="several at once, as parts of the source: train=#:90%%")
    add("--shards", type=int, metavar="N", help="files (default: so many that each has --shard-mb)")
    add("--shard-mb", type=float, default=256, metavar="MB", help="megabytes of a file, about (default: 256)")
    add("--workers", type=int, metavar="N", help="processes (default: 2); 0 for none but this one")
    add("--no-check", action="store_true", help="store images without decoding them, whatever they are")
    add("--resize", type=int, metavar="PIXELS", help="store larger images as JPEGs of this shorter side, quality 95")
    add("--max-bad", type=float, default=0.1, metavar="SHARE", help="stop if more can't be used (default: 0.1)")
    add("--shuffle-seed", type=int, default=0, metavar="N", help="which order (default: 0)")
    add("--no-shuffle", action="store_true", help="the order of the source")
    add("--feature", action="append", default=[], metavar="NAME=TYPE", help=_FEATURE)
    add("--sample", type=int, default=10_000, metavar="N", help="examples that tell what features are (default: 10000)")
    add("--beam", action="store_true", help="run on Apache Beam; what is unknown here are its options, as --runner=...")
    parser.set_defaults(run=run)


_FEATURE = "text, int, float, class, json (any value, as text) or none (left out) instead of what the values say"


def run(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Writes the data set, and says what is in it.

    Args:
      arguments: the named flags.
      rest: Beam's options.

    Raises:
      UserError: what the user can mend.
    """
    _check(arguments, rest)
    conversion.prepare(
        list(_requests(arguments)),
        workers=2 if arguments.workers is None else arguments.workers,
        max_bad=arguments.max_bad,
        beam=rest if arguments.beam else None,
    )
    first = (arguments.splits or [arguments.split or "train"])[0].partition("=")[0]
    where = f"TFDS_DATA_DIR={arguments.folder}"
    if store.remote(arguments.folder):
        where = f"TFDS_DATA_DIR=/data, once {arguments.folder} is copied to a disk, /data,"  # It reads no URLs.
    print(f"Read it with {where} as tfds:{arguments.name}:{first}.")


def _requests(arguments: argparse.Namespace) -> Iterator[Request]:
    """What is asked for, of each split."""
    splits = _pairs("--splits", arguments.splits) if arguments.splits else {arguments.split or "train": None}
    source = _source(arguments.source)
    for split, part in splits.items():
        if not re.fullmatch(r"[a-zA-Z]\w*", split) or split == "all":
            raise ConfigError(f"A split can't be called {split!r}: letters, digits and _, and not 'all'.")
        yield Request(
            source=source,
            part=part,
            folder=f"{arguments.folder.rstrip('/')}/{arguments.name}/{arguments.version}",
            name=arguments.name,
            split=split,
            shards=arguments.shards,
            shard_mb=arguments.shard_mb,
            seed=None if arguments.no_shuffle else arguments.shuffle_seed,
            check=not arguments.no_check,
            resize=arguments.resize,
            sample=arguments.sample,
            feature=_pairs("--feature", arguments.feature),
        )


def _source(text: str) -> str | Mapping[str, Any]:
    """A source, or the mixture in a file."""
    if not text.endswith(".json") or re.match(r"\w+:", text):
        return text
    found = store.read_json(text)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{text!r} is no file with a mixture: {{'parts': [{{'source': 'folder:/a'}}, ...]}} in JSON.")
    return found


def _pairs(flag: str, words: Sequence[str]) -> dict[str, str]:
    """What is said of each name.

    Raises:
      ConfigError: a word that says nothing, or another of a name.
    """
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(f"{flag} {word!r} should read {'SPLIT=PART' if flag == '--splits' else 'NAME=TYPE'}.")
        if name in pairs:
            raise ConfigError(f"{flag} says two things of {name!r}, {pairs[name]!r} and {value!r}: give one.")
        pairs[name] = value
    return pairs


def _check(arguments: argparse.Namespace, rest: Sequence[str]) -> None:
    """Refuses what can be told from the words alone."""
    known = [action for action in vars(arguments) if action not in ("source", "folder", "run")]
    if rest and not arguments.beam:
        flags = [f"--{name.replace('_', '-')}" for name in known]
        hint = "Options of Apache Beam need --beam." if rest[0].startswith("--runner") else ""
        raise ConfigError(f"Unknown argument {rest[0]!r}: {hint or nearest(rest[0].partition('=')[0], flags)}")
    if arguments.beam and arguments.workers is not None:
        raise ConfigError(
            "--workers is for this machine; with --beam the runner has options, as --direct_num_workers=2."
        )
    if arguments.split and arguments.splits:
        raise ConfigError("--split names all of the source, and --splits parts of it: give one.")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", arguments.name):
        raise ConfigError(f"--name={arguments.name}: TFDS has names of small letters, digits and _, such as my_set.")
    if (EMBEDDED / arguments.name / "1.0.0").is_dir():
        raise ConfigError(f"--name={arguments.name} is the set inside vitfm, which is always read first; take another.")
    if not re.fullmatch(r"\d+\.\d+\.\d+", arguments.version):
        raise ConfigError(f"--version={arguments.version} should be three numbers, such as 1.0.0.")
    for name, least in (("shards", 1), ("workers", 0), ("resize", 1), ("sample", 1), ("max_bad", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')}={value} must be at least {least}.")
    if arguments.shard_mb <= 0 or arguments.shuffle_seed < 0:
        raise ConfigError("--shard-mb must be above 0, and --shuffle-seed at least 0.")
    for name, kind in _pairs("--feature", arguments.feature).items():
        if kind not in kinds.GIVEN:
            raise ConfigError(f"--feature={name}={kind}: {nearest(kind, kinds.GIVEN)}")
