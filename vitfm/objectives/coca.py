"""CoCa: an image and a text embedding, and a caption, from one pass (Yu et al. 2022, arXiv:2205.01917).

open_clip's CoCa differs from the paper; options make it (tests/parity/test_coca.py):
- paper: 256 queries pool the image for the caption, and one more query pools these for the contrastive loss; open_clip:
  the first of 256 is the contrastive one (`pooler.kind = "first"`, and `image.final_norm = False`);
- paper: a block of the multimodal decoder has one MLP; open_clip: two (`captioner.two_mlps = True`);
- paper: the class token sees the text in front of it; open_clip's mask of the padding lies one place too far right
  (`text.shifted_class_mask = True`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitfm import config, models
from vitfm.config import ConfigError
from vitfm.losses import captioning, contrastive, diagnostics
from vitfm.models import captioner as captioners
from vitfm.models import generation as generations
from vitfm.models import masking, pooling, probes
from vitfm.models.two_towers import unit
from vitfm.objectives import base


def make(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any] = {},
    pooler: Mapping[str, Any] = {},
    captioner: Mapping[str, Any] = {},
    embed_dim: int | None = None,
    contrastive_weight: float = 1.0,
    caption_weight: float = 2.0,
    initial_scale: float = 1 / 0.07,
    max_scale: float = 100.0,
    mask_same_concept: bool = True,
    generation: Mapping[str, Any] = {},
    data: Any,
    dtype: jnp.dtype = jnp.float32,
) -> base.Objective:
    """Contrastive loss and captioning over the global batch of `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T].

    Args:
      image: the image tower: a `vitfm.models` name and its options. Its tokens are read, what it pools is not.
      text: the unimodal half of the text decoder: options of `vitfm.models.captioner.text_decoder`; its vocabulary and
        length come from the tokenizer.
      pooler: from the image's tokens to what the two losses need: options of `vitfm.models.pooling.task_poolers`. Its
        `hidden_dim` is the text's unless given.
      captioner: the multimodal half, as wide as the other: options of `vitfm.models.captioner.make`.
      embed_dim: width of the joint space, into which both are projected; that of the text when None.
      contrastive_weight, caption_weight: of the two losses (equation 4).
      initial_scale: the factor on the cosines at the start; its logarithm is learned.
      max_scale: the factor is clamped to this after every step.
      mask_same_concept: pairs with equal `concept` [B] are no negatives of each other, see `vitfm.objectives.clip`.
      generation: how `caption` predicts: `name` ("greedy", "beam" or "nucleus") and options, see
        `vitfm.models.generation`.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length` and the tokenizer's special tokens.
      dtype: compute dtype.

    Raises:
      ConfigError: texts have no beginning token to start a caption from, the image tower pools by attention, or sizes
        do not divide.
    """
    if data.bos_id is None:
        raise ConfigError("config.data.tokenizer: CoCa's captions start from a beginning token, and this has none.")
    encoder = models.make({"image_size": data.image_size, **image}, where="objective.image", dtype=dtype)
    if getattr(encoder, "pool", None) in ("map", "aim"):
        raise ConfigError(f"config.objective.image.pool = {encoder.pool!r} is in vain: objective.pooler pools.")
    lengths = {"vocab_size": data.vocab_size, "length": data.text_length, "dtype": dtype}
    decoder = config.call(captioners.text_decoder, text, where="objective.text", **lengths)
    width, pooler = decoder.hidden_dim, {"hidden_dim": decoder.hidden_dim, **pooler}
    sizes = {"vocab_size": data.vocab_size, "hidden_dim": width, "dtype": dtype}
    drawn = nn.initializers.lecun_normal()
    form = generations.Form(data.bos_id, data.eos_id, data.pad_id, data.text_length)
    model = Model(
        encoder,
        config.call(pooling.task_poolers, pooler, where="objective.pooler", dtype=dtype),
        decoder,
        config.call(captioners.make, captioner, where="objective.captioner", **sizes),
        nn.Dense(embed_dim or width, use_bias=False, dtype=dtype, kernel_init=drawn),
        generations.make(**{"name": "greedy", **generation}, form=form),
        data.text_length,
    )

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        scale = jnp.asarray(math.log(initial_scale), jnp.float32)
        return base.Variables({**model.init(key, batch), "logit_scale": scale})

    def embed(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> dict[str, Any]:
        return model.embed(params, batch, key)

    def couple(
        params: base.Params, extra: base.Extra, embeddings: dict[str, Any], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        scale = jnp.exp(params["logit_scale"])
        concept = batch.get("concept") if mask_same_concept else None
        matching, metrics = contrastive.softmax_contrastive(embeddings["image"], embeddings["text"], scale, concept)
        tokens = embeddings["caption"]
        caption = captioning.mean(tokens["loss"], tokens["tokens"])
        accuracy = captioning.mean(tokens["hits"], tokens["tokens"])
        losses = {"loss/contrastive": matching, "loss/caption": caption, "accuracy/token": accuracy}
        value = contrastive_weight * matching + caption_weight * caption
        return value, base.Aux({**metrics, **losses, "logit_scale": scale})

    def constrain(params: base.Params) -> base.Params:
        return {**params, "logit_scale": jnp.minimum(params["logit_scale"], math.log(max_scale))}

    offered = {"constrain": constrain, "healthy": diagnostics.PAIRS}
    return base.coupled(init, embed, couple, model.predictions(), **offered)


@dataclasses.dataclass(frozen=True)
class Model:
    """Functions of {"image": {"tower", "pooler", "projection"}, "text": {"tower", "projection"}, "captioner"}.

    Attributes:
      image: the encoder, from `vitfm.models`.
      pooler: of its tokens.
      text: the unimodal half of the decoder.
      captioner: the multimodal half.
      project: into the joint space, of either side.
      generate: from `vitfm.models.generation`.
      length: T, tokens of a text.
    """

    image: nn.Module
    pooler: pooling.TaskPoolers
    text: captioners.TextDecoder
    captioner: captioners.Captioner
    project: nn.Dense
    generate: generations.Generate
    length: int

    def init(self, key: jax.Array, batch: base.Batch) -> dict[str, Any]:
        """Parameters for `image` [B,H,W,C], `text` [B,T] and `text_mask` [B,T]."""
        keys = jax.random.split(key, 6)
        image = jax.tree.map(lambda x: x[:1], batch["image"])
        features, encoder = self.image.init_with_output(keys[0], image)
        (pooled, context), pooler = self.pooler.init_with_output(keys[1], features.tokens, features.mask)
        read, decoder = self.text.init_with_output(keys[2], batch["text"][:1], batch["text_mask"][:1])
        project = lambda key, x: self.project.init(key, x)["params"]
        return {
            "image": {
                "tower": encoder["params"],
                "pooler": pooler["params"],
                "projection": project(keys[3], pooled),
            },
            "text": {"tower": decoder["params"], "projection": project(keys[4], read.pooled)},
            "captioner": self.captioner.init(keys[5], read.tokens, context)["params"],
        }

    def encode_image(
        self, params: base.Params, image: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B,H,W,C] -> its embedding, float32 [B,E] of norm 1, and what captions look at, [B,M,D]."""
        features = self.image.apply({"params": params["image"]["tower"]}, image, keys=keys)
        pooled, context = self.pooler.apply({"params": params["image"]["pooler"]}, features.tokens, features.mask)
        return self._projected(params["image"], pooled), context

    def encode_text(self, params: base.Params, text: jax.Array, text_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[B,T] and its mask -> its embedding, float32 [B,E] of norm 1, and its tokens [B,T,D]."""
        features = self.text.apply({"params": params["text"]["tower"]}, text, text_mask)
        return self._projected(params["text"], features.pooled), features.tokens

    def logits(self, params: base.Params, tokens: jax.Array, context: jax.Array) -> jax.Array:
        """A text's tokens [B,T,D] and what they look at [B,M,D] -> float32 [B,T,K], of the token after each one."""
        return self.captioner.apply({"params": params["captioner"]}, tokens, context)

    def embed(self, params: base.Params, batch: base.Batch, keys: jax.Array | None = None) -> dict[str, Any]:
        """Both embeddings of a batch, and of each example what its caption costs, see `captioning.next_token`."""
        image, context = self.encode_image(params, batch["image"], keys)
        text, tokens = self.encode_text(params, batch["text"], batch["text_mask"])
        caption = captioning.next_token(self.logits(params, tokens, context), batch["text"], batch["text_mask"])
        return {"image": image, "text": text, "caption": caption}

    def caption(self, params: base.Params, image: jax.Array) -> jax.Array:
        """[B,H,W,C] -> token ids [B,T] as the tokenizer has them: beginning, text, end, padding.

        Where they are drawn, row i of any batch draws by the same key.
        """
        _, context = self.encode_image(params, image)
        return self.generate(
            self.next, self.state(params, context), self.empty(len(context)), masking.row_keys(len(context))
        )

    def state(self, params: base.Params, context: jax.Array) -> tuple[base.Params, Any]:
        """What `next` takes for images of which captions look at [B,M,D]."""
        seen = self.captioner.apply({"params": params["captioner"]}, context, method="look")
        return params, seen

    def empty(self, batch: int) -> dict[str, Any]:
        """The cache of `batch` texts without a token."""
        halves = {"text": self.text, "captioner": self.captioner}
        past = {name: half.transformer.empty(batch, self.length) for name, half in halves.items()}
        return {**past, "position": jnp.zeros(batch, jnp.int32)}

    def next(
        self, state: tuple[base.Params, Any], cache: dict[str, Any], token: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """One more token [B] of each text -> float32 logits [B,K] of the one after it; see `vitfm.models.generation`.

        Of b images, consecutive B/b texts are of the same.
        """
        (params, seen), position = state, cache["position"]
        step = lambda half, params, *inputs: half.apply({"params": params}, *inputs, method="step")
        x, text = step(self.text, params["text"]["tower"], token, cache["text"], position)
        logits, own = step(self.captioner, params["captioner"], x, cache["captioner"], position, seen)
        return logits, {"text": text, "captioner": own, "position": position + 1}

    def predictions(self) -> dict[str, Any]:
        """Predict functions: those of the image tower, both embeddings in the joint space, and captions."""
        own = {
            "embed_image": lambda params, image: self.encode_image(params, image)[0],
            "embed_text": lambda params, text, text_mask: self.encode_text(params, text, text_mask)[0],
            "caption": self.caption,
        }
        return {**probes.predictions(self.image, lambda params: params["image"]["tower"]), **own}

    def _projected(self, params: base.Params, pooled: jax.Array) -> jax.Array:
        return unit(self.project.apply({"params": params["projection"]}, pooled))
