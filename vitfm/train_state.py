"""Everything a run carries from one step to the next."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from vitfm.objectives.base import Variables


@flax.struct.dataclass
class TrainState:
    """A pytree, sharded and checkpointed by the paths of its leaves.

    Attributes:
      step: int32 [], updates made.
      healthy: bool [], False once a loss or gradient was not finite; from then on nothing changes any more, so that
        the state of the last good step survives until the host, which reads metrics late, has noticed.
      params: nested dict of arrays.
      opt_state: optax's.
      extra: the objective's state that no gradient moves.
      ema: exponential moving average of `params`, or None.
    """

    step: jax.Array
    healthy: jax.Array
    params: Any
    opt_state: Any
    extra: Any
    ema: Any


def create(variables: Variables, optimizer: optax.GradientTransformation, *, ema: bool) -> TrainState:
    """The state of step 0; jit it together with `objective.init`, with `out_shardings`: so it is born sharded."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        healthy=jnp.ones((), bool),
        params=variables.params,
        opt_state=optimizer.init(variables.params),
        extra=variables.extra,
        ema=jax.tree.map(jnp.copy, variables.params) if ema else None,
    )
