"""How a state lies on disk: nested dicts of arrays by the parts of their names, and a description of each leaf.

Names are those of `vitfm.tree` ("params/encoder/norm/scale"), so that a reader needs no class of the writer: neither
`TrainState` nor optax's tuples. Empty containers have no leaves; they come back with the tree that is restored into.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import vitfm
from vitfm import tree as trees
from vitfm.config import UserError, nearest

Description = dict[str, Any]  # {"dtype": "bfloat16", "shape": [768, 768]}, and for PRNG keys {"impl": "threefry2x32"}.


class CheckpointError(UserError):
    """A checkpoint that can't be written, is damaged, or does not fit."""


def leaves(state: Any) -> dict[str, Any]:
    """Leaves by name, Python numbers as arrays.

    Raises:
      CheckpointError: two leaves share a name on disk, or a leaf is no array JAX can hold exactly.
    """
    named = {name: _array(name, leaf) for name, leaf in trees.named_leaves(state)}
    _refuse_shared_names([name for name, _ in trees.named_leaves(state)])
    return named


def _refuse_shared_names(names: list[str]) -> None:
    taken: dict[str, str] = {}
    for name in names:
        stored = name.replace("/", ".")  # Orbax joins the parts of a name with dots.
        if stored in taken:
            raise CheckpointError(f"Leaves {taken[stored]!r} and {name!r} share a name on disk; rename one.")
        taken[stored] = name
    for name in names:
        for end in (at for at, letter in enumerate(name) if letter == "/"):
            if taken.get(name[:end].replace("/", ".")) == name[:end]:
                raise CheckpointError(f"Leaf {name!r} lies inside leaf {name[:end]!r}; rename one.")


def _array(name: str, leaf: Any) -> Any:
    if isinstance(leaf, bool | int | float | complex):
        return jnp.asarray(leaf)
    if not hasattr(leaf, "dtype") or not hasattr(leaf, "shape"):
        raise CheckpointError(f"Leaf {name!r} is of type {type(leaf).__name__}; a checkpoint holds arrays and numbers.")
    if not is_key(leaf) and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype:
        raise CheckpointError(f"Leaf {name!r} is {leaf.dtype}, which JAX holds only with jax_enable_x64; convert it.")
    return leaf


def is_key(leaf: Any) -> bool:
    """Whether `leaf`, or what it describes, holds PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def describe(leaf: Any) -> Description:
    """dtype and shape as JSON holds them."""
    kind = {"impl": str(jax.random.key_impl(leaf))} if isinstance(leaf, jax.Array) and is_key(leaf) else {}
    return {"dtype": str(leaf.dtype), "shape": list(leaf.shape), **kind}


def sharding(leaf: Any) -> jax.sharding.Sharding:
    """Where a leaf, or what it describes, lives; on the first device where it does not say."""
    return getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])


def stored(leaf: Any) -> Any:
    """The array that is written for a leaf: itself, or the words of PRNG keys."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def loaded(array: Any, description: Description) -> Any:
    """The leaf for the array read: itself, or the keys those words are."""
    return jax.random.wrap_key_data(array, impl=description["impl"]) if "impl" in description else array


def nest(named: Mapping[str, Any]) -> Any:
    """`{"a/b": x}` -> `{"a": {"b": x}}`; a lone leaf whose name is empty is itself."""
    if list(named) == [""]:
        return named[""]
    nested: dict[str, Any] = {}
    for name, leaf in named.items():
        *parents, last = name.split("/")
        place = nested
        for part in parents:
            place = place.setdefault(part, {})
        place[last] = leaf
    return nested


def below(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Full name -> name without `prefix`, for the leaves at or below it.

    Raises:
      CheckpointError: there are none, with the nearest name.
    """
    names = list(names)
    if not prefix:
        return {name: name for name in names}
    found = {
        name: name[len(prefix) + 1 :] for name in names if name == prefix or name.startswith(f"{prefix.rstrip('/')}/")
    }
    if not found:
        depth = prefix.count("/") + 1
        known = sorted({"/".join(name.split("/")[:depth]) for name in names})
        raise CheckpointError(f"The checkpoint holds nothing at {prefix!r}: {nearest(prefix, known)}")
    return found


def check(wanted: Mapping[str, Any], held: Mapping[str, Description], where: str) -> None:
    """Compares the leaves a run needs with those a checkpoint holds.

    Raises:
      CheckpointError: leaves missing, extra, or of another shape or dtype, by name.
    """
    missing = [name for name in wanted if name not in held]
    extra = [name for name in held if name not in wanted]
    changed = [
        f"{name} (checkpoint {_text(held[name])}, run {_text(describe(leaf))})"
        for name, leaf in wanted.items()
        if name in held and _text(held[name]) != _text(describe(leaf))
    ]
    problems = [
        f"{what}: {some(names)}"
        for what, names in (
            ("missing in the checkpoint", missing),
            ("only in the checkpoint", extra),
            ("of another shape or dtype", changed),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{where} holds another state than this run needs. Leaves {'; '.join(problems)}.")


def _text(description: Description) -> str:
    return f"{description['dtype']}{description['shape']}"


def some(names: list[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def host_bytes(named: Mapping[str, Any]) -> int:
    """Bytes of all arrays as they are written, before compression."""
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in named.values())


def record(meta: Mapping[str, Any], named: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, Any]:
    """What is written beside the arrays: `meta` with `versions`, every leaf's description and hash, and a digest of it.

    Raises:
      CheckpointError: `meta` is not JSON.
    """
    descriptions = {name: {**describe(leaf), "hash": hashes[name]} for name, leaf in named.items()}
    try:
        text = json.dumps({"meta": {"versions": _versions(), **meta}, "leaves": descriptions})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The meta of a checkpoint must be JSON: {error}.") from error
    written = json.loads(text)  # As a reader will see it: lists for tuples, text for keys.
    return {**written, "digest": _digest(written)}


def checked_record(read: Mapping[str, Any]) -> dict[str, Any]:
    """`record` as it was written, without its digest.

    Raises:
      ValueError: it is not what was written.
    """
    contents = {name: value for name, value in read.items() if name != "digest"}
    if read["digest"] != _digest(contents):
        raise ValueError("meta/metadata is not what was saved")
    return contents


def _digest(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def _versions() -> dict[str, str]:
    packages = ("jax", "flax", "optax", "orbax-checkpoint")
    return {"vitfm": vitfm.__version__, **{name: importlib.metadata.version(name) for name in packages}}
