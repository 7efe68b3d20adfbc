"""open_clip in torch: its CLIP, loss, AdamW groups and schedule, put together as `open_clip_train` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import learners, workers
from benchmarks.sizes import HEAD_WIDTH, SIZES, Size
from tests.parity.reference import open_clip, torch

LUMA = (0.299, 0.587, 0.114)  # Weights of ITU-R BT.601, as in torchvision.


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


def optimizer(model: open_clip.CLIP, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with the two groups of open_clip_train/main.py, in torch's fused form, its fastest."""
    plain = lambda name, p: p.ndim < 2 or any(word in name for word in ("bn", "ln", "bias", "logit_scale"))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if plain(name, p)], "weight_decay": 0.0},
        {"params": [p for name, p in named if not plain(name, p)], "weight_decay": weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def preprocess(
    image: np.ndarray,
    *,
    background: str = "white",
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    grayscale: float = 0.0,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
) -> torch.Tensor:
    """uint8 [B,H,W,3 or 4] -> [B,3,H,W]: the arithmetic of `vitfm.data.augment`, with draws of torch's own."""
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    if pixels.shape[1] == 4:
        behind = torch.rand(len(pixels), 3, 1, 1) if background == "random" else 1.0
        opacity = pixels[:, 3:]
        pixels = pixels[:, :3] * opacity + behind * (1 - opacity)
    pixels = _jitter(pixels, brightness, torch.zeros_like)
    pixels = _jitter(pixels, contrast, lambda x: _gray(x).mean((1, 2, 3), keepdim=True))
    pixels = _jitter(pixels, saturation, _gray)
    if grayscale:
        pixels = torch.where(torch.rand(len(pixels), 1, 1, 1) < grayscale, _gray(pixels), pixels)
    column = lambda values: torch.tensor(values).view(3, 1, 1)
    return ((pixels - column(mean)) / column(std)).contiguous()


def _jitter(pixels: torch.Tensor, strength: float, pole: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Moves each image away from or towards `pole(pixels)` by a random factor."""
    if not strength:
        return pixels
    factor = torch.empty(len(pixels), 1, 1, 1).uniform_(max(0.0, 1 - strength), 1 + strength)
    return (factor * pixels + (1 - factor) * pole(pixels)).clamp(0, 1)


def _gray(pixels: torch.Tensor) -> torch.Tensor:
    return (pixels * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)


def versions() -> dict[str, str]:
    """Of what decides its speed."""
    return {"torch": torch.__version__, "open_clip": open_clip.__version__}


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """A worker of `benchmarks.step`."""
    size = SIZES[settings["size"]]
    text = ("vocab_size", "text_length", "eos_id")
    make = lambda facts: Learner(
        size, **{key: facts[key] for key in text}, total=10_000, learning_rate=size.learning_rate
    )
    return learners.in_torch(torch, make, settings, versions())


if __name__ == "__main__":
    workers.serve(start)
