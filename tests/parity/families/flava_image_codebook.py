"""DALL-E's tokenizer beside transformers' `FlavaImageCodebook`."""

from __future__ import annotations

from typing import Any

from tests.parity.family import Case
from tests.parity.reference import torch, transformers


def _logits(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the codes; what its processor does with pixels is part of ours."""
    logits = model(0.8 * pixels + 0.1)
    assert torch.equal(model.get_codebook_indices(0.8 * pixels + 0.1), logits.argmax(1))
    return {"code_logits": logits.flatten(2).transpose(1, 2)}


def _case(name: str, image: tuple[int, int], **options: Any) -> Case:
    sizes = {"hidden_size": 8, "vocab_size": 50, "freeze": False, **options}
    build = lambda: transformers.FlavaImageCodebook(transformers.FlavaImageCodebookConfig(**sizes))
    return Case("flava_image_codebook", name, build, image, _logits)


CASES = [
    _case("not square", (32, 24)),
    _case(
        "odd sides, one block a group, 4 channels",
        (39, 27),
        num_blocks_per_group=1,
        input_channels=4,
        hidden_size=12,
    ),
]
