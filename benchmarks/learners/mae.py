"""Masked autoencoding by transformers' `ViTMAEForPreTraining` in torch, with AdamW in its fused form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import learners, workers
from benchmarks.learners.open_clip import optimizer, preprocess
from benchmarks.sizes import HEAD_WIDTH, SIZES, Size
from tests.parity.reference import torch, transformers


class Learner:
    """Learns from batches in NumPy: `image` uint8 [B,H,W,3 or 4]."""

    def __init__(self, size: Size, *, learning_rate: float, weight_decay: float = 0.05):
        config = transformers.ViTMAEConfig(
            image_size=size.image_size,
            patch_size=size.patch_size,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.width // HEAD_WIDTH,
            intermediate_size=4 * size.width,
            decoder_hidden_size=size.decoder_width,
            decoder_num_hidden_layers=size.decoder_depth,
            decoder_num_attention_heads=size.decoder_width // (HEAD_WIDTH // 2),
            decoder_intermediate_size=4 * size.decoder_width,
            norm_pix_loss=True,
        )
        self.model = transformers.ViTMAEForPreTraining(config).train()
        self._optimizer = optimizer(self.model, learning_rate, weight_decay)

    def step(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update; returns the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.model(pixel_values=preprocess(batch["image"])).loss
        loss.backward()
        self._optimizer.step()
        return loss.item()


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """A worker of `benchmarks.step`."""
    size = SIZES[settings["size"]]
    make = lambda facts: Learner(size, learning_rate=size.learning_rate)
    return learners.in_torch(torch, make, settings, {"transformers": transformers.__version__})


if __name__ == "__main__":
    workers.serve(start)
