"""The vision transformer's module; `vit.make` makes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import Features, naflex
from vitfm.models.drop_path import fold_in
from vitfm.models.masking import spread
from vitfm.models.naflex import Patches
from vitfm.models.norms import NORMS
from vitfm.models.pooling import AttentionPool
from vitfm.models.position import Grid, Place, Resize, Rope, resize_position, sincos
from vitfm.models.stem import ConvStem, PatchStem, drop_channels
from vitfm.models.transformer import Transformer

Position = Literal["learned", "sincos", "sincos2d", "rope", "none"]
Pool = Literal["cls", "gap", "cls_gap", "cls_dist", "map", "aim"]
OF_CLASS = ("cls", "cls_gap", "cls_dist")  # Those that need the class token.
FIXED = ("sincos", "sincos2d")  # Positions that no parameter holds.
_ROPE, _CHANNELS = 1_000_001, 1_000_002  # What an example's key is folded with; its blocks take 0, 1, ...


class ViT(nn.Module):
    """Images [B, H, W, C] of any size that the patches divide, or padded patches of several sizes -> Features.

    See `make` for the attributes, `vitfm.models.naflex` for padded patches.
    """

    image_size: int
    patch_size: int
    width: int
    stem: nn.Module
    transformer: Transformer
    position: Position
    position_resize: Resize
    rope: Rope
    pool: Pool
    pooler: AttentionPool | None
    class_token: bool
    class_position: bool
    distillation_token: bool
    registers: int
    mask_token: bool
    stem_norm: bool
    pre_norm: bool
    pool_norm: bool
    patch_dropout: float
    channel_dropout: float
    dtype: jnp.dtype

    @property
    def hidden_dim(self) -> int:
        """Width of the pooled output."""
        return 2 * self.width if self.pool in ("cls_gap", "cls_dist") else self.width

    @property
    def depth(self) -> int:
        return self.transformer.depth

    @property
    def stride(self) -> int:
        """Pixels from one of the patches' tokens to the next."""
        return self.patch_size

    @property
    def num_heads(self) -> int:
        return self.transformer.num_heads

    @nn.compact
    def __call__(
        self,
        images: jax.Array | Patches,
        keep: jax.Array | None = None,
        keys: jax.Array | None = None,
        last: int = 0,
        masked: jax.Array | None = None,
        attention_mask: jax.Array | None = None,
    ) -> Features:
        """Encodes images.

        Args:
          images: [B, H, W, C], or padded patches.
          keep: int [B, K], the patches that are seen, by their row-major number; None for all.
          keys: [B] PRNG keys for patch dropout, drop path and what else training draws; None, as in evaluation, drops
            nothing.
          last: how many of the last blocks' tokens are returned as `layers`.
          masked: bool [B, N], the patches that the mask token stands for; None for none.
          attention_mask: bool [B or 1, N, N], which tokens each one sees, special ones included; None for all.
        """
        if attention_mask is not None and self.transformer.window is not None:
            raise ConfigError("Who sees whom is a matter of windows or of a mask, not of both: window_size = None.")
        if isinstance(images, Mapping):
            (x, mask), seen, grid = self._padded(images, keep, keys, masked), None, ()
        else:
            grid, mask = self._grid(images), None
            x, seen = self._patches(images, grid, keep, keys, masked)
        special = self._special_tokens()
        if special:
            prefix = jnp.broadcast_to(jnp.concatenate(special), (len(x), sum(map(len, special)), self.width))
            x = jnp.concatenate([prefix.astype(self.dtype), x], axis=1)
        if self.pre_norm:
            x = self._norm("pre_norm", x)
        prefix = sum(map(len, special))
        place = Place(self._rotation(grid, prefix, seen, keys), seen, grid, prefix)
        sees = attention_mask
        if mask is not None:
            mask = jnp.pad(mask, ((0, 0), (prefix, 0)), constant_values=True)
            sees = mask[:, None] if sees is None else mask[:, None] & sees
        tokens, layers = self.transformer(x, sees, keys, last, place)
        features = Features(tokens, tokens, grid, prefix, layers, mask)
        return features.replace(pooled=self._pooled(features))

    def _grid(self, images: jax.Array) -> Grid:
        """Rows and columns of patches."""
        if any(side % self.patch_size for side in images.shape[1:3]):
            size = " x ".join(map(str, images.shape[1:3]))
            raise ConfigError(f"Images of {size} do not divide into patches of {self.patch_size} pixels.")
        return images.shape[1] // self.patch_size, images.shape[2] // self.patch_size

    def _padded(
        self, images: Patches, keep: jax.Array | None, keys: jax.Array | None, masked: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, N, D] of padded patches, and their mask [B, N]."""
        refused = {
            f"position = {self.position!r}": self.position not in ("learned", "none"),
            f"position_resize = {self.position_resize!r}": self.position_resize not in ("bilinear", "antialiased"),
            "relative_position": self.transformer.style.relative_position is not None,
            "a stem other than 'patch'": not isinstance(self.stem, PatchStem),
            "window_size": self.transformer.window is not None,
            "hidden patches": keep is not None,
            "patch_dropout or channel_dropout": keys is not None and (self.patch_dropout or self.channel_dropout),
        }
        naflex.check(images, refused)
        x = self.stem(images["patches"])
        x = self._masked(self._norm("stem_norm", x) if self.stem_norm else x, None, masked)
        if self.position == "learned":
            place = naflex.positions(self._table(), images["grid"], x.shape[1], self.position_resize)
            x = x + place.astype(self.dtype)
        return x, images["mask"].astype(bool)

    def _patches(
        self,
        images: jax.Array,
        grid: Grid,
        keep: jax.Array | None,
        keys: jax.Array | None,
        masked: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """The patches' tokens [B, K, D] in the compute dtype, and which these are [B, K], None for all."""
        if keys is not None and self.channel_dropout:
            images = drop_channels(images, fold_in(keys, _CHANNELS), self.channel_dropout)
        if keep is not None and self.transformer.window is not None:
            raise ConfigError("Windows are cut from whole grids, so no patch can be hidden: window_size = None.")
        if isinstance(self.stem, ConvStem):  # It mixes neighbouring patches.
            if keep is not None:
                raise ConfigError(
                    "stem = 'conv' mixes patches, so none can be left out: take 'patch', 'patch_conv' or 'hmlp'."
                )
            if masked is not None:
                images = jnp.where(spread(masked, grid, self.patch_size)[..., None], 0, images)
        x = self.stem(images) if keep is None else self.stem(images, keep)
        x = x.reshape(len(images), -1, self.width)
        x = self._norm("stem_norm", x) if self.stem_norm else x
        x = self._masked(x, keep, masked)
        position = self._position(grid)
        if position is not None:
            position = position.reshape(1, -1, self.width)
            position = position if keep is None else jnp.take_along_axis(position, keep[..., None], axis=1)
            x = x + position.astype(self.dtype)
        if keys is None or not self.patch_dropout:
            return x, keep
        left = _random_numbers(x.shape[1], keys, max(1, round(x.shape[1] * (1 - self.patch_dropout))))
        return _rows(x, left), left if keep is None else jnp.take_along_axis(keep, left, axis=1)

    def _masked(self, x: jax.Array, keep: jax.Array | None, masked: jax.Array | None) -> jax.Array:
        """`x` [B, K, D] with the mask token where `masked` [B, N]."""
        if not self.mask_token:
            if masked is not None:
                raise ConfigError("This encoder has no mask token to stand for masked patches: mask_token = True.")
            return x
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,)).astype(self.dtype)
        if masked is None:
            return x
        masked = masked if keep is None else jnp.take_along_axis(masked, keep, axis=1)
        return jnp.where(masked[..., None], token, x)

    def _special_tokens(self) -> list[jax.Array]:
        """Class token, distillation token and registers, each [R, D], with their positions."""
        std = 0.02 if self.position in FIXED else self.width**-0.5
        tokens = []
        for name, wanted in (("class", self.class_token), ("distillation", self.distillation_token)):
            if wanted:
                token = self.param(f"{name}_token", nn.initializers.normal(std), (self.width,))
                if self.class_position:
                    token = token + self.param(f"{name}_position", nn.initializers.zeros, (self.width,))
                tokens.append(token[None])
        if self.registers:
            tokens.append(self.param("registers", nn.initializers.normal(0.02), (self.registers, self.width)))
        return tokens

    def _position(self, grid: Grid) -> jax.Array | None:
        """Of a grid of patches, [h, w, D]; None where nothing is added."""
        if self.position in FIXED:
            return sincos(grid, self.width, closed=self.position == "sincos2d")
        if self.position != "learned":
            return None
        return resize_position(self._table(), grid, self.position_resize)

    def _table(self) -> jax.Array:
        """Learned positions of the grid that the encoder is made for."""
        side = self.image_size // self.patch_size
        return self.param("position", nn.initializers.normal(self.width**-0.5), (side, side, self.width))

    def _rotation(
        self, grid: Grid, prefix: int, seen: jax.Array | None, keys: jax.Array | None
    ) -> tuple[jax.Array, jax.Array] | None:
        """Rotary positions of the tokens that are there."""
        if self.position != "rope":
            return None
        keys = fold_in(keys, _ROPE)
        waves = self.rope(grid, self.width // self.num_heads, prefix, keys)
        if seen is None:
            return waves
        tokens = jnp.concatenate([jnp.broadcast_to(jnp.arange(prefix), (len(seen), prefix)), seen + prefix], 1)
        take = lambda wave: jnp.take_along_axis(wave.reshape(-1, *wave.shape[-2:]), tokens[..., None], axis=1)
        cosine, sine = (take(wave)[:, None] for wave in waves)
        return cosine, sine

    def _pooled(self, features: Features) -> jax.Array:
        tokens = features.tokens
        if self.pooler is not None:
            pooled = self.pooler(tokens, features.mask)
        elif self.pool == "cls":
            pooled = tokens[:, 0]
        elif self.pool == "cls_dist":
            pooled = tokens[:, :2].reshape(len(tokens), -1)
        else:
            mean = features.mean(tokens)
            pooled = mean if self.pool == "gap" else jnp.concatenate([tokens[:, 0], mean], axis=-1)
        return self._norm("pool_norm", pooled) if self.pool_norm else pooled

    def _norm(self, name: str, x: jax.Array) -> jax.Array:
        return NORMS[self.transformer.style.norm](self.transformer.epsilon, self.dtype, name=name)(x)


def _random_numbers(count: int, keys: jax.Array, wanted: int) -> jax.Array:
    """`wanted` of each example's 0, ..., count - 1, drawn by its own key: int [B, wanted]."""
    return jax.vmap(lambda key: jax.random.choice(key, count, (wanted,), replace=False))(keys)


def _rows(x: jax.Array, numbers: jax.Array) -> jax.Array:
    """[B, N, D], int [B, K] -> [B, K, D]."""
    return jnp.take_along_axis(x, numbers[..., None], axis=1)
