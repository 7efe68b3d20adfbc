"""Transformer blocks, shared by the image and the text towers (Vaswani et al. 2017, arXiv:1706.03762).

On CPUs tokens travel as one matrix [B*N, D], so that every product is a plain matrix product, which XLA runs there at
twice the speed of the same product over [B, N, D]. Elsewhere they stay [B, N, D]: TPUs lay tokens out in tiles, and
going to and from one matrix copies them, see docs/tpu.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models.activations import Activation
from vitfm.models.attention import Attention, Biases, Implementation
from vitfm.models.drop_path import drop_path, drop_rates, fold_in
from vitfm.models.local import in_windows
from vitfm.models.mlp import Mlp
from vitfm.models.norms import NORMS, Norm
from vitfm.models.position import Grid, Place, RelativePosition

# What is kept for the backward pass; all else is computed again. "full" keeps nothing but each block's input, "dots"
# all matrix products, "dots_no_batch" those with parameters, not the scores and sums of attention.
Remat = Literal["full", "dots", "dots_no_batch"]
_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Style:
    """What the blocks of published models differ in, beside their sizes; the defaults are ViT's.

    Attributes:
      placement: of the norms: "pre", x + f(norm(x)); "post", norm(x + f(x)), the first transformer's; "residual",
        x + norm(f(x)), Swin v2's.
      norm: "layer" or "rms".
      layer_scale: initial value of a learned factor on each feature of a branch (Touvron et al. 2021, CaiT,
        arXiv:2103.17239), or None.
      gated_mlp, mlp_bias: see `Mlp`.
      qkv_bias, out_bias, attention: see `Attention`.
      qk_norm: norm of each head's queries and keys.
      relative_position: biases of the scores by offset, one table for each block or one for all; None for none.
      relative_grid: the grid of patches that these tables are made for.
      flat: whether tokens travel as one matrix; None for what suits this process's devices.
    """

    placement: Literal["pre", "post", "residual"] = "pre"
    norm: Norm = "layer"
    layer_scale: float | None = None
    gated_mlp: bool = False
    mlp_bias: bool = True
    qkv_bias: Biases = "qkv"
    out_bias: bool = True
    qk_norm: bool = False
    attention: Implementation = "plain"
    relative_position: Literal["block", "shared"] | None = None
    relative_grid: Grid = (0, 0)
    flat: bool | None = None


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), each branch dropped for an example with probability `drop`.

    Attributes:
      num_heads, mlp_dim, activation, epsilon, dtype, style: see `Transformer`.
      window: side of the windows that tokens see, None for all of the grid.
    """

    num_heads: int
    mlp_dim: int
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.float32
    style: Style = Style()
    window: int | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        length: int,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        drop: jax.Array | float = 0.0,
        place: Place = Place(),
        bias: jax.Array | None = None,
        wide: jax.Array | None = None,
    ) -> jax.Array:
        """Tokens [B*N, D] or [B, N, D] to the same; `wide`, bool [], lifts the windows of one of several stacked."""
        s = self.style
        if s.relative_position == "block":
            grid = s.relative_grid if self.window is None else (self.window, self.window)
            there = place if self.window is None else Place(grid=grid)
            bias = RelativePosition(self.num_heads, grid, name="relative_position")(there)
        norm = s.norm if s.qk_norm else None
        options = (self.num_heads, self.dtype, s.qkv_bias, s.out_bias, norm, self.epsilon, s.attention)
        attention = Attention(*options, name="attention")
        mlp = Mlp(self.mlp_dim, self.activation, self.dtype, s.gated_mlp, s.mlp_bias, name="mlp")
        far = lambda attention, x: attention(x, length, mask, bias, place.rotation)
        near = lambda attention, x: in_windows(lambda x, n, r: attention(x, n, None, bias, r), x, place, self.window)
        attend = far if self.window is None else near
        if wide is not None:
            attend = lambda attention, x: nn.cond(wide, far, near, attention, x)
        x = self._branch("attention", lambda x: attend(attention, x), x, lambda y: drop_path(y, keys, 0, drop))
        return self._branch("mlp", mlp, x, lambda y: drop_path(y, keys, 1, drop))

    def _branch(
        self,
        name: str,
        function: Callable[[jax.Array], jax.Array],
        x: jax.Array,
        dropped: Callable[[jax.Array], jax.Array],
    ) -> jax.Array:
        """One branch beside the identity, with its norm, layer scale and drop path."""
        norm = NORMS[self.style.norm](self.epsilon, self.dtype, name=f"{name}_norm")
        y = function(norm(x) if self.style.placement == "pre" else x)
        y = norm(y) if self.style.placement == "residual" else y
        if self.style.layer_scale is not None:
            initial = nn.initializers.constant(self.style.layer_scale)
            y = y * self.param(f"{name}_scale", initial, x.shape[-1:]).astype(self.dtype)
        y = x + dropped(y)
        return norm(y) if self.style.placement == "post" else y


class Transformer(nn.Module):
    """`depth` blocks and a last norm over B sequences of N tokens.

    Attributes:
      depth: number of blocks.
      num_heads: attention heads; they divide D.
      mlp_dim: width of the MLP's hidden layer; 4 D when None.
      activation: "gelu" (exact), "gelu_tanh", "quick_gelu" or "silu"; part of a checkpoint's identity.
      epsilon: of every norm.
      remat: recompute each block in the backward pass instead of keeping its activations: a third more
        arithmetic for memory that grows with one block instead of `depth`. True is "full"; other names keep some.
      dtype: compute dtype; parameters are float32.
      drop_path_rate: of the last block; it grows linearly from 0 at the first.
      scan: one program for all blocks, their parameters stacked as `blocks/...` [depth, ...]: compiles in the time of
        one block; without `remat` it keeps more for the backward pass than the unrolled form.
      style: how a block is built.
      final_norm: the last norm.
      window, global_blocks: side of the windows that tokens see in all blocks but these; None for no windows. They are
        cut from whole grids without special tokens. Biases of each block are then those of its window, and none where
        blocks are scanned.
    """

    depth: int
    num_heads: int
    mlp_dim: int | None = None
    activation: Activation = "gelu"
    epsilon: float = 1e-6
    remat: bool | Remat = False
    dtype: jnp.dtype = jnp.float32
    drop_path_rate: float = 0.0
    scan: bool = False
    style: Style = Style()
    final_norm: bool = True
    window: int | None = None
    global_blocks: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        last: int = 0,
        place: Place = Place(),
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Runs the blocks.

        Args:
          x: [B, N, D].
          mask: bool [B or 1, N or 1, N], which keys a query sees; None for all.
          keys: [B] PRNG keys for drop path; None, as in evaluation, drops nothing.
          last: how many of the last blocks' outputs are returned beside.
          place: where the tokens lie, for rotary and relative positions.

        Returns:
          The tokens [B, N, D], and of each of the `last` blocks the tokens after the final norm, in order.
        """
        batch, length, width = x.shape
        rates = drop_rates(self.drop_path_rate, self.depth)
        keys = keys if self.drop_path_rate else None
        options = (self.num_heads, self.mlp_dim or 4 * width, self.activation, self.epsilon, self.dtype, self.style)
        bias = None
        if self.style.relative_position == "shared":
            bias = RelativePosition(self.num_heads, self.style.relative_grid, name="relative_position")(place)
        run = self._scanned if self.scan else self._unrolled
        flat = jax.default_backend() == "cpu" if self.style.flat is None else self.style.flat
        x = x.reshape(-1, width) if flat else x
        outputs = run(options, x, length, mask, keys, rates, last, place, bias)
        if self.final_norm:
            norm = NORMS[self.style.norm](self.epsilon, self.dtype, name="norm")
            outputs = [norm(output) for output in outputs]
        outputs = [output.reshape(batch, length, width) for output in outputs]
        return outputs[-1], tuple(outputs[-last:] if last else ())

    def _unrolled(
        self,
        options: tuple[Any, ...],
        x: jax.Array,
        length: int,
        mask: jax.Array | None,
        keys: jax.Array | None,
        rates: Sequence[float],
        last: int,
        place: Place,
        bias: jax.Array | None,
    ) -> list[jax.Array]:
        """Outputs of the blocks that are wanted, each with parameters of its own, `block_00`, `block_01`, ..."""
        block = nn.remat(Block, static_argnums=(2, 5), policy=self._policy()) if self.remat else Block
        outputs = []
        for layer, rate in enumerate(rates):
            name, window = f"block_{layer:02d}", None if layer in self.global_blocks else self.window
            x = block(*options, window, name=name)(x, length, mask, fold_in(keys, layer), rate, place, bias)
            outputs.append(x)
        return outputs[-max(last, 1) :]

    def _scanned(
        self,
        options: tuple[Any, ...],
        x: jax.Array,
        length: int,
        mask: jax.Array | None,
        keys: jax.Array | None,
        rates: Sequence[float],
        last: int,
        place: Place,
        bias: jax.Array | None,
    ) -> list[jax.Array]:
        """The same with stacked parameters, `blocks`."""

        def body(
            block: Block, x: jax.Array, layer: jax.Array, rate: jax.Array, wide: jax.Array
        ) -> tuple[jax.Array, jax.Array | None]:
            wide = wide if self.global_blocks else None
            x = block(x, length, mask, fold_in(keys, layer), rate, place, bias, wide)
            return x, x if last > 1 else None

        body = nn.remat(body, prevent_cse=False, policy=self._policy()) if self.remat else body
        scan = nn.scan(
            body, variable_axes={"params": 0, "intermediates": 0}, split_rngs={"params": True}, length=self.depth
        )
        wide = jnp.asarray([layer in self.global_blocks for layer in range(self.depth)])
        blocks = Block(*options, self.window, name="blocks")
        x, outputs = scan(blocks, x, jnp.arange(self.depth), jnp.asarray(rates), wide)
        return list(outputs[-last:]) if last > 1 else [x]

    def _policy(self) -> Callable[..., bool] | None:
        return _POLICIES["full" if self.remat is True else self.remat]
