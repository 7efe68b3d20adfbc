"""Parameters by path: the slash-separated name of a leaf, and rules that give each leaf a value by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax

from vitfm.config import ConfigError

Value = TypeVar("Value")


def name(path: Any) -> str:
    """`"image/encoder/norm/scale"` for a key path of `jax.tree_util`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """(name, leaf) for every leaf of `tree`, in JAX's order."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def by_rule(rules: Sequence[tuple[str, Value]], tree: Any, *, where: str) -> Any:
    """A tree like `tree` whose leaves are the values of the first rule that matches each leaf's name.

    Args:
      rules: (regular expression searched in the leaf's name, value); the first match wins.
      tree: any pytree, usually parameters.
      where: what these rules decide, for messages.

    Raises:
      ConfigError: a leaf that no rule covers, a rule that covers no leaf, or a pattern that is none.
    """
    used = set()
    for pattern, _ in rules:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"config.{where}: {pattern!r} is no regular expression: {error}.") from None

    def value(path: Any, _: Any) -> Value:
        for index, (pattern, chosen) in enumerate(rules):
            if re.search(pattern, name(path)):
                used.add(index)
                return chosen
        raise ConfigError(f"No rule of config.{where} covers {name(path)}; end the rules with one for '.*'.")

    values = jax.tree_util.tree_map_with_path(value, tree)
    idle = [pattern for index, (pattern, _) in enumerate(rules) if index not in used]
    if idle:
        names = [leaf for leaf, _ in named_leaves(tree)]
        raise ConfigError(
            f"Rules of config.{where} that cover nothing: {', '.join(map(repr, idle))} (a rule before may take their "
            f"leaves). Names look like {', '.join(names[:3])}, ..."
        )
    return values


def count(tree: Any) -> int:
    """Number of elements of all leaves."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
