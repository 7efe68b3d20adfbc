"""MAE (He et al. 2022): transformers' `ViTMAEForPreTraining`, encoder and decoder, and `ViTMAEModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.interop import blocks, options
from vitfm.interop.weights import Row, token
from vitfm.models.position import sincos

_BARE, _WHOLE = "ViTMAEModel", "ViTMAEForPreTraining"
_DECODER = {  # Our option, transformers' key and its default.
    "hidden_dim": ("decoder_hidden_size", 512),
    "depth": ("decoder_num_hidden_layers", 8),
    "num_heads": ("decoder_num_attention_heads", 16),
    "mlp_dim": ("decoder_intermediate_size", 2048),
}


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, qkv_bias=True)
    shared = {
        "activation": options.activation(config.get("hidden_act", "gelu")),
        "epsilon": config.get("layer_norm_eps", 1e-12),
    }
    model = {"name": "vit", **options.sizes(config), "position": "sincos", "pool": "cls", **shared}
    name = (config.get("architectures") or [_WHOLE])[0]
    if name == _BARE:
        return {"name": "backbone", "model": model}
    if name != _WHOLE:
        raise ConfigError(f"config.json: architectures = [{name!r}] is not known; there are {_BARE}, {_WHOLE}.")
    return {
        "name": "mae",
        "model": model,
        "decoder": {**{ours: config.get(*key) for ours, key in _DECODER.items()}, **shared},
        "mask_ratio": config.get("mask_ratio", 0.75),
        "norm_pix": config.get("norm_pix_loss", False),
    }


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    model = options.only(objective["model"], (*options.SIZES, "activation", "epsilon"), position="sincos", pool="cls")
    shared = {"hidden_act": options.their_activation(model["activation"]), "layer_norm_eps": model["epsilon"]}
    theirs = {"model_type": "vit_mae", **options.their_sizes(model), **shared, "architectures": [_BARE]}
    if objective["name"] != "mae":
        return theirs
    decoder = _decoder(objective)
    if any(decoder[key] != model[key] for key in ("activation", "epsilon")):
        raise ConfigError("config.objective.decoder: transformers has its encoder's activation and epsilon, too.")
    decoder["mlp_dim"] = decoder["mlp_dim"] or 4 * decoder["hidden_dim"]
    return {
        **theirs,
        **{key: decoder[ours] for ours, (key, _) in _DECODER.items()},
        "mask_ratio": objective.get("mask_ratio", 0.75),
        "norm_pix_loss": objective.get("norm_pix", True),
        "architectures": [_WHOLE],
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model, whole = options.complete(objective["model"]), objective["name"] == "mae"
    prefix, encoder = "vit." if whole else "", "params/encoder"
    table = [
        (f"{encoder}/class_token", f"{prefix}embeddings.cls_token", token),
        *blocks.stem(f"{encoder}/stem/patch", f"{prefix}embeddings.patch_embeddings.projection", model),
        *blocks.transformer(f"{encoder}/transformer", f"{prefix}layers", model["depth"], blocks.TRANSFORMERS),
        *blocks.norm(f"{encoder}/transformer/norm", f"{prefix}layernorm"),
    ]
    return [*table, *_decoder_rows(_decoder(objective)["depth"])] if whole else table


def _decoder_rows(depth: int) -> list[Row]:
    ours, theirs = "params/decoder", "decoder"
    return [
        *blocks.dense(f"{ours}/embed", f"{theirs}.decoder_embed"),
        (f"{ours}/mask_token", f"{theirs}.mask_token", token),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.decoder_layers", depth, blocks.TRANSFORMERS),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.decoder_norm"),
        *blocks.dense(f"{ours}/pixels", f"{theirs}.decoder_pred"),
    ]


def _decoder(objective: Mapping[str, Any]) -> dict[str, Any]:
    return options.complete({"name": "mae_decoder", **objective.get("decoder", {})})


def computed(objective: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Their tables of fixed positions, [1,1+N,D]; the class token stands nowhere."""
    model, whole = options.complete(objective["model"]), objective["name"] == "mae"
    side = model["image_size"] // model["patch_size"]

    def table(width: int) -> np.ndarray:
        grid = np.asarray(sincos((side, side), width)).reshape(-1, width)
        return np.concatenate([np.zeros_like(grid[:1]), grid])[None]

    tables = {f"{'vit.' if whole else ''}embeddings.position_embeddings": table(model["hidden_dim"])}
    return tables | ({"decoder.decoder_pos_embed": table(_decoder(objective)["hidden_dim"])} if whole else {})
