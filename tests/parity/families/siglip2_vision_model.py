"""SigLIP 2's image tower beside transformers', on images of different shapes in one batch."""

from __future__ import annotations

from typing import Any

from tests.parity.family import Case
from tests.parity.reference import torch, transformers

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES |= {"num_patches": 16, "patch_size": 7}
GRIDS = {"larger and smaller": ((5, 7), (3, 2)), "its own and a line": ((4, 4), (1, 9))}


def inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What transformers calls them."""
    return {
        "pixel_values": batch["patches"],
        "pixel_attention_mask": batch["mask"].long(),
        "spatial_shapes": batch["grid"].long(),
    }


def _built(**options: Any) -> torch.nn.Module:
    return transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**{**SIZES, **options}))


def _outputs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = model(**inputs(batch))
    pooled = {} if found.pooler_output is None else {"pooled": found.pooler_output}
    return {"tokens": found.last_hidden_state * batch["mask"][..., None], **pooled}


CASES = [
    Case("siglip2_vision_model", name, _built, (28, 28), _outputs, grids=grids) for name, grids in GRIDS.items()
] + [
    Case(
        "siglip2_vision_model",
        "without head",
        lambda: _built(vision_use_head=False, num_attention_heads=4),
        (28, 28),
        _outputs,
        grids=((6, 2), (2, 3)),
    )
]
