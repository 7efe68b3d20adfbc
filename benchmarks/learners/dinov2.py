"""DINOv2's student and teacher in torch: timm's vision transformer with lightly's masks, heads and losses; centred.

The masks are drawn once, before the steps, as a loader's other processes would; ours are drawn in every step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from benchmarks import workers
from benchmarks.learners import dino, timm
from benchmarks.learners.peers import Batch, Learner, follow, taught, views, worker
from benchmarks.sizes import Size
from tests.parity.reference import lightly, torch

MOMENTUM, KOLEO = 0.992, 0.1


class Network(torch.nn.Module):
    """An encoder, a head for class tokens and one for patches."""

    def __init__(self, size: Size):
        super().__init__()
        encoder = timm.encoder(size, num_classes=0, dynamic_img_size=True)
        self.encoder = lightly.models.modules.MaskedVisionTransformerTIMM(
            encoder, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.head, self.patch_head = dino.head(size), dino.head(size)

    def encode(self, images: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """[M,3,H,W], with masks bool [M,h,w] -> class tokens [M,D], patches [M,h*w,D]."""
        mask = None if mask is None else torch.nn.functional.pad(mask.flatten(1), (1, 0))  # The class token is seen.
        tokens = self.encoder.encode(images, mask=mask)
        return tokens[:, 0], tokens[:, 1:]


def make(size: Size, facts: Mapping[str, Any]) -> Learner:
    """The learner of `benchmarks.step`: `views.global` and `views.local`, uint8 [B,V,H,W,3 or 4]."""
    student, teacher = taught(lambda: Network(size))
    of_views, of_patches = lightly.loss.DINOLoss(size.prototypes), lightly.loss.IBOTPatchLoss(size.prototypes)
    koleo = lightly.loss.KoLeoLoss()
    side = size.image_size // size.patch_size

    @functools.cache
    def masks(count: int) -> torch.Tensor:
        """bool [count,h,w]: a tenth to a half of the patches in half of the images, the others whole."""
        smallest = min(4, side**2 // 10)  # As published; the smaller sizes hide fewer patches than that.
        return lightly.models.utils.random_block_mask((count, side, side), min_num_masks_per_block=smallest)

    def loss(batch: Batch) -> torch.Tensor:
        wide, near, count = views(batch, "global"), views(batch, "local"), len(batch["views.global"])
        mask = masks(len(wide))
        hidden = mask.flatten(1)
        with torch.no_grad():
            seen, seen_patches = teacher.encode(wide)
            targets, answers = teacher.head(seen).split(count), teacher.patch_head(seen_patches[hidden])
        found, found_patches = student.encode(wide, mask)
        logits = student.head(torch.cat([found, student.encode(near)[0]])).split(count)
        value = of_views(list(targets), list(logits))
        value = value + of_patches(answers, student.patch_head(found_patches[hidden]), mask)
        return value + KOLEO * sum(koleo(view) for view in found.split(count))

    return Learner(student, loss, size.learning_rate, after=lambda: follow(teacher, student, MOMENTUM))


if __name__ == "__main__":
    workers.serve(worker(make, dino.VERSIONS))
