"""Trains what a config file describes; the same command again goes on where the run stopped."""

from __future__ import annotations

import argparse
import pathlib
import re
import signal
import sys
from collections.abc import Sequence

from vitfm import host, overrides
from vitfm.config import ConfigError, UserError

_HELP = """\
examples:
  python -m vitfm.main --config=configs/clip.py                          the default run, in runs/clip
  python -m vitfm.main --config=configs/mae.py --config.data.source=folder:/my/images       your own images, as they lie
  python -m vitfm.main --config=configs/clip.py --config.seed=1 --workdir=runs/clip_seed1
  python -m vitfm.main --config=configs/clip.py --config.optim.learning_rate=3e-3 --config.total='20 epochs'
  python -m vitfm.main --config=configs/clip.py --config.mesh.fsdp=8     parameters split over 8 devices

Lengths (total, warm-up, intervals) are steps as a number, or text: '500 steps', '2e6 examples', '30 epochs', '10%'.
Every key of a config is an argument of the function that reads it: see vitfm/recipe.py for the top level, and `make` in
the module that a `name` names for the rest. A finished run is opened with vitfm.load(WORKDIR) and its report.html.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 2 to be mended by the user, 1 diverged, 128+n stopped."""
    try:
        arguments, pairs = _parse(sys.argv[1:] if argv is None else argv)
        config = overrides.load(arguments.config, pairs)
        file, _, argument = arguments.config.partition(":")
        name = "_".join(filter(None, (pathlib.Path(file).stem, argument.replace("/", "_"))))
        workdir = arguments.workdir or str(pathlib.Path("runs") / name)
        host.prepare()
        _initialize_processes(arguments.distributed)
        from vitfm import train_lib  # JAX is imported once the command line is known to make sense.
        from vitfm.interrupt import Interrupted

        try:
            train_lib.train(config, workdir)
        except Interrupted as stop:
            print(stop, file=sys.stderr)
            return stop.exit_code
    except UserError as error:
        print(f"vitfm: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("vitfm: stopped before a step was made; nothing is lost.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    """The named flags, and overrides as (dotted key, text)."""
    parser = argparse.ArgumentParser(
        "python -m vitfm.main", description=__doc__, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE[:ARG]", help="a file with get_config(arg) -> ConfigDict"
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="the run's directory (default: runs/<name of the config file>)"
    )
    parser.add_argument(
        "--distributed",
        metavar="auto|HOST:PORT,PROCESSES,INDEX",
        help="one of several processes: 'auto' on TPU pods, Slurm, MPI and Kubernetes; spelled out elsewhere",
    )
    parser.add_argument(
        "--config.KEY", metavar="VALUE", dest="_", help="overrides a key of the config; dots reach deeper"
    )
    parser.allow_abbrev = False
    arguments, rest = parser.parse_known_args(list(argv))
    return arguments, overrides.split(rest, "--config", ["--workdir", "--distributed"])


def _initialize_processes(distributed: str | None) -> None:
    """Joins the other processes of a run over several hosts."""
    if distributed is None:
        return
    match = re.fullmatch(r"([^,\s]+:\d+),(\d+),(\d+)", distributed)
    if distributed != "auto" and not match:
        raise ConfigError(f"--distributed={distributed} is neither 'auto' nor HOST:PORT,PROCESSES,INDEX.")
    if match and int(match[3]) >= int(match[2]):
        raise ConfigError(f"--distributed={distributed}: INDEX counts from 0 and is below PROCESSES, {match[2]}.")
    import jax

    try:
        jax.distributed.initialize(*((match[1], int(match[2]), int(match[3])) if match else ()))
    except (ValueError, RuntimeError) as error:
        hint = "" if match else " Nothing here says which process this is; write HOST:PORT,PROCESSES,INDEX."
        raise ConfigError(f"--distributed={distributed}: {error}{hint}") from None


def console() -> None:
    """The `vitfm` command."""
    sys.exit(main())


if __name__ == "__main__":
    console()
