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
      text_width, text_depth: of CLIP's and SigLIP's text towers, and of each half of CoCa's decoder.
      embed_dim: of CLIP's joint space.
      decoder_width, decoder_depth: of MAE's decoder, whose heads are half as wide.
      projection_width: of the hidden layers in the heads of SimCLR and MoCo v3.
      queries: of CoCa's pooler.
      prototypes: of each head of DINO and DINOv2.
      local_size, local_count: pixels and number of their local views, beside two global ones.
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
    projection_width: int
    queries: int
    prototypes: int
    local_size: int
    local_count: int
    batch_size: int
    learning_rate: float = 5e-4


SIZES = {
    "nano": Size(
        image_size=32,
        patch_size=16,
        width=64,
        depth=1,
        text_width=64,
        text_depth=1,
        embed_dim=32,
        decoder_width=32,
        decoder_depth=1,
        projection_width=64,
        queries=4,
        prototypes=64,
        local_size=16,
        local_count=2,
        batch_size=16,
    ),
    "tiny": Size(
        image_size=64,
        patch_size=16,
        width=192,
        depth=6,
        text_width=192,
        text_depth=3,
        embed_dim=192,
        decoder_width=96,
        decoder_depth=2,
        projection_width=1024,
        queries=16,
        prototypes=1024,
        local_size=32,
        local_count=4,
        batch_size=256,
    ),
    "S16": Size(
        image_size=224,
        patch_size=16,
        width=384,
        depth=12,
        text_width=384,
        text_depth=6,
        embed_dim=384,
        decoder_width=256,
        decoder_depth=4,
        projection_width=4096,
        queries=256,
        prototypes=4096,
        local_size=96,
        local_count=4,
        batch_size=16,
    ),
}
