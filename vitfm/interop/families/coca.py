"""CoCa (Yu et al. 2022): open_clip's `CoCa`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.families import clip
from vitfm.interop.weights import Row, Way, linear, same
from vitfm.models import captioner, pooling

_POOL = {"attentional_pool": False, "attn_pooler_queries": 256, "attn_pooler_heads": 8, "output_tokens": True}
_TEXT = {"embed_cls": False, "output_tokens": True, "pad_id": 0}
_DECODER = ("width", "heads", "layers", "mlp_ratio", "context_length", "vocab_size", "attn_pooler_heads", "n_queries")
_KINDS = {True: "first", "cascade": "cascade", "parallel": "parallel"}
# Of our blocks, what lies in open_clip's blocks of self-attention and in those of cross-attention.
_SELF = {ours.replace("mlp", "inner_mlp"): theirs for ours, theirs in blocks.OPEN_CLIP.items()}
_CROSS: blocks.Names = {
    "cross_norm": "ln_1",
    "context_norm": "ln_1_kv",
    "cross_attention/out": "attn.out_proj",
    **{ours: theirs for ours, theirs in blocks.OPEN_CLIP.items() if "mlp" in ours},
}


def open_clip_read(config: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json -> objective; vocabulary and length of the texts come from the tokenizer."""
    model = {key: part for key, part in config["model_cfg"].items() if key not in ("custom_text", "pad_id")}
    decoder = {"width": 512, "heads": 8, "layers": 12, **model.pop("multimodal_cfg")}
    vision, text = {**_POOL, **model.get("vision_cfg", {})}, {**_TEXT, **model.get("text_cfg", {})}
    apart = lambda part, keys: ({k: part[k] for k in keys}, {k: part[k] for k in part if k not in keys})
    (pool, vision), (own, text) = apart(vision, _POOL), apart(text, _TEXT)
    found = clip.open_clip_read({"model_cfg": {**model, "vision_cfg": vision, "text_cfg": text}})
    unknown = [f"multimodal_cfg.{key} = {decoder[key]!r}" for key in decoder if key not in _DECODER]
    if pool["attentional_pool"] not in _KINDS:
        unknown.append(f"vision_cfg.attentional_pool = {pool['attentional_pool']!r}")
    if not own["embed_cls"]:
        unknown.append("text_cfg.embed_cls = False")
    if decoder["width"] != found["text"]["hidden_dim"]:
        unknown.append(f"multimodal_cfg.width = {decoder['width']!r}, unlike that of text_cfg,")
    if unknown:
        raise ConfigError(f"open_clip_config.json: model_cfg.{unknown[0]} is not supported.")
    first = _KINDS[pool["attentional_pool"]] == "first"
    shared = {key: found["text"][key] for key in ("activation", "epsilon")}
    sizes = {key: found["text"][key] for key in ("hidden_dim", "depth", "num_heads", "mlp_dim")}
    return {
        "name": "coca",
        "image": {**found["image"], "final_norm": not first},
        "text": {**sizes, **shared, "shifted_class_mask": True},
        "pooler": {
            "kind": _KINDS[pool["attentional_pool"]],
            "queries": pool["attn_pooler_queries"],
            "num_heads": pool["attn_pooler_heads"],
            "hidden_dim": found["embed_dim"],
        },
        "captioner": {
            "depth": decoder["layers"],
            "num_heads": decoder["heads"],
            "mlp_dim": 4 * decoder["width"],  # Whatever its mlp_ratio says.
            "two_mlps": True,
            **shared,
        },
        "embed_dim": found["embed_dim"],
    }


def open_clip_write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> open_clip_config.json; who knows the tokenizer adds `vocab_size` and its like.

    Raises:
      ConfigError: open_clip has no such model, by option.
    """
    image, text, pooler, decoder = (_complete(objective, part) for part in _PARTS)
    kinds = {ours: theirs for theirs, ours in _KINDS.items()}
    sizes = clip.open_clip_sizes(image, text)
    written = {
        "model_cfg": {
            "embed_dim": objective.get("embed_dim") or text["hidden_dim"],
            "custom_text": True,
            "quick_gelu": image["activation"] == "quick_gelu",
            "vision_cfg": {
                **sizes["vision_cfg"],
                "attentional_pool": kinds[pooler["kind"]],
                "attn_pooler_queries": pooler["queries"],
                "attn_pooler_heads": pooler["num_heads"],
                "output_tokens": True,
            },
            "text_cfg": {**sizes["text_cfg"], "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {
                "width": text["hidden_dim"],
                "heads": decoder["num_heads"],
                "layers": decoder["depth"],
            },
        }
    }
    there = open_clip_read(written)
    for part, own in zip(_PARTS, (image, text, pooler, decoder), strict=True):
        other = _complete(there, part)
        odd = [key for key in own if own[key] != other[key] and key not in options.TRAINING]
        if odd:
            raise ConfigError(
                f"config.objective.{part}.{odd[0]} = {own[odd[0]]!r}: open_clip's CoCa has {other[odd[0]]!r} here."
            )
    return written


_PARTS = ("image", "text", "pooler", "captioner")


def _complete(objective: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A part of an objective with the defaults of its options."""
    given = objective.get(part, {})
    if part == "image":
        made = options.complete(given)
    else:
        function = {"text": captioner.text_decoder, "pooler": pooling.task_poolers, "captioner": captioner.make}[part]
        known = inspect.signature(function).parameters.values()
        made = {p.name: p.default for p in known if p.default is not p.empty} | dict(given)
    width = made.get("hidden_dim") or _complete(objective, "text")["hidden_dim"]
    if part == "pooler":
        return {**made, "hidden_dim": width}
    return {**made, "mlp_dim": made["mlp_dim"] or 4 * width}


def open_clip_rows(objective: Mapping[str, Any]) -> list[Row]:
    """open_clip's names."""
    image, text, pooler, decoder = (_complete(objective, part) for part in _PARTS)
    first, apart = pooler["kind"] == "first", image["hidden_dim"] != pooler["hidden_dim"]
    ours, theirs = "params/image", "visual"
    table = [
        ("params/logit_scale", "logit_scale", same),
        (f"{ours}/projection/kernel", f"{theirs}.proj", same),
        (f"{ours}/tower/class_token", f"{theirs}.class_embedding", same),
        *blocks.position(f"{ours}/tower", f"{theirs}.positional_embedding", image, axes=2),
        *blocks.stem(f"{ours}/tower/stem/patch", f"{theirs}.conv1", image),
        *blocks.norm(f"{ours}/tower/pre_norm", f"{theirs}.ln_pre"),
        *blocks.transformer(
            f"{ours}/tower/transformer", f"{theirs}.transformer.resblocks", image["depth"], blocks.OPEN_CLIP
        ),
        *blocks.norm(f"{ours}/pooler/norm" if first else f"{ours}/tower/transformer/norm", f"{theirs}.ln_post"),
        *_pooler(f"{ours}/pooler/several", f"{theirs}.attn_pool", apart),
        *([] if first else _pooler(f"{ours}/pooler/one", f"{theirs}.attn_pool_contrastive", apart)),
    ]
    ours, theirs, depth = "params/text/tower", "text", text["depth"]
    table += [
        ("params/text/projection/kernel", f"{theirs}.text_projection", same),
        (f"{ours}/embedding", f"{theirs}.token_embedding.weight", same),
        (f"{ours}/position", f"{theirs}.positional_embedding", same),
        (f"{ours}/class_token", f"{theirs}.cls_emb", same),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.transformer.resblocks", depth, blocks.OPEN_CLIP),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.ln_final"),
    ]
    ours, theirs, depth = "params/captioner/transformer", "text_decoder", decoder["depth"]
    return [
        *table,
        *blocks.transformer(ours, f"{theirs}.resblocks", depth, _SELF),
        *blocks.transformer(ours, f"{theirs}.cross_attn", depth, _CROSS),
        *(
            row
            for layer in range(depth)
            for row in _query_key_value(
                f"{ours}/block_{layer:02d}/cross_attention", f"{theirs}.cross_attn.{layer}.attn", apart=False
            )
        ),
        *blocks.norm(f"{ours}/norm", f"{theirs}.ln_final"),
        ("params/captioner/logits/kernel", f"{theirs}.text_projection", same),
    ]


def _pooler(ours: str, theirs: str, apart: bool) -> list[Row]:
    """An attentional pooler."""
    return [
        (f"{ours}/query_tokens", f"{theirs}.query", same),
        *blocks.norm(f"{ours}/query_norm", f"{theirs}.ln_q"),
        *blocks.norm(f"{ours}/norm", f"{theirs}.ln_k"),
        *_query_key_value(f"{ours}/attention", f"{theirs}.attn", apart),
        *blocks.dense(f"{ours}/attention/out", f"{theirs}.attn.out_proj"),
    ]


def _query_key_value(ours: str, theirs: str, apart: bool) -> list[Row]:
    """Of torch's attention to something else: three matrices where that has another width, else one; one of biases."""
    names = lambda leaf: (f"{ours}/query/{leaf}", f"{ours}/kv/{leaf}")
    split = lambda w: (w[: len(w) // 3], w[len(w) // 3 :])
    matrix = Way(lambda w: tuple(part.T for part in split(w)), lambda parts: np.concatenate([*map(_rows, parts)]))
    bias = Way(split, lambda parts: np.concatenate([part.reshape(-1) for part in parts]))
    rows: list[Row] = [(names("bias"), f"{theirs}.in_proj_bias", bias)]
    if not apart:
        return [*rows, (names("kernel"), f"{theirs}.in_proj_weight", matrix)]
    query, kv = names("kernel")
    return [
        *rows,
        (query, f"{theirs}.q_proj_weight", linear),
        (kv, (f"{theirs}.k_proj_weight", f"{theirs}.v_proj_weight"), linear),
    ]


def _rows(kernel: np.ndarray) -> np.ndarray:
    """Ours [C,n,h,d] as torch's [n*h*d,C]."""
    return kernel.reshape(len(kernel), -1).T
