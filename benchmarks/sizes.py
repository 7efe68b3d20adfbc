"""The architectures that both sides of a benchmark build, of the blocks that open_clip, timm and transformers share."""

from __future__ import annotations

import dataclasses

HEAD_WIDTH = 64


@dataclasses.dataclass(frozen=True)
class Size:
    """An image tower with a class token and exact GELU, and what stands beside it; heads are `HEAD_WIDTH` wide.

    Attributes:
      image_size, patch_size: in pixels.
      width, depth: of the image tower.
      text_width, text_depth: of CLIP's causal text tower.
      embed_dim: of CLIP's joint space.
      decoder_width, decoder_depth: of MAE's decoder, whose heads are half as wide.
      prototypes: of DINO's head.
      local_size, local_count: pixels and number of DINO's local views, beside two global ones.
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
    decoder_width: int
    decoder_depth: int
    prototypes: int
    local_size: int
    local_count: int
    batch_size: int
    learning_rate: float = 5e-4


SIZES = {
    "nano": Size(32, 16, 64, 1, 64, 1, 32, 32, 1, prototypes=64, local_size=16, local_count=2, batch_size=16),
    "tiny": Size(64, 16, 192, 6, 192, 3, 192, 96, 2, prototypes=1024, local_size=32, local_count=4, batch_size=256),
    "S16": Size(224, 16, 384, 12, 384, 6, 384, 256, 4, prototypes=4096, local_size=96, local_count=4, batch_size=16),
}
