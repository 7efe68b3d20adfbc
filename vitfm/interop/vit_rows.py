"""Rows of our ViT's blocks in any of its styles, and of the tokens beside its patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.interop.blocks import Names, dense
from vitfm.interop.weights import Row, Way, same, token
from vitfm.models.vision_transformer import OF_CLASS

flat_token = Way(lambda w: w.reshape(-1), lambda w: w.reshape(1, -1))  # [1,D] and [D].
registers = Way(lambda w: w[0], lambda w: w[None])  # [1,R,D] and [R,D].


def norm(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    """LayerNorm or RMSNorm."""
    scale: Row = (f"{ours}/scale", f"{theirs}.weight", same)
    return [scale, (f"{ours}/bias", f"{theirs}.bias", same)] if model["norm"] == "layer" else [scale]


def transformer(theirs: str, names: Names, model: Mapping[str, Any], ours: str = "params/encoder") -> list[Row]:
    """The blocks of a ViT.

    Args:
      theirs: their list of blocks: "encoder.layer".
      names: our part of a block -> their module or modules; "attention_scale", "mlp_scale" and
        "relative_position/table" -> their tensors. Parts that `model` is without may be named, too.
      model: all options of the ViT.
      ours: of the encoder.
    """
    return [
        row
        for layer in range(model["depth"])
        for part, module in names.items()
        for row in _part(f"{ours}/transformer/block_{layer:02d}/{part}", _below(f"{theirs}.{layer}", module), model)
    ]


def _part(ours: str, theirs: Any, model: Mapping[str, Any]) -> list[Row]:
    """A part of a block by its name; none where `model` is without."""
    if ours.endswith("norm"):
        return norm(ours, theirs, model)
    if ours.endswith("_scale"):
        return [(ours, theirs, same)] if model["layer_scale"] is not None else []
    if ours.endswith("relative_position/table"):
        return [(ours, theirs, same)] if model["relative_position"] == "block" else []
    if ours.endswith("qkv"):
        return _query_key_value(ours, theirs, model["qkv_bias"])
    if ours.endswith("gate") and not model["gated_mlp"]:
        return []
    return dense(ours, theirs, bias=model["out_bias" if ours.endswith("out") else "mlp_bias"])


def _query_key_value(ours: str, theirs: str | tuple[str, ...], biases: str) -> list[Row]:
    """Maps of their own or, as `attn.qkv`, one, beside which biases of some are `attn.q_bias`, `attn.v_bias`."""
    rows = dense(ours, theirs, bias=biases == "qkv")
    if biases in ("qkv", ""):
        return rows
    apart = isinstance(theirs, tuple)
    named = tuple(f"{theirs['qkv'.index(x)]}.bias" if apart else f"{theirs[:-3]}{x}_bias" for x in biases)
    return [*rows, (f"{ours}_bias", named, Way(lambda w: w, lambda w: w.reshape(-1)))]


def position(theirs: str, special: Sequence[str], model: Mapping[str, Any], *, axes: int = 3) -> list[Row]:
    """Learned positions in one table [N,D], or with three axes [1,N,D], those of the `special` tokens first.

    Args:
      theirs: the table.
      special: the tokens' names: ("class", "distillation"). A ViT without `class_position` has theirs in the tokens
        themselves, and exports zeros.
      model: all options of the ViT.
      axes: of the table.
    """
    side, count = model["image_size"] // model["patch_size"], len(special)

    def split(table: np.ndarray) -> tuple[np.ndarray, ...]:
        table = table.reshape(table.shape[-2:])
        return (*table[:count], table[count:])

    def join(parts: Any) -> np.ndarray:
        *tokens, grid = parts
        table = np.concatenate([*(part[None] for part in tokens), grid.reshape(side * side, -1)])
        return table.reshape((1,) * (axes - 2) + table.shape)

    if count and model["class_position"]:
        ours = (*(f"params/encoder/{name}_position" for name in special), "params/encoder/position")
        return [(ours, theirs, Way(split, join))]
    alone = Way(lambda table: split(table)[-1], lambda grid: join([np.zeros_like(grid[0, 0])] * count + [grid]))
    return [("params/encoder/position", theirs, alone)]


def tokens(theirs: Mapping[str, tuple[str, Way]], model: Mapping[str, Any]) -> list[Row]:
    """Rows of the special tokens that `model` has, by our names: "class_token", "registers", "mask_token"."""
    return [
        (f"params/encoder/{ours}", name, way)
        for ours, (name, way) in theirs.items()
        if (model["pool"] in OF_CLASS if model[ours] is None else model[ours])
    ]


def _below(parent: str, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return f"{parent}.{names}" if isinstance(names, str) else tuple(f"{parent}.{name}" for name in names)


__all__ = ["flat_token", "norm", "position", "registers", "token", "tokens", "transformer"]
