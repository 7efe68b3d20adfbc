"""DINO's student and teacher in torch: timm's vision transformer, lightly's head and loss, AdamW in its fused form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks import learners, workers
from benchmarks.learners import timm
from benchmarks.learners.open_clip import optimizer, preprocess
from benchmarks.sizes import SIZES, Size
from tests.parity.reference import lightly, torch

MOMENTUM = 0.996


class Learner:
    """Learns from batches in NumPy: `views.global` and `views.local`, uint8 [B,V,H,W,3 or 4]."""

    def __init__(self, size: Size, *, learning_rate: float, weight_decay: float = 0.04):
        self._student, self._teacher = _network(size), _network(size).requires_grad_(False)
        self._teacher.load_state_dict(self._student.state_dict())
        self._loss = lightly.loss.DINOLoss(size.prototypes)
        self._optimizer = optimizer(self._student, learning_rate, weight_decay)
        self.model = self._student

    def step(self, batch: Mapping[str, np.ndarray]) -> float:
        """One update of the student, then of the teacher; returns the loss."""
        self._optimizer.zero_grad(set_to_none=True)
        wide, near = _pixels(batch["views.global"]), _pixels(batch["views.local"])
        count = len(batch["views.global"])
        with torch.no_grad():
            teacher = self._teacher(wide).split(count)
        student = self._student(wide).split(count) + self._student(near).split(count)
        loss = self._loss(list(teacher), list(student), epoch=0)
        loss.backward()
        self._optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self._teacher.parameters()), list(self._student.parameters()), 1 - MOMENTUM)
        return loss.item()


def _network(size: Size) -> torch.nn.Module:
    encoder = timm.encoder(size, num_classes=0, dynamic_img_size=True)
    head = lightly.models.modules.DINOProjectionHead(size.width, 2048, 256, size.prototypes, freeze_last_layer=-1)
    return torch.nn.Sequential(encoder, head)


def _pixels(views: np.ndarray) -> torch.Tensor:
    """uint8 [B,V,H,W,C] -> [V*B,3,H,W], one view of all images after another."""
    return preprocess(np.ascontiguousarray(views.swapaxes(0, 1)).reshape(-1, *views.shape[2:]))


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """A worker of `benchmarks.step`."""
    size = SIZES[settings["size"]]
    make = lambda facts: Learner(size, learning_rate=size.learning_rate)
    return learners.in_torch(torch, make, settings, {"timm": timm.timm.__version__, "lightly": lightly.__version__})


if __name__ == "__main__":
    workers.serve(start)
