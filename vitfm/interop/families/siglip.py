"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2's fixed resolutions: transformers' `SiglipModel` and
`SiglipForImageClassification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import big_vision, blocks, options, vit_rows
from vitfm.interop.families import siglip_vision_model
from vitfm.interop.weights import Row, Shape, Way, same
from vitfm.objectives import siglip

UNUSED = ((r"^vision_model\.head\.", "attention pooling, in whose place the classifier takes the patches' mean"),)

_TEXT = {  # Ours, transformers' name, and its default.
    "hidden_dim": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "mlp_dim": ("intermediate_size", 3072),
    "projection_dim": ("projection_size", None),
}
_one = Way(lambda w: w.reshape(()), lambda w: w.reshape(1))  # [1] and [].


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective; vocabulary and length of the texts come from the tokenizer."""
    return read_as("Siglip", siglip_vision_model, config)


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json; who knows the tokenizer adds `vocab_size` and its like."""
    return write_as("Siglip", siglip_vision_model, objective, num_classes)


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    return rows_of(siglip_vision_model, objective)


# With another image tower too: `kind` is how transformers' classes begin, `vision` the family of that tower.


def read_as(kind: str, vision: ModuleType, config: Mapping[str, Any]) -> dict[str, Any]:
    name = (config.get("architectures") or [f"{kind}Model"])[0]
    theirs, text = (config.get(key) or {} for key in ("vision_config", "text_config"))
    image = vision.encoder(theirs)
    if name == f"{kind}Model":
        options.expect(theirs, vision_use_head=True)
        return {"name": "siglip", "image": {**image, "pool": "map"}, "text": _text(text)}
    return options.objective(config, {**image, "pool": "gap"}, f"{kind}Model", f"{kind}ForImageClassification")


def _text(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' `text_config` -> text tower."""
    sizes = {ours: config.get(key, default) for ours, (key, default) in _TEXT.items()}
    return {
        **siglip.TEXT,
        **sizes,
        "projection_dim": sizes["projection_dim"] or sizes["hidden_dim"],
        "activation": options.activation(config.get("hidden_act", "gelu_pytorch_tanh")),
        "epsilon": config.get("layer_norm_eps", 1e-6),
    }


def write_as(kind: str, vision: ModuleType, objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    kinds = {"model_type": kind.lower()}
    if objective["name"] == "siglip":
        image, text = _towers(objective)
        return {
            **kinds,
            "architectures": [f"{kind}Model"],
            "vision_config": {**vision.written(image, "map"), "model_type": f"{kind.lower()}_vision_model"},
            "text_config": {**_their_text(text), "model_type": f"{kind.lower()}_text_model"},
        }
    if objective["name"] != "supervised":
        raise ConfigError(
            f"config.objective.name: this format is a classifier's; export as {kind.lower()}_vision_model."
        )
    return {
        **kinds,
        "vision_config": {**vision.written(objective["model"], "gap"), "vision_use_head": False},
        **options.classes(objective, num_classes, f"{kind}Model", f"{kind}ForImageClassification"),
    }


def _towers(objective: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All options of both towers.

    Raises:
      ConfigError: they are projected, or the text tower is none that SigLIP has.
    """
    if objective.get("embed_dim") is not None:
        raise ConfigError(f"config.objective.embed_dim = {objective['embed_dim']} can't be exported: SigLIP has None.")
    image = options.complete(siglip.completed(objective["image"], siglip.IMAGE))
    text = {"projection_dim": image["hidden_dim"], **siglip.completed(objective["text"], siglip.TEXT)}
    fixed = {key: value for key, value in siglip.TEXT.items() if key != "name"}
    return image, options.only(text, (*_TEXT, "activation", "epsilon"), where="objective.text", **fixed)


def _their_text(text: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `_text`, of all its options.

    Raises:
      ConfigError: the text tower does not end in a linear map.
    """
    if text["projection_dim"] is None:
        raise ConfigError("config.objective.text.projection_dim = None can't be exported: SigLIP has a linear map.")
    sized = {**text, "mlp_dim": text["mlp_dim"] or 4 * text["hidden_dim"]}
    return {
        **{key: sized[ours] for ours, (key, _) in _TEXT.items()},
        "hidden_act": options.their_activation(text["activation"]),
        "layer_norm_eps": text["epsilon"],
    }


def rows_of(vision: ModuleType, objective: Mapping[str, Any]) -> list[Row]:
    if objective["name"] == "siglip":
        image, text = _towers(objective)
        return [*vision.rows({"model": image}, "vision_model.", "params/image/tower"), *_text_rows(text)]
    return [*vision.rows(objective, "vision_model."), *blocks.dense("params/head/logits", "classifier")]


def _text_rows(text: Mapping[str, Any]) -> list[Row]:
    """Of the text tower, all of whose options are given, and of the loss."""
    ours, theirs = "params/text/tower", "text_model"
    return [
        ("params/logit_scale", "logit_scale", _one),
        ("params/logit_bias", "logit_bias", _one),
        (f"{ours}/embedding", f"{theirs}.embeddings.token_embedding.weight", same),
        (f"{ours}/position", f"{theirs}.embeddings.position_embedding.weight", same),
        *blocks.transformer(f"{ours}/transformer", f"{theirs}.encoder.layers", text["depth"], blocks.TRANSFORMERS_CLIP),
        *blocks.norm(f"{ours}/transformer/norm", f"{theirs}.final_layer_norm"),
        *blocks.dense(f"{ours}/projection", f"{theirs}.head"),
    ]


# big_vision.


def big_vision_read(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Shapes by name -> objective.

    Raises:
      ConfigError: the image tower ends in a linear map, as LiT's and CLIP's there do.
    """
    if "img/head/kernel" in shapes:
        raise ConfigError("img/head: an image tower that ends in a linear map is not supported; SigLIP's has none.")
    text = big_vision.transformer(shapes, "txt/Encoder_0")
    return {
        "name": "siglip",
        "image": big_vision.encoder(shapes, "img/"),
        "text": {**siglip.TEXT, **text, "projection_dim": shapes["txt/head/kernel"][1]},
    }


def big_vision_rows(objective: Mapping[str, Any]) -> list[Row]:
    """big_vision's names."""
    image, text = _towers(objective)
    ours = "params/text/tower"
    return [
        ("params/logit_scale", "t", _one),
        ("params/logit_bias", "b", _one),
        *big_vision.image_rows("params/image/tower", "img/", image),
        (f"{ours}/embedding", "txt/Embed_0/embedding", same),
        (f"{ours}/position", "txt/pos_embedding", vit_rows.registers),
        *big_vision.transformer_rows(f"{ours}/transformer", "txt/Encoder_0", text),
        *big_vision.dense(f"{ours}/projection", "txt/head"),
    ]
