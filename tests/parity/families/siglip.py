"""SigLIP's towers and its classifier beside transformers'."""

from __future__ import annotations

from typing import Any

from tests.parity.families.clip import LENGTH, TEXT, VOCABULARY
from tests.parity.families.siglip_vision_model import SIZES
from tests.parity.family import Case
from tests.parity.reference import torch, transformers

TEXT_SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
TEXT_SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "projection_size": 32}


def _classifier(**options: Any) -> torch.nn.Module:
    config = transformers.SiglipConfig(vision_config={**SIZES, **options}, num_labels=5)
    return transformers.SiglipForImageClassification(config)


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    tokens = model.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
    return {"logits": model(pixels, interpolate_pos_encoding=True).logits, "tokens": tokens}


def towers(text: dict[str, Any] = {}, **vision: Any) -> torch.nn.Module:
    config = transformers.SiglipConfig(text_config={**TEXT_SIZES, **text}, vision_config={**SIZES, **vision})
    return transformers.SiglipModel(config)


def _embeddings(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    output = model(torch.tensor(TEXT["text"], dtype=torch.long), pixels, interpolate_pos_encoding=True)
    seen = output.vision_model_output
    return {
        "embed_image": output.image_embeds,
        "embed_text": output.text_embeds,
        "pooled": seen.pooler_output,
        "tokens": seen.last_hidden_state,
    }


CASES = [
    Case("siglip", "classifier", _classifier, (28, 28), _logits),
    Case("siglip", "classifier, not square", lambda: _classifier(vision_use_head=False), (35, 21), _logits),
    Case("siglip", "both towers", towers, (28, 28), _embeddings, text=TEXT),
    Case(
        "siglip",
        "both towers, as wide, GELU, not square",
        lambda: towers({"hidden_size": 32, "num_attention_heads": 2, "projection_size": None}, hidden_act="gelu"),
        (14, 35),
        _embeddings,
        text=TEXT,
    ),
]
