"""The CLIP architectures that both sides of a benchmark build, of the blocks that open_clip has by default."""

from __future__ import annotations

import dataclasses

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Size:
    """A CLIP with a class token, pre-norm, exact GELU and causal text; heads are `HEAD_WIDTH` wide.

    Attributes:
      image_size, patch_size: in pixels.
      width, depth: of the image tower.
      text_width, text_depth: of the text tower.
      embed_dim: of the joint space.
      batch_size: what the benchmarks take where no other is asked for.
      learning_rate: open_clip's peak likewise.
    """

    image_size: int
    patch_size: int
    width: int
    depth: int
    text_width: int
    text_depth: int
    embed_dim: int
    batch_size: int
    learning_rate: float = 5e-4


SIZES = {
    "nano": Size(32, 16, width=64, depth=1, text_width=64, text_depth=1, embed_dim=32, batch_size=16),
    "tiny": Size(64, 16, width=192, depth=6, text_width=192, text_depth=3, embed_dim=192, batch_size=256),
    "S16": Size(224, 16, width=384, depth=12, text_width=384, text_depth=6, embed_dim=384, batch_size=16),
}
