"""Writes the report of a run anew, or one page that compares several: evaluations, curves, pictures, settings."""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Sequence

from vitfm.config import ConfigError, UserError, nearest
from vitfm.metrics import comparison, files, report

_HELP = """\
examples:
  python -m vitfm.report runs/mae                          writes runs/mae/report.html again
  python -m vitfm.report runs/mae runs/dino runs/clip      compares them in comparison.html
  python -m vitfm.report runs/sweep_* --out=sweep.html

Finished or not, a run is read as it stands. Runs take their colours in the order given. The page is one file that asks
nothing of the network.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 written, 2 to be mended by the user."""
    parser = argparse.ArgumentParser(
        "python -m vitfm.report",
        description=__doc__,
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's directory, what --workdir was")
    parser.add_argument("--out", metavar="FILE", help="the page that compares several (default: comparison.html)")
    arguments = parser.parse_args(argv)
    try:
        path = _write(list(dict.fromkeys(map(_folder, arguments.runs))), arguments.out)
    except UserError as error:
        print(f"vitfm: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


def _write(folders: Sequence[pathlib.Path], out: str | None) -> pathlib.Path:
    try:
        if len(folders) > 1:
            return comparison.write(folders, out or "comparison.html")
        if out is not None:
            raise ConfigError(f"--out={out} is for a page about several runs; the report of one stands in its folder.")
        return report.write(folders[0])
    except OSError as error:
        raise UserError(f"The page can't be written: {error}.") from None


def _folder(run: str) -> pathlib.Path:
    """The folder of that name.

    Raises:
      ConfigError: there is none, with the nearest run beside it.
    """
    folder = pathlib.Path(run).expanduser()
    if not folder.is_dir():
        known = [str(found.parent) for found in sorted(folder.parent.glob(f"*/{files.CONFIG}"))]
        raise ConfigError(f"There is no run's directory {run!r}: {nearest(run, known)}")
    return folder.resolve()


if __name__ == "__main__":
    sys.exit(main())
