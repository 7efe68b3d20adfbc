"""Masked autoencoding by transformers' `ViTMAEForPreTraining` in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners.peers import Batch, Learner, preprocess, worker
from benchmarks.sizes import HEAD_WIDTH, Size
from tests.parity.reference import torch, transformers


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `image` uint8 [B,H,W,3 or 4]."""
    config = transformers.ViTMAEConfig(
        **vit(size),
        decoder_hidden_size=size.decoder_width,
        decoder_num_hidden_layers=size.decoder_depth,
        decoder_num_attention_heads=size.decoder_width // (HEAD_WIDTH // 2),
        decoder_intermediate_size=4 * size.decoder_width,
        norm_pix_loss=True,
    )
    model = transformers.ViTMAEForPreTraining(config).train()

    def loss(batch: Batch) -> torch.Tensor:
        return model(pixel_values=preprocess(batch["image"])).loss

    return Learner(model, loss, size.learning_rate)


def vit(size: Size) -> dict[str, Any]:
    """Of the image tower in transformers' words."""
    return {
        "image_size": size.image_size,
        "patch_size": size.patch_size,
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.width // HEAD_WIDTH,
        "intermediate_size": 4 * size.width,
    }


if __name__ == "__main__":
    workers.serve(worker(make, {"transformers": transformers.__version__}))
