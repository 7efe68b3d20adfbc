"""The state that a run begins with: its own checkpoint's, or a new one with what it takes from other runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from vitfm import config as config_lib
from vitfm.checkpoint import warm_start
from vitfm.interop import imported
from vitfm.models import resizing, statistics
from vitfm.program import Program
from vitfm.session import Session
from vitfm.train_state import TrainState


def read(p: Program) -> warm_start.Start | None:
    """What a new run takes from another's checkpoint, where its recipe names one."""
    if p.recipe.init is None:
        return None
    models = [spec for spec in p.recipe.objective.values() if isinstance(spec, Mapping)]
    own = next((spec["position_resize"] for spec in models if "position_resize" in spec), "antialiased")
    here = {"image_channels": p.data.facts.channels, "own": own}
    rules = lambda options: config_lib.call(resizing.make, options, where="init.resize", **here)
    context = {"params": _startable(p.shapes.params, p.shapes.extra), "resizing": rules, "foreign": imported.leaves_of}
    return config_lib.call(warm_start.make, p.recipe.init, where="init", **context)


def state(session: Session) -> TrainState:
    """The state of the latest checkpoint, or a new one, with what it takes from another run."""
    p = session.program
    if session.first:
        return session.checkpoints.restore(p.shapes)[0]
    new = p.init(jax.random.key(p.recipe.seed))
    if session.teacher:
        new = new.replace(extra=warm_start.onto(session.teacher, new.extra))
    if session.start is None:
        return new
    params = warm_start.onto(session.start, _startable(new.params, new.extra))
    extra = {**new.extra, **params.pop("extra", {})}
    ema = None if new.ema is None else jax.tree.map(jax.numpy.copy, params)  # Both are donated: none is the other.
    return new.replace(params=params, ema=ema, extra=p.objective.started(params, extra))


def _startable(params: Any, extra: Any) -> dict[str, Any]:
    """What may come from another run: the parameters and, below `extra`, the running statistics of batch norms."""
    kept = statistics.start(extra)
    return {**params, **({"extra": kept} if kept else {})}
