"""Where parameters live: path -> PartitionSpec rules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vitfm import tree
from vitfm.config import ConfigError

# A rule's value: "fsdp" splits the largest axis that divides, "replicate" copies, a tuple names a mesh axis per axis.
Placement = str | tuple[str | None, ...]
DEFAULT_RULES: tuple[tuple[str, Placement], ...] = ((".*", "fsdp"),)


def _largest_axis(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Splits the longest axis that `parts` divides; leaves of fewer than 4096 elements are not worth splitting."""
    divisible = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or not divisible or math.prod(shape) < 4096:
        return PartitionSpec()
    longest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*("fsdp" if axis == longest else None for axis in range(longest + 1)))


def shardings(
    shapes: Any, mesh: Mesh, rules: Sequence[tuple[str, Placement]] = DEFAULT_RULES, *, where: str = "sharding"
) -> Any:
    """A NamedSharding for each leaf of `shapes`, by rule.

    The optimizer's moments and the EMA carry the names of their parameters at the end of their own, so one list of
    rules places the whole state.

    Args:
      shapes: tree of arrays or `jax.ShapeDtypeStruct`.
      mesh: from `mesh.make`.
      rules: (pattern, placement), the first match wins.
      where: the rules' path in the recipe, for messages.

    Raises:
      ConfigError: a placement that is none, or that does not fit its leaf.
    """

    def place(path: Any, leaf: Any, placement: Placement) -> NamedSharding:
        if placement == "fsdp":
            return NamedSharding(mesh, _largest_axis(leaf.shape, mesh.shape["fsdp"]))
        if placement == "replicate":
            return NamedSharding(mesh, PartitionSpec())
        if isinstance(placement, str) or not {*placement} <= {None, *mesh.axis_names}:
            raise ConfigError(
                f"config.{where} places {tree.name(path)} by {placement!r}; write 'fsdp', 'replicate', or for each "
                f"axis of the leaf None or one of {', '.join(mesh.axis_names)}."
            )
        parts = [mesh.shape[axis] if axis else 1 for axis in placement]
        if len(parts) > len(leaf.shape) or any(n % part for n, part in zip(leaf.shape, parts, strict=False)):
            raise ConfigError(
                f"config.{where} splits {tree.name(path)} of shape {leaf.shape} by {placement!r} into {parts} parts."
            )
        return NamedSharding(mesh, PartitionSpec(*placement))

    placements = tree.by_rule(rules, shapes, where=where)
    return jax.tree_util.tree_map_with_path(place, shapes, placements)
