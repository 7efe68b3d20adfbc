"""What torch's references call our parameters, and how their tensors become ours: values and gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from tests.parity.reference import relative_error
from vitfm import tree

FORWARD, GRADIENT = 1e-5, 1e-4
Convert = Callable[[np.ndarray], np.ndarray]
Row = tuple[str, str, Convert]  # Our parameter's path, the reference's name, what turns theirs into ours.

# The weight map. An axis that ours splits (heads; q, k, v) is split by the reshape that follows every row.
same: Convert = lambda w: w
transposed: Convert = lambda w: w.T
filters: Convert = lambda w: w.transpose(2, 3, 1, 0)  # [D, C, p, p] -> [p, p, C, D], read as [p*p*C, D].
patch_positions: Convert = lambda w: w[1:]  # The class token's own is in our class token.
OPEN_CLIP_BLOCK: tuple[Row, ...] = (
    ("attention_norm/scale", "ln_1.weight", same),
    ("attention_norm/bias", "ln_1.bias", same),
    ("attention/qkv/kernel", "attn.in_proj_weight", transposed),
    ("attention/qkv/bias", "attn.in_proj_bias", same),
    ("attention/out/kernel", "attn.out_proj.weight", transposed),
    ("attention/out/bias", "attn.out_proj.bias", same),
    ("mlp_norm/scale", "ln_2.weight", same),
    ("mlp_norm/bias", "ln_2.bias", same),
    ("mlp/up/kernel", "mlp.c_fc.weight", transposed),
    ("mlp/up/bias", "mlp.c_fc.bias", same),
    ("mlp/down/kernel", "mlp.c_proj.weight", transposed),
    ("mlp/down/bias", "mlp.c_proj.bias", same),
)
TIMM: tuple[Row, ...] = (
    ("position", "pos_embed", same),
    ("stem/patch/kernel", "patch_embed.proj.weight", filters),
    ("stem/patch/bias", "patch_embed.proj.bias", same),
    ("transformer/norm/scale", "norm.weight", same),
    ("transformer/norm/bias", "norm.bias", same),
)
_TIMM_NAMES = {"ln_1": "norm1", "ln_2": "norm2", "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj"}
_TIMM_NAMES |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def _timm_name(name: str) -> str:
    return functools.reduce(lambda name, pair: name.replace(*pair), _TIMM_NAMES.items(), name)


def timm_rows(depth: int) -> list[Row]:
    block = [(ours, _timm_name(theirs), convert) for ours, theirs, convert in OPEN_CLIP_BLOCK]
    return list(TIMM) + [
        (f"transformer/block_{layer:02d}/{ours}", f"blocks.{layer}.{theirs}", convert)
        for layer in range(depth)
        for ours, theirs, convert in block
    ]


# Transformers keeps queries, keys and values apart; `fused` makes `qkv_proj` of them.
TRANSFORMERS_BLOCK: tuple[Row, ...] = (
    ("attention_norm/scale", "layernorm_before.weight", same),
    ("attention_norm/bias", "layernorm_before.bias", same),
    ("attention/qkv/kernel", "attention.qkv_proj.weight", transposed),
    ("attention/qkv/bias", "attention.qkv_proj.bias", same),
    ("attention/out/kernel", "attention.o_proj.weight", transposed),
    ("attention/out/bias", "attention.o_proj.bias", same),
    ("mlp_norm/scale", "layernorm_after.weight", same),
    ("mlp_norm/bias", "layernorm_after.bias", same),
    ("mlp/up/kernel", "mlp.fc1.weight", transposed),
    ("mlp/up/bias", "mlp.fc1.bias", same),
    ("mlp/down/kernel", "mlp.fc2.weight", transposed),
    ("mlp/down/bias", "mlp.fc2.bias", same),
)


def fused(named: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Queries, keys and values in one."""
    result = {name: value for name, value in named.items() if not any(f"{x}_proj" in name for x in "qkv")}
    for name in (name for name in named if "q_proj" in name):
        parts = [named[name.replace("q_proj", f"{x}_proj")] for x in "qkv"]
        result[name.replace("q_proj", "qkv_proj")] = np.concatenate(parts)
    return result


def converted(rows: list[Row], theirs: Mapping[str, np.ndarray], like: Any) -> Any:
    """The reference's tensors, values or gradients, as a tree like `like`; every name on both sides is used once."""
    names = [name for name, _ in tree.named_leaves(like)]
    assert sorted(names) == sorted(ours for ours, _, _ in rows)
    assert sorted(theirs) == sorted(name for _, name, _ in rows)
    convert = {ours: (name, function) for ours, name, function in rows}

    def leaf(path: Any, like: Any) -> np.ndarray:
        name, function = convert[tree.name(path)]
        return np.ascontiguousarray(function(theirs[name])).reshape(like.shape)

    return jax.tree_util.tree_map_with_path(leaf, like)


def values(module: Any) -> dict[str, np.ndarray]:
    return {name: parameter.detach().numpy().copy() for name, parameter in module.named_parameters()}


def gradients(module: Any) -> dict[str, np.ndarray]:
    return {name: parameter.grad.numpy().copy() for name, parameter in module.named_parameters()}


def worst(ours: Any, theirs: Any) -> tuple[float, str]:
    """The largest relative error among the leaves of two trees, and where it is."""
    pairs = zip(tree.named_leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max((relative_error(a, b), name) for (name, a), b in pairs)
