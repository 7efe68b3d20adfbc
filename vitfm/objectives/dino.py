"""DINO: self-distillation with no labels (Caron et al. 2021, arXiv:2104.14294)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, distillation
from vitfm.models import probes
from vitfm.models import views as encoding
from vitfm.models.prototypes import Prototypes
from vitfm.objectives import base

Centering = Literal["centre", "sinkhorn"]


def make(
    *,
    model: Mapping[str, Any],
    prototypes: int = 65536,
    hidden_dim: int = 2048,
    bottleneck_dim: int = 256,
    student_temperature: float = 0.1,
    teacher_temperature: base.Spec = 0.04,
    momentum: base.Spec = {"name": "cosine", "start": 0.996, "end": 1.0},
    centering: Centering = "centre",
    center_momentum: float = 0.9,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    schedule: Callable[[Any, str], Callable[[jax.Array], jax.Array]],
) -> base.Objective:
    """A student finds in each view of an image what a teacher, its own moving average, saw in another view.

    A batch holds `views` = {"global": [B,G,H,W,C], "local": [B,L,h,w,C]}, the local ones by choice. The student sees
    all of them, the teacher the global ones. `extra` holds the `teacher`, parameters as the student's, and the
    `center` [K] of its logits; predictions are the teacher's, the better of the two all along (section 5.2).

    Args:
      model: the encoder: a `vitfm.models` name and its options; its drop path is the student's alone.
      prototypes: their number K. 65,536 for ImageNet; fewer for less data.
      hidden_dim, bottleneck_dim: widths of the head, see `vitfm.models.prototypes`.
      student_temperature: of the student's softmax.
      teacher_temperature: of the teacher's, the smaller the sharper; a number or a schedule.
      momentum: weight of the past in the teacher; a number or a schedule.
      centering: what keeps the teacher from one prototype for all: "centre" subtracts the moving average of its
        logits, "sinkhorn" gives all prototypes the same share of each global batch (section 5.3, DINOv2).
      center_momentum: weight of the past in the centre.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
      schedule: (number or schedule, where) -> (step -> value).

    Raises:
      ConfigError: a temperature or momentum that is none; views that no pair can be made of.
    """
    encoder = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    head = Prototypes(prototypes, hidden_dim, bottleneck_dim, dtype)
    temperature_at = schedule(teacher_temperature, "objective.teacher_temperature")
    momentum_at = schedule(momentum, "objective.momentum")
    check(
        temperatures={"student_temperature": student_temperature, "teacher_temperature": teacher_temperature},
        momentum=momentum,
        center_momentum=center_momentum,
        prototypes={"prototypes": prototypes},
    )

    def pooled(params: base.Params, views: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """[B,V,h,w,C], all views in one pass -> [B,V,D]."""
        images = views.reshape(-1, *views.shape[2:])
        keys = None if keys is None else keys.reshape(-1)
        return encoder.apply({"params": params["encoder"]}, images, keys=keys).pooled.reshape(*views.shape[:2], -1)

    def logits(params: base.Params, features: jax.Array) -> jax.Array:
        """[B,V,D] -> [B,V,K]."""
        scores = head.apply({"params": params["head"]}, features.reshape(-1, features.shape[-1]))
        return scores.reshape(*features.shape[:2], -1)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys, views = jax.random.split(key), views_of(batch)
        for part in views[1:]:
            jax.eval_shape(encoder.init, keys[0], part[:1, 0])  # Sizes that do not fit are refused here.
        params = {
            "encoder": encoder.init(keys[0], views[0][:1, 0])["params"],
            "head": head.init(keys[1], jnp.zeros((1, encoder.hidden_dim)))["params"],
        }
        teacher = {"teacher": jax.tree.map(jnp.copy, params)}
        return base.Variables(params, teacher | ({"center": jnp.zeros(prototypes)} if centering == "centre" else {}))

    def loss(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        views, extra = views_of(batch), jax.lax.stop_gradient(extra)
        seen = pooled(extra["teacher"], views[0])
        temperature, momentum = jnp.asarray(temperature_at(step)), jnp.asarray(momentum_at(step))
        scores = logits(extra["teacher"], seen)
        targets, changed = assigned(extra, "center", scores, temperature, centering, center_momentum)
        found = jnp.concatenate(
            [pooled(params, *part) for part in zip(views, keys_of(key, views), strict=True)], axis=1
        )
        value = distillation.cross_view(targets, logits(params, found) / student_temperature)
        metrics = {**measured(seen, targets, value), "momentum": momentum, "teacher_temperature": temperature}
        return value, base.Aux(metrics, changed)

    return base.Objective(
        init,
        loss,
        probes.predictions(encoder),
        accumulate="mean" if centering == "centre" else None,  # Exact: the centre is linear in the batch.
        why_not=NO_PARTS,
        healthy=diagnostics.of_teacher(prototypes),
        **taught(momentum_at),
    )


NO_PARTS = (
    "Sinkhorn-Knopp shares the prototypes out among the whole batch at once. "
    "Take centering = 'centre', or a smaller batch."
)


# What DINO and DINOv2 share.


def taught(momentum_at: Callable[[jax.Array], jax.Array]) -> dict[str, Callable[..., Any]]:
    """An objective's functions for the `teacher` in `extra`: it starts as the student, follows it, and predicts."""

    def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
        moved = lambda teacher, student: teacher + (1 - momentum_at(step)) * (student - teacher)
        return {**extra, "teacher": jax.tree.map(moved, extra["teacher"], params)}

    return {
        "after_update": after_update,
        "started": lambda params, extra: {**extra, "teacher": jax.tree.map(jnp.copy, params)},
        "evaluated": lambda params, extra: extra["teacher"],
    }


@dataclasses.dataclass(frozen=True)
class Anchoring:
    """When the earlier teacher of Gram anchoring, `extra["gram"]`, becomes the teacher; see `dinov2`.

    Attributes:
      start: the step from which the loss counts.
      first: the step whose teacher it is at first, from 0 to `start`.
      every: so many steps after `start`, and again, it becomes the teacher of then; None never.
      updates: how often it does at most; None without end.
    """

    start: int
    first: int
    every: int | None
    updates: int | None

    def of(self, teacher: base.Params) -> base.Extra:
        return {"gram": jax.tree.map(jnp.copy, teacher["encoder"])}

    def following(self, course: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
        """`course` of the teacher, and of this one after it."""

        def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
            extra, done = course["after_update"](params, extra, step), step + 1
            now = done == self.first
            if self.every is not None:
                times = (done - self.start) // self.every
                again = (times >= 1) & ((done - self.start) % self.every == 0)
                now |= again if self.updates is None else again & (times <= self.updates)
            kept = lambda old, new: jnp.where(now, new, old)
            return {**extra, "gram": jax.tree.map(kept, extra["gram"], extra["teacher"]["encoder"])}

        def started(params: base.Params, extra: base.Extra) -> base.Extra:
            extra = course["started"](params, extra)
            return {**extra, **self.of(extra["teacher"])}

        return {**course, "after_update": after_update, "started": started}


def assigned(
    extra: base.Extra,
    center: str,
    scores: jax.Array,
    temperature: jax.Array,
    centering: Centering,
    center_momentum: float,
    weights: jax.Array | None = None,
) -> tuple[jax.Array, base.Extra]:
    """The teacher's distributions.

    Args:
      extra: of the objective, with the centre by the name `center`, where there is one.
      center: its name.
      scores: [..., K], the teacher's logits.
      temperature, centering, center_momentum: of the objective.
      weights: [...], the rows' shares in the centre; those of 0 are padding. None for rows all alike.

    Returns:
      [..., K], and what of `extra` changes.
    """
    if centering == "sinkhorn":
        return distillation.sinkhorn(scores, temperature, valid=None if weights is None else weights > 0), {}
    after = distillation.next_center(extra[center], scores, center_momentum, weights)
    return distillation.centred(scores, extra[center], temperature), {center: after}


def measured(seen: jax.Array, targets: jax.Array, value: jax.Array) -> dict[str, jax.Array]:
    """Metrics of the teacher's features [B,G,D] and distributions [B,G,K], and of the loss between views."""
    entropy = diagnostics.entropy(targets)
    return {
        "teacher_entropy": entropy,
        "kl": value - entropy,  # Of the pairs in the loss, each teacher's view being in as many.
        "prototype_use": diagnostics.prototype_use(targets),
        "prototype_perplexity": diagnostics.perplexity(targets),
        **diagnostics.of_crops(seen),
    }


def check(
    *, temperatures: Mapping[str, base.Spec], momentum: base.Spec, center_momentum: float, prototypes: Mapping[str, int]
) -> None:
    """Refuses options that are out of range, by their names."""
    for name, value, possible, limits in (
        *((name, value, min(base.ends(value)) > 0, "above 0") for name, value in temperatures.items()),
        ("momentum", momentum, all(0 <= end <= 1 for end in base.ends(momentum)), "from 0 to 1"),
        ("center_momentum", center_momentum, 0 <= center_momentum < 1, "at least 0 and below 1"),
        *((name, value, value >= 2, "at least 2") for name, value in prototypes.items()),
    ):
        if not possible:
            raise ConfigError(f"config.objective.{name} = {value!r} must be {limits}.")


def views_of(batch: base.Batch) -> list[jax.Array]:
    """The views by size, [B,V,h,w,C] each, the global ones first.

    Raises:
      ConfigError: they are none that DINO knows, or too few to compare.
    """
    views = batch["views"]
    if "global" not in views or not views.keys() <= {"global", "local"}:
        raise ConfigError(
            "The views are 'global', which teacher and student see, and if wanted 'local', which only the student "
            f"sees; config.data.views has {', '.join(map(repr, sorted(views)))}."
        )
    found = [views[name] for name in ("global", "local") if name in views]
    if sum(part.shape[1] for part in found) < 2:
        raise ConfigError(
            "Views of an image are compared, and config.data.views makes one: set a `count` of 2 or more."
        )
    return found


def keys_of(keys: jax.Array, views: list[jax.Array]) -> list[jax.Array]:
    """Each view's own of each example's key: [B] -> [B,V] for each size of views."""
    ends = np.cumsum([part.shape[1] for part in views])
    return jnp.split(encoding.keys_of(keys, int(ends[-1])), ends[:-1], axis=1)
