"""The loop: build, restore or start, step, log, evaluate, save. It knows no objective by name.

The host runs ahead of the devices: a step is dispatched while the one before it runs, and metrics are read only once
they are there.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from vitfm import diagnose, health, interrupt, intervals, program, results, starting, teachers, tree, workdirs
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.bad_data import BadData, TooManyBad
from vitfm.checkpoint import warm_start
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import UserError
from vitfm.evals import base as evaluation
from vitfm.intervals import Every
from vitfm.metrics import progress
from vitfm.metrics.timers import Timers, share
from vitfm.metrics.window import Window
from vitfm.metrics.writers import Writer
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
            state = starting.state(session)
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
    bad = BadData(pathlib.Path(workdir).expanduser(), built.loader, built.data.max_bad)
    evaluators = _evaluators(built, workdir, bad)
    directory = workdirs.claim(workdir, config)
    workdirs.use_compile_cache(directory, built.recipe.compile_cache)
    checkpoints = Checkpoints(directory / "checkpoints", keep=times.keep, keep_every=times.keep_every)
    stack.enter_context(checkpoints)
    trace = stack.enter_context(contextlib.ExitStack())
    first = checkpoints.latest() or 0
    start, teacher = (None, None) if first else (starting.read(built), teachers.read(built))
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
        bad,
        start=start,
        teacher=teacher,
        lineage=lineage or None,
        first=first,
    )


def _begin(session: Session, stack: contextlib.ExitStack) -> None:
    """Opens what is written and takes up the rows where the latest checkpoint left them."""
    meta = session.checkpoints.meta() if session.first else {}
    session.bad.begin(session.first, meta.get("bad", {}))
    if session.first:
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


def _train(session: Session, state: TrainState, signals: interrupt.Signals) -> None:
    """Every step to the end, with what is due in between.

    A checkpoint comes before the evaluations of its step, as they may fail; a resumed run therefore begins with them.
    """
    p, compiled = session.program, None
    batches = p.batches(session.first)
    in_flight: collections.deque[Any] = collections.deque()
    if session.first:
        _evaluate(session, state, session.first, session.due(session.first))
    for step in range(session.first + 1, p.total + 1):
        if step == session.intervals.profiled.start:
            session.trace.enter_context(jax.profiler.trace(str(session.directory / "profile")))
        batch, bad = _next(session, state, batches, step)
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
        session.window.add(step, {**metrics, **seconds})
        session.bad.replaced(step, bad)
        if step + 1 == session.intervals.profiled.stop:
            jax.block_until_ready(metrics)
            session.trace.close()
        stop, evaluators = signals.received(step), session.due(step)
        save = session.intervals.save.due(step) or stop
        _log(session, state, until=step if save or evaluators else step - _in_flight())
        if save:
            _save(session, state, step)
        if excess := session.bad.excess():
            _leave(session, state, step)
            raise TooManyBad(
                f"{excess}\nStep {step} is saved: with mended data, or another max_bad, the same command goes on."
            )
        if stop:
            session.checkpoints.wait()
            raise interrupt.Interrupted(
                stop, f"Stopped at step {step}, which is saved; the same command goes on from it."
            )
        _evaluate(session, state, step, evaluators)


def _in_flight() -> int:
    """Steps dispatched and not yet finished. XLA's collectives over several CPU devices deadlock from two on."""
    return 0 if jax.default_backend() == "cpu" and jax.device_count() > 1 else _IN_FLIGHT


def _next(session: Session, state: TrainState, batches: Iterator[Any], step: int) -> Any:
    """The batch of a step and its bad examples; where there is none to be had, the state is saved before the run ends.

    Of several processes one alone may find that there is none: the others would never come to such a save.
    """
    try:
        with session.clock("data"):
            return next(batches)
    except UserError:
        if step > session.first + 1 and jax.process_count() == 1:
            _leave(session, state, step - 1)
        raise


def _leave(session: Session, state: TrainState, step: int) -> None:
    """Saves all there is before a run ends."""
    _log(session, state, until=step)
    _save(session, state, step)
    session.checkpoints.wait()


def _log(session: Session, state: TrainState, until: int) -> None:
    """The rows due up to step `until`, each with the means over the steps since the row before it.

    The loop asks for the steps in flight only when the devices must wait for the host anyway.
    """
    while session.logged < until:
        session.logged += 1
        if session.intervals.log.due(session.logged):
            _row(session, state, session.logged)
    if session.bad.due(until):
        _settle(session, state, until)


def _row(session: Session, state: TrainState, step: int) -> None:
    _settle(session, state, step)
    means = session.window.take()
    seconds = {phase: means.pop(f"seconds/{phase}") for phase in ("data", "train")}
    speed, wait = session.program.recipe.batch_size / sum(seconds.values()), share(seconds, "data", of=tuple(seconds))
    means |= session.bad.metrics() | {"images_per_second": speed, "data/wait": wait}
    session.write(step, means | health.marks(session, step, means, session.program.objective.healthy))
    session.bar.update(step, means["loss"], speed, wait)


def _save(session: Session, state: TrainState, step: int) -> None:
    with session.clock("checkpoint"):
        _settle(session, state, step)
        session.save(state, step)


def _settle(session: Session, state: TrainState, step: int) -> None:
    """Reads the metrics up to `step`, and after that, for only good steps count, brings the bad examples together."""
    _read(session, state, step)
    session.settle(step)


def _read(session: Session, state: TrainState, step: int) -> None:
    """Reads the metrics up to `step` from the devices; ends the run at the first step that was not finite."""
    with session.clock("train"):
        healthy = session.window.read(step)
    if not healthy:
        diagnose.stop(session, state)


def _evaluators(p: Program, workdir: str, bad: BadData) -> dict[str, tuple[Every, evaluation.Evaluate]]:
    """Every evaluator of the recipe and when it is due; without `every` at the end only."""
    context = runs.eval_context(p.data, p.objective, p.mesh, workdir, bad.unreadable)
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
    _settle(session, state, step)
    with session.clock("eval"):
        measured = (
            (prefix + metric, value)
            for prefix, params in session.program.evaluated(state).items()
            for name in names
            for metric, value in session.evaluators[name][1](params)
        )
        values, ranges = evaluation.collected(measured, functools.partial(session.writer.picture, step))
        session.write(step, values | health.marks(session, step, values, ranges))
    session.settle(step)
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
