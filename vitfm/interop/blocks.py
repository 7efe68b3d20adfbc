"""Rows of what many families share: patch stems, tokens and positions, pre-norm transformer blocks, norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.interop.weights import Row, Way, flat, linear, patches, same

Names = Mapping[str, str | tuple[str, ...]]  # Our part of a block -> the module or modules that it is in theirs.

QUERY_KEY_VALUE = tuple(f"attention.{x}_proj" for x in "qkv")
TRANSFORMERS: Names = {  # ViT, DeiT and ViTMAE.
    "attention_norm": "layernorm_before",
    "attention/qkv": QUERY_KEY_VALUE,
    "attention/out": "attention.o_proj",
    "mlp_norm": "layernorm_after",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
TRANSFORMERS_CLIP: Names = {
    "attention_norm": "layer_norm1",
    "attention/qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
    "attention/out": "self_attn.out_proj",
    "mlp_norm": "layer_norm2",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
TIMM: Names = {
    "attention_norm": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/out": "attn.proj",
    "mlp_norm": "norm2",
    "mlp/up": "mlp.fc1",
    "mlp/down": "mlp.fc2",
}
OPEN_CLIP: Names = {
    "attention_norm": "ln_1",
    "attention/qkv": "attn.in_proj_",
    "attention/out": "attn.out_proj",
    "mlp_norm": "ln_2",
    "mlp/up": "mlp.c_fc",
    "mlp/down": "mlp.c_proj",
}


def norm(ours: str, theirs: str) -> list[Row]:
    """A LayerNorm."""
    return [(f"{ours}/scale", f"{theirs}.weight", same), (f"{ours}/bias", f"{theirs}.bias", same)]


def dense(ours: str, theirs: str | tuple[str, ...], way: Way = linear, *, bias: bool = True) -> list[Row]:
    """A linear map, or several whose outputs lie one after another; `way` is that of the kernel."""
    rows = [(f"{ours}/kernel", _leaf(theirs, "weight"), way)]
    return [*rows, (f"{ours}/bias", _leaf(theirs, "bias"), flat)] if bias else rows


def stem(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    """A patch stem, "params/encoder/stem/patch"; `model` has all options of the ViT."""
    return dense(ours, theirs, patches(model["patch_size"]), bias=model["stem_bias"])


def position(encoder: str, theirs: str, model: Mapping[str, Any], *, axes: int) -> list[Row]:
    """Learned position embeddings in one table, [1+N,D] or, of three `axes`, [1,1+N,D]: the class token's come first.

    A ViT without `class_position` has that of its class token in the class token, and exports zeros for it.
    """
    side = model["image_size"] // model["patch_size"]
    shaped = lambda table: table.reshape((1,) * (axes - 2) + table.shape)
    rows_of = lambda grid: grid.reshape(side * side, -1)
    if model["pool"] != "cls":
        return [(f"{encoder}/position", theirs, Way(lambda w: w, lambda grid: shaped(rows_of(grid))))]
    if model["class_position"]:
        split = lambda table: (table.reshape(table.shape[-2:])[0], table.reshape(table.shape[-2:])[1:])
        joined = lambda parts: shaped(np.concatenate([parts[0][None], rows_of(parts[1])]))
        return [((f"{encoder}/class_position", f"{encoder}/position"), theirs, Way(split, joined))]
    padded = lambda grid: shaped(np.concatenate([np.zeros_like(rows_of(grid)[:1]), rows_of(grid)]))
    return [(f"{encoder}/position", theirs, Way(lambda w: w.reshape(w.shape[-2:])[1:], padded))]


def transformer(ours: str, theirs: str, depth: int, names: Names, *, qkv_bias: bool = True) -> list[Row]:
    """The blocks of a `vitfm.models.transformer`.

    Args:
      ours: of the transformer: "params/encoder/transformer".
      theirs: of their list of blocks: "vit.layers".
      depth: how many blocks.
      names: of their parts.
      qkv_bias: queries, keys and values have biases.
    """
    rows: list[Row] = []
    for layer in range(depth):
        block = f"{ours}/block_{layer:02d}"
        for part, module in names.items():
            module = _below(f"{theirs}.{layer}", module)
            if part.endswith("norm"):
                rows += norm(f"{block}/{part}", module)
            else:
                rows += dense(f"{block}/{part}", module, bias=qkv_bias or part != "attention/qkv")
    return rows


def _below(parent: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return f"{parent}.{names}" if isinstance(names, str) else tuple(f"{parent}.{name}" for name in names)


def _leaf(names: str | tuple[str, ...], leaf: str) -> str | tuple[str, ...]:
    """Their tensor or tensors: `fc1.weight`, but `in_proj_weight` of torch's own attention."""
    if not isinstance(names, str):
        return tuple(_leaf(name, leaf) for name in names)
    return names + leaf if names.endswith("_") else f"{names}.{leaf}"
