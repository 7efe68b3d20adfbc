"""The decoder of DALL-E's discrete VAE (Ramesh et al. 2021, arXiv:2102.12092, appendix A.1): from codes to pixels."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models.dvae import Block, Conv, check, gain

_UP = (1, 3, 3, 3)  # Sides of the filters in a block.


class Decoder(nn.Module):
    """Codes, one-hot or relaxed, [B, h, w, K] -> float32 [B, H, W, P]; see `make` for the attributes.

    The first kernel, [1, 1, K, `code_dim`], is the codebook, and float32 in any case.
    """

    outputs: int
    code_dim: int
    base_dim: int
    groups: int
    blocks: int
    remat: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, codes: jax.Array) -> jax.Array:
        made = nn.remat(Block) if self.remat else Block
        x = Conv(self.code_dim, 1, jnp.float32, name="codebook")(codes)
        for group in range(self.groups):
            for block in range(self.blocks):
                width, upsample = self.base_dim * 2 ** (self.groups - 1 - group), group > 0 and block == 0
                options = (width, _UP, gain(self.groups, self.blocks), self.dtype, upsample)
                x = made(*options, name=f"group_{group}_block_{block:02d}")(x)
        return Conv(self.outputs, 1, self.dtype, name="pixels")(nn.relu(x)).astype(jnp.float32)


def make(
    *,
    outputs: int,
    code_dim: int = 128,
    base_dim: int = 256,
    groups: int = 4,
    blocks: int = 2,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Decoder:
    """The decoder; the defaults are DALL-E's.

    Args:
      outputs: P, numbers a pixel.
      code_dim: width of a code's vector.
      base_dim: width of the last group; each before it has twice as much, on half the grid.
      groups: of blocks, as many as the encoder's.
      blocks: in each group.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters are float32.

    Raises:
      ConfigError: a width or a count that is none.
    """
    check(base_dim, groups, blocks)
    return Decoder(outputs, code_dim, base_dim, groups, blocks, remat, dtype)
