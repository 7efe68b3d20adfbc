"""The discrete VAE of DALL-E, which turns an image into a grid of codes (Ramesh et al. 2021, arXiv:2102.12092).

It is BEiT's first tokenizer: `config.teacher` may name such a run, or a folder with DALL-E's own encoder
(`vitfm.interop.families.flava_image_codebook`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import categorical, diagnostics, logit_laplace
from vitfm.models import heads, probes
from vitfm.models.dvae import Encoder
from vitfm.objectives import base
from vitfm.ranges import Range

# The encoder ends in a ReLU: positive features share a direction that outweighs all others long before a collapse.
_HEALTHY = {"effective_rank": Range(diagnostics.ONE_VECTOR, least=1.2)}


def make(
    *,
    model: Mapping[str, Any] = {},
    codes: int = 8192,
    decoder: Mapping[str, Any] | None = {},
    temperature: base.Spec = {"name": "cosine", "start": 1.0, "end": 1 / 16},
    kl_weight: base.Spec = {"name": "cosine", "start": 0.0, "end": 6.6},
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    schedule: Callable[[Any, str], Callable[[jax.Array], jax.Array]],
) -> base.Objective:
    """An encoder draws one of K codes for each square of `image` [B,H,W,C], from which a decoder predicts the pixels.

    The loss is the negative evidence lower bound for each number of the image (section 2.1, appendix A): logit-Laplace
    density of the pixels, plus `kl_weight` times the KL of the codes to a uniform prior. Draws are relaxed by Gumbel
    noise and a softmax; predictions take the most probable code.

    Args:
      model: options of `vitfm.models.dvae`.
      codes: their number K.
      decoder: options of `vitfm.models.dvae_decoder`; None for a tokenizer that is there to be used, as imported.
      temperature: of the relaxation; a number or a schedule. 1/16 was low enough (section 2.1).
      kl_weight: a number or a schedule; it takes the authors' weight from 0 to 6.6, where a KL of 1 nat a code is
        divided by the numbers that a code stands for (192, appendix A.2).
      data: facts about the batches: `image_size`, `channels`, `mean` and `std`; the pixels are those in [0, 1].
      dtype: compute dtype; what makes codes and what reads them is float32, as in the authors' code.
      schedule: (number or schedule, where) -> (step -> value).

    Raises:
      ConfigError: the encoder is another, it and decoder or image do not fit, fewer than two codes, or a temperature or
        weight that is none.
    """
    encoder = models.make(
        {"name": "dvae", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype
    )
    _check(encoder, codes, temperature, kl_weight)
    if decoder is not None:
        defaults = {"name": "dvae_decoder", "groups": encoder.groups}
        context = {"where": "objective.decoder", "outputs": 2 * data.channels, "dtype": dtype}
        decoder = models.make({**defaults, **decoder}, **context)
        _check_sizes(encoder, decoder.groups, data.image_size)
    autoencoder = Autoencoder(encoder, heads.Linear(codes, "fan_in"), decoder, data.mean, data.std)
    temperature_at = schedule(temperature, "objective.temperature")
    kl_weight_at = schedule(kl_weight, "objective.kl_weight")

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        return base.Variables(autoencoder.init(key, batch["image"][:1]))

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        if autoencoder.decoder is None:
            raise ConfigError("config.objective.decoder = None: without a decoder there is nothing to learn from.")
        now = {"temperature": jnp.asarray(temperature_at(step)), "kl_weight": jnp.asarray(kl_weight_at(step))}
        noise = categorical.gumbel_noise(key, autoencoder.shape(batch["image"]))
        value, metrics = autoencoder.loss(params, batch["image"], noise, **now)
        return value, base.Aux({**metrics, **now})

    of_encoder = {name: autoencoder.on_mapped(function) for name, function in probes.predictions(encoder).items()}
    predict = {**of_encoder, "code_logits": autoencoder.logits, "codes": autoencoder.codes}
    if decoder is not None:
        predict["reconstruct"] = autoencoder.reconstruct
    # Exact: a mean over examples.
    return base.Objective(init, loss, predict, accumulate="mean", healthy=_HEALTHY | diagnostics.CODES)


def _check(encoder: nn.Module, codes: int, temperature: base.Spec, kl_weight: base.Spec) -> None:
    """Refuses options that are out of range, by their names."""
    if not isinstance(encoder, Encoder):
        raise ConfigError("config.objective.model.name: the encoder that has codes for its decoder is 'dvae'.")
    for name, value, possible, limits in (
        ("codes", codes, codes >= 2, "at least 2"),
        ("temperature", temperature, min(base.ends(temperature)) > 0, "above 0"),
        ("kl_weight", kl_weight, min(base.ends(kl_weight)) >= 0, "at least 0"),
    ):
        if not possible:
            raise ConfigError(f"config.objective.{name} = {value!r} must be {limits}.")


def _check_sizes(encoder: Encoder, groups: int, image_size: int) -> None:
    """Refuses a decoder that does not give back what the encoder took."""
    if groups != encoder.groups:
        raise ConfigError(
            f"config.objective.decoder.groups = {groups} must be the encoder's, {encoder.groups}: each but the first "
            "doubles the grid that the encoder has halved."
        )
    if image_size % encoder.stride:
        raise ConfigError(
            f"config.data.image_size = {image_size} must be a multiple of the {encoder.stride} pixels from one code to "
            "the next, to which config.objective.model.groups leads."
        )


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Functions of parameters {"encoder", "head", "decoder"} and images [B,H,W,C].

    Attributes:
      encoder: from `vitfm.models.dvae`.
      head: from its tokens to logits of the codes.
      decoder: from `vitfm.models.dvae_decoder`, or None.
      mean, std: of the images' normalisation, which is undone.
    """

    encoder: Encoder
    head: nn.Module
    decoder: nn.Module | None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def init(self, key: jax.Array, image: jax.Array) -> base.Params:
        keys = jax.random.split(key, 3)
        features, encoder = self.encoder.init_with_output(keys[0], image)
        params = {"encoder": encoder["params"], "head": self.head.init(keys[1], features.tokens)["params"]}
        if self.decoder is None:
            return params
        grid = jnp.zeros((1, *self.shape(image)))
        return {**params, "decoder": self.decoder.init(keys[2], grid)["params"]}

    def shape(self, image: jax.Array) -> tuple[int, ...]:
        """h, w and K, for an image of this size."""
        return (*(side // self.encoder.stride for side in image.shape[1:3]), self.head.classes)

    def logits(self, params: base.Params, image: jax.Array) -> jax.Array:
        """Of the codes, float32 [B,N,K], N = h w in row-major order."""
        return self._logits(params, self._encoded(params, image))

    def codes(self, params: base.Params, image: jax.Array) -> jax.Array:
        """The most probable ones, int32 [B,N]."""
        return self.logits(params, image).argmax(-1).astype(jnp.int32)

    def loss(
        self,
        params: base.Params,
        image: jax.Array,
        noise: jax.Array,
        temperature: jax.Array | float,
        kl_weight: jax.Array | float,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The negative bound a number of the image, [], and metrics; `noise` [B,h,w,K] is Gumbel's.

        `reconstruction` is in nats a number, `kl` in nats a code.
        """
        features = self._encoded(params, image)
        logits = self._logits(params, features).reshape(noise.shape)
        drawn = categorical.gumbel_softmax(logits, noise, temperature)
        errors = logit_laplace.negative_log_density(self._mapped(image), *self._decoded(params, drawn))
        kl, reconstruction = categorical.kl_to_uniform(logits).mean(), errors.mean()
        rank = diagnostics.effective_rank(features.pooled)
        metrics = {"effective_rank": rank, **diagnostics.of_codes(logits.argmax(-1), self.head.classes)}
        numbers = self.encoder.stride**2 * image.shape[-1]  # Those that one code stands for.
        return reconstruction + kl_weight * kl / numbers, {"reconstruction": reconstruction, "kl": kl, **metrics}

    def reconstruct(self, params: base.Params, image: jax.Array) -> jax.Array:
        """[B,2,H,W,C]: the image; what the decoder makes of its codes."""
        codes = jax.nn.one_hot(self.codes(params, image), self.head.classes)
        location, _ = self._decoded(params, codes.reshape(len(image), *self.shape(image)))
        pixels = logit_laplace.unmap_pixels(jax.nn.sigmoid(location))
        return jnp.stack([image, (pixels - np.float32(self.mean)) / np.float32(self.std)], 1)

    def on_mapped(self, function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """A function of parameters and the encoder's input as one of parameters and images."""
        return lambda params, image, **options: function(params, self._mapped(image), **options)

    def _encoded(self, params: base.Params, image: jax.Array) -> models.Features:
        return self.encoder.apply({"params": params["encoder"]}, self._mapped(image))

    def _logits(self, params: base.Params, features: models.Features) -> jax.Array:
        tokens = features.tokens
        logits = self.head.apply({"params": params["head"]}, tokens.reshape(-1, tokens.shape[-1]))
        return logits.reshape(*tokens.shape[:2], -1)

    def _mapped(self, image: jax.Array) -> jax.Array:
        """As encoder and density take it."""
        return logit_laplace.map_pixels(image.astype(jnp.float32) * np.float32(self.std) + np.float32(self.mean))

    def _decoded(self, params: base.Params, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of codes, one-hot or relaxed [B,h,w,K]: location and logarithm of the scale of each pixel, [B,H,W,C]."""
        return jnp.split(self.decoder.apply({"params": params["decoder"]}, codes), 2, axis=-1)
