"""BiT beside transformers' and timm's."""

from __future__ import annotations

from typing import Any

from tests.parity.families.resnet import bare, in_timm, logits
from tests.parity.family import Case
from tests.parity.reference import timm, torch, transformers

_SIZES = {"embedding_size": 16, "hidden_sizes": [32, 64, 96, 64], "depths": [1, 2, 1, 2], "num_groups": 8}


def _case(name: str, image: tuple[int, int], outputs: Any, cls: str, **config: Any) -> Case:
    build = lambda: getattr(transformers, cls)(transformers.BitConfig(**{**_SIZES, **config}))
    return Case("bit", name, build, image, outputs)


def _averaged(model: torch.nn.Module, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Without the tokens: in 16 blocks, and timm has no fewer, torch's own float32 error in them reaches 1e-5."""
    found = in_timm(model, pixels)
    return {name: found[name] for name in ("pooled", "logits")}


def _timm_case(name: str, architecture: str, image: tuple[int, int], num_classes: int, **args: Any) -> Case:
    config = {"architecture": architecture, "num_classes": num_classes, "model_args": args}
    build = lambda: timm.create_model(architecture, num_classes=num_classes, **args)
    return Case("bit", name, build, image, _averaged, "timm", config=config)


CASES = [
    _case("bare, odd sides", (49, 37), bare, "BitModel"),
    _case("classifier, 4 groups", (32, 50), logits, "BitForImageClassification", num_groups=4, num_labels=5),
    _timm_case("classifier", "resnetv2_50x1_bit", (97, 80), 4, channels=(128, 128, 128, 128), stem_chs=32),
]
