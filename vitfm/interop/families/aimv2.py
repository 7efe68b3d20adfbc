"""AIMv2 with text (Fini et al. 2024, arXiv:2411.14402): transformers' `Aimv2Model`.

Texts are read as by Apple's own code (github.com/apple/ml-aim), in which a token sees itself and those before it.
transformers' does so under an attention mask alone, see `NOTES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import options, vit_rows
from vitfm.interop.families import aimv2_vision_model as vision
from vitfm.interop.weights import Row, linear, same

NOTES = (
    "embeddings of texts are others in transformers where no text of a batch is padded, or where it gets no attention "
    "mask: its AIMv2 then lets tokens see those behind them. With the mask, and attn_implementation = 'eager', it "
    "reads texts as this run does",
)

_TEXT = ("hidden_dim", "depth", "num_heads", "mlp_dim")
_TEXT_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 2048}
_KEYS = {ours: options.SIZES[ours][0] for ours in _TEXT}  # transformers' names.
_SCALES = {"logit_scale_init_value": 2.6592, "max_logit_scale": 100.0}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective; vocabulary and length of the texts come from the tokenizer."""
    name = (config.get("architectures") or ["Aimv2Model"])[0]
    if name != "Aimv2Model":
        raise ConfigError(f"config.json: architectures = [{name!r}] is not known; there is Aimv2Model.")
    image, text = config.get("vision_config") or {}, config.get("text_config") or {}
    options.expect(image, use_head=True)
    options.expect(text, is_causal=True)
    scales = {**_SCALES, **config}
    return {
        "name": "clip",
        "image": vision.encoder(image),
        "text": {
            "name": "text",
            **{ours: text.get(key, _TEXT_DEFAULTS[key]) for ours, key in _KEYS.items()},
            "causal": True,
            "pool": "last",
            **vision.style(text),
        },
        "embed_dim": config.get("projection_dim", 512),
        "initial_scale": math.exp(scales["logit_scale_init_value"]),
        "max_scale": scales["max_logit_scale"],
        "clamped": "loss",
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json; who knows the tokenizer adds `vocab_size` and its like."""
    whole = options.complete(objective, kind="objectives")
    image = vision.written(whole["image"], "objective.image")
    text = options.only(whole["text"], (*_TEXT, *vision.STYLE), where="objective.text", **vision.BLOCKS)
    if not image["use_head"]:
        raise ConfigError("config.objective.image.pool = 'gap' can't be exported: AIMv2 with text has 'aim'.")
    if whole["embed_dim"] is None or whole["clamped"] != "loss":
        raise ConfigError(
            f"config.objective: embed_dim = {whole['embed_dim']}, clamped = {whole['clamped']!r} can't be exported: "
            "transformers' AIMv2 projects both towers, and clamps its factor in the loss."
        )
    sized = {**text, "mlp_dim": text["mlp_dim"] or 4 * text["hidden_dim"]}
    return {
        "model_type": "aimv2",
        "architectures": ["Aimv2Model"],
        "projection_dim": whole["embed_dim"],
        "logit_scale_init_value": math.log(whole["initial_scale"]),
        "max_logit_scale": whole["max_scale"],
        "vision_config": image,
        "text_config": {
            "model_type": "aimv2_text_model",
            **{key: sized[ours] for ours, key in _KEYS.items()},
            **vision.their_style(text, "objective.text"),
        },
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    text, ours, theirs = options.complete(objective["text"]), "params/text/tower", "text_model"
    return [
        ("params/logit_scale", "logit_scale", same),
        ("params/image/projection/kernel", "visual_projection.weight", linear),
        ("params/text/projection/kernel", "text_projection.weight", linear),
        *vision.tower_rows(objective["image"], "vision_model.", "params/image/tower"),
        (f"{ours}/embedding", f"{theirs}.embeddings.token_embedding.weight", same),
        (f"{ours}/position", f"{theirs}.embeddings.position_embedding.weight", same),
        *vit_rows.transformer(f"{theirs}.encoder.layers", vision.NAMES, text, ours),
        *vit_rows.norm(f"{ours}/transformer/norm", f"{theirs}.rms_norm", text),
    ]
