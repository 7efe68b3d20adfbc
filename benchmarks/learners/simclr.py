"""SimCLR in torch: timm's vision transformer, lightly's head and loss; batch norm takes all views at once, as ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners import timm
from benchmarks.learners.dino import VERSIONS
from benchmarks.learners.peers import Batch, Learner, views, worker
from benchmarks.sizes import Size
from tests.parity.reference import lightly, torch


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `views.global` uint8 [B,2,H,W,3 or 4]."""
    head = lightly.models.modules.SimCLRProjectionHead(size.width, size.projection_width, 128)
    model = torch.nn.Sequential(timm.encoder(size, num_classes=0), head)
    criterion = lightly.loss.NTXentLoss(temperature=0.1)

    def loss(batch: Batch) -> torch.Tensor:
        return criterion(*model(views(batch, "global")).chunk(2))

    return Learner(model, loss, size.learning_rate)


if __name__ == "__main__":
    workers.serve(worker(make, VERSIONS))
