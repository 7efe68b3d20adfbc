"""SigLIP 2: SigLIP with a decoder that writes captions and, at the end, a teacher (Tschannen et al., arXiv:2502.14786).

The published decoder also localises what texts refer to (LocCa, Wan et al. 2024, arXiv:2403.19596). That needs boxes;
without them it captions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitfm.config import ConfigError
from vitfm.losses import captioning, diagnostics, distillation
from vitfm.models import caption_decoder, masking, two_towers
from vitfm.models import views as encoding
from vitfm.models.prototypes import Prototypes
from vitfm.models.vision_transformer import ViT
from vitfm.objectives import base, dino, siglip

# What the image tower is where a recipe does not say: SigLIP's with a token for the patches that it does not see.
IMAGE: Mapping[str, Any] = {**siglip.IMAGE, "mask_token": True}


def make(
    *,
    image: Mapping[str, Any],
    text: Mapping[str, Any],
    captioner: Mapping[str, Any] = {},
    embed_dim: int | None = None,
    initial_scale: float = 10.0,
    initial_bias: float = -10.0,
    mask_same_concept: bool = True,
    parallel: float = 0.5,
    generation: Mapping[str, Any] = {},
    contrastive_weight: float = 1.0,
    caption_weight: float = 1.0,
    distill_weight: float = 1.0,
    mask_weight: float = 0.25,
    last_part: base.Spec = {"name": "switch", "start": 0.0, "end": 1.0, "length": "80%"},
    mask_ratio: float = 0.5,
    prototypes: int = 65536,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    student_temperature: float = 0.1,
    teacher_temperature: base.Spec = 0.04,
    momentum: base.Spec = 0.996,
    center_momentum: float = 0.9,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    schedule: Callable[[Any, str], Callable[[jax.Array], jax.Array]],
) -> base.Objective:
    """Four losses of `image` [B,H,W,C], `text` [B,T], `text_mask` [B,T] and, for two of them, `views` of the images.

    - SigLIP's, between all images and texts of the global batch;
    - captioning: a decoder that looks at the image's tokens before they are pooled (section 2.2); of a share of the
      texts it writes all tokens at once;
    and in the last part of training (section 2.3), of further views, so that their colours and crops blur no text:
    - self-distillation (SILC, Naeem et al. 2023, arXiv:2310.13355): the student finds in each of several small local
      views what its moving average sees in one global view;
    - masked prediction (TIPS, Maninis et al. 2024, arXiv:2410.16512): in the global view, of which half of the patches
      are hidden from it, the student finds in each of these what the teacher saw there.

    A batch holds `views` = {"global": [B,1,H,W,C], "local": [B,L,h,w,C]} beside `image` (`config.data.keep_image`).
    Before the last part their passes are skipped by a condition on the step, though memory is held for them. `extra`
    has the `teacher`, of image tower and heads: a copy of the student until then; and the centres of its logits,
    `center` and `patch_center` [K]. Predictions are the student's: the teacher has no text tower.

    Heads and the image tower's mask token have no gradient before the last part, where weight decay would wear them
    away: `config.optim.freeze` holds them still for as long as `last_part` says, see configs/siglip2.py.

    Args:
      image: the image tower, a `vit` with `mask_token` and its options, see `siglip.make`; it pools by "map".
      text: the text tower likewise.
      captioner: the decoder, as wide as the text tower: options of `vitfm.models.captioner.make`. It is as the text
        tower where nothing is said, and half as deep.
      embed_dim, initial_scale, initial_bias, mask_same_concept: see `siglip.make`.
      parallel: share of the texts of which all tokens are written at once; 0 for none.
      generation: how `caption` predicts: `name` ("greedy", "beam" or "nucleus") and options, see
        `vitfm.models.generation`.
      contrastive_weight, caption_weight, distill_weight, mask_weight: of the losses.
      last_part: factor on the weights of the last two, a number or a schedule; the last part is where it is above 0.
      mask_ratio: share of the global view's patches that are hidden from the student.
      prototypes, hidden_dim, bottleneck_dim: of both heads, one for views and one for patches, see `dino`.
      student_temperature, teacher_temperature, center_momentum: see `dino`.
      momentum: weight of the past in the teacher; a number or a schedule. It must not end at 1, as a teacher that
        stands still learns nothing more from texts (SILC); the published number is not known here, this is DINO's.
      data: facts about the batches: `image_size`, `vocab_size`, `text_length` and the tokenizer's special tokens.
      dtype: compute dtype.
      schedule: (number or schedule, where) -> (step -> value).

    Raises:
      ConfigError: an option out of range, an image tower that takes no masks, texts without a beginning token.
    """
    factor_at = schedule(last_part, "objective.last_part")
    temperature_at = schedule(teacher_temperature, "objective.teacher_temperature")
    momentum_at = schedule(momentum, "objective.momentum")
    dino.check(
        temperatures={"student_temperature": student_temperature, "teacher_temperature": teacher_temperature},
        momentum=momentum,
        center_momentum=center_momentum,
        prototypes={"prototypes": prototypes},
    )
    if not (0 <= parallel <= 1 and 0 < mask_ratio < 1):
        raise ConfigError(f"config.objective: parallel = {parallel} and mask_ratio = {mask_ratio} are shares.")
    if base.ends(momentum)[-1] == 1:
        raise ConfigError("config.objective.momentum must not end at 1: the teacher would learn nothing more of texts.")
    image, text = siglip.completed(image, IMAGE), siglip.completed(text, siglip.TEXT)
    towers = two_towers.towers(image, text, embed_dim, data, dtype)
    if not isinstance(towers.image, ViT) or not towers.image.mask_token:
        raise ConfigError("SigLIP 2 masks patches: config.objective.image needs name = 'vit' with mask_token = True.")
    base.refuse_patch_dropout(towers.image, "objective.image")
    pairs = siglip.of(towers, initial_scale, initial_bias, mask_same_concept)
    decoder = caption_decoder.beside(towers.text, captioner, parallel=parallel > 0, dtype=dtype)
    write = caption_decoder.writing(decoder, generation, data)
    heads = {name: Prototypes(prototypes, hidden_dim, bottleneck_dim, dtype) for name in ("head", "patch_head")}
    student = Student(towers.image, heads, mask_ratio, student_temperature, center_momentum)
    course = dino.taught(momentum_at)

    def in_last_part(step: jax.Array, value: Callable[[], Any], otherwise: Callable[[], Any] | None = None) -> Any:
        """`value()`; before the last part `otherwise()`, or zeros."""
        zeros = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(value))
        return jax.lax.cond(jnp.asarray(factor_at(step)) > 0, value, otherwise or zeros)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key, 3)
        params = {
            **pairs.init(keys[0], batch).params,
            "captioner": decoder.init(keys[1], batch["text"][:1], jnp.zeros((1, 1, towers.image.width)))["params"],
            **student.init(keys[2], batch["views"]),
        }
        centers = {name: jnp.zeros(prototypes) for name in ("center", "patch_center")}
        return base.Variables(params, course["started"](student.of(params), centers))

    def embed(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> dict[str, Any]:
        for_image, for_captions, for_views = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(key)
        image, features = towers.read_image(params, batch["image"], for_image)
        drawn = jax.vmap(lambda key: jax.random.bernoulli(key, parallel))(for_captions) if parallel else None
        logits = decoder.apply({"params": params["captioner"]}, batch["text"], features.tokens, drawn)
        compared = lambda: student.compared(
            student.of(params), jax.lax.stop_gradient(extra), batch["views"], for_views, temperature_at(step)
        )
        return {
            "image": image,
            "text": towers.embed_text(params, batch["text"], batch["text_mask"]),
            "caption": captioning.next_token(logits, batch["text"], batch["text_mask"]),
            "views": in_last_part(step, compared),
        }

    def couple(
        params: base.Params, extra: base.Extra, embeddings: dict[str, Any], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        matching, of_pairs = pairs.couple(params, extra, embeddings, batch, step)
        tokens, rows = embeddings["caption"], embeddings["views"]
        losses = {
            "loss/contrastive": matching,
            "loss/caption": captioning.mean(tokens["loss"], tokens["tokens"]),
            "loss/distill": rows["distill"].mean(),
            "loss/masked": rows["masked"].mean(),
        }
        apart = jax.lax.stop_gradient((extra, rows))
        unmoved = lambda: {name: extra[name] for name in ("center", "patch_center")}
        changed = in_last_part(step, lambda: student.centred(*apart), unmoved)
        metrics = in_last_part(step, lambda: student.measured(*apart, temperature_at(step)))
        metrics |= {**of_pairs.metrics, **losses, "accuracy/token": captioning.mean(tokens["hits"], tokens["tokens"])}
        metrics["last_part"] = in_last_part(step, lambda: jnp.float32(1))
        last = distill_weight * losses["loss/distill"] + mask_weight * losses["loss/masked"]
        value = contrastive_weight * matching + caption_weight * losses["loss/caption"] + factor_at(step) * last
        return value, base.Aux(metrics, changed)

    def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
        following = lambda: course["after_update"](student.of(params), extra, step)
        return in_last_part(step, following, lambda: {**extra, "teacher": student.of(params)})

    def caption(params: base.Params, image: jax.Array) -> jax.Array:
        return write(params["captioner"], towers.read_image(params, image)[1].tokens)

    watched = diagnostics.of_teacher(prototypes).items()
    return base.coupled(
        init,
        embed,
        couple,
        {**towers.predictions(), "caption": caption},
        after_update=after_update,
        started=lambda params, extra: course["started"](student.of(params), extra),
        healthy=pairs.healthy | {name: dataclasses.replace(own, when="last_part") for name, own in watched},
    )


@dataclasses.dataclass(frozen=True)
class Student:
    """What the last part adds: functions of {"encoder", "head", "patch_head"}, the student's or the teacher's.

    Attributes:
      encoder: the image tower.
      heads: by their names.
      mask_ratio, temperature, center_momentum: of the objective.
    """

    encoder: ViT
    heads: Mapping[str, Prototypes]
    mask_ratio: float
    temperature: float
    center_momentum: float

    def of(self, params: base.Params) -> base.Params:
        """Its parameters of the objective's."""
        return {"encoder": params["image"]["tower"], **{name: params[name] for name in self.heads}}

    def init(self, key: jax.Array, views: Mapping[str, jax.Array]) -> base.Params:
        """The heads' parameters.

        Raises:
          ConfigError: the views are others, or of sizes that the encoder does not take.
        """
        if views.keys() != {"global", "local"} or views["global"].shape[1] != 1:
            found = ", ".join(f"{part.shape[1]} {name!r}" for name, part in sorted(views.items()))
            raise ConfigError(f"SigLIP 2 needs one 'global' view and 'local' ones; config.data.views has {found}.")
        for part in views.values():
            jax.eval_shape(self.encoder.init, key, part[:1, 0])
        widths, keys = {"head": self.encoder.hidden_dim, "patch_head": self.encoder.width}, jax.random.split(key)
        one = lambda name, key: self.heads[name].init(key, jnp.zeros((1, widths[name])))["params"]
        return {name: one(name, own) for name, own in zip(self.heads, keys, strict=True)}

    def compared(
        self,
        params: base.Params,
        extra: base.Extra,
        views: Mapping[str, jax.Array],
        keys: jax.Array,
        temperature: jax.Array | float,
    ) -> dict[str, jax.Array]:
        """Both losses, by example, and what the teacher made of its view.

        Args:
          params: the student's.
          extra: of the objective.
          views: "global" [B,1,H,W,C] and "local" [B,L,h,w,C].
          keys: [B].
          temperature: the teacher's.

        Returns:
          "distill" [B], the mean cross-entropy of local views; "masked" [B], that of hidden patches; of the teacher
          "seen" [B,1,D], its features, "scores" [B,1,K], its logits, "patch_scores" [B,K], their mean over the hidden
          patches, and "patch_entropy" [B] of these.
        """
        for_masks, for_whole, for_local = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        whole, teacher = views["global"][:, 0], extra["teacher"]
        patches = whole.shape[1] * whole.shape[2] // self.encoder.patch_size**2
        order, visible = masking.noise(for_masks, patches), masking.visible(patches, self.mask_ratio)
        _, places = masking.split(order, visible)
        at = lambda features: jnp.take_along_axis(features.tokens[:, features.prefix :], places[..., None], axis=1)

        seen = self.encoder.apply({"params": teacher["encoder"]}, whole)
        found = self.encoder.apply(
            {"params": params["encoder"]}, whole, keys=for_whole, masked=masking.hidden(order, visible)
        )
        local, _ = encoding.encoded(self.encoder, params["encoder"], {}, views["local"], for_local)

        scores = self._logits(teacher, "head", seen.pooled[:, None])
        hidden = self._logits(teacher, "patch_head", at(seen))
        answers = distillation.centred(scores, extra["center"], temperature)
        hidden_answers = distillation.centred(hidden, extra["patch_center"], temperature)
        return {
            "distill": distillation.by_example(answers, self._logits(params, "head", local), self.temperature),
            "masked": distillation.by_example(
                hidden_answers, self._logits(params, "patch_head", at(found)), self.temperature
            ),
            "seen": seen.pooled[:, None],
            "scores": scores,
            "patch_scores": hidden.mean(1),
            "patch_entropy": jax.vmap(diagnostics.entropy)(hidden_answers),
        }

    def centred(self, extra: base.Extra, rows: Mapping[str, jax.Array]) -> base.Extra:
        """The next centres, of rows from `compared`: each image counts alike in both."""
        scores = {"center": rows["scores"], "patch_center": rows["patch_scores"]}
        after = lambda name: distillation.next_center(extra[name], scores[name], self.center_momentum)
        return {name: after(name) for name in scores}

    def measured(
        self, extra: base.Extra, rows: Mapping[str, jax.Array], temperature: jax.Array | float
    ) -> dict[str, jax.Array]:
        """Metrics of rows from `compared`."""
        answers = distillation.centred(rows["scores"], extra["center"], temperature)
        metrics = dino.measured(rows["seen"], answers, rows["distill"].mean())
        return {**metrics, "patch_entropy": rows["patch_entropy"].mean()}

    def _logits(self, params: base.Params, head: str, x: jax.Array) -> jax.Array:
        """[B,N,D] -> [B,N,K]."""
        scores = self.heads[head].apply({"params": params[head]}, x.reshape(-1, x.shape[-1]))
        return scores.reshape(*x.shape[:-1], -1)
