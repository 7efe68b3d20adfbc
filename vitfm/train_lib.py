"""The loop: build, restore or start, step, log, evaluate, save. It knows no objective by name.

The host runs ahead of the devices: a step is dispatched while the one before it runs, and metrics are read only once
they are there.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitfm import config as config_lib
from vitfm import diagnose, health, interrupt, intervals, program, results, teachers, tree, workdirs
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.checkpoint import warm_start
from vitfm.checkpoint.manager import Checkpoints
from vitfm.data import loader as loading
from vitfm.evals import base as evaluation
from vitfm.interop import imported
from vitfm.intervals import Every
from vitfm.metrics import progress
from vitfm.metrics.timers import Timers, share
from vitfm.metrics.window import Window
from vitfm.metrics.writers import Writer
from vitfm.models import resizing, statistics
from vitfm.parallel import mesh as meshes
from vitfm.program import Program
from vitfm.session import Session
from vitfm.train_state import TrainState

_IN_FLIGHT = 2  # Steps dispatched and not yet finished: enough to hide the host, few enough to bound memory.


def train(config: Any, workdir: str) -> dict[str, Any]:
    """Trains, or goes on where this workdir stopped; evaluates; writes the report.

    Args:
      config: a recipe, as `get_config` returns it.
      workdir: the run's directory.

    Returns:
      What `result.json` holds.

    Raises:
      UserError: what the user can mend, before anything compiles.
      Interrupted: SIGINT or SIGTERM came; the state is saved.
      Diverged: a loss or gradient was not finite; the last good state is saved.
    """
    clock = Timers()
    with contextlib.ExitStack() as stack:
        with clock("setup"):
            session = _open(recipes.plain(config), workdir, clock, stack)
            result = workdirs.result(session.directory)
            if result and result["step"] == session.first == session.program.total:
                results.show(session.directory, result)
                return result
            signals = stack.enter_context(interrupt.Signals())
            _begin(session, stack)
            state = _restore_or_start(session)
        _train(session, state, signals)
        session.bar.close()
        with clock("checkpoint"):
            session.checkpoints.wait()
        p, first, seconds = session.program, session.first, session.seconds
        return results.finish(session.directory, session.writer, clock, session.latest, p, first, seconds)


def _open(config: Mapping[str, Any], workdir: str, clock: Timers, stack: contextlib.ExitStack) -> Session:
    """All that can be wrong with a run is found here, before anything compiles or is written."""
    config = teachers.described(config, workdir)
    built = program.build(recipes.parse(config))
    config = recipes.with_classes(config, built.data.facts)
    times = intervals.make(built)
    evaluators = _evaluators(built, workdir)
    directory = workdirs.claim(workdir, config)
    workdirs.use_compile_cache(directory, built.recipe.compile_cache)
    checkpoints = Checkpoints(directory / "checkpoints", keep=times.keep, keep_every=times.keep_every)
    stack.enter_context(checkpoints)
    trace = stack.enter_context(contextlib.ExitStack())
    first = checkpoints.latest() or 0
    start, teacher = (None, None) if first else (_warm_start(built), teachers.read(built))
    lineage = {**(start.lineage if start else {}), **({"teacher": teacher.lineage} if teacher else {})}
    return Session(
        built,
        times,
        config,
        directory,
        evaluators,
        checkpoints,
        clock,
        trace,
        start=start,
        teacher=teacher,
        lineage=lineage or None,
        first=first,
    )


def _warm_start(p: Program) -> warm_start.Start | None:
    """What a new run takes from another's checkpoint, where its recipe names one."""
    if p.recipe.init is None:
        return None
    models = [spec for spec in p.recipe.objective.values() if isinstance(spec, Mapping)]
    own = next((spec["position_resize"] for spec in models if "position_resize" in spec), "antialiased")
    here = {"image_channels": p.data.facts.channels, "own": own}
    rules = lambda options: config_lib.call(resizing.make, options, where="init.resize", **here)
    context = {"params": _startable(p.shapes.params, p.shapes.extra), "resizing": rules, "foreign": imported.leaves_of}
    return config_lib.call(warm_start.make, p.recipe.init, where="init", **context)


def _startable(params: Any, extra: Any) -> dict[str, Any]:
    """What may come from another run: the parameters and, below `extra`, the running statistics of batch norms."""
    kept = statistics.start(extra)
    return {**params, **({"extra": kept} if kept else {})}


def _begin(session: Session, stack: contextlib.ExitStack) -> None:
    """Opens what is written and takes up the rows where the latest checkpoint left them."""
    if session.first:
        meta = session.checkpoints.meta()
        session.seconds_before, session.rows, session.logged = meta["seconds"], meta["rows"], meta["logged"]
        session.window, session.lineage = Window(**meta["window"]), meta["lineage"]
        session.latest = workdirs.metrics(session.directory, session.rows)
    if jax.process_index() == 0:
        session.writer = stack.enter_context(Writer(session.directory, step=session.first, rows=session.rows))
        session.writer.config(session.config)
        session.bar = stack.enter_context(contextlib.closing(progress.make(session.program.total, session.first)))
        session.bar.note(_greeting(session))
        if session.start:
            warm_start.show(session.start)
        if session.teacher:
            session.bar.note(teachers.note(session.teacher))


def _restore_or_start(session: Session) -> TrainState:
    """The state of the latest checkpoint, or a new one, with what it takes from another run."""
    p = session.program
    if session.first:
        return session.checkpoints.restore(p.shapes)[0]
    state = p.init(jax.random.key(p.recipe.seed))
    if session.teacher:
        state = state.replace(extra=warm_start.onto(session.teacher, state.extra))
    if session.start is None:
        return state
    params = warm_start.onto(session.start, _startable(state.params, state.extra))
    extra = {**state.extra, **params.pop("extra", {})}
    ema = None if state.ema is None else jax.tree.map(jax.numpy.copy, params)  # Both are donated: none is the other.
    return state.replace(params=params, ema=ema, extra=p.objective.started(params, extra))


def _train(session: Session, state: TrainState, signals: interrupt.Signals) -> None:
    """Every step to the end, with what is due in between.

    A checkpoint comes before the evaluations of its step, as they may fail; a resumed run therefore begins with them.
    """
    p, compiled = session.program, None
    batches = _batches(p, session.first)
    in_flight: collections.deque[Any] = collections.deque()
    if session.first:
        _evaluate(session, state, session.first, session.due(session.first))
    for step in range(session.first + 1, p.total + 1):
        if step == session.intervals.profiled.start:
            session.trace.enter_context(jax.profiler.trace(str(session.directory / "profile")))
        with session.clock("data"):
            batch, replaced = next(batches)
        if compiled is None:
            with session.clock("compile"):
                compiled = p.compiled(batch)
        with session.clock("train"):
            state, metrics = compiled(state, batch)
            in_flight.append(metrics["loss"])
            if len(in_flight) > _in_flight():
                in_flight.popleft().block_until_ready()
        lap = session.clock.lap()
        seconds = {f"seconds/{phase}": lap[phase] for phase in ("data", "train")}
        session.window.add(step, {**metrics, "data/replaced": replaced, **seconds})
        if step + 1 == session.intervals.profiled.stop:
            jax.block_until_ready(metrics)
            session.trace.close()
        stop, evaluators = signals.received(step), session.due(step)
        save = session.intervals.save.due(step) or stop
        _log(session, state, until=step if save or evaluators else step - _in_flight())
        if save:
            _save(session, state, step)
        if stop:
            session.checkpoints.wait()
            raise interrupt.Interrupted(
                stop, f"Stopped at step {step}, which is saved; the same command goes on from it."
            )
        _evaluate(session, state, step, evaluators)


def _in_flight() -> int:
    """Steps dispatched and not yet finished. XLA's collectives over several CPU devices deadlock from two on."""
    return 0 if jax.default_backend() == "cpu" and jax.device_count() > 1 else _IN_FLIGHT


def _batches(p: Program, first: int) -> Iterator[tuple[Any, int]]:
    """Global batches on the devices from step `first` on, each with the number of unreadable examples it replaced."""
    for rows in p.loader.batches(first):
        replaced = int(rows.pop(loading.REPLACED).sum())
        yield meshes.place_local(p.mesh, rows), replaced


def _log(session: Session, state: TrainState, until: int) -> None:
    """The rows due up to step `until`, each with the means over the steps since the row before it.

    The loop asks for the steps in flight only when the devices must wait for the host anyway.
    """
    while session.logged < until:
        session.logged += 1
        if session.intervals.log.due(session.logged):
            _row(session, state, session.logged)


def _row(session: Session, state: TrainState, step: int) -> None:
    _read(session, state, step)
    means = session.window.take()
    seconds = {phase: means.pop(f"seconds/{phase}") for phase in ("data", "train")}
    speed, wait = session.program.recipe.batch_size / sum(seconds.values()), share(seconds, "data", of=tuple(seconds))
    session.write(step, {**means, **health.marks(session, step, means), "images_per_second": speed, "data/wait": wait})
    session.bar.update(step, means["loss"], speed, wait)


def _save(session: Session, state: TrainState, step: int) -> None:
    with session.clock("checkpoint"):
        _read(session, state, step)
        session.save(state, step)


def _read(session: Session, state: TrainState, step: int) -> None:
    """Reads the metrics up to `step` from the devices; ends the run at the first step that was not finite."""
    with session.clock("train"):
        healthy = session.window.read(step)
    if not healthy:
        _stop_diverged(session, state)


def _stop_diverged(session: Session, state: TrainState) -> None:
    """Saves the last good state, names the first bad tensor and ends the run."""
    p = session.program
    good = session.logged = int(state.step)
    state = state.replace(healthy=jax.numpy.ones_like(state.healthy))
    batch, _ = next(_batches(p, good))
    path = diagnose.first_bad(p.gradients, p.data.preprocess_train, state, batch, p.recipe.seed)
    session.save(state, good)
    session.checkpoints.wait()
    raise diagnose.Diverged(
        f"Step {good + 1} is not finite; the first bad tensor is {path}. The state after step {good}, the last good "
        f"one, is saved in {session.directory / 'checkpoints'}. A lower learning rate, a longer warm-up or a smaller "
        "config.optim.clip_norm usually helps; give the changed config a --workdir of its own."
    )


def _evaluators(p: Program, workdir: str) -> dict[str, tuple[Every, evaluation.Evaluate]]:
    """Every evaluator of the recipe and when it is due; without `every` at the end only."""
    context = runs.eval_context(p.data, p.objective, p.mesh, workdir)
    made = {}
    for name, spec in p.recipe.evals.items():
        options = {key: value for key, value in spec.items() if key != "every"}
        when = intervals.every(p, spec.get("every", 0), f"evals.{name}.every")
        made[name] = (when, evaluation.make(name, options, context))
    return made


def _evaluate(session: Session, state: TrainState, step: int, names: Sequence[str]) -> None:
    """Runs evaluators on the parameters and, where there is one, on their moving average (under `ema/`)."""
    if not names:
        return
    with session.clock("eval"):
        values: dict[str, float] = {}
        for prefix, params in session.program.evaluated(state).items():
            for name in names:
                for metric, value in session.evaluators[name][1](params):
                    if np.ndim(value) == 0:
                        values[prefix + metric] = float(value)
                    else:
                        session.writer.picture(step, prefix + metric, value)
        session.write(step, values)
    shown = [f"{name} {value:.1%}" for name, value in values.items() if name.endswith(("top1", "recall1"))]
    session.bar.note("  ".join([f"step {step}, evaluated:", *(shown or names)]))


def _greeting(session: Session) -> str:
    """One line on what is about to happen."""
    p = session.program
    begin = f"going on from step {session.first:,}" if session.first else "starting"
    return (
        f"{session.directory}: {begin}; {p.total:,} steps of {p.recipe.batch_size} from {p.loader.source.name} "
        f"({len(p.loader.source):,} examples), {tree.count(p.shapes.params):,} parameters, "
        f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.numpy.dtype(p.recipe.compute_dtype).name}"
    )
