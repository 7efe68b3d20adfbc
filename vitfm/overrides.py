"""Keys of a recipe given on a command line: `--config.optim.learning_rate=1e-3`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from vitfm import config as config_lib
from vitfm.config import ConfigError


def load(file: str, pairs: Sequence[tuple[str, str]]) -> ml_collections.ConfigDict:
    """The config of a file, `FILE[:ARG]`, with the command line's keys; what no module reads its reader refuses.

    Where these name other data than the file's own, what it says of data is made true of that (`vitfm.own_data`), and
    told.

    Raises:
      ConfigError: the file holds no config, a key reaches into a value, or the data lacks what is learned from.
    """
    config = config_lib.load_file(file)
    if not isinstance(config, Mapping | ml_collections.ConfigDict):
        raise ConfigError(f"get_config of {file} returns {config!r}, not a ConfigDict.")
    config = ml_collections.ConfigDict(config)
    own = _source(config)
    apply(config, pairs, "--config")
    if _source(config) != own:
        _fit(config, own, pairs)
    return config


def _source(config: ml_collections.ConfigDict) -> Any:
    return (config.get("data") or {}).get("source")


def _fit(config: ml_collections.ConfigDict, own: Any, pairs: Sequence[tuple[str, str]]) -> None:
    from vitfm import own_data  # NumPy and the sources, for those alone who name other data.

    source = _source(config)
    if own_data.differs(source, own):
        for line in own_data.fit(config, own, [key for key, _ in pairs]):
            print(f"vitfm: {source}: {line}", file=sys.stderr)


def split(words: Sequence[str], flag: str, others: Sequence[str]) -> list[tuple[str, str]]:
    """(dotted key, text) of every `--FLAG.KEY=VALUE` or `--FLAG.KEY VALUE`.

    Args:
      words: what is left of a command line.
      flag: "--config".
      others: flags there are beside it, for messages.

    Raises:
      ConfigError: a word is none of these.
    """
    pairs, rest = [], iter(words)
    for word in rest:
        key, equals, value = word.partition("=")
        if not key.startswith(f"{flag}."):
            raise ConfigError(f"Unknown argument {word!r}: {config_lib.nearest(key, [flag, *others])}")
        pairs.append((key.removeprefix(f"{flag}."), value if equals else next(rest, "")))
    return pairs


def apply(config: ml_collections.ConfigDict, pairs: Sequence[tuple[str, str]], flag: str) -> None:
    """Sets keys of `config`, new ones too; what no module reads is refused later, by its reader.

    Raises:
      ConfigError: a key reaches into a value.
    """
    with config.unlocked(), config.ignore_type():
        for key, text in pairs:
            *parents, name = key.split(".")
            node = config
            for parent in parents:
                node = node[parent] if node.get(parent) is not None else node.update({parent: {}}) or node[parent]
                if not isinstance(node, ml_collections.ConfigDict):
                    raise ConfigError(f"{flag}.{key}: {parent} is a value, {node!r}, and holds no keys.")
            node[name] = _value(text, node.get(name))


def _value(text: str, old: Any) -> Any:
    """A value as Python writes it, or text; of the old value's type where it can be."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    if isinstance(old, str) and value is not None:
        return text
    return float(value) if isinstance(old, float) and type(value) is int else value
