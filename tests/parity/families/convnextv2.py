"""ConvNeXt V2 beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families.convnext import SIZES, bare, logits, timm_case
from tests.parity.family import Case
from tests.parity.reference import transformers


def _case(name: str, image: tuple[int, int], outputs: Any, cls: str, **config: Any) -> Case:
    build = lambda: getattr(transformers, cls)(transformers.ConvNextV2Config(**{**SIZES, **config}))
    return Case("convnextv2", name, build, image, outputs)


_TINY = {"dims": (8, 16, 24, 32), "depths": (1, 2, 1, 2)}
CASES = [
    _case("bare, not square", (64, 70), bare, "ConvNextV2Model"),
    _case(
        "classifier, 2 stages",
        (25, 40),
        logits,
        "ConvNextV2ForImageClassification",
        num_labels=4,
        hidden_sizes=[16, 24],
        depths=[2, 2],
        num_stages=2,
    ),
    timm_case("convnextv2", "classifier", "convnextv2_tiny", (64, 32), 5, **_TINY),
    timm_case("convnextv2", "1x1 convolutions for linear maps", "convnextv2_atto", (64, 32)),
]
