"""What was not finite, and where it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from vitfm import train_step, tree
from vitfm.config import UserError
from vitfm.session import Session
from vitfm.train_state import TrainState


class Diverged(UserError):
    """A loss or gradient was not finite; the state of the last good step is saved."""

    exit_code = 1


def first_bad(
    gradients: Callable[..., train_step.Gradients],
    preprocess: train_step.Preprocess,
    state: TrainState,
    batch: Any,
    seed: int,
) -> str:
    """The path of the first tensor that is not finite when the step after `state` is computed again on `batch`.

    Looked for in the order in which one spoils the next: parameters, extra state, the preprocessed batch, the loss and
    its metrics, gradients.
    """
    keys = train_step.example_keys(seed, state.step, jax.tree.leaves(batch)[0].shape[0])

    @jax.jit
    def finite(state: TrainState, batch: Any, keys: jax.Array) -> dict[str, Any]:
        value, aux, grads = gradients(state.params, state.extra, batch, keys, state.step)
        stages = {
            "params": state.params,
            "extra": state.extra,
            "batch": preprocess(batch, keys),
            "metrics": {**aux.metrics, "loss": value},
            "gradients": grads,
        }
        return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), stages)

    stages = jax.device_get(finite(state, batch, keys))
    for stage in ("params", "extra", "batch", "metrics", "gradients"):
        for path, ok in tree.named_leaves(stages[stage]):
            if not ok:
                return f"{stage}/{path}"
    return "optimizer update"


def stop(session: Session, state: TrainState) -> NoReturn:
    """Saves the last good state, names the first bad tensor and ends the run.

    Raises:
      Diverged: always.
    """
    p = session.program
    good = session.logged = int(state.step)
    state = state.replace(healthy=jnp.ones_like(state.healthy))
    batch, _ = next(p.batches(good))
    path = first_bad(p.gradients, p.data.preprocess_train, state, batch, p.recipe.seed)
    session.settle(good)
    session.save(state, good)
    session.checkpoints.wait()
    raise Diverged(
        f"Step {good + 1} is not finite; the first bad tensor is {path}. The state after step {good}, the last good "
        f"one, is saved in {session.directory / 'checkpoints'}. A lower learning rate, a longer warm-up or a smaller "
        "config.optim.clip_norm usually helps; give the changed config a --workdir of its own."
    )
