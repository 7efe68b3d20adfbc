"""BEiT beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families import _timm
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _built(cls: str, **options: Any) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    sizes |= {"image_size": 28, "patch_size": 7}
    return getattr(transformers, cls)(transformers.BeitConfig(**{**sizes, **options}))


def _bare(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    found = model(pixels)
    return {"tokens": found.last_hidden_state, "pooled": found.pooler_output}


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": model(pixels).logits, "tokens": model.beit(pixels).last_hidden_state}


CASES = [
    Case(
        "beit",
        "biases of each block, class token, its own size",
        lambda: _built("BeitModel", use_relative_position_bias=True, use_mean_pooling=False),
        (28, 28),
        _bare,
    ),
    Case(
        "beit",
        "shared biases, normed mean, larger, not square",
        lambda: _built("BeitModel", use_shared_relative_position_bias=True, use_mask_token=True),
        (35, 56),
        _bare,
    ),
    Case(
        "beit",
        "classifier, biases of each block, smaller, not square",
        lambda: _built("BeitForImageClassification", use_relative_position_bias=True, num_labels=5),
        (14, 21),
        _logits,
    ),
    Case(
        "beit",
        "absolute positions, no layer scale, larger",
        lambda: _built("BeitModel", use_absolute_position_embeddings=True, layer_scale_init_value=0.0),
        (49, 28),
        _bare,
    ),
    _timm.case("beit", "classifier, biases of each block", "beit_base_patch16_224", (28, 28), 5),
    _timm.case(
        "beit",
        "shared biases, class token, no layer scale",
        "beitv2_large_patch16_224",
        (28, 28),
        global_pool="token",
        use_rel_pos_bias=False,
        use_shared_rel_pos_bias=True,
        init_values=None,
    ),
    _timm.case(
        "beit",
        "absolute positions, no biases",
        "beit_base_patch16_224",
        (35, 35),
        3,
        img_size=35,
        use_abs_pos_emb=True,
        use_rel_pos_bias=False,
        qkv_bias=False,
    ),
]
