"""The contract between an objective and everything else: a few pure functions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax

from vitfm import config
from vitfm.config import ConfigError
from vitfm.models import statistics
from vitfm.ranges import Range

Params = Mapping[str, Any]
Extra = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Spec = float | Mapping[str, Any]  # A number, or a schedule over the run.


def ends(spec: Spec) -> tuple[float, ...]:
    """The first and the last value of a schedule, or the number."""
    return (spec["start"], spec["end"]) if isinstance(spec, Mapping) else (spec,)


@flax.struct.dataclass
class Variables:
    """What an objective starts from.

    Attributes:
      params: nested dict of arrays that gradients move.
      extra: nested dict of arrays that no gradient moves: an EMA teacher, a queue, centres, batch statistics.
    """

    params: Params
    extra: Extra = flax.struct.field(default_factory=dict)


@flax.struct.dataclass
class Aux:
    """What a loss returns beside its value.

    Attributes:
      metrics: name -> scalar.
      extra: the entries of `extra` that change; the others stay as they are.
    """

    metrics: Mapping[str, jax.Array]
    extra: Extra = flax.struct.field(default_factory=dict)


def _unchanged(params: Params, extra: Extra, step: jax.Array) -> Extra:
    return extra


def as_initialised(params: Params, extra: Extra) -> Extra:
    """`extra` itself: that of most objectives depends on no parameter's value."""
    return extra


def as_trained(params: Params, extra: Extra) -> Params:
    """`params` themselves: what most objectives are evaluated by."""
    return params


@dataclasses.dataclass(frozen=True)
class Objective:
    """Pure functions over the global batch; `key` is always [B], one PRNG key an example.

    One key an example makes every draw independent of how the batch is accumulated or sharded.

    Attributes:
      init: (key [], batch) -> Variables.
      loss: (params, extra, batch, key, step) -> (scalar, Aux).
      after_update: (params, extra, step) -> extra, once the optimizer has moved `params`; `extra` has what the loss
        changed in it already.
      started: (params, extra) -> extra, where `params` came from another run's checkpoint instead of `init`: what
        copies them, such as a teacher, follows.
      constrain: params -> params, a projection applied after each update (a clamp on a scale).
      predict: name -> function (params, array, ...) -> array, for evaluators and `vitfm.load`; those with "text" in
        their name take token ids and their mask, all others preprocessed images. Options, if any, are keywords that
        shapes may depend on.
      evaluated: (params, extra) -> the parameters that `predict` takes: an EMA teacher's, where that is the better
        model.
      accumulate: "mean" where averaging the micro-batches' gradients and extras is exact; "cached" where the loss
        couples the batch: then `loss` is `couple` after `embed`; None where accumulation can't be exact.
      embed: (params, extra, batch, key, step) -> tree of [B, ...], for "cached": row i depends on example i alone.
      couple: (params, extra, embeddings, batch, step) -> (scalar, Aux), for "cached".
      why_not: for None: the reason, shown to who asks for accumulation.
      healthy: metric of the loss -> where it stays while the model learns; outside, once a tenth of the run is over,
        the loop warns.
      masks: (batch, key) -> what a loss with these keys hides from the encoder, for those who look at the data: bool
        [B,h,w] of "image", [B,V,h,w] of views by their name, on a grid of squares; None where it draws no masks.
    """

    init: Callable[[jax.Array, Batch], Variables]
    loss: Callable[[Params, Extra, Batch, jax.Array, jax.Array], tuple[jax.Array, Aux]]
    predict: Mapping[str, Callable[..., jax.Array]]
    accumulate: Literal["mean", "cached"] | None
    after_update: Callable[[Params, Extra, jax.Array], Extra] = _unchanged
    started: Callable[[Params, Extra], Extra] = as_initialised
    constrain: Callable[[Params], Params] = lambda params: params
    evaluated: Callable[[Params, Extra], Params] = as_trained
    embed: Callable[..., Any] | None = None
    couple: Callable[..., tuple[jax.Array, Aux]] | None = None
    why_not: str = ""
    healthy: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    masks: Callable[[Batch, jax.Array], Mapping[str, jax.Array]] | None = None


def holding(objective: Objective, still: Any) -> Objective:
    """The objective without gradients of what never moves, so that no backward pass is computed for them.

    Args:
      objective: what is learned.
      still: tree like its parameters, whether each of them never moves.
    """
    if not any(jax.tree.leaves(still)):
        return objective
    held = lambda leaf, still: jax.lax.stop_gradient(leaf) if still else leaf
    of = lambda function: function and (lambda params, *rest: function(jax.tree.map(held, params, still), *rest))
    return dataclasses.replace(
        objective, loss=of(objective.loss), embed=of(objective.embed), couple=of(objective.couple)
    )


def refuse_patch_dropout(encoder: nn.Module, where: str = "objective.model") -> None:
    """For who looks for what became of each patch at its place.

    Raises:
      ConfigError: the encoder leaves patches out.
    """
    if getattr(encoder, "patch_dropout", 0):
        raise ConfigError(
            f"config.{where}.patch_dropout = {encoder.patch_dropout} leaves patches out, and this objective looks for "
            "each at its place: leave it out."
        )


FROZEN = "frozen_teacher"  # The entry of `extra` that holds a `Teacher`'s parameters.


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model that another learns from, and that never moves: `config.teacher`.

    An objective that learns from one has a keyword `teacher` in its `make`, and `extra[FROZEN]` from `init`. The loop
    puts the trained parameters there once, when the run starts; checkpoints hold them.

    Attributes:
      init: key -> parameters of the right shapes, as its predict functions take them.
      functions: its predict functions.
      adapt: the student's preprocessed images [B,H,W,C] -> the same pictures as it takes them: size and normalisation.
      data: facts about the batches it was trained with.
    """

    init: Callable[[jax.Array], Params]
    functions: Mapping[str, Callable[..., jax.Array]]
    adapt: Callable[[jax.Array], jax.Array]
    data: Any

    def predict(self, name: str, extra: Extra, image: jax.Array) -> jax.Array:
        """What it says of the student's images; no gradient flows.

        Raises:
          ConfigError: it lacks that predict function.
        """
        if name not in self.functions:
            known = ", ".join(sorted(self.functions))
            raise ConfigError(f"config.teacher: this objective learns from a teacher's {name!r}; it offers {known}.")
        return jax.lax.stop_gradient(self.functions[name](extra[FROZEN], self.adapt(image)))


def taught(teacher: Teacher | None) -> Teacher:
    """The teacher.

    Raises:
      ConfigError: there is none.
    """
    if teacher is None:
        raise ConfigError(
            "This objective learns from a trained model: set config.teacher = {'run': DIR}, a run's workdir or a "
            "folder of another library's model."
        )
    return teacher


def coupled(
    init: Callable[[jax.Array, Batch], Variables],
    embed: Callable[..., Any],
    couple: Callable[..., tuple[jax.Array, Aux]],
    predict: Mapping[str, Callable[..., jax.Array]],
    **options: Any,
) -> Objective:
    """The objective whose loss is `couple` after `embed`, so that it accumulates "cached"."""

    def loss(params: Params, extra: Extra, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[jax.Array, Aux]:
        return couple(params, extra, embed(params, extra, batch, key, step), batch, step)

    return Objective(init, loss, predict, "cached", embed=embed, couple=couple, **options)


def coupled_encodings(
    tower: nn.Module,
    init: Callable[[jax.Array, Batch], Variables],
    encode: Callable[..., tuple[Any, Extra]],
    couple: Callable[..., tuple[jax.Array, Aux]],
    predict: Mapping[str, Callable[..., jax.Array]],
    **options: Any,
) -> Objective:
    """`coupled`, for encoders with or without batch statistics.

    Args:
      tower: the encoder.
      encode: (params, extra, batch, key) -> what `couple` takes, and the entries of `extra` that the encoder changes.
        Where it has batch statistics, a row depends on the whole batch: then nothing is accumulated.
      init, couple, predict, **options: of `coupled`.
    """
    if not statistics.has(tower):
        embed = lambda params, extra, batch, key, step: encode(params, extra, batch, key)[0]
        return coupled(init, embed, couple, predict, **options)

    def loss(params: Params, extra: Extra, batch: Batch, key: jax.Array, step: jax.Array) -> tuple[jax.Array, Aux]:
        encodings, changed = encode(params, extra, batch, key)
        value, aux = couple(params, extra, encodings, batch, step)
        return value, aux.replace(extra={**aux.extra, **changed})

    return Objective(init, loss, predict, **statistics.terms(tower), **options)


def make(spec: Mapping[str, Any], **context: Any) -> Objective:
    """The objective that `spec["name"]` names: a file of `vitfm/objectives`, or a dotted path to the user's own.

    Args:
      spec: `name` and options.
      **context: `data`, facts about the batches (`vitfm.data.Facts`); `dtype`, the compute dtype; `schedule`:
        (number or schedule of the recipe, where) -> (step -> value); `teacher`, the recipe's `Teacher` or None. A
        `make` names those it needs.
    """
    return config.build("objectives", spec, where="objective", **context)
