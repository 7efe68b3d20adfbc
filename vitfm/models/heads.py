"""What stands on an encoder's pooled output."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.models import statistics

Start = Literal["zeros", "fan_in"]


class Linear(nn.Module):
    """One linear map to the logits of the classes: [B, D] -> float32 [B, K].

    Attributes:
      classes: K.
      start: of the kernel: "zeros" starts from the same probability for every class of every image, which leaves a
        pretrained encoder alone in the first step; "fan_in" draws it with variance 1/D.
      bias: initial value of every bias.
      hidden_dim: None, or the width of a linear map and tanh before it, the "representation layer" with which
        ViT/JFT pretrains and which fine-tuning drops (Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1).
      dtype: compute dtype; parameters are float32.
    """

    classes: int
    start: Start = "zeros"
    bias: float = 0.0
    hidden_dim: int | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        drawn = nn.initializers.lecun_normal()
        if self.hidden_dim is not None:
            x = jnp.tanh(nn.Dense(self.hidden_dim, dtype=self.dtype, kernel_init=drawn, name="hidden")(x))
        kernel_init = nn.initializers.zeros if self.start == "zeros" else drawn
        bias_init = nn.initializers.constant(self.bias)
        logits = nn.Dense(self.classes, True, self.dtype, kernel_init=kernel_init, bias_init=bias_init, name="logits")
        return logits(x).astype(jnp.float32)


class Distilled(nn.Module):
    """DeiT's two linear maps (Touvron et al. 2021, arXiv:2012.12877, section 4): [B, 2 D] -> float32 [B, K].

    The first half of the features is the class token's and goes to `logits`, the second the distillation token's and
    goes to `distillation`; the call is their mean, which predicts at test time, and `both` is what training compares
    with labels and teacher. Attributes as in `Linear`.
    """

    classes: int
    start: Start = "zeros"
    bias: float = 0.0
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        kernel_init = nn.initializers.zeros if self.start == "zeros" else nn.initializers.lecun_normal()
        bias_init = nn.initializers.constant(self.bias)
        made = lambda: nn.Dense(self.classes, True, self.dtype, kernel_init=kernel_init, bias_init=bias_init)
        self.logits, self.distillation = made(), made()

    def __call__(self, x: jax.Array) -> jax.Array:
        return sum(self.both(x)) / 2

    def both(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The class token's logits and the distillation token's, each float32 [B, K]."""
        own, distilled = jnp.split(x, 2, axis=-1)
        return self.logits(own).astype(jnp.float32), self.distillation(distilled).astype(jnp.float32)


class Pixels(nn.Module):
    """One linear map of each token to the pixels of its square: [B, N, D] -> [B, N, P], see `stem.assembled`.

    As in torch, and so in SimMIM's code, the kernel starts uniform within ±1/√D.

    Attributes:
      outputs: P, numbers in a square.
      dtype: compute dtype; parameters are float32.
    """

    outputs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        drawn = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        linear = nn.Dense(self.outputs, dtype=self.dtype, kernel_init=drawn, name="pixels")
        return linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.outputs)


class Projection(nn.Module):
    """Linear maps with ReLU between them, to where a contrastive loss compares: [M, D] -> float32 [M, out_dim].

    Its batch norm takes the statistics of the M rows it is given and keeps none: the head is dropped after training.
    As in torch, kernels start uniform within ±1/√D.

    Attributes:
      hidden_dim: width between the maps.
      out_dim: width of the last one's output.
      layers: how many maps.
      norm: batch norm after every map but the last; maps with a norm behind them have no biases.
      last_norm: after the last map: "scale", batch norm with a learned scale but no bias (SimCLR); "plain", without
        either (MoCo v3); None for none.
      last_bias: of the last map, where no norm follows it.
      dtype: compute dtype; parameters and norms are float32.
    """

    hidden_dim: int
    out_dim: int
    layers: int = 2
    norm: bool = True
    last_norm: Literal["scale", "plain"] | None = None
    last_bias: bool = True
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        def linear(name: str, width: int, use_bias: bool, x: jax.Array) -> jax.Array:
            drawn = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            return nn.Dense(width, use_bias, self.dtype, kernel_init=drawn, name=name)(x)

        for layer in range(self.layers - 1):
            x = linear(f"hidden_{layer}", self.hidden_dim, not self.norm, x)
            x = nn.relu(RowNorm(name=f"norm_{layer}")(x) if self.norm else x)
        x = linear("out", self.out_dim, self.last_bias and self.last_norm is None, x)
        if self.last_norm:
            x = RowNorm(scale=self.last_norm == "scale", bias=False, name="out_norm")(x)
        return x.astype(jnp.float32)


class RowNorm(nn.Module):
    """Batch norm by the rows at hand, in training and ever: [M, D] -> float32 [M, D]."""

    scale: bool = True
    bias: bool = True
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ones, zeros = jnp.ones(x.shape[-1]), jnp.zeros(x.shape[-1])
        scale = self.param("scale", nn.initializers.ones, ones.shape) if self.scale else ones
        bias = self.param("bias", nn.initializers.zeros, zeros.shape) if self.bias else zeros
        return statistics.normalised(x.astype(jnp.float32), scale, bias, self.epsilon)[0]
