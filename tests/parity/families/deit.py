"""DeiT beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(cls: str, **options: Any) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"image_size": 28, "patch_size": 7}
    return getattr(transformers, cls)(transformers.DeiTConfig(**{**sizes, **options}))


def _bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model(pixels, interpolate_pos_encoding=True).last_hidden_state
    return {"tokens": tokens, "pooled": tokens[:, 0]}


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    interpolate = {"interpolate_pos_encoding": True}
    tokens = model.deit(pixels, **interpolate).last_hidden_state
    return {"logits": model(pixels, **interpolate).logits, "tokens": tokens}


def _distilled(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """timm's mean of both tokens is no pooled output of ours."""
    tokens = model.forward_features(pixels)
    if not model.num_classes:
        return {"tokens": tokens, "pooled": tokens[:, 0]}
    return {"tokens": tokens, "pooled": tokens[:, :2].flatten(1), "logits": model(pixels)}


CASES = [
    Case("deit", "its own size", lambda: _built("DeiTModel"), (28, 28), _bare),
    Case("deit", "not square, no qkv biases", lambda: _built("DeiTModel", qkv_bias=False), (42, 21), _bare),
    Case("deit", "classifier", lambda: _built("DeiTForImageClassification", num_labels=5), (35, 35), _logits),
    Case(
        "deit",
        "two heads, with teacher, smaller, not square",
        lambda: _built("DeiTForImageClassificationWithTeacher", num_labels=5),
        (14, 21),
        _logits,
    ),
    _timm.case("deit", "two heads", "deit_tiny_distilled_patch16_224", (28, 28), 5, _distilled),
    _timm.case(
        "deit",
        "distilled without heads, larger, not square",
        "deit_small_distilled_patch16_224",
        (42, 35),
        0,
        _distilled,
        dynamic_img_size=True,
        mlp_ratio=1.3,
    ),
    _timm.case(
        "deit", "without distillation, smaller, not square", "deit_base_patch16_224", (14, 21), 3, dynamic_img_size=True
    ),
    _timm.case(
        "deit", "DeiT III, larger", "deit3_small_patch16_224", (49, 28), 3, dynamic_img_size=True, init_values=0.1
    ),
]
