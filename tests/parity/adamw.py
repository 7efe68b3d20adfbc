"""Ten updates of AdamW on both sides, from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import numpy as np
import optax

from tests.parity.reference import torch
from vitfm import optim


def ten_steps(
    evaluate: Callable[[Any], tuple[Any, ...]],
    params: Any,
    their_loss: Callable[[], Any],
    theirs: Mapping[str, Any],
    decays: Collection[str],
    *,
    learning_rate: float,
    b2: float,
    weight_decay: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Losses [10] before each step, ours and torch's.

    Args:
      evaluate: our parameters -> loss, gradients, and whatever else.
      params: our parameters, from theirs.
      their_loss: computes their loss from gradients of zero; what it returns is differentiated.
      theirs: the reference's parameters by name.
      decays: names of those that decay.
      learning_rate, b2, weight_decay: of both.
    """
    spec = {"name": "adamw", "learning_rate": learning_rate, "b2": b2, "weight_decay": weight_decay, "clip_norm": None}
    spec |= {"schedule": {"name": "constant"}}
    optimizer, _ = optim.make(spec, params, total=10, to_steps=lambda duration, where: int(duration))
    groups = [
        {"params": [p for name, p in theirs.items() if name in decays], "weight_decay": weight_decay},
        {"params": [p for name, p in theirs.items() if name not in decays], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, b2), eps=1e-8)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for _ in range(10):
        value, grads, *_ = evaluate(params)
        params, state = step(params, state, grads)
        their_value = their_loss()
        their_value.backward()
        reference.step()
        losses.append((float(value), float(their_value.detach())))
    ours, torchs = np.array(losses).T
    return ours, torchs
