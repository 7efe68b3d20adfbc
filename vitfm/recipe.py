"""The top level of a recipe: its keys, their defaults, and the data and objective they describe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn

import jax
import jax.numpy as jnp
import ml_collections

from vitfm import config as config_lib
from vitfm.config import ConfigError, Duration
from vitfm.data import augment, pipeline
from vitfm.data.facts import Facts
from vitfm.interop import imported
from vitfm.objectives import base
from vitfm.parallel import sharding

Schedule = Callable[[Any], Any]  # step -> value


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a config file's `get_config` returns, checked.

    Attributes:
      objective: what is learned: a `vitfm.objectives` name and its options, the models among them.
      data: options of `vitfm.data.pipeline.make`.
      total: length of the run.
      batch_size: the global batch, over all devices.
      seed: of initialisation, order, draws on the host and draws on the device.
      accumulate: micro-batches that a global batch is split into to save memory.
      init: None, or options of `vitfm.checkpoint.warm_start.make`: the run whose parameters this one starts from.
      teacher: None, or options of `make_teacher`: `run`, the trained model that the objective learns from.
      optim: a `vitfm.optim` name, its options, and those common to all optimizers.
      ema_decay: weight of the past in a moving average of the parameters, evaluated beside them; None for none.
      dtype: of the matrix products; "auto" is bfloat16 on accelerators, float32 on CPUs.
      mesh: devices by axis, options of `vitfm.parallel.mesh.make`.
      sharding: (pattern, placement) rules for the leaves of the state, see `vitfm.parallel.sharding`.
      evals: name -> evaluator: a `vitfm.evals` name, its options, and `every`, a duration between evaluations; without
        it the evaluator runs at the end only.
      checkpoint: `every`, a duration; `keep`, how many of the latest; `keep_every`, a duration kept for good.
      log_every: duration between rows of metrics.
      profile: None, or `start` and `steps` of a profiler trace written into the workdir.
      compile_cache: folder of compiled programs, relative to the workdir; None for none.
    """

    objective: Mapping[str, Any]
    data: Mapping[str, Any]
    total: Duration
    batch_size: int
    seed: int = 0
    accumulate: int = 1
    init: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None
    optim: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"name": "adamw", "learning_rate": 1e-3})
    ema_decay: float | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    mesh: Mapping[str, int] = dataclasses.field(default_factory=dict)
    sharding: Sequence[Sequence[Any]] = sharding.DEFAULT_RULES
    evals: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    checkpoint: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    log_every: Duration = "1%"
    profile: Mapping[str, int] | None = None
    compile_cache: str | None = "compiled"

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"config.{name} = {getattr(self, name)} must be at least 1.")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"config.batch_size = {self.batch_size} does not divide into config.accumulate = {self.accumulate} "
                "micro-batches."
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"config.ema_decay = {self.ema_decay} must lie between 0 and 1, or be None.")

    @property
    def compute_dtype(self) -> jnp.dtype:
        if self.dtype == "auto":
            return jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        return jnp.dtype(self.dtype).type


# What may differ between two runs of one workdir: it does not change what is learned.
FREE_KEYS = ("log_every", "profile", "compile_cache", "checkpoint", "evals")
FREE_KEYS += ("data.threads", "data.workers", "data.max_bad")


def parse(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Recipe:
    """Checks every top-level key of a config.

    Raises:
      ConfigError: an unknown key, a missing one, a wrong type or an impossible value.
    """
    return config_lib.call(Recipe, plain(config), where="")


def plain(config: ml_collections.ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """A config as nested dicts."""
    return config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)


def with_classes(config: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """`config` with what was asked of the data, so that the model can be loaded where the data is not."""
    known = {
        "label": {"feature": facts.label, "classes": list(facts.classes), "multi_label": facts.multi_label},
        "captions": {"name": facts.caption},
    }
    data = config["data"]
    answers = {key: {**data[key], **own} for key, own in known.items() if data.get(key) is not None}
    return {**config, "data": {**data, **answers}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines `key: old -> new` for the keys that decide what is learned."""
    lines = config_lib.differences(old, new)
    return [line for line in lines if not line.startswith(FREE_KEYS)]


def make_data(recipe: Recipe) -> pipeline.Data:
    """The loaders and preprocessing of `recipe.data`."""
    return config_lib.call(pipeline.make, recipe.data, where="data")


def make_objective(
    recipe: Recipe, data: pipeline.Data, schedule: Callable[[Any, str], Schedule] | None = None
) -> base.Objective:
    """The objective of `recipe.objective`, for batches as `data` makes them.

    Args:
      recipe: with the objective's options.
      data: made from it.
      schedule: (number or schedule of the recipe, where) -> (step -> value); None where no step will be taken.
    """
    teacher = None
    if recipe.teacher is not None:
        teacher = config_lib.call(
            make_teacher, recipe.teacher, where="teacher", student=recipe, channels=data.facts.channels
        )
    return base.make(
        recipe.objective,
        teacher=teacher,
        data=data.facts,
        dtype=recipe.compute_dtype,
        schedule=schedule or (lambda spec, where: _no_step),
    )


def make_teacher(
    *,
    run: str,
    step: int | None = None,
    objective: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    teacher: Mapping[str, Any] | None = None,
    student: Recipe,
    channels: int,
) -> base.Teacher:
    """The trained model that an objective learns from; its parameters are read by `vitfm.teachers` when a run starts.

    Args:
      run: its workdir, or the folder of another library's model.
      step: which of a workdir's checkpoints; the latest when None.
      objective, data, teacher: of its own recipe. `vitfm.teachers.described` fills them in from `run` and a run's
        config.json has them, so that the student goes on, and loads, where `run` is gone.
      student: the recipe of who learns.
      channels: of the student's images.

    Raises:
      ConfigError: it is not described, or takes images that can't be made of the student's.
    """
    if objective is None or data is None:
        raise ConfigError(f"config.teacher: what {run!r} is has not been read; give its objective and data, too.")
    its = {"objective": objective, "data": data, "teacher": teacher, "total": 1, "batch_size": 1}
    its_recipe = config_lib.call(Recipe, {**its, "dtype": student.dtype}, where="teacher")
    its_data = make_data(its_recipe)
    made, facts = make_objective(its_recipe, its_data), its_data.facts
    if facts.channels != channels or "patches" in {*data, *student.data}:
        raise ConfigError(
            f"config.teacher takes images of {facts.channels} channels and the student of {channels}; both have to be "
            "the same, and neither may be padded patches."
        )

    def init(key: jax.Array) -> base.Params:
        variables = made.init(key, imported.example(facts))
        return made.evaluated(variables.params, variables.extra)

    adapt = augment.adapting(student.data.get("augment", {}), data.get("augment", {}), facts.image_size)
    return base.Teacher(init, made.predict, adapt, facts)


def _no_step(step: Any) -> NoReturn:
    raise ValueError("This objective was made to predict; it knows no length of a run, and so no schedules.")
