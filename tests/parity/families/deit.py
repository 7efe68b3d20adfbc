"""DeiT beside transformers'."""

from __future__ import annotations

from typing import Any

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


CASES = [
    Case("deit", "its own size", lambda: _built("DeiTModel"), (28, 28), _bare),
    Case("deit", "not square, no qkv biases", lambda: _built("DeiTModel", qkv_bias=False), (42, 21), _bare),
    Case("deit", "classifier", lambda: _built("DeiTForImageClassification", num_labels=5), (35, 35), _logits),
]
