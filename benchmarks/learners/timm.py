"""timm's vision transformer in torch, classifying: cross-entropy and AdamW in its fused form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import workers
from benchmarks.learners.peers import optimizer, preprocess, worker
from benchmarks.sizes import HEAD_WIDTH, Size
from tests.parity.reference import timm, torch


def encoder(size: Size, **options: Any) -> torch.nn.Module:
    """timm's ViT of a size, with a class token."""
    return timm.models.VisionTransformer(
        img_size=size.image_size,
        patch_size=size.patch_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.width // HEAD_WIDTH,
        **options,
    )


class Learner:
    """Learns from batches in NumPy: `image` uint8 [B,H,W,3 or 4] and `label` [B]."""

    def __init__(
        self,
        size: Size,
        *,
        classes: int,
        total: int,
        learning_rate: float,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        augment: Mapping[str, Any] = {},
        seed: int = 0,
    ):
        """Builds the model.

        Args:
          size: the architecture.
          classes: their number.
          total: steps of the run.
          learning_rate: its peak; half a cosine follows the warm-up.
          weight_decay: of all but biases and norms, as timm's optimizers have it.
          warmup: share of the steps over which the learning rate rises.
          augment: the `data.augment` of a recipe.
          seed: of the weights and the draws on pixels.
        """
        torch.manual_seed(seed)
        self.model = encoder(size, num_classes=classes)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.versions = {"torch": torch.__version__, "timm": timm.__version__}
        self.predict = {"logits": self.logits}
        self.evaluators = ("classification",)
        self._optimizer = optimizer(self.model, learning_rate, weight_decay)
        rise = max(1, round(warmup * total))
        factor = lambda step: min(
            (step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / (total - rise))
        )
        self._rates = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)
        self._augment = augment

    def step(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update; returns the loss."""
        loss = self.backward(batch)
        self._optimizer.step()
        self._rates.step()
        return loss

    def backward(self, batch: Mapping[str, np.ndarray]) -> float:
        """The gradients of a batch; returns the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        logits = self.model(preprocess(batch["image"], **self._augment))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch["label"]).long())
        loss.backward()
        return loss.item()

    @torch.inference_mode()
    def logits(self, image: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3 or 4] -> [B,K]; what is transparent is white."""
        self.model.eval()
        options = {key: self._augment[key] for key in ("mean", "std") if key in self._augment}
        return self.model(preprocess(image, **options)).numpy()


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`."""
    return Learner(size, classes=facts["classes"], total=10_000, learning_rate=size.learning_rate)


if __name__ == "__main__":
    workers.serve(worker(make, {"timm": timm.__version__}))
