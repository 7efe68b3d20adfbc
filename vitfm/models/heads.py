"""What stands on an encoder's pooled output."""

from __future__ import annotations

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

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
