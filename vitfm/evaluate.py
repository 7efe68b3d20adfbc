"""Evaluates a run after training, and adds what is found to the run."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections

from vitfm import config as config_lib
from vitfm import health, overrides, program, workdirs
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.bad_data import BadData
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.data import pipeline
from vitfm.evals import base as evaluation
from vitfm.metrics import files, progress, report
from vitfm.metrics.writers import Writer
from vitfm.objectives.base import Objective
from vitfm.parallel import mesh as meshes
from vitfm.program import Program
from vitfm.train_state import TrainState

_UNTRAINED = "untrained/"  # What metrics of a fresh initialisation begin with.


def evaluate(
    run: str,
    names: Sequence[str],
    given: Mapping[str, str | None],
    pairs: Sequence[tuple[str, str]],
    *,
    step: int | None = None,
    untrained: bool = False,
) -> dict[str, float]:
    """Runs evaluators on a checkpoint and writes rows, pictures, `result.json` and the report of the run.

    `result.json` gains what is measured of the step it describes, and of the untrained model.

    Args:
      run: the workdir.
      names: keys of the recipe's `evals`, or modules of `vitfm/evals`; none for all of the recipe.
      given: `train`, `test` and `label`, where known, for evaluators by module.
      pairs: (dotted key below `evals`, text), which override or add options.
      step: which checkpoint; the latest if None.
      untrained: freshly initialised parameters instead; metrics are named `untrained/...`.

    Returns:
      The metrics.

    Raises:
      UserError: no such run, checkpoint, evaluator or option.
    """
    directory = pathlib.Path(run).expanduser()
    config = files.read_json(directory / files.CONFIG)
    if config is None:
        raise ConfigError(f"There is no run in {run}: {directory / files.CONFIG} does not exist.")
    specs = specify(config, names, given, pairs)
    recipe = recipes.parse({**config, "evals": specs})
    if recipe.data.get("source") is None:
        subject = _imported(recipe, directory, untrained)
    else:
        subject = _trained(recipe, directory, step, untrained)
    unusable = BadData(directory)
    context = runs.eval_context(subject.data, subject.objective, subject.mesh, directory, unusable.unreadable)
    evaluators = {name: evaluation.make(name, spec, context) for name, spec in specs.items()}
    workdirs.use_compile_cache(directory, recipe.compile_cache)
    models, step, seconds = subject.models()
    unusable.begin(None)
    found: dict[str, float] = {}
    with Writer(directory) as writer:
        for number, (name, evaluator) in enumerate(evaluators.items(), 1):
            print(f"{name} ({number} of {len(evaluators)}) at step {step:,} ...", flush=True)
            begun = time.perf_counter()
            picture = functools.partial(writer.picture, step)
            values, ranges = evaluation.collected(_measured(evaluator, models), picture)
            told = {} if untrained else health.outside(step, values, ranges)
            for line in (*unusable.settle(step), *told.values()):
                print(line)
            if values:
                marked = values | {files.WARNING + name: values[name] for name in told}
                writer.scalars(step, marked, examples=step * recipe.batch_size, seconds=seconds)
            result = workdirs.result(directory)
            if result is not None and (untrained or step == result["step"]):
                writer.result({**result, **values})
            progress.table(f"{name}: {time.perf_counter() - begun:.1f} s", values)
            found |= values
    report.write(directory)
    print(f"Report: {directory / 'report.html'}")
    return found


@dataclasses.dataclass(frozen=True)
class _Subject:
    """What is evaluated.

    Attributes:
      data, objective, mesh: for the evaluators.
      models: () -> (what metrics are prefixed with -> parameters, their step, the seconds of training until then).
    """

    data: pipeline.Data
    objective: Objective
    mesh: jax.sharding.Mesh
    models: Callable[[], tuple[Mapping[str, Any], int, float]]


def _trained(recipe: recipes.Recipe, directory: pathlib.Path, step: int | None, untrained: bool) -> _Subject:
    """A run, with all of its state sharded as it was."""
    p = program.build(recipe)

    def models() -> tuple[Mapping[str, Any], int, float]:
        if untrained:
            return {_UNTRAINED: p.evaluated(p.init(jax.random.key(recipe.seed)))[""]}, 0, 0.0
        state, seconds = _restored(p, directory, step)
        return p.evaluated(state), int(state.step), seconds

    return _Subject(p.data, p.objective, p.mesh, models)


def _imported(recipe: recipes.Recipe, directory: pathlib.Path, untrained: bool) -> _Subject:
    """A model without a training set, and so without a program; every device holds all of it."""
    if untrained:
        raise ConfigError(f"The model in {directory} was imported; there is no untrained one to compare it with.")
    mesh = config_lib.call(meshes.make, recipe.mesh, where="mesh")
    data = recipes.make_data(recipe)
    objective = recipes.make_objective(recipe, data)

    def models() -> tuple[Mapping[str, Any], int, float]:
        run = runs.load(str(directory))
        return {"": jax.device_put(run.params, meshes.replicated(mesh))}, run.step, 0.0

    return _Subject(data, objective, mesh, models)


def specify(
    config: Mapping[str, Any], names: Sequence[str], given: Mapping[str, str | None], pairs: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """name -> evaluator, as a recipe's `evals` has it, without `every`.

    Args:
      config: the run's.
      names, given, pairs: see `evaluate`.

    Raises:
      ConfigError: a name that is neither a key nor a module, or an option that must be given.
    """
    known = ml_collections.ConfigDict(config.get("evals", {}))
    overrides.apply(known, pairs, "--evals")
    known = known.to_dict()
    names = list(names) or list(config.get("evals", {}))
    if not names:
        raise ConfigError("The run's recipe names no evaluators; name some, such as --eval=knn.")
    if plain := [name for name in names if not isinstance(known.get(name, {}), Mapping)]:
        raise ConfigError(f"--evals.{plain[0]} sets no option; write --evals.{plain[0]}.OPTION=VALUE.")
    idle = sorted({key.split(".")[0] for key, _ in pairs} - set(names))
    if idle:
        raise ConfigError(f"--evals.{idle[0]} sets options of {idle[0]!r}, which --eval={','.join(names)} leaves out.")
    complete = [name for name in names if "name" in known.get(name, {})]
    unread = [f"--{key}" for key, value in given.items() if value is not None]
    if unread and len(complete) == len(names):
        raise ConfigError(
            f"{' and '.join(unread)} would be read by nobody: {', '.join(names)} stand in the recipe with options of "
            f"their own. Name a module, such as --eval=knn, or set an option: --evals.{names[0]}.OPTION=VALUE."
        )
    specs = {}
    for name in names:
        spec = known.get(name, {})
        spec = spec if name in complete else {**_filled_in(name, config, given, spec), **spec}
        specs[name] = {key: value for key, value in spec.items() if key != "every"}
    return specs


def _filled_in(
    name: str, config: Mapping[str, Any], given: Mapping[str, str | None], spec: Mapping[str, Any]
) -> dict[str, Any]:
    """The options that an evaluator by module can take from the flags and from what the run was trained on."""
    try:
        module = config_lib.module("evals", name)
    except ConfigError as error:
        keys = ", ".join(config.get("evals", {})) or "none"
        raise ConfigError(f"--eval={name} is no key of the recipe's evals ({keys}). {error}") from None
    if not hasattr(module, "make"):
        raise ConfigError(f"--eval={name}: {module.__name__} is no evaluator.")
    data, test = config["data"], given["test"]
    label = given["label"] or (data.get("label") or {}).get("feature")
    values = {"train": given["train"] or data["source"], "test": test, "source": test, "label": label}
    values["prefix"] = _split(test) if test else None
    wanted = {key: value for key, value in values.items() if key in inspect.signature(module.make).parameters}
    for key, value in wanted.items():
        if value is None and key not in spec:
            flags = {
                "label": "--label=FEATURE, the feature with the class",
                "train": "--train=SOURCE, what to learn from",
            }
            flag = flags.get(key, "--test=SOURCE, what to measure on")
            raise ConfigError(f"--eval={name} needs {flag}.")
    return {"name": name, **{key: value for key, value in wanted.items() if value is not None}}


def _split(source: str) -> str | None:
    """What metrics are named after: the words behind the last colon that is in no slice, and those of a part."""
    whole, _, part = source.partition("#")
    split = re.split(r":(?![^\[]*\])", whole)[-1]
    bounds = re.sub(r"^:|(?<=%):", " to ", part)
    return re.sub(r"\W+", "_", f"{split} {bounds}").strip("_") or None


def _restored(p: Program, directory: pathlib.Path, step: int | None) -> tuple[TrainState, float]:
    """The state of a checkpoint, and the seconds of training until then."""
    with Checkpoints(directory / "checkpoints") as checkpoints:
        if checkpoints.latest() is None:
            raise ConfigError(f"The run in {directory} has saved no checkpoint yet; --random needs none.")
        state, meta = checkpoints.restore(p.shapes, step)
    return state, meta["seconds"]


def _measured(evaluator: evaluation.Evaluate, models: Mapping[str, Any]) -> Iterator[tuple[str, evaluation.Value]]:
    for prefix, params in models.items():
        for metric, value in evaluator(params):
            yield prefix + metric, value
