"""VQ-KD, BEiT v2's tokenizer: codes that keep what a teacher sees (Peng et al. 2022, arXiv:2208.06366)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, quantization
from vitfm.losses.distillation import mismatch
from vitfm.models import heads, masking, probes
from vitfm.objectives import base
from vitfm.objectives.distill import resized


def make(
    *,
    model: Mapping[str, Any] = {},
    decoder: Mapping[str, Any] = {},
    codes: int = 8192,
    code_dim: int = 32,
    decay: float = 0.99,
    commitment: float = 1.0,
    start: Literal["kmeans", "random"] = "kmeans",
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    teacher: base.Teacher | None = None,
) -> base.Objective:
    """Each patch of `image` [B,H,W,C] becomes one of K codes, from which a decoder finds a teacher's features of it.

    An encoder's patches are mapped to the sphere in `code_dim` dimensions, where the nearest code takes their place;
    the loss is 1 - cosine between decoder and teacher, the mean over all patches, plus the commitment of patches to
    codes (equation 3, as a loss). The gradient passes the code unchanged. Codes are no parameters: each follows the
    mean direction of its patches in the global batch, and one that has none stays where it is.

    `extra` holds the teacher, the `codebook` [K,D] and the `pull` [K,D] that the last batch had on it. What predicts
    has the codebook as its parameter. The authors' features of CLIP are projected to the space of texts; here they are
    those before the projection, as all `patches` are. Their k-means starts from one device's first batch, here from
    the global one.

    Args:
      model: the encoder: a "vit", by default, or another `vitfm.models` name that has a `stride`, and its options.
      decoder: options of the decoder, a "vit" over the grid of codes; by default as wide as ViT-B, with 3 blocks.
      codes: their number K.
      code_dim: their dimension D.
      decay: weight of the past in a code.
      commitment: weight of that term (the authors' beta).
      start: of the codebook: "kmeans" of the first batch, or "random" unit vectors, of which many are never used.
      data: facts about the batches: `image_size`.
      dtype: compute dtype; what makes codes is float32 from the patches on.
      teacher: any model that predicts `patches`; of another grid, they are resized to the encoder's.

    Raises:
      ConfigError: an option that is out of range, an encoder that has no grid of patches, or no teacher.
    """
    _check(codes, code_dim, decay, commitment)
    encoder = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    base.refuse_patch_dropout(encoder)
    if not hasattr(encoder, "stride"):
        raise ConfigError("config.objective.model.name: each patch gets a code, so it must be 'vit' or 'swin'.")
    shape = {"image_size": data.image_size // encoder.stride, "patch_size": 1}
    decoder = models.make({"name": "vit", "depth": 3, **decoder}, where="objective.decoder", dtype=dtype, **shape)
    base.refuse_patch_dropout(decoder, "objective.decoder")
    tokenizer = Tokenizer(encoder, decoder, code_dim, dtype)

    def told(extra: base.Extra, image: jax.Array) -> jax.Array:
        return base.taught(teacher).predict("patches", extra, image)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys, image = jax.random.split(key, 3), batch["image"][:1]
        frozen = {base.FROZEN: base.taught(teacher).init(keys[0])}
        params = tokenizer.init(keys[1], image, jax.eval_shape(told, frozen, image).shape[-1])
        codebook = jnp.zeros((codes, code_dim))  # Until the first batch.
        if start == "random":
            codebook = quantization.unit(jax.random.normal(keys[2], codebook.shape))
        return base.Variables(params, {**frozen, "codebook": codebook, "pull": jnp.zeros_like(codebook)})

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        image, seen = batch["image"], told(extra, batch["image"])
        for_encoder, for_decoder, for_start = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(key)
        points = tokenizer.encode(params, image, for_encoder)
        rows, changed = jax.lax.stop_gradient(points.reshape(-1, code_dim)), {}
        codebook = extra["codebook"]
        if start == "kmeans":
            codebook = changed["codebook"] = started(codebook, rows, for_start)
        chosen = quantization.nearest(rows, codebook)
        changed["pull"] = quantization.pull(rows, chosen, codes)
        found, distance = quantization.quantized(points, codebook, chosen.reshape(points.shape[:-1]))
        found = tokenizer.decode(params, found, for_decoder)
        reconstruction = mismatch(resized(seen, found.shape[1:3]), found, "cosine").mean()
        metrics = {
            "reconstruction": reconstruction,
            "commitment": distance,
            "effective_rank": diagnostics.effective_rank(points.mean((1, 2))),
            **diagnostics.of_codes(chosen, codes),
        }
        return reconstruction + commitment * distance, base.Aux(metrics, changed)

    def started(codebook: jax.Array, rows: jax.Array, keys: jax.Array) -> jax.Array:
        """The codebook, or where it is 0 still that of the batch's rows [B*N,D]."""
        order = masking.noise(keys, len(rows) // len(keys)).reshape(-1)
        return jax.lax.cond(codebook.any(), lambda: codebook, lambda: quantization.kmeans(rows, order, codes))

    def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
        return {**extra, "codebook": quantization.moved(extra["codebook"], extra["pull"], decay)}

    return base.Objective(
        init,
        loss,
        {**probes.predictions(encoder), "code_logits": tokenizer.logits, "codes": tokenizer.codes},
        # Exact: the pull is linear in the batch, and codes move after the whole of it.
        accumulate="mean" if start == "random" else None,
        why_not=_NO_PARTS,
        healthy=diagnostics.RANK | diagnostics.CODES,
        after_update=after_update,
        evaluated=lambda params, extra: {**params, "codebook": extra["codebook"]},
    )


_NO_PARTS = "k-means starts from the whole first batch at once. Take start = 'random', or a smaller batch."


def _check(codes: int, code_dim: int, decay: float, commitment: float) -> None:
    """Refuses options that are out of range, by their names."""
    for name, value, possible, limits in (
        ("codes", codes, codes >= 2, "at least 2"),
        ("code_dim", code_dim, code_dim >= 2, "at least 2, as a sphere has no fewer"),
        ("decay", decay, 0 <= decay < 1, "at least 0 and below 1"),
        ("commitment", commitment, commitment >= 0, "at least 0"),
    ):
        if not possible:
            raise ConfigError(f"config.objective.{name} = {value!r} must be {limits}.")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Functions of parameters {"encoder", "encoder_head", "decoder", "decoder_head"} and, to predict, "codebook".

    Attributes:
      encoder, decoder: from `vitfm.models`; of images, and of a grid of codes.
      code_dim: D.
      dtype: of the map from the decoder to the teacher; the one to the codes is float32.
    """

    encoder: nn.Module
    decoder: nn.Module
    code_dim: int
    dtype: jnp.dtype

    def init(self, key: jax.Array, image: jax.Array, width: int) -> base.Params:
        """For a teacher's features of this width."""
        keys = jax.random.split(key, 4)
        features, encoder = self.encoder.init_with_output(keys[0], image)
        codes = jnp.zeros((1, *features.grid, self.code_dim))
        decoded, decoder = self.decoder.init_with_output(keys[1], codes)
        head = lambda key, width, x: self._head(width, x.tokens.shape[-1]).init(key, x.tokens[0])["params"]
        return {
            "encoder": encoder["params"],
            "encoder_head": head(keys[2], self.code_dim, features),
            "decoder": decoder["params"],
            "decoder_head": head(keys[3], width, decoded),
        }

    def encode(self, params: base.Params, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B,H,W,C] -> the patches on the sphere, [B,h,w,D]; `keys` [B] are for drop path."""
        features = self.encoder.apply({"params": params["encoder"]}, image, keys=keys)
        return quantization.unit(self._mapped(params["encoder_head"], probes.on_grid(features), jnp.float32))

    def decode(self, params: base.Params, found: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Vectors of codes [B,h,w,D] -> a teacher's features, [B,h,w,T]."""
        features = self.decoder.apply({"params": params["decoder"]}, found, keys=keys)
        return self._mapped(params["decoder_head"], probes.on_grid(features), self.dtype)

    def logits(self, params: base.Params, image: jax.Array) -> jax.Array:
        """Cosines with the codes, float32 [B,N,K], N = h w in row-major order."""
        points = self.encode(params, image)
        return quantization.cosines(points.reshape(len(image), -1, self.code_dim), params["codebook"])

    def codes(self, params: base.Params, image: jax.Array) -> jax.Array:
        """The nearest ones, int32 [B,N]."""
        return self.logits(params, image).argmax(-1).astype(jnp.int32)

    def _head(self, width: int, hidden_dim: int, dtype: jnp.dtype = jnp.float32) -> nn.Module:
        return heads.Linear(width, "fan_in", hidden_dim=hidden_dim, dtype=dtype)

    def _mapped(self, head: base.Params, patches: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """Linear, tanh, linear: [B,h,w,D] -> float32 [B,h,w,...]."""
        hidden, width = head["logits"]["kernel"].shape
        rows = patches.reshape(-1, patches.shape[-1])
        return self._head(width, hidden, dtype).apply({"params": head}, rows).reshape(*patches.shape[:-1], width)
