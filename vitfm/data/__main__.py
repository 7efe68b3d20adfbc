"""Prepares data sets, shows what a model sees of them, measures their numbers, finds near-duplicates."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from vitfm.config import UserError
from vitfm.data import stats
from vitfm.data.prepare import command as prepare
from vitfm.show import commands as show

_HELP = """\
examples:
  python -m vitfm.data show --config=configs/mae.py --config.data.source=folder:/my/images    look before you train
  python -m vitfm.data stats folder:/my/scans                                  which numbers a config needs to know
  python -m vitfm.data duplicates folder:/my/train folder:/my/test             leakage from train to test
  python -m vitfm.data prepare folder:/my/images /data --name=my_set           shards that are read at full speed

Each has more: python -m vitfm.data prepare --help. Sources are those of config.data.source: folder:PATH, csv:FILE,
jsonl:FILE, webdataset:PATTERN, parquet:PATTERN, array_record:PATTERN, tfds:NAME:SPLIT, and parts of them as #:90%.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 to be mended by the user, 130 interrupted."""
    arguments, rest = _parser().parse_known_args(sys.argv[1:] if argv is None else list(argv))
    try:
        arguments.run(arguments, rest)
    except UserError as error:
        print(f"vitfm: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("vitfm: stopped; the same command goes on, or begins anew.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m vitfm.data",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    prepare.add_parser(subparsers)
    show.add_show(subparsers)
    stats.add_parser(subparsers)
    show.add_duplicates(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
