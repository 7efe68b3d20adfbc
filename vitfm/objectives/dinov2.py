"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), iBOT (Zhou et al. 2022, arXiv:2111.07832), DINOv3's Gram anchoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, distillation
from vitfm.losses.gram import gram
from vitfm.losses.koleo import koleo
from vitfm.models import masking, probes
from vitfm.models.prototypes import Prototypes
from vitfm.models.vision_transformer import ViT
from vitfm.objectives import base, dino
from vitfm.objectives.dino import Centering


def make(
    *,
    model: Mapping[str, Any],
    prototypes: int = 65536,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    shared_head: bool = False,
    patch_prototypes: int | None = None,
    patch_bottleneck_dim: int | None = None,
    student_temperature: float = 0.1,
    teacher_temperature: base.Spec = 0.04,
    patch_temperature: base.Spec | None = None,
    momentum: base.Spec = {"name": "cosine", "start": 0.992, "end": 1.0},
    centering: Centering = "sinkhorn",
    center_momentum: float = 0.9,
    mask_share: float = 0.5,
    mask_ratio: Sequence[float] = (0.1, 0.5),
    dino_weight: float = 1.0,
    ibot_weight: float = 1.0,
    koleo_weight: float = 0.1,
    gram_weight: float = 0.0,
    gram_start: int = 0,
    gram_from: int | None = None,
    gram_every: int | None = None,
    gram_updates: int | None = None,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    schedule: Callable[[Any, str], Callable[[jax.Array], jax.Array]],
) -> base.Objective:
    """DINO, and a student that finds in the patches it cannot see what its teacher, who can, saw there.

    A batch holds `views` = {"global": [B,G,H,W,C], "local": [B,L,h,w,C]}, the local ones by choice; see `dino`, whose
    loss is the first of four, each times its weight:
    - DINO's, between the class tokens of different views of an image;
    - iBOT's (equation 2): in a share of the student's global views, blocks of patches are replaced by the mask token;
      in each of these patches the student finds what the teacher saw in it. Each masked view counts alike, and those
      without masks count as 0 in the mean, as published;
    - KoLeo (DINOv2, section 4), summed over the global views: class tokens of different images keep their distance.
      Here the neighbours are those of the global batch, where the authors' are those of a device;
    - Gram anchoring (DINOv3, section 4.2): the student's patches, all of them, stay as alike as they were to an
      earlier teacher, who sees the views without masks.
    iBOT is `shared_head = True`, `centering = "centre"` and `koleo_weight = 0` (configs/ibot_s16_in1k.py).

    The authors mask any half of a batch's views, and draw ratios in strata, so that each batch hides about as much.
    Here it is `mask_share` of each image's views, and where the loss is the whole batch's anyway, by Sinkhorn-Knopp or
    KoLeo, the ratios of two neighbours add up to least + greatest; else each example's masks are drawn by its own key
    alone, so that accumulation is exact. Heads see arrays of one shape, filled up where fewer patches are masked: what
    fills them counts nowhere, Sinkhorn-Knopp included.

    `extra` holds the `teacher`, parameters as the student's; where centred, `center` [K] and, of the masked patches,
    `patch_center`, in which each masked view counts alike as in the loss; and the encoder `gram`, if there is one.

    Args:
      model: the encoder: a `vit` and its options; its drop path is the student's alone. `registers` go well with it.
      prototypes, hidden_dim, bottleneck_dim: of the head for class tokens, see `dino`.
      shared_head: one head for class tokens and patches, as in iBOT; at scale two are better (DINOv2, section 4).
      patch_prototypes, patch_bottleneck_dim: of the other head; None as for class tokens.
      student_temperature, teacher_temperature, momentum, centering, center_momentum: see `dino`.
      patch_temperature: the teacher's for patches; None is `teacher_temperature`.
      mask_share: share of an image's global views that are masked: with two, 0.5 masks one of them, drawn by lot.
      mask_ratio: least and greatest share of masked patches in a masked view, between which it is drawn uniformly.
      dino_weight, ibot_weight, koleo_weight: of the losses.
      gram_weight: of Gram anchoring (DINOv3: 2); 0 for none.
      gram_start: the step from which it counts (DINOv3: 1,000,000).
      gram_from: the step whose teacher is the earlier one at first, up to `gram_start`, which it is where nothing is
        said: an early teacher's patches are the less noisy ones (DINOv3: 100,000 or 200,000). At 0 it is the encoder
        that the run starts from, such as another run's teacher (`config.init`).
      gram_every: so many steps after `gram_start`, and again, it becomes the teacher of then (DINOv3: 10,000); None
        never.
      gram_updates: how often it does at most; None without end.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
      schedule: (number or schedule, where) -> (step -> value).

    Raises:
      ConfigError: an option that is out of range; an encoder that takes no masks; views that no pair can be made of.
    """
    defaults = {"name": "vit", "image_size": data.image_size, "pool": "cls", "mask_token": True}
    encoder = models.make({**defaults, **model}, where="objective.model", dtype=dtype)
    base.refuse_patch_dropout(encoder)
    patch_temperature = teacher_temperature if patch_temperature is None else patch_temperature
    patch_prototypes, patch_bottleneck_dim = patch_prototypes or prototypes, patch_bottleneck_dim or bottleneck_dim
    dino.check(
        temperatures={
            "student_temperature": student_temperature,
            "teacher_temperature": teacher_temperature,
            "patch_temperature": patch_temperature,
        },
        momentum=momentum,
        center_momentum=center_momentum,
        prototypes={"prototypes": prototypes, "patch_prototypes": patch_prototypes},
    )
    weights = {"dino": dino_weight, "ibot": ibot_weight, "koleo": koleo_weight, "gram": gram_weight}
    gram_from = gram_start if gram_from is None else gram_from
    _check(encoder, weights, mask_ratio)
    _check_gram(gram_start, gram_from, gram_every, gram_updates)
    sizes = (encoder.hidden_dim, prototypes, bottleneck_dim), (encoder.width, patch_prototypes, patch_bottleneck_dim)
    if shared_head and sizes[0] != sizes[1]:
        raise ConfigError(
            "config.objective.shared_head = True is one head for class token and patches: leave patch_prototypes and "
            "patch_bottleneck_dim out, and let model.pool = 'cls'."
        )
    anchoring = dino.Anchoring(gram_start, gram_from, gram_every, gram_updates) if gram_weight else None
    heads = {"head": Prototypes(prototypes, hidden_dim, bottleneck_dim, dtype)}
    if not shared_head:
        heads["patch_head"] = Prototypes(patch_prototypes, hidden_dim, patch_bottleneck_dim, dtype)
    of_patches = "head" if shared_head else "patch_head"
    coupled = centering == "sinkhorn" or koleo_weight > 0
    temperature_at = schedule(teacher_temperature, "objective.teacher_temperature")
    patch_temperature_at = schedule(patch_temperature, "objective.patch_temperature")
    momentum_at = schedule(momentum, "objective.momentum")

    def encoded(
        params: base.Params, views: jax.Array, keys: jax.Array | None = None, masked: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """[B,V,h,w,C], masks bool [B,V,N] -> pooled [B,V,D] and patches [B,V,N,D]."""
        flat = lambda x, axes: None if x is None else x.reshape(-1, *x.shape[axes:])
        found = encoder.apply({"params": params}, flat(views, 2), keys=flat(keys, 2), masked=flat(masked, 2))
        patches = found.tokens[:, found.prefix :]
        return tuple(x.reshape(*views.shape[:2], *x.shape[1:]) for x in (found.pooled, patches))

    def logits(params: base.Params, head: str, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., K]."""
        scores = heads[head].apply({"params": params[head]}, x.reshape(-1, x.shape[-1]))
        return scores.reshape(*x.shape[:-1], -1)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys, views = jax.random.split(key, 3), dino.views_of(batch)
        _masked_views(views[0].shape[1], mask_share)
        for part in views[1:]:
            jax.eval_shape(encoder.init, keys[0], part[:1, 0])  # Sizes that do not fit are refused here.
        params = {"encoder": encoder.init(keys[0], views[0][:1, 0])["params"]}
        for name, width, its_key in zip(heads, (encoder.hidden_dim, encoder.width), keys[1:], strict=False):
            params[name] = heads[name].init(its_key, jnp.zeros((1, width)))["params"]
        extra = {"teacher": jax.tree.map(jnp.copy, params)}
        if centering == "centre":
            extra |= {"center": jnp.zeros(prototypes), "patch_center": jnp.zeros(patch_prototypes)}
        return base.Variables(params, extra | (anchoring.of(extra["teacher"]) if anchoring else {}))

    def drawn(whole: jax.Array, key: jax.Array) -> tuple[tuple[jax.Array, jax.Array, jax.Array], jax.Array]:
        """What `masking.in_views` hides of global views [B,V,H,W,C], and keys for drop path."""
        for_masks, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(key)
        count, grid = _masked_views(whole.shape[1], mask_share), _grid(whole, encoder.patch_size)
        pairs = coupled and len(whole) % 2 == 0
        return masking.in_views(for_masks, whole.shape[1], count, grid, mask_ratio, pairs), for_drop_path

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        views, extra = dino.views_of(batch), jax.lax.stop_gradient(extra)
        teacher, temperature = extra["teacher"], jnp.asarray(temperature_at(step))
        (masked, places, shares), for_drop_path = drawn(views[0], key)
        keys = dino.keys_of(for_drop_path, views)
        seen, seen_patches = encoded(teacher["encoder"], views[0])
        found, found_patches = encoded(params["encoder"], views[0], keys[0], masked)
        local = [encoded(params["encoder"], *part)[0] for part in zip(views[1:], keys[1:], strict=True)]

        targets, changed = dino.assigned(
            extra, "center", logits(teacher, "head", seen), temperature, centering, center_momentum
        )
        student = logits(params, "head", jnp.concatenate([found, *local], axis=1))
        of_views = distillation.cross_view(targets, student / student_temperature)

        hidden = logits(teacher, of_patches, _at(seen_patches, places))
        answers, changed_too = dino.assigned(
            extra, "patch_center", hidden, patch_temperature_at(step), centering, center_momentum, shares
        )
        guesses = logits(params, of_patches, _at(found_patches, places)) / student_temperature
        losses = {"dino": of_views, "ibot": mask_share * distillation.weighted(answers, guesses, shares)}
        if koleo_weight:
            losses["koleo"] = jax.vmap(koleo, in_axes=1)(found).sum()
        if anchoring:
            anchored = lambda: gram(found_patches, encoded(extra["gram"], views[0])[1])
            losses["gram"] = jax.lax.cond(step >= gram_start, anchored, lambda: jnp.float32(0))
        metrics = {
            **losses,
            **dino.measured(seen, targets, of_views),
            "patch_entropy": (shares * jax.scipy.special.entr(answers).sum(-1)).sum(),
            "momentum": jnp.asarray(momentum_at(step)),
            "teacher_temperature": temperature,
        }
        return sum(weights[name] * value for name, value in losses.items()), base.Aux(metrics, changed | changed_too)

    def masks(batch: base.Batch, key: jax.Array) -> dict[str, jax.Array]:
        whole = dino.views_of(batch)[0]
        return {"global": drawn(whole, key)[0][0].reshape(*whole.shape[:2], *_grid(whole, encoder.patch_size))}

    course = dino.taught(momentum_at)
    return base.Objective(
        init,
        loss,
        probes.predictions(encoder),
        accumulate=None if coupled else "mean",  # Exact: centres are linear in the batch, masked views count alike.
        healthy=diagnostics.of_teacher(prototypes),
        masks=masks,
        why_not=dino.NO_PARTS if centering == "sinkhorn" else _NO_NEIGHBOURS,
        **(anchoring.following(course) if anchoring else course),
    )


_NO_NEIGHBOURS = "KoLeo looks for neighbours in the whole batch at once. Take koleo_weight = 0, or a smaller batch."


def _at(patches: jax.Array, places: jax.Array) -> jax.Array:
    """[B,V,N,D] at int [G,M], in groups of B/G examples -> [G,M,D]."""
    return jnp.take_along_axis(patches.reshape(len(places), -1, patches.shape[-1]), places[..., None], axis=1)


def _grid(views: jax.Array, patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches."""
    return views.shape[2] // patch_size, views.shape[3] // patch_size


def _masked_views(views: int, share: float) -> int:
    """How many of an image's views are masked.

    Raises:
      ConfigError: none, or no whole number.
    """
    count = round(views * share)
    if not 1 <= count <= views or abs(views * share - count) > 1e-6:
        raise ConfigError(
            f"config.objective.mask_share = {share} of {views} global views is no whole number from 1 to {views}: with "
            "two views it may be 0.5 or 1."
        )
    return count


def _check(encoder: Any, weights: Mapping[str, float], mask_ratio: Sequence[float]) -> None:
    """Refuses encoders without masks, and weights and shares that are none."""
    if not isinstance(encoder, ViT) or not encoder.mask_token:
        raise ConfigError(
            "DINOv2 masks patches of what the student sees: config.objective.model needs name = 'vit' with "
            "mask_token = True."
        )
    for name, weight in weights.items():
        if weight < 0 or (name == "ibot" and not weight):
            least = "above 0 (objective.name = 'dino' masks nothing)" if name == "ibot" else "at least 0"
            raise ConfigError(f"config.objective.{name}_weight = {weight} must be {least}.")
    if len(mask_ratio) != 2 or not 0 < mask_ratio[0] <= mask_ratio[1] < 1:
        raise ConfigError(
            f"config.objective.mask_ratio = {tuple(mask_ratio)} must be two shares of the patches in order, above 0 "
            "and below 1."
        )


def _check_gram(start: int, first: int, every: int | None, updates: int | None) -> None:
    """Refuses steps that are none."""
    if not 0 <= first <= start or min(number for number in (every, updates, 1) if number is not None) < 1:
        raise ConfigError(
            f"config.objective: gram_from = {first} is a step from 0 to gram_start = {start}, gram_every = {every} and "
            f"gram_updates = {updates} are from 1 up."
        )
