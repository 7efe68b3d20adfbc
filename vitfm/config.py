"""Configuration: names -> modules, options -> keyword arguments, durations -> steps. Errors a person can act on.

A recipe is data (`ml_collections.ConfigDict`). Every part of it is a mapping with a `name`, the module that reads it,
and that module's options: `{"name": "vit", "depth": 12}` calls `vitfm.models.vit.make(depth=12)`. The signature of
`make` is the schema: its keywords are the keys, its annotations the types, its defaults the defaults. A dotted name
reaches the user's own module.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import math
import pathlib
import pkgutil
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import typeguard

# Steps as an integer, or text with a unit: "500 steps", "2e6 examples", "30 epochs", "10%" (of the whole run).
Duration = int | str


class UserError(Exception):
    """Something the person at the keyboard can mend; `vitfm.main` prints it without a stack and exits with 2."""


class ConfigError(UserError, ValueError):
    """A recipe asks for what does not exist or cannot be."""


def nearest(name: str, known: Sequence[str]) -> str:
    """`did you mean 'x'? ` where a known name is close, then the list of what is known."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Known: {', '.join(sorted(known)) or 'none'}."


def module(kind: str, name: str) -> ModuleType:
    """The module a config names: `vitfm.<kind>.<name>`, or the user's own by its dotted path.

    Args:
      kind: the room, with dots below `vitfm`: "models", "objectives", "data.sources".
      name: the module in it.

    Raises:
      ConfigError: no such module, with the nearest name.
    """
    full = name if "." in name else f"vitfm.{kind}.{name}"
    try:
        if name == "base" or name.startswith("."):
            raise ModuleNotFoundError(name=full)  # The contract of a room, and a name relative to nothing.
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name is None or not (full == error.name or full.startswith(error.name + ".")):
            raise  # The module exists; something it imports does not.
        package = importlib.import_module(f"vitfm.{kind}")
        known = [m.name for m in pkgutil.iter_modules(package.__path__) if m.name not in ("base", "__main__")]
        raise ConfigError(
            f"There is no {kind.split('.')[-1]} module {name!r}: {nearest(name, known)} "
            "A dotted name reaches a module of your own."
        ) from None


def build(kind: str, spec: Mapping[str, Any], *, where: str, others: Sequence[str] = (), **context: Any) -> Any:
    """Calls `make` of the module that `spec["name"]` names with the other keys of `spec`.

    Args:
      kind: the room the name is looked up in.
      spec: `name` and options.
      where: the path of `spec` in the recipe, for messages ("objective.image").
      others: keys at the same place that someone else reads, for messages.
      **context: arguments the caller supplies, which a recipe can't set.
    """
    if "name" not in spec:
        raise ConfigError(f"config.{where} needs a `name`, the {kind} module that reads it.")
    if not isinstance(spec["name"], str):
        raise ConfigError(f"config.{where}.name = {spec['name']!r} is not the name of a module.")
    options = {key: value for key, value in spec.items() if key != "name"}
    found = module(kind, spec["name"])
    if not hasattr(found, "make"):
        raise ConfigError(f"config.{where}.name = {spec['name']!r}: {found.__name__} defines no function `make`.")
    return call(found.make, options, where=where, others=("name", *others), **context)


def call(
    function: Callable[..., Any], options: Mapping[str, Any], *, where: str, others: Sequence[str] = (), **context: Any
) -> Any:
    """`function(**options, **context)` after checking every option's name and type against the signature.

    Args:
      function: whose keywords are the options.
      options: from the recipe.
      where: the path of `options` in the recipe, for messages.
      others: keys at the same place that someone else reads, for messages.
      **context: arguments the caller supplies, which a recipe can't set; `function` gets those it names.

    Raises:
      ConfigError: an unknown, missing or wrongly typed option, by its path in the recipe.
    """
    parameters = inspect.signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    known = [n for n, p in parameters.items() if n not in context and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    for key, value in options.items():
        path = f"config.{where}.{key}" if where else f"config.{key}"
        if key in context or (key not in known and not takes_any):
            raise ConfigError(f"Unknown key {path}: {nearest(key, [*known, *others])}")
        try:
            typeguard.check_type(
                value,
                hints.get(key, Any) if key in known else Any,
                collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS,
            )
        except typeguard.TypeCheckError as error:
            wanted = inspect.formatannotation(hints[key])
            raise ConfigError(f"{path} = {value!r} has the wrong type: {error}; wanted {wanted}.") from None
    needed = [n for n in known if parameters[n].default is inspect.Parameter.empty and n not in options]
    if needed:
        place = f"config.{where}" if where else "config"
        raise ConfigError(f"{place} lacks {', '.join(needed)}, needed by {function.__module__}.{function.__name__}.")
    return function(**options, **{key: value for key, value in context.items() if key in parameters or takes_any})


_DURATION = re.compile(r"\s*([0-9.eE+]+|[0-9.]+[eE]-?[0-9]+)\s*(steps?|examples?|epochs?|percent|%|)\s*")


def steps(
    duration: Duration, *, where: str, batch_size: int, epoch_examples: int | None = None, total: int | None = None
) -> int:
    """Converts a duration to whole steps, rounding to the nearest and at least to 1 where it is above 0.

    Args:
      duration: an int (steps) or a number with a unit: "500 steps", "2e6 examples", "30 epochs", "10%".
      where: its path in the recipe, for messages.
      batch_size: examples in a step.
      epoch_examples: examples in an epoch, where the data has an end.
      total: steps of the whole run, where they are known; percent needs it.

    Raises:
      ConfigError: the text is no duration, is negative, or its unit has no meaning here.
    """
    match = _DURATION.fullmatch(str(duration))
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0:
        raise ConfigError(
            f"config.{where} = {duration!r} is not a duration. Write steps as a number, or a number with a unit: "
            "'500 steps', '2e6 examples', '30 epochs', '10%'."
        )
    unit = match[2].rstrip("s").replace("percent", "%")
    if unit == "epoch" and epoch_examples is None:
        raise ConfigError(f"config.{where} = {duration!r}: the data has no length, so it has no epochs; use steps.")
    if unit == "%" and total is None:
        raise ConfigError(f"config.{where} = {duration!r}: the length of the run cannot be a percentage of itself.")
    per_unit = {
        "": 1.0,
        "step": 1.0,
        "example": 1 / batch_size,
        "epoch": (epoch_examples or 0) / batch_size,
        "%": (total or 0) / 100,
    }
    count = number * per_unit[unit]
    return max(1, round(count)) if count > 0 else 0


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings as (dotted path, value)."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _listed(value)


def _listed(value: Any) -> Any:
    """Tuples at any depth as lists, which is how a stored recipe has them."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line `key: old -> new` for each leaf in which two recipes differ."""
    old, new = dict(flatten(old)), dict(flatten(new))
    absent = object()
    text = lambda value: "(absent)" if value is absent else repr(value)
    return [
        f"{key}: {text(old.get(key, absent))} -> {text(new.get(key, absent))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def load_file(path: str) -> Any:
    """`get_config` of a recipe file: `configs/clip.py`, or `configs/clip.py:arg` to pass it `arg`.

    Raises:
      ConfigError: no such file (the nearest one is offered), or it is no Python, or defines no `get_config`.
    """
    name, _, argument = path.partition(":")
    file = pathlib.Path(name)
    if not file.is_file():
        folder = file.parent if file.parent.is_dir() else pathlib.Path("configs")
        known = [str(found) for found in sorted(folder.glob("*.py"))]
        raise ConfigError(f"There is no config file {name!r}: {nearest(name, known)}")
    spec = importlib.util.spec_from_file_location(f"vitfm_config_{file.stem}", file)
    if spec is None:
        raise ConfigError(f"{name} is not a Python file; a config file ends in .py and defines get_config.")
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except SyntaxError as error:
        raise ConfigError(f"{name}, line {error.lineno}: {error.msg}") from None
    if not hasattr(loaded, "get_config"):
        raise ConfigError(f"{name} defines no get_config(arg=None) -> ConfigDict.")
    return loaded.get_config(argument) if argument else loaded.get_config()


def argument(arg: str | None, *names: str, images: int | None = None, run: bool = False) -> str | int | None:
    """What stands after the colon of `--config=FILE:ARG`, checked: a slip of the pen is no other recipe.

    Args:
      arg: what `get_config` is given.
      *names: variants that the recipe has.
      images: how many the recipe is written for, where it takes another number of them.
      run: it takes the workdir of a run.

    Returns:
      One of `names`, a number of images, or a workdir; `images` where nothing is given.

    Raises:
      ConfigError: the recipe takes no such thing; what it takes is named.
    """
    if arg is None:
        return images
    if arg in names:
        return arg
    number = _whole(arg) if images else None
    if number or (run and (pathlib.Path(arg).expanduser() / "config.json").is_file()):
        return number or arg
    numbers = ["a number of images such as 100000 or 1e5"] if images else []
    takes = [*map(repr, names), *numbers, *(["the workdir of a run"] if run else [])]
    close = difflib.get_close_matches(arg, names, n=1, cutoff=0.5)
    raise ConfigError(
        f"After the colon stands {arg!r}, where this recipe takes {' or '.join(takes) or 'nothing'}."
        + (f" Did you mean {close[0]!r}?" if close else "")
        + (f" There is no run in {arg!r}: it holds no config.json." if run else "")
    )


def _whole(text: str) -> int | None:
    """A number from 1 up, as digits or with an exponent; None where it is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number >= 1 and number.is_integer() else None
