"""SimMIM by transformers' `ViTForMaskedImageModeling` in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners.mae import vit
from benchmarks.learners.peers import Batch, Learner, preprocess, worker
from benchmarks.sizes import Size
from tests.parity.reference import torch, transformers

MASK_RATIO = 0.6


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `image` uint8 [B,H,W,3 or 4]; each step draws which patches are masked."""
    config = transformers.ViTConfig(**vit(size), encoder_stride=size.patch_size)
    model = transformers.ViTForMaskedImageModeling(config).train()
    patches = (size.image_size // size.patch_size) ** 2

    def loss(batch: Batch) -> torch.Tensor:
        images = preprocess(batch["image"])
        ranks = torch.rand(len(images), patches).argsort(1).argsort(1)
        return model(images, bool_masked_pos=ranks >= int(patches * (1 - MASK_RATIO))).loss

    return Learner(model, loss, size.learning_rate)


if __name__ == "__main__":
    workers.serve(worker(make, {"transformers": transformers.__version__}))
