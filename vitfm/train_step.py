"""One pure update: keys, gradients, accumulation, optimizer, EMA, and the refusal of what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitfm.config import ConfigError
from vitfm.objectives.base import Aux, Batch, Objective
from vitfm.train_state import TrainState

Preprocess = Callable[[Batch, jax.Array], Batch]  # (batch, keys [B]) -> batch, arithmetic on pixels and labels.
Gradients = tuple[jax.Array, Aux, Any]


def example_keys(seed: int, step: jax.Array, batch_size: int) -> jax.Array:
    """[B] keys, a function of (seed, step, row) alone."""
    step_key = jax.random.fold_in(jax.random.key(seed), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, jnp.arange(batch_size))


def _own_keys(keys: jax.Array, purpose: int) -> jax.Array:
    """[B] keys for one purpose, so that its draws have nothing in common with those of preprocessing."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, purpose)


_LOSS, _MIX = 2**31, 2**31 + 1  # Purposes; preprocessing takes the keys themselves.


def loss_keys(keys: jax.Array) -> jax.Array:
    """[B] keys, those of the loss, of an example's own."""
    return _own_keys(keys, _LOSS)


def prepared(preprocess: Preprocess, mix: Preprocess | None) -> Preprocess:
    """(batch, keys [B]) -> the batch as the loss gets it: each example preprocessed, and all mixed where they are."""
    return preprocess if mix is None else lambda batch, keys: mix(preprocess(batch, keys), _own_keys(keys, _MIX))


def _micro_batches(tree: Any, count: int) -> Any:
    """[B, ...] -> [count, B/count, ...]; micro-batch i holds rows i, i+count, ..., so no row leaves its device."""
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), tree)


def _whole_batch(tree: Any) -> Any:
    """The inverse of `_micro_batches`."""
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), tree)


def _plain(objective: Objective, preprocess: Preprocess) -> Callable[..., Gradients]:
    def gradients(params: Any, extra: Any, batch: Batch, keys: jax.Array, step: jax.Array) -> Gradients:
        loss = lambda params: objective.loss(params, extra, preprocess(batch, keys), loss_keys(keys), step)
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return value, aux, grads

    return gradients


def _averaged(objective: Objective, preprocess: Preprocess, count: int) -> Callable[..., Gradients]:
    """Micro-batch by micro-batch; loss, metrics, extras and gradients are averaged, which is exact by the contract."""
    plain = _plain(objective, preprocess)

    def gradients(params: Any, extra: Any, batch: Batch, keys: jax.Array, step: jax.Array) -> Gradients:
        def add(total: Gradients, micro: tuple[Batch, jax.Array]) -> tuple[Gradients, None]:
            return jax.tree.map(jnp.add, total, plain(params, extra, *micro, step)), None

        micros = _micro_batches((batch, keys), count)
        first = jax.tree.map(lambda x: x[0], micros)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(plain, params, extra, *first, step))
        total, _ = jax.lax.scan(add, zeros, micros)
        return jax.tree.map(lambda x: x / count, total)

    return gradients


def _cached(objective: Objective, preprocess: Preprocess, count: int) -> Callable[..., Gradients]:
    """All embeddings first, then the loss over the whole batch, then the backward pass micro-batch by micro-batch.

    Equal to the large batch (GradCache, Gao et al. 2021, arXiv:2101.06983): with e = embed(params, batch), the gradient
    is d couple/d params + (d couple/d e) (d e/d params), and the last factor splits over examples.
    """

    def gradients(params: Any, extra: Any, batch: Batch, keys: jax.Array, step: jax.Array) -> Gradients:
        def embed(params: Any, batch: Batch, keys: jax.Array) -> Any:
            return objective.embed(params, extra, preprocess(batch, keys), loss_keys(keys), step)

        def couple(params: Any, embeddings: Any) -> tuple[jax.Array, Aux]:
            return objective.couple(params, extra, embeddings, batch, step)

        micros = _micro_batches((batch, keys), count)
        embeddings = _whole_batch(jax.lax.map(lambda micro: embed(params, *micro), micros))
        (value, aux), (direct, cotangents) = jax.value_and_grad(couple, (0, 1), has_aux=True)(params, embeddings)

        def add(total: Any, micro: tuple[tuple[Batch, jax.Array], Any]) -> tuple[Any, None]:
            inputs, cotangent = micro
            _, backward = jax.vjp(lambda params: embed(params, *inputs), params)
            return jax.tree.map(jnp.add, total, backward(cotangent)[0]), None

        grads, _ = jax.lax.scan(add, direct, (micros, _micro_batches(cotangents, count)))
        return value, aux, grads

    return gradients


def _mixed(gradients: Callable[..., Gradients], preprocess: Preprocess, mix: Preprocess) -> Callable[..., Gradients]:
    """`gradients` of batches that are preprocessed and mixed whole, before any micro-batch is taken from them."""

    def mixed(params: Any, extra: Any, batch: Batch, keys: jax.Array, step: jax.Array) -> Gradients:
        return gradients(params, extra, prepared(preprocess, mix)(batch, keys), keys, step)

    return mixed


def gradients_of(
    objective: Objective, preprocess: Preprocess, accumulate: int = 1, mix: Preprocess | None = None
) -> Callable[..., Gradients]:
    """(params, extra, batch, keys [B], step) -> (loss, aux, gradients) over `accumulate` micro-batches.

    Args:
      objective: what is learned.
      preprocess: of each example alone.
      accumulate: micro-batches.
      mix: what examples do to one another (mixup, cutmix), after `preprocess`. It needs the whole batch, so with it the
        whole batch is held as floats, and only the model's activations are a micro-batch's.

    Raises:
      ConfigError: accumulation is asked of an objective for which it is not exact.
    """
    if mix is not None:
        return _mixed(gradients_of(objective, lambda batch, keys: batch, accumulate), preprocess, mix)
    if accumulate == 1:
        return _plain(objective, preprocess)
    if objective.accumulate is None:
        raise ConfigError(f"config.accumulate = {accumulate}: this objective refuses accumulation: {objective.why_not}")
    kinds = {"mean": _averaged, "cached": _cached}
    return kinds[objective.accumulate](objective, preprocess, accumulate)


def make(
    gradients: Callable[..., Gradients],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    seed: int,
    ema_decay: float | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Mapping[str, jax.Array]]]:
    """(state, batch) -> (state, metrics), to be jitted with the state donated.

    Args:
      gradients: from `gradients_of`.
      objective: what is learned.
      optimizer: an optax transformation.
      learning_rate: of each step, for the metrics.
      seed: of all randomness in the step.
      ema_decay: weight of the past in the moving average of the parameters; None keeps none.
    """

    def update(state: TrainState, grads: Any, extra: Any) -> TrainState:
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = objective.constrain(optax.apply_updates(state.params, updates))
        extra = objective.after_update(params, {**state.extra, **extra}, state.step)
        ema = None if ema_decay is None else optax.incremental_update(params, state.ema, 1 - ema_decay)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state, extra=extra, ema=ema)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        batch_size = jax.tree.leaves(batch)[0].shape[0]
        keys = example_keys(seed, state.step, batch_size)
        value, aux, grads = gradients(state.params, state.extra, batch, keys, state.step)
        gradient_norm = optax.global_norm(grads)
        healthy = state.healthy & jnp.isfinite(value) & jnp.isfinite(gradient_norm)
        new = update(state, grads, aux.extra)
        metrics = {
            "loss": value,
            **aux.metrics,
            "gradient_norm": gradient_norm,
            "parameter_norm": optax.global_norm(new.params),
            "learning_rate": learning_rate(state.step),
            "healthy": healthy,
        }
        return jax.tree.map(lambda new, old: jnp.where(healthy, new, old), new, state).replace(healthy=healthy), metrics

    return step
