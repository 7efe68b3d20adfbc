"""BEiT: the codes of masked patches, from the patches around them (Bao et al. 2022, arXiv:2106.08254)."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import models, tree
from vitfm.config import ConfigError
from vitfm.losses import classification, diagnostics
from vitfm.models import heads, masking, probes
from vitfm.models.vision_transformer import ViT
from vitfm.objectives import base

# What BEiT's encoders are where a recipe does not say otherwise (the authors' beit_base_patch16_224_8k_vocab).
BIASED = {
    "position": "none",
    "position_resize": "bicubic",  # Of nothing; transformers' BEiT names it, and a run is to be exported as one.
    "relative_position": "shared",
    "layer_scale": 0.1,
    "qkv_bias": "qv",
    "class_token": True,
    "pool": "cls",
    "mask_token": True,
}


def make(
    *,
    model: Mapping[str, Any] = {},
    codes: int = 8192,
    masked_patches: int = 75,
    smallest_block: int = 16,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    teacher: base.Teacher | None = None,
) -> base.Objective:
    """Classification of masked patches of `image` [B,H,W,C] by the codes that a frozen tokenizer has for them.

    Blocks of patches are replaced by the mask token, and a linear head finds their codes (equation 2). The tokenizer is
    `config.teacher`, which sees the whole image at its own size: a `dvae`, DALL-E's among them, or for BEiT v2
    (arXiv:2208.06366), but for its shortcut from the class token, a `vqkd`.

    Every example hides exactly `masked_patches`, in blocks drawn by its own key, see `masking.blocks`. The authors'
    host code stops after ten blocks in a row that do not fit and hides up to that many: 74.5 of 75 on average, 70 or
    fewer in one of a hundred images; here the last few are hidden one by one.

    Args:
      model: the encoder, a "vit" and its options; by default a ViT-B/16 as BEiT's are: one table of biases by offset
        for all blocks and no positions beside, layer scale 0.1, no biases of keys, a class token.
      codes: how many the tokenizer has.
      masked_patches: how many are hidden: 75 of 196.
      smallest_block: patches in a block, at least.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
      teacher: a model that predicts `codes`, one for each of the encoder's patches.

    Raises:
      ConfigError: the encoder masks nothing, blocks do not fit, or tokenizer and encoder do not go together.
    """
    of_vit = BIASED if model.get("name", "vit") == "vit" else {}
    defaults = {"name": "vit", "image_size": data.image_size, **of_vit}
    encoder = models.make({**defaults, **model}, where="objective.model", dtype=dtype)
    base.refuse_patch_dropout(encoder)
    _check(encoder, data.image_size, codes, masked_patches, smallest_block)
    predictor = Predictor(encoder, heads.Linear(codes, "fan_in", dtype=dtype), masked_patches, smallest_block)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys, image = jax.random.split(key, 2), batch["image"][:1]
        extra = {base.FROZEN: base.taught(teacher).init(keys[0])}
        _check_codes(teacher, extra, image, encoder, codes)
        return base.Variables(predictor.init(keys[1], image), extra)

    def drawn(image: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which patches are masked, bool [B,N], and keys for drop path."""
        for_masks, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(key)
        return predictor.masked(for_masks, image), for_drop_path

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        found = base.taught(teacher).predict("codes", extra, batch["image"])
        masked, for_drop_path = drawn(batch["image"], key)
        value, metrics = predictor.loss(params, batch["image"], masked, found, for_drop_path)
        return value, base.Aux(metrics)

    def masks(batch: base.Batch, key: jax.Array) -> dict[str, jax.Array]:
        image = batch["image"]
        return {"image": drawn(image, key)[0].reshape(len(image), image.shape[1] // encoder.patch_size, -1)}

    predict = probes.predictions(encoder)
    # Exact: every example hides as many patches.
    return base.Objective(init, loss, predict, "mean", healthy=diagnostics.RANK | diagnostics.CODES, masks=masks)


def _check(encoder: nn.Module, image_size: int, codes: int, masked_patches: int, smallest_block: int) -> None:
    """Refuses encoders that mask nothing, and masks that leave nothing to see or to predict."""
    if not isinstance(encoder, ViT) or not encoder.mask_token:
        raise ConfigError("BEiT masks patches: config.objective.model needs name = 'vit' with mask_token = True.")
    if codes < 2:
        raise ConfigError(f"config.objective.codes = {codes} must be at least 2.")
    count = (image_size // encoder.patch_size) ** 2
    if not 0 < masked_patches < count:
        raise ConfigError(
            f"config.objective.masked_patches = {masked_patches} of {count}: some must be seen and some hidden."
        )
    if not 1 <= smallest_block <= masked_patches:
        raise ConfigError(
            f"config.objective.smallest_block = {smallest_block} must be from 1 to masked_patches = {masked_patches}."
        )


def _check_codes(teacher: base.Teacher, extra: base.Extra, image: jax.Array, encoder: ViT, codes: int) -> None:
    """Refuses a tokenizer whose codes are not one for each patch, or are more or fewer than the head knows."""
    shape = lambda name: jax.eval_shape(lambda: teacher.predict(name, extra, image)).shape
    count = (image.shape[1] // encoder.patch_size) * (image.shape[2] // encoder.patch_size)
    found = shape("codes")[1]
    if found != count:
        raise ConfigError(
            f"config.teacher has {found} codes for an image of its size, and config.objective.model, at patch_size = "
            f"{encoder.patch_size}, {count} patches: take a patch_size or config.data.image_size of the same grid."
        )
    if "code_logits" in teacher.functions and shape("code_logits")[-1] != codes:
        raise ConfigError(
            f"config.objective.codes = {codes}, and config.teacher has {shape('code_logits')[-1]} of them."
        )


@dataclasses.dataclass(frozen=True)
class Predictor:
    """Functions of parameters {"encoder", "head"}, images [B,H,W,C] and which patches are masked, bool [B,N].

    Attributes:
      encoder: a ViT with a mask token.
      head: from its tokens to logits of the codes.
      masked_patches, smallest_block: see `make`.
    """

    encoder: ViT
    head: heads.Linear
    masked_patches: int
    smallest_block: int

    def masked(self, keys: jax.Array, image: jax.Array) -> jax.Array:
        """The patches that are masked, bool [B,N], row i drawn by keys [B] i alone, as many in each."""
        grid = tuple(side // self.encoder.patch_size for side in image.shape[1:3])
        return masking.blocks(keys, jnp.full(len(image), self.masked_patches), grid, self.smallest_block)

    def init(self, key: jax.Array, image: jax.Array) -> base.Params:
        keys = jax.random.split(key, 2)
        features, encoder = self.encoder.init_with_output(keys[0], image)
        return {
            "encoder": rescaled(encoder["params"]),
            "head": self.head.init(keys[1], features.tokens[0])["params"],
        }

    def loss(
        self,
        params: base.Params,
        image: jax.Array,
        masked: jax.Array,
        codes: jax.Array,
        keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Cross-entropy of the codes, int [B,N], of masked patches (equation 2), []; and metrics of the masked ones.

        A code that the head does not know makes it NaN, so that nothing is learned of it. `keys` [B] are for drop path.
        """
        features = self._encoded(params, image, masked, keys)
        logits, places = self._decoded(params, features, masked)
        label = jnp.take_along_axis(codes, places, axis=1).reshape(-1)
        known = (label >= 0) & (label < self.head.classes)
        errors = classification.softmax(logits, classification.targets(label, self.head.classes))
        metrics = {
            "accuracy": classification.hits(logits, label).mean(),
            "effective_rank": diagnostics.effective_rank(features.mean(features.tokens)),
            **diagnostics.of_codes(label, self.head.classes),
        }
        return jnp.where(known, errors, jnp.nan).mean(), metrics

    def logits(
        self, params: base.Params, image: jax.Array, masked: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Of the masked patches, float32 [B*M,K], and which patches these are, int [B,M]."""
        return self._decoded(params, self._encoded(params, image, masked, keys), masked)

    def _encoded(
        self, params: base.Params, image: jax.Array, masked: jax.Array, keys: jax.Array | None
    ) -> models.Features:
        return self.encoder.apply({"params": params["encoder"]}, image, None, keys, masked=masked)

    def _decoded(
        self, params: base.Params, features: models.Features, masked: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        places = masking.numbers(masked, self.masked_patches)
        rows = jnp.take_along_axis(features.tokens, places[..., None] + features.prefix, axis=1)
        return self.head.apply({"params": params["head"]}, rows.reshape(-1, rows.shape[-1])), places


_LAST = re.compile(r"transformer/block(?:_(\d+)|s)/(?:attention/out|mlp/down)/kernel$")


def rescaled(encoder: base.Params) -> base.Params:
    """A ViT's initial parameters with the last map of both branches of block l = 1, 2, ... divided by √(2 l).

    Section 2.4, after Dong et al. 2019: it steadies the first steps of a deep network. Blocks may be stacked.
    """

    def divided(path: Any, leaf: jax.Array) -> jax.Array:
        found = _LAST.search(tree.name(path))
        if not found:
            return leaf
        if found[1]:
            return leaf / (2 * (int(found[1]) + 1)) ** 0.5
        layers = jnp.arange(1, len(leaf) + 1).reshape(-1, *[1] * (leaf.ndim - 1))
        return leaf / jnp.sqrt(2 * layers)

    return jax.tree_util.tree_map_with_path(divided, encoder)
