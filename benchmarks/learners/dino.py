"""DINO's student and teacher in torch: timm's vision transformer, lightly's head and loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners import timm
from benchmarks.learners.peers import Batch, Learner, follow, taught, views, worker
from benchmarks.sizes import Size
from tests.parity.reference import lightly, torch

VERSIONS = {"timm": timm.timm.__version__, "lightly": lightly.__version__}
MOMENTUM = 0.996


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `views.global` and `views.local`, uint8 [B,V,H,W,3 or 4]."""
    build = lambda: torch.nn.Sequential(timm.encoder(size, num_classes=0, dynamic_img_size=True), head(size))
    student, teacher = taught(build)
    criterion = lightly.loss.DINOLoss(size.prototypes)

    def loss(batch: Batch) -> torch.Tensor:
        wide, near, count = views(batch, "global"), views(batch, "local"), len(batch["views.global"])
        with torch.no_grad():
            targets = teacher(wide).split(count)
        return criterion(list(targets), list(student(wide).split(count) + student(near).split(count)))

    return Learner(student, loss, size.learning_rate, after=lambda: follow(teacher, student, MOMENTUM))


def head(size: Size) -> torch.nn.Module:
    """lightly's, in the published widths."""
    return lightly.models.modules.DINOProjectionHead(size.width, 2048, 256, size.prototypes, freeze_last_layer=-1)


if __name__ == "__main__":
    workers.serve(worker(make, VERSIONS))
