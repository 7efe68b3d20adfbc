"""AIMv2's two towers beside transformers'."""

from __future__ import annotations

from typing import Any

from tests.parity.families.clip import LENGTH, TEXT, VOCABULARY
from tests.parity.families.siglip_vision_model import SIZES
from tests.parity.family import Case
from tests.parity.reference import torch, transformers

TEXT_SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
TEXT_SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "eos_token_id": VOCABULARY - 1}


def _towers(text: dict[str, Any] = {}, vision: dict[str, Any] = {}, **options: Any) -> torch.nn.Module:
    towers = {"text_config": {**TEXT_SIZES, **text}, "vision_config": {**SIZES, **vision}}
    return transformers.Aimv2Model(transformers.Aimv2Config(**towers, **{"projection_dim": 20, **options}))


def _outputs(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Under the texts' mask, without which, or without padding in the batch, transformers' tokens see those behind."""
    ids, mask = (torch.tensor(TEXT[name], dtype=torch.long) for name in ("text", "text_mask"))
    output = model(ids, pixels, mask)
    unit = torch.nn.functional.normalize
    assert torch.allclose(output.image_embeds, unit(model.get_image_features(pixels).pooler_output))
    assert torch.allclose(output.text_embeds, unit(model.get_text_features(ids, mask).pooler_output))
    return {
        "embed_image": output.image_embeds,
        "embed_text": output.text_embeds,
        "logits_per_image": output.logits_per_image,
        "pooled": output.vision_model_output.pooler_output,
        "tokens": output.vision_model_output.last_hidden_state,
    }


_BIASED = {"qkv_bias": True, "mlp_bias": True}

CASES = [
    Case("aimv2", "both towers", _towers, (28, 28), _outputs, text=TEXT),
    Case(
        "aimv2",
        "biases, GELU in texts, 3 heads, native, not square",
        lambda: _towers(
            {**_BIASED, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
            {**_BIASED, "is_native": True, "hidden_size": 36, "num_attention_heads": 3},
        ),
        (35, 21),
        _outputs,
        text=TEXT,
    ),
    Case(
        "aimv2",
        "biases of one tower, odd sizes, the factor clamped",
        lambda: _towers(
            {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 33, "num_hidden_layers": 1},
            {"qkv_bias": True, "image_size": 30, "patch_size": 5, "intermediate_size": 49},
            projection_dim=7,
            max_logit_scale=1.5,
        ),
        (30, 30),
        _outputs,
        text=TEXT,
    ),
]
