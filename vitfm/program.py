"""A recipe made into functions, shapes and shardings: all that can be known before anything compiles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import config as config_lib
from vitfm import optim, train_state, train_step
from vitfm import recipe as recipes
from vitfm.config import ConfigError, Duration
from vitfm.data import bad, pipeline
from vitfm.data import loader as loading
from vitfm.objectives.base import Objective, holding
from vitfm.parallel import compiler, sharding
from vitfm.parallel import mesh as meshes
from vitfm.recipe import Recipe
from vitfm.train_state import TrainState


@dataclasses.dataclass(frozen=True)
class Program:
    """A recipe made into functions, shapes and shardings; nothing is compiled yet and no state exists.

    Attributes:
      recipe: what it was made from.
      data, objective: its parts.
      loader: the training stream of this process.
      mesh: the devices.
      total: steps of the run.
      to_steps: (duration, where) -> steps.
      gradients: (params, extra, batch, keys, step) -> (loss, aux, gradients), what a step differentiates.
      shapes: of the state, a TrainState of `jax.ShapeDtypeStruct` with shardings.
      init: key -> TrainState, born sharded.
      step: (state, batch) -> (state, metrics); the state is donated.
    """

    recipe: Recipe
    data: pipeline.Data
    objective: Objective
    loader: loading.TrainLoader
    mesh: jax.sharding.Mesh
    total: int
    to_steps: Callable[[Duration, str], int]
    gradients: Callable[..., train_step.Gradients]
    shapes: TrainState
    init: Callable[[jax.Array], TrainState]
    step: Callable[[TrainState, Any], tuple[TrainState, Mapping[str, jax.Array]]]

    def batches(self, first: int) -> Iterator[tuple[Any, list[tuple[int, bad.Found]]]]:
        """Global batches on the devices from step `first` on, each with the bad examples among this process's rows.

        Their transfer is begun and not waited for: it takes place beside the steps in flight.
        """
        for step, rows in enumerate(self.loader.batches(first), first):
            replaced = self.loader.replaced(step, rows.pop(loading.REPLACED))
            yield meshes.place_local(self.mesh, rows), replaced

    def compiled(self, batch: Any) -> jax.stages.Compiled:
        """`step` for batches like this one, as the devices run it best."""
        return self.step.lower(self.shapes, batch).compile(compiler.options(self.mesh))

    def evaluated(self, state: TrainState) -> dict[str, Any]:
        """What metrics are prefixed with -> the parameters they are of: those trained and their moving average."""
        models = {"": state.params, "ema/": state.ema}
        evaluated = lambda params: self.objective.evaluated(params, state.extra)
        return {prefix: evaluated(params) for prefix, params in models.items() if params is not None}


def build(recipe: Recipe, devices: Sequence[jax.Device] | None = None) -> Program:
    """Everything that can be wrong with a recipe is found here, before anything compiles.

    Args:
      recipe: what is to be run.
      devices: that it is compiled for; None for those that are there.

    Raises:
      ConfigError: names, types, sizes or durations that make no sense.
    """
    mesh = config_lib.call(meshes.make, recipe.mesh, where="mesh", devices=devices)
    meshes.check_batch(recipe.batch_size, recipe.accumulate, mesh.size)
    data = recipes.make_data(recipe)
    loader = data.train_loader(batch_size=recipe.batch_size, seed=recipe.seed)
    total, to_steps = _durations(recipe, loader.epoch)
    schedule = lambda spec, where: optim.schedules.value(spec, total=total, to_steps=to_steps, where=where)
    objective = recipes.make_objective(recipe, data, schedule)

    batch = _one_example(loader, data)
    variables = jax.eval_shape(lambda key: objective.init(key, batch), jax.random.key(0))
    optimizer, learning_rate = optim.make(recipe.optim, variables.params, total=total, to_steps=to_steps)
    create = functools.partial(train_state.create, optimizer=optimizer, ema=recipe.ema_decay is not None)
    shapes = jax.eval_shape(create, variables)
    shardings = sharding.shardings(shapes, mesh, [tuple(rule) for rule in recipe.sharding])
    shapes = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)
    learned = holding(objective, optim.still(recipe.optim, variables.params))
    gradients = train_step.gradients_of(learned, data.preprocess_train, recipe.accumulate, data.mix)
    step = train_step.make(gradients, objective, optimizer, learning_rate, seed=recipe.seed, ema_decay=recipe.ema_decay)
    return Program(
        recipe,
        data,
        objective,
        loader,
        mesh,
        total,
        to_steps,
        gradients,
        shapes,
        jax.jit(meshes.under(mesh, lambda key: create(objective.init(key, batch))), out_shardings=shardings),
        jax.jit(meshes.under(mesh, step), donate_argnums=0, out_shardings=(shardings, meshes.replicated(mesh))),
    )


def _durations(recipe: Recipe, examples: int) -> tuple[int, Callable[[Duration, str], int]]:
    """Steps of the run, and how any other duration of the recipe becomes steps."""
    lengths = {"batch_size": recipe.batch_size, "epoch_examples": examples}
    total = config_lib.steps(recipe.total, where="total", **lengths)
    if total < 1:
        raise ConfigError(f"config.total = {recipe.total!r} is no step at all.")
    return total, lambda duration, where: config_lib.steps(duration, where=where, total=total, **lengths)


class _Batch(dict):
    """A batch that says what it has when it is asked for something else."""

    def __missing__(self, column: str) -> None:
        raise ConfigError(f"The objective needs {column!r} in a batch; config.data makes {', '.join(sorted(self))}.")


def _one_example(loader: loading.TrainLoader, data: pipeline.Data) -> _Batch:
    """Zeros in the shape of a preprocessed batch of one, which `init` needs; it reads one, so bad data shows here."""
    example = {key: value for key, value in loader.example(0).items() if key != loading.REPLACED}
    batch = jax.tree.map(lambda value: jax.ShapeDtypeStruct((1, *np.shape(value)), value.dtype), example)
    mix = data.mix or (lambda batch, keys: batch)
    preprocess = lambda batch, keys: mix(data.preprocess_train(batch, keys), keys)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    processed = jax.eval_shape(preprocess, batch, keys)
    return _Batch(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), dict(processed)))
