"""Models of other libraries, read: a recipe that describes them, and their weights as ours."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import pathlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitfm import config as config_lib
from vitfm import tree as trees
from vitfm.checkpoint import integrity
from vitfm.checkpoint.layout import CheckpointError
from vitfm.config import ConfigError
from vitfm.data import pipeline
from vitfm.data.facts import Facts
from vitfm.interop import big_vision, families, folder, published, recipe_data, weights
from vitfm.interop import channels as channels_lib
from vitfm.objectives import base

TIMM = (  # The first pattern that an architecture of timm's matches, and its family.
    (r"dinov2.*reg|reg.*dinov2", "dinov2_with_registers"),
    (r"dinov2", "dinov2"),
    (r"dinov3.*convnext|convnext.*dinov3", "dinov3_convnext"),
    (r"dinov3", "dinov3_vit"),
    (r"siglip", "siglip_vision_model"),
    (r"aimv2", "aimv2_vision_model"),
    (r"^beit", "beit"),
    (r"^deit", "deit"),
    (r"^convnextv2", "convnextv2"),
    (r"^convnext", "convnext"),
    (r"^resnetv2", "bit"),
    (r"^resnet", "resnet"),
    (r"^swinv2", "swinv2"),
    (r"^swin", "swin"),
    (r"^vit", "vit"),
)


@dataclasses.dataclass(frozen=True)
class Imported:
    """A model of another library.

    Attributes:
      config: a recipe: its objective and data, as vitfm stores them.
      state: {"params": ..., "extra": ...}, nested dicts of NumPy arrays.
      lineage: where it comes from: `run`, `format`, `family`, `hash` of the tensors, `taken`, and those `unused`.
      notes: what a person should know of how it was read.
    """

    config: Mapping[str, Any]
    state: Mapping[str, Any]
    lineage: Mapping[str, Any]
    notes: Sequence[str]


def is_one(path: str | pathlib.Path) -> bool:
    """Whether there is a model of another library, a folder or a `.npz` file, rather than a run."""
    found = pathlib.Path(path).expanduser()
    return folder.is_one(found) or big_vision.is_one(found)


def read(
    path: str | pathlib.Path,
    *,
    bands: channels_lib.Bands | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Imported:
    """Reads a folder of transformers, timm or open_clip, or a `.npz` file of big_vision.

    Args:
      path: of the folder or the file.
      bands: for images of other channels than it was trained on: for each channel the number of the one that it stands
        for, or None for the mean of all, see `vitfm.models.stem.inflate`. After RGB, (0, 1, 2, 0) has red twice and
        (2, 1, 0, None) is blue, green, red and infrared. None for the images that it was trained on.
      mean, std: of these images' channels, for values in [0, 1]; None takes those of the channels they stand for.

    Raises:
      ConfigError: its configuration asks for what vitfm lacks, or for what no one has, by key and value.
      CheckpointError: its weights are damaged, or not those that the configuration describes, by file and name.
    """
    location = pathlib.Path(path).expanduser()
    found = big_vision.read(location) if big_vision.is_one(location) else folder.read(location)
    name = family(found)
    module = _module(name, found)
    notes: list[str] = []
    with _naming(found.path):
        objective = _objective(module, found)
        own, data = recipe_data.for_images(recipe_data.read(found, objective, notes), found, bands, mean, std)
    config = {"objective": objective, "data": data, "total": 1, "batch_size": 1}
    facts = lambda data: config_lib.call(pipeline.make, data, where="data").facts
    like = shapes(objective, facts(own))
    rows = function(module, found.format, "rows")(objective)
    tensors, unused = _used(found, name, module, rows, objective)
    state = weights.to_ours(rows, tensors, like, where=str(_weights_file(found)))
    if bands is not None:
        with _naming(found.path):
            state = channels_lib.inflated(state, shapes(objective, facts(data)), channels_lib.of(found), bands)
    lineage = {
        "run": str(path),
        "step": 0,
        "format": found.format,
        "family": name,
        "hash": content(tensors),
        "taken": sorted(tensors),
        "unused": unused,
        **({"bands": list(bands)} if bands is not None else {}),
    }
    return Imported(config, state, lineage, notes)


def shapes(objective: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """Of the parameters and the other state of an objective: {"params": ..., "extra": ...}."""
    made = base.make(objective, data=facts, dtype=jnp.float32, schedule=lambda spec, where: lambda step: 0.0)
    variables = jax.eval_shape(lambda: made.init(jax.random.key(0), example(facts)))
    return {"params": variables.params, "extra": variables.extra}


def example(facts: Facts) -> dict[str, Any]:
    """A batch of one with all that an objective may be initialised with: image, two views, text."""
    image = jnp.zeros((1, facts.image_size, facts.image_size, facts.channels))
    text = jnp.zeros((1, facts.text_length or 1), jnp.int32)
    views = {"global": jnp.stack([image, image], axis=1)}
    return {"image": image, "views": views, "text": text, "text_mask": text == 0}


def content(tensors: Mapping[str, np.ndarray]) -> str:
    """A hash of all tensors that does not depend on how they are sharded."""
    hashes = integrity.hashes({name: np.asarray(tensors[name]) for name in sorted(tensors)})
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def family(found: folder.Folder) -> str:
    """The file in `vitfm/interop/families` that reads this folder.

    Raises:
      ConfigError: there is none.
    """
    known = [m.name for m in pkgutil.iter_modules(families.__path__) if not m.name.startswith("_")]
    if found.format == "transformers":
        name = str(found.config["model_type"]).replace("-", "_")
        if name not in known:
            raise ConfigError(
                f"{found.path / folder.CONFIG}: model_type = {found.config['model_type']!r} is no family that vitfm "
                f"reads: {config_lib.nearest(name, known)}"
            )
        return name
    if found.format == big_vision.FORMAT:
        return "siglip" if any(name.startswith("txt/") for name in found.tensors) else "vit"
    if found.format == "open_clip" and "multimodal_cfg" in found.config.get("model_cfg", {}):
        return "coca"
    if found.format == "open_clip":
        return "siglip" if "init_logit_bias" in found.config.get("model_cfg", {}) else "clip"
    architecture = f"{found.config['architecture']}.{found.config.get('pretrained_cfg', {}).get('tag') or ''}"
    name = next((name for pattern, name in TIMM if re.search(pattern, architecture) and name in known), None)
    if name is None:
        raise ConfigError(
            f"{found.path / folder.CONFIG}: architecture = {architecture!r} is none of timm's that vitfm reads; it "
            f"knows those called {', '.join(sorted(name for _, name in TIMM if name in known))}."
        )
    return name


def _module(name: str, found: folder.Folder) -> ModuleType:
    module = importlib.import_module(f"vitfm.interop.families.{name}")
    if function(module, found.format, "read") is None:
        raise ConfigError(f"{found.path}: vitfm reads {name} in other formats, not yet in that of {found.format}.")
    return module


def function(module: ModuleType, format: str, name: str) -> Any:
    """`read`, `write` or `rows` of a family in a format; None where it lacks it."""
    return getattr(module, name if format == "transformers" else f"{format}_{name}", None)


class _naming:
    """Puts the folder's path before messages of a family, which knows keys only."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ConfigError):
            raise ConfigError(f"{self.path}: {error}") from None
        if isinstance(error, KeyError):
            raise ConfigError(f"{self.path}: {error.args[0]} is missing.") from None


def _objective(module: ModuleType, found: folder.Folder) -> dict[str, Any]:
    if found.format in ("timm", big_vision.FORMAT):
        return function(module, found.format, "read")(found.config, found.tensors.shapes)
    return function(module, found.format, "read")(found.config)


def _used(
    found: folder.Folder, name: str, module: ModuleType, rows: Sequence[weights.Row], objective: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """The tensors that the rows name, by these names, and reason -> those that nothing we offer depends on.

    Raises:
      CheckpointError: a tensor that follows from the configuration is another one.
    """
    computed = dict(getattr(module, "computed", lambda objective: {})(objective))
    patterns = getattr(module, "UNUSED", ())
    wanted = [their for _, names, _ in rows for their in weights.listed(names)]
    known = published.in_memory(name if found.format == "transformers" else "", [*wanted, *computed])
    used: dict[str, np.ndarray] = {}
    unused: dict[str, list[str]] = {}
    for stored, tensor in _split(found, name):
        reason = next((reason for pattern, reason in patterns if re.search(pattern, stored)), None)
        here = known.get(stored, stored)
        if here in computed:
            _check_computed(stored, tensor(), computed[here], _weights_file(found))
        elif here not in known.values() and reason is not None:
            unused.setdefault(reason, []).append(stored)
        elif here in used:
            raise CheckpointError(f"{_weights_file(found)} holds {here} twice, under two names.")
        else:
            used[here] = tensor()
    return used, unused


def _split(found: folder.Folder, name: str) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
    """(name, how to read it) of each tensor, those that are several in memory as several."""
    for stored in found.tensors:
        parts = published.parts(name, stored) if found.format == "transformers" else ()
        for index, part in enumerate(parts):
            yield (
                part,
                functools.partial(lambda key, i, n: np.split(found.tensors[key], n)[i], stored, index, len(parts)),
            )
        if not parts:
            yield stored, functools.partial(found.tensors.__getitem__, stored)


def _check_computed(name: str, array: np.ndarray, computed: np.ndarray, where: pathlib.Path) -> None:
    """Refuses a tensor that we don't take but compute, and that is another one."""
    if array.shape != computed.shape or not np.allclose(np.float32(array), np.float32(computed), rtol=1e-3, atol=1e-3):
        raise CheckpointError(
            f"{where}: {name} is not what follows from the configuration, from which vitfm computes it."
        )


def _weights_file(found: folder.Folder) -> pathlib.Path:
    files = sorted({str(file) for file in found.tensors.files.values()})
    return pathlib.Path(files[0]) if len(files) == 1 else found.path


def leaves_of(path: str) -> dict[str, np.ndarray] | None:
    """Every array of a model of another library by its full name in our state; None where there is none."""
    return leaves(read(path).state) if is_one(path) else None


def leaves(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every array of a state by its full name."""
    return dict(trees.named_leaves(state))
