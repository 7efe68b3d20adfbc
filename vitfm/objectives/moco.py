"""MoCo: momentum contrast, v1 (He et al. 2020, arXiv:1911.05722), v2 (arXiv:2003.04297) and v3 (arXiv:2104.02057)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp

from vitfm import models
from vitfm.config import ConfigError
from vitfm.losses import diagnostics, instance
from vitfm.models import heads, probes, statistics, views
from vitfm.models.two_towers import unit
from vitfm.objectives import base


@dataclasses.dataclass(frozen=True)
class Version:
    """What a version has where the recipe says nothing; layers are of the head."""

    layers: int
    hidden_dim: int
    out_dim: int
    temperature: float
    momentum: base.Spec


VERSIONS = {
    "v1": Version(1, 2048, 128, 0.07, 0.999),
    "v2": Version(2, 2048, 128, 0.2, 0.999),
    "v3": Version(3, 4096, 256, 0.2, {"name": "cosine", "start": 0.99, "end": 1.0}),
}


def make(
    *,
    model: Mapping[str, Any],
    version: Literal["v1", "v2", "v3"] = "v2",
    queue: int | None = None,
    groups: int = 1,
    head_layers: int | None = None,
    hidden_dim: int | None = None,
    out_dim: int | None = None,
    temperature: float | None = None,
    momentum: base.Spec | None = None,
    data: Any,
    dtype: jnp.dtype = jnp.float32,
    schedule: Callable[[Any, str], Callable[[jax.Array], jax.Array]],
) -> base.Objective:
    """A query, one view of an image, finds its key: another view, seen by a moving average of the encoder.

    A batch holds `views` = {"global": [B,2,H,W,C]}. `extra` holds the `teacher`, {"encoder", "head"}, and its encoder's
    `batch_stats`, where it has some: the student's, which is also what predicts.

    v1 and v2: the first view is the query, the second the key, and negatives are the `queue` [K,D], the keys of the
    last K / B batches, first in, first out; it starts with random directions. v2's head is an MLP, v1's is linear.

    v3: each view is query and key, negatives are the other keys of the batch, and a predictor follows the student's
    head; both have batch norm, by the statistics of each view. As in the authors' code a ResNet's head has two linear
    maps where a ViT's has three, and its predictor ends in a map without norm or bias. A ViT's patch embedding never
    moves (section 4.2): that is `config.optim.freeze = ("encoder/stem",)`.

    Batch statistics can betray which key is of this batch: a query and its own key share them, the queue's keys do not
    (section 3.3 of v1). The authors shuffle the keys among the devices. Here a batch is global and knows no
    devices, so with `groups` = 1 both views of it are normalised by the statistics of all B images: how much these tell
    falls with B. With `groups` = G each group of rows has its own, as each of G devices had: for queries, rows that
    follow one another, for keys, each G-th row, so that images which share statistics as queries do not as keys.
    It is a shuffle that needs no draw, for the order of the data is drawn, and it is the same on any number of devices.

    Args:
      model: the encoder: a `vitfm.models` name and its options. With batch norm, drop path is the teacher's, too.
      version: "v1", "v2" or "v3".
      queue: keys K that v1 and v2 keep, 65,536 by default; fewer for less data, or it holds this batch's images from
        the last epoch.
      groups: of batch statistics, see above; for v1 and v2 and encoders with batch norm.
      head_layers: linear maps of the head: 1 in v1, 2 in v2, 3 in v3, but 2 where the encoder has batch norm.
      hidden_dim, out_dim: widths of the heads: 2048 and 128, in v3 4096 and 256.
      temperature: of the softmax over cosines: 0.07 in v1, 0.2 in v2 and v3.
      momentum: weight of the past in the teacher, a number or a schedule: 0.999, in v3 from 0.99 to 1.
      data: facts about the batches: `image_size`.
      dtype: compute dtype.
      schedule: (number or schedule, where) -> (step -> value).

    Raises:
      ConfigError: an option that is out of range or that the version does not have; views that are not two.
    """
    own = VERSIONS[version]
    hidden_dim, out_dim = hidden_dim or own.hidden_dim, out_dim or own.out_dim
    temperature = own.temperature if temperature is None else temperature
    momentum = own.momentum if momentum is None else momentum
    tower = models.make({"name": "vit", "image_size": data.image_size, **model}, where="objective.model", dtype=dtype)
    momentum_at = schedule(momentum, "objective.momentum")
    normed, symmetric = statistics.has(tower), version == "v3"
    _check(temperature, momentum, groups, queue, version, normed)
    queue, layers = queue or 65_536, head_layers or (min(own.layers, 2) if normed else own.layers)
    head = heads.Projection(hidden_dim, out_dim, layers, symmetric, "plain" if symmetric else None, dtype=dtype)
    predictor = heads.Projection(hidden_dim, out_dim, 2, True, None if normed else "plain", not normed, dtype)

    def init(key: jax.Array, batch: base.Batch) -> base.Variables:
        keys = jax.random.split(key, 4)
        encoder = tower.init(keys[0], views.pair(batch)[:1, 0])
        params = {
            "encoder": encoder["params"],
            "head": head.init(keys[1], jnp.zeros((2, tower.hidden_dim)))["params"],
        }
        extra = {"teacher": jax.tree.map(jnp.copy, params), **statistics.start(encoder)}
        if symmetric:
            return base.Variables(
                {**params, "predictor": predictor.init(keys[2], jnp.zeros((2, out_dim)))["params"]}, extra
            )
        return base.Variables(params, {**extra, "queue": unit(jax.random.normal(keys[3], (queue, out_dim)))})

    def encode(
        params: base.Params, extra: base.Extra, batch: base.Batch, key: jax.Array
    ) -> tuple[dict[str, jax.Array], base.Extra]:
        both = views.pair(batch)
        queries, keys = (both, both) if symmetric else (both[:, :1], both[:, 1:])
        found, changed = views.encoded(tower, params["encoder"], extra, queries, key, groups)
        extra = jax.lax.stop_gradient(extra)
        its_key = key if statistics.has(tower) else None
        seen, _ = views.encoded(tower, extra["teacher"]["encoder"], extra, keys, its_key, groups, strided=True)
        return {"query": found, "key": seen}, changed

    def each(module: heads.Projection, its_params: base.Params, features: jax.Array) -> jax.Array:
        """[B,V,D] -> [B,V,K], each view for itself."""
        return jnp.stack([module.apply({"params": its_params}, view) for view in jnp.unstack(features, axis=1)], axis=1)

    def couple(
        params: base.Params, extra: base.Extra, encodings: dict[str, jax.Array], batch: base.Batch, step: jax.Array
    ) -> tuple[jax.Array, base.Aux]:
        query, changed = each(head, params["head"], encodings["query"]), {}
        key = unit(jax.lax.stop_gradient(each(head, extra["teacher"]["head"], encodings["key"])))
        if symmetric:
            query = unit(each(predictor, params["predictor"], query))
            terms = [instance.matched(query[:, i], key[:, 1 - i], temperature) for i in (0, 1)]
            value, accuracy = terms[0][0] + terms[1][0], (terms[0][1] + terms[1][1]) / 2
        else:
            query = unit(query)
            value, accuracy = instance.queued(query[:, 0], key[:, 0], extra["queue"], temperature)
            changed = {"queue": _enqueued(extra["queue"], key[:, 0])}
        measured = diagnostics.of_views(encodings["query"], query[:, 0], key[:, -1])
        return value, base.Aux({"accuracy": accuracy, **measured, "momentum": jnp.asarray(momentum_at(step))}, changed)

    def after_update(params: base.Params, extra: base.Extra, step: jax.Array) -> base.Extra:
        # The authors move the teacher before the next step looks at it, with that step's momentum.
        kept = momentum_at(step + 1)
        moved = lambda teacher, student: teacher + (1 - kept) * (student - teacher)
        return {**extra, "teacher": jax.tree.map(moved, extra["teacher"], _teacher(params))}

    return base.coupled_encodings(
        tower,
        init,
        encode,
        couple,
        probes.predictions(tower),
        after_update=after_update,
        started=lambda params, extra: {**extra, "teacher": jax.tree.map(jnp.copy, _teacher(params))},
        healthy=diagnostics.VIEWS,
    )


def _teacher(params: base.Params) -> base.Params:
    """What of the student a teacher follows: all but the predictor."""
    return {"encoder": params["encoder"], "head": params["head"]}


def _enqueued(queue: jax.Array, keys: jax.Array) -> jax.Array:
    """The queue [K,D] without its oldest B rows, the new ones last.

    Raises:
      ConfigError: a batch is longer than the queue.
    """
    if len(keys) > len(queue):
        raise ConfigError(f"A batch of {len(keys)} is longer than config.objective.queue = {len(queue)}: enlarge it.")
    return jnp.concatenate([queue[len(keys) :], keys])


def _check(
    temperature: float, momentum: base.Spec, groups: int, queue: int | None, version: str, has_statistics: bool
) -> None:
    """Refuses what is out of range, a queue that no one asks, and groups that nothing could be grouped for."""
    for name, value, possible, limits in (
        ("temperature", temperature, temperature > 0, "above 0"),
        ("momentum", momentum, all(0 <= end <= 1 for end in base.ends(momentum)), "from 0 to 1"),
        ("groups", groups, groups >= 1, "at least 1"),
        ("queue", queue, queue is None or queue >= 1, "at least 1"),
    ):
        if not possible:
            raise ConfigError(f"config.objective.{name} = {value!r} must be {limits}.")
    if queue is not None and version == "v3":
        raise ConfigError(f"config.objective.queue = {queue}: v3's negatives are the batch's own. Leave it out.")
    if groups > 1 and (version == "v3" or not has_statistics):
        raise ConfigError(
            f"config.objective.groups = {groups} splits the batch statistics of an encoder that has some (objective."
            "model.name = 'resnet') in v1 and v2; here there are none to be split: leave it out."
        )
