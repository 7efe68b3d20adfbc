"""Swin Transformer (Liu et al. 2021, arXiv:2103.14030) and Swin Transformer V2 (Liu et al. 2022, arXiv:2111.09883)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from vitfm.config import ConfigError
from vitfm.models import Features
from vitfm.models.activations import Activation
from vitfm.models.drop_path import drop_rates, fold_in
from vitfm.models.norms import LayerNorm
from vitfm.models.position import resize_position
from vitfm.models.stem import PatchStem
from vitfm.models.windows import EPSILON, Block, Merge, Pair

_THIN, _WIDE = (2, 2, 6, 2), (2, 2, 18, 2)
_V2 = {"version": 2, "window_size": 8}
# As published: the first paper's table 7 at 224 pixels; V2 at 256 pixels, its L pretrained at 192 with windows of 12.
SIZES = {
    "T": {"embed_dim": 96, "depths": _THIN, "num_heads": (3, 6, 12, 24)},
    "S": {"embed_dim": 96, "depths": _WIDE, "num_heads": (3, 6, 12, 24)},
    "B": {"embed_dim": 128, "depths": _WIDE, "num_heads": (4, 8, 16, 32)},
    "L": {"embed_dim": 192, "depths": _WIDE, "num_heads": (6, 12, 24, 48)},
    "V2-T": {"embed_dim": 96, "depths": _THIN, "num_heads": (3, 6, 12, 24), **_V2},
    "V2-S": {"embed_dim": 96, "depths": _WIDE, "num_heads": (3, 6, 12, 24), **_V2},
    "V2-B": {"embed_dim": 128, "depths": _WIDE, "num_heads": (4, 8, 16, 32), **_V2},
    "V2-L": {"embed_dim": 192, "depths": _WIDE, "num_heads": (6, 12, 24, 48), "version": 2, "window_size": 12},
}


class Stage(nn.Module):
    """Blocks on one grid, every second of them with shifted windows.

    Attributes:
      depth: number of blocks.
      window, shift: of its windows.
      options: the other attributes of `Block`.
      remat: see `make`.
    """

    depth: int
    window: Pair
    shift: Pair
    options: FrozenDict[str, Any]
    remat: bool

    @nn.compact
    def __call__(
        self, x: jax.Array, grid: Pair, keys: Sequence[jax.Array | None], rates: Sequence[float]
    ) -> list[jax.Array]:
        """[B*H*W, D] -> the outputs of all blocks; `keys` and `rates` are one a block."""
        block = nn.remat(Block, static_argnums=(2, 4)) if self.remat else Block
        outputs = [x]
        for layer in range(self.depth):
            shift = self.shift if layer % 2 else (0, 0)
            made = block(window=self.window, shift=shift, **self.options, name=f"block_{layer:02d}")
            outputs.append(made(outputs[-1], grid, keys[layer], rates[layer]))
        return outputs[1:]


class Swin(nn.Module):
    """Images [B, H, W, C] of any size -> Features; see `make` for the attributes."""

    image_size: int | Sequence[int]
    patch_size: int
    embed_dim: int
    depths: Sequence[int]
    num_heads: Sequence[int]
    window_size: int | Sequence[int | Sequence[int]]
    version: Literal[1, 2]
    mlp_ratio: float
    qkv_bias: bool
    position: Literal["none", "learned"]
    pretrained_window_size: int | Sequence[int]
    mask_token: bool
    fit: Literal["image_size", "input"]
    pad: Literal["before_shift", "after_shift"]
    mask_value: float
    drop_path_rate: float
    activation: Activation
    epsilon: float
    remat: bool
    dtype: jnp.dtype

    pool = "gap"

    @property
    def hidden_dim(self) -> int:
        """Width of the last stage."""
        return self.embed_dim * 2 ** (len(self.depths) - 1)

    @property
    def depth(self) -> int:
        """Blocks of the last stage."""
        return self.depths[-1]

    @property
    def stride(self) -> int:
        """Pixels from one token of the last stage to the next."""
        return self.patch_size * 2 ** (len(self.depths) - 1)

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        keep: jax.Array | None = None,
        keys: jax.Array | None = None,
        last: int = 0,
        masked: jax.Array | None = None,
    ) -> Features:
        """Encodes images.

        Args:
          images: [B, H, W, C]; zeros are added below and on the right where the patches do not divide them.
          keep: must be None: windows need all patches.
          keys: [B] PRNG keys for drop path; None, as in evaluation, drops nothing.
          last: how many of the last stage's last blocks' tokens are returned as `layers`.
          masked: bool [B, h*w] of the first stage's grid, which patches the mask token replaces.
        """
        if keep is not None:
            raise ConfigError("Swin cuts the whole grid into windows, so no patch can be left out: mask them instead.")
        grid = _fitted(images.shape[1:3], self.patch_size)
        x = self._embed(images, grid, masked)
        total, keys = sum(self.depths), keys if self.drop_path_rate else None
        rates = drop_rates(self.drop_path_rate, total)
        folded = [fold_in(keys, layer) for layer in range(total)]
        for stage, depth in enumerate(self.depths):
            if stage:
                x = Merge(self.version, self.dtype, name=f"stage_{stage}_merge")(x, grid)
                grid = _fitted(grid, 2)
            first = sum(self.depths[:stage])
            outputs = self._stage(stage, grid)(x, grid, folded[first : first + depth], rates[first : first + depth])
            x = outputs[-1]
        norm = LayerNorm(self.epsilon, self.dtype, name="norm")
        normed = [norm(x).reshape(len(images), -1, self.hidden_dim) for x in outputs[-max(last, 1) :]]
        tokens = normed[-1]
        return Features(tokens.mean(1), tokens, grid, 0, tuple(normed[-last:] if last else ()))

    def _embed(self, images: jax.Array, grid: Pair, masked: jax.Array | None) -> jax.Array:
        """[B, H, W, C] -> [B*h*w, D]."""
        below, right = (n * self.patch_size - side for n, side in zip(grid, images.shape[1:3], strict=True))
        images = jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))
        x = PatchStem(self.patch_size, self.embed_dim, True, self.dtype, name="stem")(images)
        x = LayerNorm(EPSILON, self.dtype, name="stem_norm")(x.reshape(-1, self.embed_dim))
        if self.mask_token:
            token = self.param("mask_token", nn.initializers.normal(0.02), (self.embed_dim,)).astype(self.dtype)
            x = x if masked is None else jnp.where(masked.reshape(-1, 1), token, x)
        elif masked is not None:
            raise ConfigError("Masked patches need the parameter that replaces them: set mask_token = True.")
        if self.position == "learned":
            position = self.param("position", nn.initializers.normal(0.02), (*self._fitted_grid(0), self.embed_dim))
            position = resize_position(position, grid, "bicubic").reshape(1, -1, self.embed_dim)
            x = (x.reshape(len(images), -1, self.embed_dim) + position.astype(self.dtype)).reshape(x.shape)
        return x

    def _fitted_grid(self, stage: int) -> Pair:
        """Of an image of `image_size`."""
        return _fitted(_pair(self.image_size), self.patch_size * 2**stage)

    def _stage(self, stage: int, grid: Pair) -> Stage:
        width = self.embed_dim * 2**stage
        window = _pair(_each(self.window_size, len(self.depths))[stage])
        shift = tuple(side // 2 for side in window)
        if self.fit == "image_size":
            fitted = self._fitted_grid(stage)
            shift = tuple(s if n > side else 0 for s, n, side in zip(shift, fitted, window, strict=True))
            window = tuple(map(min, window, fitted))
        elif any(n <= side for n, side in zip(grid, window, strict=True)):
            shift = (0, 0)
        options = {
            "num_heads": self.num_heads[stage],
            "mlp_dim": int(self.mlp_ratio * width),
            "pretrained": _pair(_each(self.pretrained_window_size, len(self.depths))[stage] or window),
            **{name: getattr(self, name) for name in _OF_BLOCKS},
        }
        return Stage(self.depths[stage], window, shift, FrozenDict(options), self.remat, name=f"stage_{stage}")


_OF_BLOCKS = ("version", "qkv_bias", "pad", "mask_value", "activation", "epsilon", "dtype")


def _pair(size: int | Sequence[int]) -> Pair:
    return (size, size) if isinstance(size, int) else tuple(size)


def _each(value: Any, stages: int) -> Sequence[Any]:
    return [value] * stages if isinstance(value, int) else value


def _fitted(size: Pair, step: int) -> Pair:
    """How many steps each side takes, the last one not always whole."""
    return tuple(-(-side // step) for side in size)


def make(
    *,
    image_size: int | Sequence[int] = 224,
    patch_size: int = 4,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int | Sequence[int | Sequence[int]] = 7,
    version: Literal[1, 2] = 1,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    position: Literal["none", "learned"] = "none",
    pretrained_window_size: int | Sequence[int] = 0,
    mask_token: bool = False,
    fit: Literal["image_size", "input"] = "image_size",
    pad: Literal["before_shift", "after_shift"] = "before_shift",
    mask_value: float = -100.0,
    drop_path_rate: float = 0.0,
    activation: Activation = "gelu",
    epsilon: float = 1e-5,
    remat: bool = False,
    dtype: jnp.dtype = jnp.float32,
) -> Swin:
    """A Swin Transformer; the defaults are Swin-T, and `SIZES` holds those published.

    Args:
      image_size: side in pixels, or rows and columns, that windows and position embeddings are made for.
      patch_size: side of a patch in the stem.
      embed_dim: width of the first stage; each further one doubles it and halves the sides of its grid.
      depths: blocks of each stage.
      num_heads: attention heads of each stage; they divide its width.
      window_size: rows and columns of a window; a sequence holds one such number, or a pair, for each stage.
      version: 1, or 2: cosine attention with a learned scale per head, norms after the branches, biases from an MLP of
        log-spaced relative positions instead of a table, keys without bias.
      mlp_ratio: hidden width of the MLPs over the stage's.
      qkv_bias: biases of queries, keys (not V2's) and values.
      position: "learned" absolute embeddings, interpolated for other grids; the published models have none.
      pretrained_window_size: V2's relative positions are scaled by this window, one for all stages or for each; 0 for
        the stage's own. What fine-tuning with larger windows sets.
      mask_token: a parameter for patches that are masked, as in SimMIM.
      fit: what a stage's windows are compared with. "image_size": the grid of such an image; where it is not larger,
        the window shrinks to it and is not shifted, whatever is fed later (Swin's own code, timm, transformers' V2).
        "input": the grid of each input; where it is not larger on some side, no window is shifted (transformers' V1).
      pad: grids that windows don't divide get zeros "before_shift" (transformers) or "after_shift" (timm).
      mask_value: added to the scores of tokens that a shift brought together; transformers' V2 adds it twice, so -200.
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      activation, epsilon: of the blocks.
      remat: recompute blocks in the backward pass to save memory.
      dtype: compute dtype; parameters are float32.

    Raises:
      ConfigError: sizes that do not go together.
    """
    stages = len(depths)
    per_stage = {"num_heads": num_heads, "window_size": window_size, "pretrained_window_size": pretrained_window_size}
    for name, value in per_stage.items():
        if not isinstance(value, int) and len(value) != stages:
            raise ConfigError(f"Swin: {name} = {value} needs one entry for each of the {stages} stages of depths.")
    for stage, heads in enumerate(num_heads):
        if embed_dim * 2**stage % heads:
            raise ConfigError(
                f"Swin: stage {stage} is {embed_dim * 2**stage} wide, which num_heads = {heads} does not divide."
            )
    if min(depths) < 1:
        raise ConfigError(f"Swin: depths = {depths}: each stage has at least one block.")
    if min(min(_pair(size)) for size in _each(window_size, stages)) < 1:
        raise ConfigError(f"Swin: window_size = {window_size} must be at least 1.")
    if not 0 <= drop_path_rate < 1:
        raise ConfigError(f"Swin: drop_path_rate = {drop_path_rate} is a share below 1.")
    frozen = lambda x: tuple(map(frozen, x)) if isinstance(x, Sequence) else x
    return Swin(
        frozen(image_size),
        patch_size,
        embed_dim,
        frozen(depths),
        frozen(num_heads),
        frozen(window_size),
        version,
        mlp_ratio,
        qkv_bias,
        position,
        frozen(pretrained_window_size),
        mask_token,
        fit,
        pad,
        mask_value,
        drop_path_rate,
        activation,
        epsilon,
        remat,
        dtype,
    )
