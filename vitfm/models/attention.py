"""Multi-head self-attention, by a named implementation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.models import dot_product
from vitfm.models.norms import NORMS, Norm

# "plain" is written below, "cudnn" is cuDNN's flash attention for NVIDIA GPUs, "splash" JAX's Pallas kernel for TPUs.
Implementation = Literal["plain", "cudnn", "splash"]
Biases = Literal["qkv", "qv", "kv", "qk", "q", "k", "v", ""]  # Which of queries, keys and values have some.
Rotation = tuple[jax.Array, jax.Array]
_PLATFORM = {"cudnn": "gpu", "splash": "tpu"}
_LANES = 128  # Splash attention works on whole tiles of so many tokens.


def check(implementation: Implementation, dtype: jnp.dtype, biased: bool, platform: str | None = None) -> None:
    """Refuses an implementation that can't run.

    Args:
      implementation: its name.
      dtype: compute dtype.
      biased: whether something is added to the scores, such as a relative-position bias.
      platform: "cpu", "gpu" or "tpu"; this process's when None.

    Raises:
      ConfigError: another platform, dtype, or a bias that the kernel does not take.
    """
    if implementation == "plain":
        return
    needed, platform = _PLATFORM[implementation], platform or jax.default_backend()
    if platform != needed:
        raise ConfigError(
            f"attention = {implementation!r} runs on a {needed.upper()}, and this is a {platform.upper()}: set it to "
            "'plain'."
        )
    if implementation == "cudnn" and dtype not in (jnp.bfloat16, jnp.float16):
        raise ConfigError(
            f"attention = 'cudnn' computes in bfloat16 or float16, and dtype is {jnp.dtype(dtype).name}: set one of "
            "these, or attention = 'plain'."
        )
    if implementation == "splash" and biased:
        raise ConfigError("attention = 'splash' adds no relative-position bias to the scores: set it to 'plain'.")


class Projection(nn.Module):
    """A linear map to several axes, as one matrix product: [..., D] -> [..., prod(shape)].

    In the product of `nn.DenseGeneral` the axes stay apart: on CPUs XLA then turns the gradient around, element by
    element, before the product with the inputs, for a third of a small ViT's step.

    Attributes:
      shape: the axes; parameters are `kernel` [D, *shape] and `bias` [*shape].
      use_bias: a bias.
      dtype: compute dtype; parameters are float32.
      kernel_init: called with the matrix's shape.
    """

    shape: tuple[int, ...]
    use_bias: bool = True
    dtype: jnp.dtype = jnp.float32
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        matrix = (x.shape[-1], math.prod(self.shape))
        initial = lambda key: self.kernel_init(key, matrix).reshape(-1, *self.shape)
        x = x.astype(self.dtype) @ self.param("kernel", initial).reshape(matrix).astype(self.dtype)
        if not self.use_bias:
            return x
        return x + self.param("bias", nn.initializers.zeros, self.shape).reshape(-1).astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over B sequences of N tokens: [B*N, D] -> [B*N, D], or [B, N, D] -> [B, N, D].

    The product of queries and keys, the softmax and its sum are float32 whatever the compute dtype.

    Attributes:
      num_heads: they divide D.
      dtype: compute dtype; parameters are float32.
      qkv_bias: which of queries, keys and values have biases: "qkv", "qv", ..., "".
      out_bias: a bias in the last linear map.
      qk_norm: norm of each head's queries and keys (Dehghani et al. 2023, ViT-22B, arXiv:2302.05442), or None.
      epsilon: of that norm.
      implementation: its name; where the caller asks for intermediates, "plain" all the same.
    """

    num_heads: int
    dtype: jnp.dtype = jnp.float32
    qkv_bias: Biases = "qkv"
    out_bias: bool = True
    qk_norm: Norm | None = None
    epsilon: float = 1e-6
    implementation: Implementation = "plain"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        length: int,
        mask: jax.Array | None = None,
        bias: jax.Array | None = None,
        rotation: Rotation | None = None,
    ) -> jax.Array:
        """Attends.

        Args:
          x: [B*N, D] or [B, N, D].
          length: N.
          mask: bool [B or 1, N or 1, N], which keys a query sees; None for all.
          bias: [heads, N, N] or [B, heads, N, N], added to the scores.
          rotation: rotary positions, cosines and sines, each [N, D/heads] or [B, 1, N, D/heads].
        """
        width, heads = x.shape[-1], self.num_heads
        if width % heads:
            raise ValueError(f"width {width} does not divide into {heads} heads")
        dim = width // heads
        query, key, value = (
            t.squeeze(2).transpose(0, 2, 1, 3)
            for t in jnp.split(self._projected(x, dim).reshape(-1, length, 3, heads, dim), 3, axis=2)
        )
        if self.qk_norm is not None:
            query = NORMS[self.qk_norm](self.epsilon, self.dtype, name="query_norm")(query)
            key = NORMS[self.qk_norm](self.epsilon, self.dtype, name="key_norm")(key)
        if rotation is not None:
            query, key = _rotated(query, rotation), _rotated(key, rotation)
        kept = self.is_mutable_collection("intermediates")
        if kept:
            self.sow("intermediates", "weights", dot_product.weights(query, key, bias, mask).astype(self.dtype))
        kernels = {"plain": dot_product.attend, "cudnn": cudnn, "splash": splash}
        out = kernels["plain" if kept else self.implementation](query, key, value, bias, mask)
        x = out.transpose(0, 2, 1, 3).reshape(x.shape)
        return nn.Dense(width, self.out_bias, self.dtype, kernel_init=nn.initializers.xavier_uniform(), name="out")(x)

    def _projected(self, x: jax.Array, dim: int) -> jax.Array:
        """Queries, keys and values [..., 3*D], each head by head."""
        shape = (3, self.num_heads, dim)
        x = Projection(shape, self.qkv_bias == "qkv", self.dtype, name="qkv")(x)
        if self.qkv_bias in ("qkv", ""):
            return x
        some = self.param("qkv_bias", nn.initializers.zeros, (len(self.qkv_bias), *shape[1:])).astype(self.dtype)
        none = jnp.zeros(shape[1:], self.dtype)
        bias = jnp.stack([some[self.qkv_bias.index(name)] if name in self.qkv_bias else none for name in "qkv"])
        return x + bias.reshape(-1)


def _rotated(x: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): feature i is turned with i + d/2; [B, heads, N, d]."""
    cosine, sine = (wave.astype(x.dtype) for wave in rotation)
    first, second = jnp.split(x, 2, axis=-1)
    return x * cosine + jnp.concatenate([-second, first], axis=-1) * sine


def cudnn(
    query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array | None, mask: jax.Array | None
) -> jax.Array:
    """cuDNN's flash attention over [B, heads, N, dim]."""
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    bias = None if bias is None else jnp.broadcast_to(bias, (len(query), *bias.shape[-3:])).astype(query.dtype)
    mask = None if mask is None else mask[:, None]
    x = jax.nn.dot_product_attention(query, key, value, bias, mask, implementation="cudnn")
    return x.transpose(0, 2, 1, 3)


def splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> jax.Array:
    """JAX's splash attention for TPUs over [B, heads, N, dim]; tokens are padded to whole tiles and masked.

    Under a mesh (`vitfm.parallel.mesh.under`) each device has its own examples, as XLA can't split a kernel by itself.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    if mask is not None or bias is not None:
        raise ConfigError("attention = 'splash' takes neither masks nor biases of the scores: set it to 'plain'.")
    _, heads, length, dim = query.shape
    padded = -(-length // _LANES) * _LANES
    block = next(size for size in (512, 384, 256, _LANES) if padded % size == 0)
    sizes = splash_attention_kernel.BlockSizes(*[block] * 8)
    full = splash_attention_mask.MultiHeadMask([splash_attention_mask.FullMask((padded, padded))] * heads)
    real = (jnp.arange(padded) < length).astype(jnp.int32)  # Tokens see those of their own segment alone.
    segments = splash_attention_kernel.SegmentIds(real, real)

    def run(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        kernel = splash_attention_kernel.make_splash_mha(
            full, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
        )
        return jax.vmap(kernel, (0, 0, 0, None))(query, key, value, segments)

    pad = lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, padded - length), (0, 0)))
    return _by_batch(run, len(query))(pad(query * dim**-0.5), pad(key), pad(value))[:, :, :length]


def _by_batch(function: Callable[..., jax.Array], batch: int) -> Callable[..., jax.Array]:
    """`function` on each device's own examples under a mesh; on all of them where they do not divide."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return function
    split = jax.sharding.PartitionSpec(() if batch % mesh.size else mesh.axis_names)
    return jax.shard_map(function, in_specs=split, out_specs=split, check_vma=False)
