"""What the peers in torch share: a learner, its worker, AdamW, pixels, and a teacher that follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import learners, workers
from benchmarks.sizes import SIZES, Size
from tests.parity.reference import torch
from vitfm import host

LUMA = (0.299, 0.587, 0.114)  # Weights of ITU-R BT.601, as in torchvision.
Batch = Mapping[str, np.ndarray]
Make = Callable[[Size, Mapping[str, Any]], Any]


@dataclasses.dataclass
class Learner:
    """A model that learns by AdamW from batches in NumPy.

    Attributes:
      model: all that the optimizer may move.
      loss: of a batch, [].
      learning_rate: held all along.
      after: what follows an update, such as a teacher.
    """

    model: torch.nn.Module
    loss: Callable[[Batch], torch.Tensor]
    learning_rate: float
    after: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._optimizer = optimizer(self.model, self.learning_rate, weight_decay=0.05)

    def step(self, batch: Batch) -> float:
        """One update; returns the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            self.after()
        return loss.item()


def worker(make: Make, versions: Mapping[str, str]) -> Callable[[Mapping[str, Any]], tuple[dict, workers.Answer]]:
    """The `start` of a worker of `benchmarks.step`, which learns from the batch in the file `settings["batch"]`.

    Args:
      make: a size and facts about the data, see `benchmarks.learners.vitfm` -> a learner: `model`, `step(batch)`.
      versions: of what decides its speed beside torch.
    """

    def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
        host.prepare()  # torch's temporaries gain from it too: the peer gets what vitfm.main gives itself.
        torch.set_num_threads(settings["cores"])
        batch = dict(np.load(settings["batch"]))
        learner = make(SIZES[settings["size"]], settings["facts"])
        step = lambda: learner.step(batch)
        first = sum(learners.timed(step, 1)) / 1e3
        greeting = {
            "parameters": count(learner.model),
            "first_step_seconds": first,
            "versions": {"torch": torch.__version__, **versions},
        }
        return greeting, lambda request: learners.answer(step, request)

    return start


def count(model: torch.nn.Module) -> int:
    """How many parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def taught(build: Callable[[], torch.nn.Module]) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A student, and a teacher that starts as it and has no gradients."""
    student, teacher = build(), build().requires_grad_(False)
    teacher.load_state_dict(student.state_dict())
    return student, teacher


def follow(teacher: torch.nn.Module, student: torch.nn.Module, momentum: float) -> None:
    """Moves the teacher's parameters towards the student's."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - momentum)


def views(batch: Batch, name: str) -> torch.Tensor:
    """`views.NAME`, uint8 [B,V,H,W,C] -> [V*B,3,H,W], one view of all images after another."""
    found = batch[f"views.{name}"]
    return preprocess(np.ascontiguousarray(found.swapaxes(0, 1)).reshape(-1, *found.shape[2:]))


def optimizer(model: torch.nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
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
