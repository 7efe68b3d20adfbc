"""A trained model and its predict functions."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from vitfm import config as config_lib
from vitfm import recipe as recipes
from vitfm.checkpoint.manager import Checkpoints
from vitfm.data import bad, bands, pipeline, sources
from vitfm.data.inputs import Input
from vitfm.data.tokenizer import Tokenizer
from vitfm.evals import base
from vitfm.interop import imported
from vitfm.metrics import files
from vitfm.objectives import base as base_objective
from vitfm.objectives.base import Objective
from vitfm.parallel import compiler
from vitfm.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Run:
    """A run, finished or not: `run.embed_image(images)`, `run.embed_text(texts)`, each predict function by its name.

    Attributes:
      config: the recipe it was trained with.
      params: nested dict of arrays.
      step: the step they are from.
      predict: name -> function of what a user has: images (uint8 [B,H,W,C] of any size, or a list of such;
        of another type where `config.data.input` says so) or texts
        (a list of str), and of its options by their names; returns NumPy arrays, float32, but for codes and token ids,
        which are int32.
    """

    config: ml_collections.ConfigDict
    params: Mapping[str, Any]
    step: int
    predict: Mapping[str, Callable[..., np.ndarray]]
    tokenizer: Tokenizer | None = None

    def decode(self, ids: np.ndarray) -> list[str]:
        """Token ids [B,T] -> texts: `run.decode(run.caption(images))`.

        Raises:
          ConfigError: the run knows no texts.
        """
        if self.tokenizer is None:
            raise config_lib.ConfigError("This run has no tokenizer: it learned from images alone.")
        return [self.tokenizer.decode(row) for row in ids]

    def __getattr__(self, name: str) -> Callable[..., np.ndarray]:
        predict = self.__dict__.get("predict", {})
        if name not in predict:
            raise AttributeError(f"This run offers {', '.join(sorted(predict))}; not {name!r}.")
        return predict[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.predict]


def load(
    path: str,
    step: int | None = None,
    *,
    bands: Sequence[int | None] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Run:
    """Loads a run from its workdir, a model of transformers, timm or open_clip from its folder, or big_vision's `.npz`.

    Args:
      path: the workdir, the folder, or the file.
      step: which checkpoint of a workdir; the latest when None.
      bands, mean, std: of another library's model, for images of other channels, see `vitfm.interop.imported.read`.

    Raises:
      ConfigError: there is neither in `path`, its config.json is not what the checkpoint was trained with, or the model
        is one that vitfm lacks.
      CheckpointError: its checkpoint, or its weights, are damaged.
    """
    if imported.is_one(path):
        found = imported.read(path, bands=bands, mean=mean, std=std)
        return _made(found.config, recipes.parse(found.config), lambda name: found.state[name], 0)
    if (bands, mean, std) != (None, None, None):
        raise config_lib.ConfigError(f"{path}: bands, mean and std are of other libraries' models; a run has its own.")
    workdir = pathlib.Path(path).expanduser()
    config = files.read_json(workdir / files.CONFIG)
    if config is None:
        raise config_lib.ConfigError(f"There is no run in {path}: {workdir / files.CONFIG} does not exist.")
    recipe = recipes.parse(config)
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise config_lib.ConfigError(f"The run in {path} has saved no checkpoint yet.")
        _check_identity(config, checkpoints.meta(step).get("config"), workdir)
        return _made(config, recipe, lambda name: checkpoints.restore_subtree(name, step), step)


def _check_identity(config: Mapping[str, Any], trained: Mapping[str, Any] | None, workdir: pathlib.Path) -> None:
    """Activation, epsilon, norms, normalisation: no shape would tell that they are not those of the weights.

    Raises:
      ConfigError: config.json describes another model than the checkpoint does.
    """
    described = lambda config: {key: config.get(key, {}) for key in ("objective", "data")}
    lines = [] if trained is None else recipes.differences(described(trained), described(config))
    if lines:
        raise config_lib.ConfigError(
            f"{workdir / files.CONFIG} is not what this checkpoint was trained with; these keys differ (checkpoint -> "
            "file):\n  " + "\n  ".join(lines)
        )


def _made(config: Mapping[str, Any], recipe: recipes.Recipe, restore: Callable[[str], Any], step: int) -> Run:
    """The run of a recipe whose state is read by parts, "params" and "extra"."""
    data = recipes.make_data(recipe)
    objective = recipes.make_objective(recipe, data)
    params = restore("params")
    if objective.evaluated is not base_objective.as_trained:
        params = objective.evaluated(params, restore("extra"))
    predict = {name: _for_users(name, function, data, params) for name, function in objective.predict.items()}
    return Run(ml_collections.ConfigDict(config), params, step, predict, data.tokenizer)


def _for_users(
    name: str, function: Callable[..., jax.Array], data: pipeline.Data, params: Any, batch_size: int = 128
) -> Callable[..., np.ndarray]:
    """A predict function on images or texts as people have them, in batches of at most `batch_size`."""
    asked = compiler.options(meshes.make(devices=jax.devices()[:1]))
    plain = function if "text" in name else _on_pixels(function, data)
    jitted = functools.cache(lambda **options: jax.jit(functools.partial(plain, **options), compiler_options=asked))

    def prepare(items: Any) -> tuple[np.ndarray, ...]:
        return data.tokenizer(items) if "text" in name else (data.prepare_images(items),)

    @functools.wraps(function)
    def predict(items: Any, **options: Any) -> np.ndarray:
        items = _texts(name, items) if "text" in name else _images(name, items, data.spec)
        chunks = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
        found = np.concatenate([np.asarray(jitted(**options)(params, *prepare(chunk))) for chunk in chunks])
        return found if found.dtype == np.int32 else found.astype(np.float32)

    return predict


def _texts(name: str, texts: str | Sequence[str]) -> list[str]:
    """One text or several, as a list.

    Raises:
      ValueError: they are no texts.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} takes a list of one or more str, not {texts!r:.100}.")
    return texts


def _images(name: str, batch: np.ndarray | Sequence[np.ndarray], spec: Input) -> list[np.ndarray]:
    """The images of a batch, as a list.

    Raises:
      ValueError: they are no images, or a single one, which is no batch.
    """
    arrays = [np.asarray(image) for image in batch]
    allowed = (3, 4) if spec.channels == 3 and spec.dtype == "uint8" else (spec.channels,)
    bad = [x for x in arrays if x.dtype != spec.dtype or x.ndim != 3 or x.shape[-1] not in allowed or not x.size]
    if bad or not arrays:
        found = f"{bad[0].dtype} {list(bad[0].shape)} among them" if bad else "none"
        known = " or ".join(map(str, allowed))
        raise ValueError(f"{name} takes images, {spec.dtype} [B,H,W,{known}] or a list of [H,W,{known}]; got {found}.")
    return arrays


def _on_pixels(function: Callable[..., jax.Array], data: pipeline.Data) -> Callable[..., jax.Array]:
    """A predict function of normalised images, made one of images as they are read."""
    return lambda params, image, **options: function(params, data.preprocess_eval({"image": image})["image"], **options)


def eval_context(
    data: pipeline.Data,
    objective: Objective,
    mesh: jax.sharding.Mesh,
    directory: str | pathlib.Path = ".",
    unreadable: Callable[[str, bad.Found], None] | None = None,
) -> base.Context:
    """What evaluators work with: predict functions jitted over the mesh, and evaluation data placed on it.

    Images that can't be read are evaluated as zeros, and `unreadable` is told of them with the source's name; without
    it the first one raises.
    """

    @functools.lru_cache(maxsize=32)  # Probes ask for the same functions again and again.
    def on_devices(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        @functools.cache  # XLA is asked for its options at the first call, not before a recipe is known to make sense.
        def jitted(**options: Any) -> Callable[..., jax.Array]:
            placed = {"out_shardings": meshes.replicated(mesh), "compiler_options": compiler.options(mesh)}
            return jax.jit(meshes.under(mesh, functools.partial(function, **options)), **placed)

        return lambda whole, *arrays, **options: jitted(**options)(whole, *(_placed(x, mesh) for x in arrays))

    def batches(source: Sequence[Mapping[str, Any]], batch_size: int) -> Iterator[Mapping[str, jax.Array]]:
        noted = None if unreadable is None else functools.partial(unreadable, source.name)
        for batch in data.eval_batches(source, batch_size, noted):
            yield meshes.place_local(mesh, batch)

    pixels = lambda name, function: function if "text" in name else _on_pixels(function, data)
    return base.Context(
        {name: on_devices(pixels(name, function)) for name, function in objective.predict.items()},
        sources.make,
        batches,
        data.tokenizer,
        lambda example: _picture(example, data),
        mesh.size,
        classes=data.facts.classes,
        multi_label=data.facts.multi_label,
        to_pixels=data.to_pixels,
        decode=None if data.tokenizer is None else data.tokenizer.decode,
        on_devices=on_devices,
        mesh=mesh,
        directory=pathlib.Path(directory).expanduser(),
    )


def _picture(example: Mapping[str, Any], data: pipeline.Data) -> np.ndarray:
    """The image of an example, uint8 [H,W,3], for people; a black one where it can't be read."""
    try:
        return bands.picture(example[data.image_key], data.spec)
    except ValueError:
        return np.zeros((data.facts.image_size, data.facts.image_size, 3), np.uint8)


def _placed(array: Any, mesh: jax.sharding.Mesh) -> jax.Array:
    place = lambda leaf: leaf if isinstance(leaf, jax.Array) else meshes.place_global(mesh, leaf)
    return jax.tree.map(place, array)
