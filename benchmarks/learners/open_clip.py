"""open_clip in torch: its CLIP, loss, AdamW groups and schedule, put together as `open_clip_train` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import workers
from benchmarks.learners.peers import optimizer, preprocess, worker
from benchmarks.sizes import HEAD_WIDTH, Size
from tests.parity.reference import open_clip, torch


class Learner:
    """A CLIP that learns from batches in NumPy: `image` uint8 [B,H,W,3 or 4] and `text` [B,T]."""

    def __init__(
        self,
        size: Size,
        *,
        vocab_size: int,
        text_length: int,
        eos_id: int,
        total: int,
        learning_rate: float,
        weight_decay: float = 0.2,
        warmup: float = 0.1,
        augment: Mapping[str, Any] = {},
        seed: int = 0,
    ):
        """Builds the model.

        Args:
          size: the architecture.
          vocab_size, text_length, eos_id: of the tokenizer; the text tower reads from the first `eos_id`.
          total: steps of the run.
          learning_rate: its peak.
          weight_decay: of all but biases, norms and the scale, as in open_clip.
          warmup: share of the steps over which the learning rate rises.
          augment: the `data.augment` of a recipe.
          seed: of the weights and the draws on pixels.
        """
        from open_clip_train import scheduler

        torch.manual_seed(seed)
        self.model = _model(size, vocab_size, text_length, eos_id)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self._optimizer = optimizer(self.model, learning_rate, weight_decay)
        self._loss = open_clip.ClipLoss()
        self._set_rate = scheduler.cosine_lr(self._optimizer, learning_rate, max(1, round(warmup * total)), total)
        self._augment = augment
        self._step = 0
        self.versions = versions()
        self.predict = {"embed_image": self.embed_image, "embed_text": self.embed_text}
        self.evaluators = ("zeroshot", "retrieval")

    def step(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update; returns the loss."""
        self._set_rate(self._step)
        loss = self.backward(batch)
        self._optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(100))
        self._step += 1
        return loss

    def backward(self, batch: Mapping[str, np.ndarray]) -> float:
        """The gradients of a batch; returns the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        image, text = preprocess(batch["image"], **self._augment), torch.from_numpy(batch["text"]).long()
        loss = self._loss(*self.model(image, text))
        loss.backward()
        return loss.item()

    @torch.inference_mode()
    def embed_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [B,H,W,3 or 4] -> [B,D] of norm 1; what is transparent is white."""
        options = {key: self._augment[key] for key in ("mean", "std") if key in self._augment}
        return self.model.encode_image(preprocess(image, **options), normalize=True).numpy()

    @torch.inference_mode()
    def embed_text(self, text: np.ndarray, text_mask: np.ndarray) -> np.ndarray:
        """[B,T] -> [B,D] of norm 1."""
        del text_mask  # The causal mask hides the padding, which is behind the end token.
        return self.model.encode_text(torch.from_numpy(text).long(), normalize=True).numpy()


def _model(size: Size, vocab_size: int, text_length: int, eos_id: int) -> open_clip.CLIP:
    image = open_clip.model.CLIPVisionCfg(
        layers=size.depth,
        width=size.width,
        head_width=HEAD_WIDTH,
        patch_size=size.patch_size,
        image_size=size.image_size,
    )
    text = open_clip.model.CLIPTextCfg(
        context_length=text_length,
        vocab_size=vocab_size,
        width=size.text_width,
        heads=size.text_width // HEAD_WIDTH,
        layers=size.text_depth,
        pool_type="eos",
        eos_id=eos_id,
    )
    return open_clip.CLIP(size.embed_dim, image, text)


def versions() -> dict[str, str]:
    """Of what decides its speed."""
    return {"torch": torch.__version__, "open_clip": open_clip.__version__}


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`."""
    text = {key: facts[key] for key in ("vocab_size", "text_length", "eos_id")}
    return Learner(size, **text, total=10_000, learning_rate=size.learning_rate)


if __name__ == "__main__":
    workers.serve(worker(make, versions()))
