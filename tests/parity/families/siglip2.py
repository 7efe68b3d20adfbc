"""SigLIP 2's towers and its classifier beside transformers', on images of different shapes in one batch."""

from __future__ import annotations

from typing import Any

from tests.parity.families.clip import TEXT
from tests.parity.families.siglip import TEXT_SIZES
from tests.parity.families.siglip2_vision_model import GRIDS, SIZES, inputs
from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _towers(**text: Any) -> torch.nn.Module:
    config = transformers.Siglip2Config(text_config={**TEXT_SIZES, **text}, vision_config=SIZES)
    return transformers.Siglip2Model(config)


def _embeddings(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    output = model(input_ids=torch.tensor(TEXT["text"], dtype=torch.long), **inputs(batch))
    tokens = output.vision_model_output.last_hidden_state * batch["mask"][..., None]
    return {"embed_image": output.image_embeds, "embed_text": output.text_embeds, "tokens": tokens}


def _classifier() -> torch.nn.Module:
    return transformers.Siglip2ForImageClassification(transformers.Siglip2Config(vision_config=SIZES, num_labels=5))


def _logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {"logits": model(**inputs(batch)).logits}


CASES = [
    Case("siglip2", f"both towers, {name}", _towers, (28, 28), _embeddings, text=TEXT, grids=grids)
    for name, grids in GRIDS.items()
] + [Case("siglip2", "classifier", _classifier, (28, 28), _logits, grids=((5, 3), (2, 2)))]
