"""Rows of timm's `VisionTransformer`, which many families are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.interop import blocks, options, vit_rows
from vitfm.interop.timm_vit import has_class
from vitfm.interop.weights import Row, Way, flat, linear

NAMES: blocks.Names = {
    **blocks.TIMM,
    "mlp/gate": "mlp.fc1_g",  # Only gated MLPs have it, and then "mlp/up" is `fc1_x`.
    "attention_scale": "ls1.gamma",
    "mlp_scale": "ls2.gamma",
}


def rows(objective: Mapping[str, Any], *, packed: bool = False) -> list[Row]:
    """timm's names.

    Args:
      objective: "supervised" or "backbone".
      packed: a gated MLP's first maps are one, `fc1`, the gate first; otherwise they are `fc1_g` and `fc1_x`.
    """
    model, encoder = options.complete(objective["model"]), "params/encoder"
    special = [name for name in ("class", "distillation") if _has(name, model)] if model["class_position"] else []
    packed = packed and model["gated_mlp"]
    names = {key: NAMES[key] for key in NAMES if not packed or key not in ("mlp/gate", "mlp/up")}
    names |= {"mlp/up": "mlp.fc1_x"} if model["gated_mlp"] and not packed else {}
    return [
        *vit_rows.position("pos_embed", special, model),
        *(vit_rows.norm(f"{encoder}/stem_norm", "patch_embed.norm", model) if model["stem_norm"] else []),
        *(vit_rows.norm(f"{encoder}/pre_norm", "norm_pre", model) if model["pre_norm"] else []),
        *([row for layer in range(model["depth"]) for row in _packed(layer, model)] if packed else []),
        *(_pooler(f"{encoder}/pooler", "attn_pool", model) if model["pool"] == "map" else []),
        *around(objective["name"], model, names),
        *(blocks.dense("params/head/distillation", "head_dist") if model["pool"] == "cls_dist" else []),
    ]


def around(objective: str, model: Mapping[str, Any], names: blocks.Names) -> list[Row]:
    """What all of timm's vision transformers name alike: special tokens, stem, blocks by `names`, last norms, head."""
    tokens = {
        "class_token": ("cls_token", vit_rows.token),
        "distillation_token": ("dist_token", vit_rows.token),
        "registers": ("reg_token", vit_rows.registers),
    }
    return [
        *vit_rows.tokens(tokens, model),
        *blocks.stem("params/encoder/stem/patch", "patch_embed.proj", model),
        *vit_rows.transformer("blocks", names, model),
        *(vit_rows.norm("params/encoder/transformer/norm", "norm", model) if model["final_norm"] else []),
        *(vit_rows.norm("params/encoder/pool_norm", "fc_norm", model) if model["pool_norm"] else []),
        *(blocks.dense("params/head/logits", "head") if objective == "supervised" else []),
    ]


def _has(token: str, model: Mapping[str, Any]) -> bool:
    return has_class(model) if token == "class" else model[f"{token}_token"]


def _packed(layer: int, model: Mapping[str, Any]) -> list[Row]:
    """A gated MLP whose gate and values are the halves of one map."""
    ours, theirs = f"params/encoder/transformer/block_{layer:02d}/mlp", f"blocks.{layer}.mlp.fc1"
    halves = lambda leaf: (f"{ours}/gate/{leaf}", f"{ours}/up/{leaf}")
    kernels = Way(lambda w: np.split(w.T, 2, axis=1), lambda parts: np.concatenate(parts, axis=1).T)
    biases = Way(lambda w: np.split(w, 2), np.concatenate)
    rows: list[Row] = [(halves("kernel"), f"{theirs}.weight", kernels)]
    return [*rows, (halves("bias"), f"{theirs}.bias", biases)] if model["mlp_bias"] else rows


def _pooler(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    """Attention pooling, whose queries have a map apart from that of keys and values."""
    apart = lambda way: dataclasses.replace(way, shares=(1, 2))
    return [
        (f"{ours}/query_token", f"{theirs}.latent", vit_rows.token),
        (f"{ours}/qkv/kernel", (f"{theirs}.q.weight", f"{theirs}.kv.weight"), apart(linear)),
        (f"{ours}/qkv/bias", (f"{theirs}.q.bias", f"{theirs}.kv.bias"), apart(flat)),
        *blocks.dense(f"{ours}/out", f"{theirs}.proj"),
        *vit_rows.norm(f"{ours}/norm", f"{theirs}.norm", model),
        *blocks.dense(f"{ours}/mlp/up", f"{theirs}.mlp.fc1"),
        *blocks.dense(f"{ours}/mlp/down", f"{theirs}.mlp.fc2"),
    ]
