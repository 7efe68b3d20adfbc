"""`python -m vitfm.data stats SOURCE`: what numbers its images hold, and what a config has to say of them."""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import rich.console
import rich.progress

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import bad, inputs

if TYPE_CHECKING:
    from vitfm.data import measure

_SECONDS_BETWEEN_LINES = 10.0
_EXAMPLES = """\
examples:
  python -m vitfm.data stats folder:/my/images
  python -m vitfm.data stats folder:/my/ct --dtype=float32 --range=-1024,3071 --out=ct.json
  python -m vitfm.data stats folder:/my/scenes --bands=3,2,1
"""
_OPTIONS = {  # Of `vitfm.data.inputs.make`, and an example of each.
    "range": "0,4095",
    "window": "40,400",
    "bands": "3,2,1",
    "page": "0",
    "fill": "0",
}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `stats` to the commands of `python -m vitfm.data`."""
    what = "Measures what numbers images hold, and says what a config needs to say of them"
    parser = subparsers.add_parser("stats", help=what, description=f"{what}.", epilog=_EXAMPLES, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="SOURCE", help="SCHEME:REST, such as folder:/my/images")
    parser.add_argument("--image", metavar="FEATURE", help="the feature with the image (default: what the source says)")
    parser.add_argument("--sample", type=int, default=2000, metavar="N", help="images that are read (default: 2000)")
    parser.add_argument("--threads", type=int, metavar="N", help="that read and decode (default: one a core)")
    parser.add_argument("--out", metavar="FILE", help="all of it as JSON")
    parser.add_argument("--channels", type=int, metavar="C", help="(default: as the first images have them)")
    parser.add_argument(
        "--dtype", choices=("uint8", "uint16", "float32"), help="(default: as the first images have it)"
    )
    for name, example in _OPTIONS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"as config.data.input.{name}, such as {example}")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, rest: Sequence[str] = ()) -> None:
    """Prints what was found, and writes it to --out.

    Raises:
      ConfigError: what the user can mend.
    """
    if rest:
        known = [f"--{name}" for name in ("image", "sample", "threads", "out", "channels", "dtype", *_OPTIONS)]
        raise ConfigError(f"Unknown argument {rest[0]!r}: {config.nearest(rest[0].partition('=')[0], known)}")
    for name in ("sample", "threads"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name}={value} must be at least 1.")
    options = {name: getattr(arguments, name) for name in ("channels", "dtype")}
    options |= {name: _literal(getattr(arguments, name)) for name in _OPTIONS}
    options = {name: value for name, value in options.items() if value is not None}
    if "bands" in options:
        options["bands"] = _bands(options["bands"])
    if arguments.out:
        _make_room(pathlib.Path(arguments.out))  # Before all of it is measured in vain.
    from vitfm.data import measure, sources  # Decoders are imported once the command line makes sense.

    source = sources.make(arguments.source)
    with _progress(min(arguments.sample, len(source))) as seen:
        found = measure.measure(
            source,
            image=arguments.image,
            options=options,
            sample=arguments.sample,
            threads=arguments.threads,
            seen=seen,
        )
    print(bad.printable("\n".join(lines(found, options))))
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(as_json(found), indent=2) + "\n")


def lines(found: measure.Stats, options: Mapping[str, Any]) -> list[str]:
    """What was found, for people; `options` are those that were given."""
    spec, moments = found.spec, found.moments
    seen = f"all {found.examples:,}" if found.sampled == found.examples else f"{found.sampled:,} of {found.examples:,}"
    counted = lambda counts: ", ".join(
        f"{name} ({count:,})" if len(counts) > 1 else f"{name}" for name, count in counts
    )
    made = [f"{found.source}: {seen} images, {found.read:,} of them good"]
    made.append(
        f"  {counted(found.kinds.items())}; {counted(found.dtypes.items())}; channels {counted(found.channels.items())}"
    )
    made.append("  height x width: " + ", ".join(" x ".join(map(str, size)) for size in dict.fromkeys(found.sizes)))
    if found.spacing is not None:
        made.append(
            "  spacing: " + " to ".join(" x ".join(f"{x:g}" for x in one) for one in dict.fromkeys(found.spacing))
        )
    made += [f"  bad, {reason} ({n:,}): {key}: {message}" for reason, (n, key, message) in found.bad.items()]
    heads = ("channel", "mean", "std", "min", *(f"{p:g}%" for p in found.percentiles), "max")
    rows = [heads]
    for c in range(spec.channels):
        values = (
            moments.mean[c],
            moments.std[c],
            moments.low[c],
            *(values[c] for values in found.percentiles.values()),
            moments.high[c],
        )
        rows.append((str(c), *(f"{value:.6g}" for value in values)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    made += [
        "",
        *("  " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows),
    ]
    return [*made, "", "To train on these:", *(f"  {flag}" for flag in flags(found, options))]


def flags(found: measure.Stats, options: Mapping[str, Any]) -> list[str]:
    """What a command line has to say of these images."""
    spec = found.spec
    usual = inputs.make(dtype=spec.dtype).range
    said: dict[str, Any] = {} if spec.is_plain else {"alpha": False}
    said |= {"channels": spec.channels} if spec.channels != 3 else {}
    said |= {"input.dtype": spec.dtype} if spec.dtype != "uint8" else {}
    said |= {f"input.{name}": options[name] for name in _OPTIONS if name in options}
    said |= {"input.range": spec.range} if spec.range != usual else {}
    for name, values in (("mean", found.mean), ("std", found.std)):
        said[f"augment.{name}"] = tuple(float(f"{value:.4g}") for value in values)
    return [f"--config.data.{key}={_quoted(value)}" for key, value in said.items()]


def as_json(found: measure.Stats) -> dict[str, Any]:
    """What was found, for programs."""
    spec, moments = found.spec, found.moments
    numbers = {"mean": found.mean, "std": found.std, "min": moments.low, "max": moments.high}
    numbers |= {f"{p:g}%": values for p, values in found.percentiles.items()}
    return {
        "source": found.source,
        "examples": found.examples,
        "sampled": found.sampled,
        "read": found.read,
        "formats": dict(found.kinds),
        "dtypes": dict(found.dtypes),
        "channels": {str(channels): count for channels, count in found.channels.items()},
        "sizes": [list(size) for size in found.sizes],
        "spacing": None if found.spacing is None else [list(one) for one in found.spacing],
        "bad": {
            reason: {"count": count, "example": key, "message": message}
            for reason, (count, key, message) in found.bad.items()
        },
        "input": {"channels": spec.channels, "dtype": spec.dtype, "range": list(spec.range)},
        **{name: [float(value) for value in values] for name, values in numbers.items()},
    }


def _literal(text: str | None) -> Any:
    """A number, several, or a word."""
    try:
        return None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _bands(value: Any) -> tuple[int, ...]:
    """Several channels, or one."""
    bands = value if isinstance(value, tuple) else (value,)
    if not bands or not all(isinstance(band, int) for band in bands):
        raise ConfigError(f"--bands={value} must be numbers of channels, from 0, such as {_OPTIONS['bands']}.")
    return bands


def _make_room(path: pathlib.Path) -> None:
    """The folder that a file is to be written into."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out={path} can't be written: {error}.") from None
    if path.is_dir():
        raise ConfigError(f"--out={path} is a folder: name a file.")


def _quoted(value: Any) -> str:
    """As a shell takes it."""
    text = str(value)
    return text if isinstance(value, str | int | float) else f"'{text}'"


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A function that says that one more of `total` images is seen: a bar on a terminal, else a line now and then."""
    console = rich.console.Console(stderr=True)
    if console.is_terminal:
        with rich.progress.Progress(console=console, transient=True) as bar:
            task = bar.add_task("images", total=total)
            yield lambda: bar.advance(task)
        return
    done, said = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said >= _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            console.print(f"images {done:,}/{total:,}", highlight=False)

    yield advance
