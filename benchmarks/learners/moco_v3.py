"""MoCo v3 in torch: student and momentum teacher of timm's vision transformer with lightly's heads.

The loss is lightly's `NTXentLoss` both ways. Beside the other images' keys it counts the other queries as negatives,
which MoCo v3 does not: four products of [B,D] and [D,B] in place of one, some thousandths of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners import timm
from benchmarks.learners.dino import VERSIONS
from benchmarks.learners.peers import Batch, Learner, follow, taught, views, worker
from benchmarks.sizes import Size
from tests.parity.reference import lightly, torch

WIDTH, MOMENTUM = 256, 0.99


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `views.global` uint8 [B,2,H,W,3 or 4]."""
    head = lambda width, layers: lightly.models.modules.MoCoProjectionHead(
        width, size.projection_width, WIDTH, num_layers=layers, batch_norm=True
    )
    student, teacher = taught(lambda: torch.nn.Sequential(timm.encoder(size, num_classes=0), head(size.width, 3)))
    predictor = head(WIDTH, 2)
    student[0].patch_embed.requires_grad_(False)  # Section 4.2: it never moves.
    criterion = lightly.loss.NTXentLoss(temperature=0.2)

    def projected(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
        """Of each view, by its own batch statistics."""
        encoder, head = network
        return [head(view) for view in encoder(images).chunk(2)]

    def loss(batch: Batch) -> torch.Tensor:
        images = views(batch, "global")
        with torch.no_grad():
            keys = projected(teacher, images)
        queries = [predictor(view) for view in projected(student, images)]
        return criterion(queries[0], keys[1]) + criterion(queries[1], keys[0])

    model = torch.nn.ModuleList([student, predictor])
    return Learner(model, loss, size.learning_rate, after=lambda: follow(teacher, student, MOMENTUM))


if __name__ == "__main__":
    workers.serve(worker(make, VERSIONS))
