"""Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), with the variations that published weights need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax.numpy as jnp

from vitfm import config
from vitfm.config import ConfigError
from vitfm.models import attention as attentions
from vitfm.models.activations import Activation
from vitfm.models.attention import Biases, Implementation
from vitfm.models.norms import Norm
from vitfm.models.pooling import AttentionPool
from vitfm.models.position import Resize, Rope
from vitfm.models.sizes import SIZES
from vitfm.models.stem import ConvStem, HierarchicalStem, PatchConvStem, PatchStem, Stem
from vitfm.models.transformer import Remat, Style, Transformer
from vitfm.models.vision_transformer import FIXED, OF_CLASS, Pool, Position, ViT

__all__ = ["SIZES", "make"]  # `vitfm.models.sized` looks for both in the file that a recipe names.


def make(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    hidden_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_dim: int | None = None,
    stem: Stem = "patch",
    stem_bias: bool = True,
    stem_norm: bool = False,
    channel_dropout: float = 0.0,
    position: Position = "learned",
    position_resize: Resize = "antialiased",
    rope: Mapping[str, Any] = {},
    relative_position: Literal["block", "shared"] | None = None,
    pool: Pool = "gap",
    pool_norm: bool = False,
    class_token: bool | None = None,
    class_position: bool = False,
    distillation_token: bool = False,
    registers: int = 0,
    mask_token: bool = False,
    pre_norm: bool = False,
    norm: Norm = "layer",
    norm_placement: Literal["pre", "post", "residual"] = "pre",
    final_norm: bool = True,
    layer_scale: float | None = None,
    qkv_bias: Biases = "qkv",
    out_bias: bool = True,
    qk_norm: bool = False,
    attention: Implementation = "plain",
    platform: str | None = None,
    gated_mlp: bool = False,
    mlp_bias: bool = True,
    activation: Activation = "gelu",
    epsilon: float = 1e-6,
    drop_path_rate: float = 0.0,
    patch_dropout: float = 0.0,
    window_size: int | None = None,
    global_blocks: Sequence[int] = (),
    scan: bool = False,
    remat: bool | Remat = False,
    dtype: jnp.dtype = jnp.float32,
) -> ViT:
    """A vision transformer; the defaults are ViT-B/16 with global average pooling.

    A recipe's `size`, one of `SIZES`, stands for options, which others beside it override.

    Args:
      image_size: side in pixels that the position embeddings are made for; others are interpolated.
      patch_size: side of a patch; with stems of several steps a power of two from 8.
      hidden_dim: width D.
      depth: number of blocks.
      num_heads: attention heads; they divide `hidden_dim`.
      mlp_dim: hidden width of the MLPs; 4 D when None.
      stem: "patch", one linear map of each patch; "conv", patches of 4 pixels and strided convolutions; "patch_conv",
        the same within each patch, or "hmlp", patches of 4 pixels that are joined within each, so that patches can be
        left out. Patches that are `masked` are 0 in what "conv" sees.
      stem_bias: a bias in the patch stem (CLIP has none).
      stem_norm: a norm between stem and positions (AIMv2).
      channel_dropout: probability that training sets a channel of an image to zero.
      position: "learned" embeddings, interpolated for other grids; fixed ones, MAE's "sincos" or big_vision's
        "sincos2d", see `vitfm.models.position.sincos`; rotary ones, "rope"; "none".
      position_resize: how learned embeddings are interpolated, see `resize_position`.
      rope: options of `vitfm.models.position.Rope`.
      relative_position: learned biases of the scores by offset, one table for each block or one for all (BEiT).
      pool: "cls", the class token; "gap", the mean of the patches; "cls_gap", both, one after the other;
        "cls_dist", class and distillation token likewise (DeiT); "map" and "aim", attention by a learned query, see
        `AttentionPool`.
      pool_norm: a norm of the pooled output (BEiT, and timm's `fc_norm`, with final_norm = False).
      class_token: None has one where the pooling needs it.
      class_position: the class token's position embedding is a parameter of its own, so that imported weights are
        exported bit for bit; otherwise `class_token` holds the sum. Likewise of the distillation token.
      distillation_token: a second class token (DeiT).
      registers: tokens without meaning after the class token (Darcet et al. 2024, arXiv:2309.16588).
      mask_token: a learned stand-in for the patches that a call has `masked`.
      pre_norm: a norm before the first block, as in CLIP.
      norm, norm_placement, layer_scale, qkv_bias, out_bias, qk_norm, gated_mlp, mlp_bias: see `Style`.
      final_norm: a norm after the last block.
      attention: "plain"; "cudnn", for NVIDIA GPUs in bfloat16; "splash", for TPUs.
      platform: "cpu", "gpu" or "tpu" where the program is compiled for another machine than this.
      activation, epsilon: of the blocks.
      drop_path_rate: stochastic depth of the last block in training; it grows linearly from 0 at the first.
      patch_dropout: share of the patches that training leaves out, others for each example and step: fewer tokens, so
        more images a second (Liu et al. 2022, arXiv:2208.07220; Li et al. 2023, FLIP, arXiv:2212.00794).
      window_size, global_blocks: side in patches of the windows that patches see, in all blocks but these, for large
        images (ViTDet). There must be no special tokens; `config.init.take` then names the parts of an encoder that had
        some: stem, position and transformer. Windows at the edge are filled up with zeros, which are seen. Biases by
        offset ("block") are those of a window, where there is one.
      scan: one program for all blocks, see `Transformer`.
      remat: recompute blocks in the backward pass to save memory; names keep some of it, see `Remat`.
      dtype: compute dtype; parameters are float32.
    """
    _check_shapes(image_size, patch_size, hidden_dim, num_heads, position, stem)
    shares = {"drop_path_rate": drop_path_rate, "patch_dropout": patch_dropout, "channel_dropout": channel_dropout}
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ConfigError(f"ViT: {name} = {value} is a share below 1.")
    needs_class = pool in OF_CLASS
    class_token = needs_class if class_token is None else class_token
    if needs_class and not class_token:
        raise ConfigError(f"ViT: pool = {pool!r} needs the class token: leave class_token out.")
    if pool == "cls_dist" and not distillation_token:
        raise ConfigError("ViT: pool = 'cls_dist' needs distillation_token = True.")
    if relative_position and int(class_token) != class_token + distillation_token + registers:
        raise ConfigError("ViT: relative_position knows no distillation token and no registers: leave them out.")
    _check_windows(
        window_size,
        tuple(global_blocks),
        depth,
        prefix=class_token + distillation_token + registers,
        plain=not patch_dropout and relative_position != "shared" and not (scan and relative_position),
    )
    attentions.check(attention, dtype, relative_position is not None, platform)
    side = image_size // patch_size
    stems = {
        "patch": PatchStem(patch_size, hidden_dim, stem_bias, dtype),
        "conv": ConvStem(patch_size, hidden_dim, dtype),
        "patch_conv": PatchConvStem(patch_size, hidden_dim, dtype),
        "hmlp": HierarchicalStem(patch_size, hidden_dim, dtype),
    }
    pooling = (num_heads, pool, mlp_dim or 4 * hidden_dim, activation, norm, epsilon)
    return ViT(
        image_size=image_size,
        patch_size=patch_size,
        width=hidden_dim,
        stem=stems[stem],
        transformer=Transformer(
            depth,
            num_heads,
            mlp_dim,
            activation,
            epsilon,
            remat,
            dtype,
            drop_path_rate,
            scan,
            Style(
                placement=norm_placement,
                norm=norm,
                layer_scale=layer_scale,
                gated_mlp=gated_mlp,
                mlp_bias=mlp_bias,
                qkv_bias=qkv_bias,
                out_bias=out_bias,
                qk_norm=qk_norm,
                attention=attention,
                relative_position=relative_position,
                relative_grid=(side, side),
                flat=platform == "cpu" if platform else None,
            ),
            final_norm,
            window_size,
            tuple(global_blocks) if window_size else (),
        ),
        position=position,
        position_resize=position_resize,
        rope=config.call(Rope, rope, where="model.rope"),
        pool=pool,
        pooler=AttentionPool(*pooling, bool(qkv_bias), dtype) if pool in ("map", "aim") else None,
        class_token=class_token,
        class_position=class_position,
        distillation_token=distillation_token,
        registers=registers,
        mask_token=mask_token,
        stem_norm=stem_norm,
        pre_norm=pre_norm,
        pool_norm=pool_norm,
        patch_dropout=patch_dropout,
        channel_dropout=channel_dropout,
        dtype=dtype,
    )


def _check_windows(window: int | None, wide: tuple[int, ...], depth: int, *, prefix: int, plain: bool) -> None:
    """Refuses windows where tokens have no place in them, and blocks that are none."""
    if window is None and wide:
        raise ConfigError(f"ViT: global_blocks = {list(wide)} are those without windows: set window_size.")
    if window is not None and (window < 1 or prefix or not plain):
        raise ConfigError(
            f"ViT: window_size = {window} cuts whole grids of patches: it must be at least 1, without class token "
            "(pool = 'gap' or 'map'), distillation token, registers, patch_dropout and relative_position = 'shared'; "
            "and relative_position = 'block' needs scan = False, as global blocks have larger tables."
        )
    if len(set(wide)) < len(wide) or any(not 0 <= block < depth for block in wide):
        raise ConfigError(f"ViT: global_blocks = {list(wide)} must be different ones of 0, ..., {depth - 1}.")


def _check_shapes(
    image_size: int, patch_size: int, hidden_dim: int, num_heads: int, position: Position, stem: Stem
) -> None:
    """Refuses sizes that do not divide."""
    if hidden_dim % num_heads:
        raise ConfigError(f"ViT: hidden_dim = {hidden_dim} does not divide into num_heads = {num_heads}.")
    if position in FIXED and (hidden_dim % 4 or hidden_dim < 8):
        raise ConfigError(f"ViT: hidden_dim = {hidden_dim} must be 8, 12, 16, ... where position = {position!r}.")
    if position == "rope" and hidden_dim // num_heads % 4:
        raise ConfigError(
            f"ViT: heads of {hidden_dim // num_heads} features must have a multiple of 4 where position = 'rope'."
        )
    if image_size % patch_size:
        raise ConfigError(f"ViT: image_size = {image_size} does not divide into patches of {patch_size} pixels.")
    if stem != "patch" and (patch_size & (patch_size - 1) or patch_size < 8):
        raise ConfigError(
            f"ViT: stem = {stem!r} joins patches of 4 pixels by twos; patch_size = {patch_size} is not 8, 16, 32, ..."
        )
    if stem == "hmlp" and hidden_dim % 4:
        raise ConfigError(f"ViT: hidden_dim = {hidden_dim} must be a multiple of 4 where stem = 'hmlp'.")
    if stem in ("conv", "patch_conv") and hidden_dim % (patch_size // 4):
        raise ConfigError(
            f"ViT: the convolutional stem doubles its width up to hidden_dim = {hidden_dim}, which {patch_size // 4} "
            f"must divide where patch_size = {patch_size}."
        )
