"""Runs, and models of other libraries, written as folders of transformers, timm or open_clip."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import jax.numpy as jnp
import ml_collections
import ml_dtypes
import numpy as np

from vitfm import config as config_lib
from vitfm.checkpoint import layout
from vitfm.checkpoint.manager import Checkpoints
from vitfm.config import ConfigError
from vitfm.data import pipeline
from vitfm.data.facts import Facts
from vitfm.data.tokenizer import Tokenizer
from vitfm.interop import channels as channels_lib
from vitfm.interop import encoders, folder, imported, preprocessing, published, texts, weights
from vitfm.metrics import files
from vitfm.objectives import base

Format = Literal["transformers", "timm", "open_clip"]
FORMATS = ("transformers", "timm", "open_clip")
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
_FAMILIES = {  # Our model -> the families that may know it, in the order in which they are asked.
    "vit": (
        "vit",
        "vit_mae",
        "deit",
        "dinov2",
        "dinov2_with_registers",
        "dinov3_vit",
        "beit",
        "siglip_vision_model",
        "siglip2_vision_model",
        "siglip",
        "siglip2",
        "aimv2_vision_model",
    ),
    "convnext": ("convnext", "convnextv2", "dinov3_convnext"),
    "resnet": ("resnet",),
    "bit": ("bit",),
    "swin": ("swin", "swinv2"),
    "dvae": ("flava_image_codebook",),
}
_OBJECTIVES = {
    "clip": ("clip", "aimv2"),
    "siglip": ("siglip", "siglip2"),
    "coca": ("coca",),
    "mae": ("vit_mae",),
    "dvae": ("flava_image_codebook",),
}


_HIGHEST_ID = (
    "embeddings of texts are others there: where the end of a text has the id 2, as in this tokenizer, transformers' "
    "CLIP reads the text at its highest id; open_clip, and vitfm.load of this folder, read it where this run does"
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
      path: the folder.
      family: as which family.
      tensors: name -> shape.
      notes: what a person should know: what was left out, what the other library does otherwise.
    """

    path: pathlib.Path
    family: str
    tensors: Mapping[str, tuple[int, ...]]
    notes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class _Model:
    """What is exported: a recipe's objective and data, and the arrays."""

    objective: Mapping[str, Any]
    data: Mapping[str, Any]
    facts: Facts
    tokenizer: Tokenizer | None
    state: Mapping[str, Any]
    family: str | None = None


def write(
    run: str,
    path: str,
    *,
    format: Format = "transformers",
    family: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    step: int | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Exported:
    """Writes a run as another library's folder, which that library opens without vitfm.

    Args:
      run: a workdir, or a folder of another library, which is translated.
      path: the folder to write.
      format: whose.
      family: as which of `vitfm/interop/families`; None takes the first that knows all of the model.
      dtype: of the arrays.
      step: which checkpoint; the latest when None.
      shard_bytes: most bytes of one file.

    Raises:
      ConfigError: there is no run, or the other library has nothing like its model; the option is named.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format={format}: {config_lib.nearest(format, FORMATS)}")
    model = _imported(run) if imported.is_one(run) else _trained(run, step)
    preprocessed, notes = preprocessing.of_recipe(model.data)
    name, objective, theirs = _described(model, format, family, notes)
    module = _module(name)
    rows = imported.function(module, format, "rows")(objective)
    state = _state_of(objective, model.state)
    tensors = weights.to_theirs(rows, state) | dict(getattr(module, "computed", lambda objective: {})(objective))
    if format == "transformers":
        tensors = published.joined(name, {published.on_disk(name, key): tensor for key, tensor in tensors.items()})
    notes += getattr(module, "NOTES", ())
    tensors = {key: _cast(tensor, dtype) for key, tensor in tensors.items()}
    configs = _configs(format, theirs, model, preprocessed, dtype)
    if "text" in objective:
        if format == "transformers" and name == "clip" and model.tokenizer.eos_id == 2:
            notes.append(_HIGHEST_ID)
        configs["tokenizer.json"] = model.tokenizer.to_json()
    folder.write(pathlib.Path(path).expanduser(), configs, tensors, shard_bytes=shard_bytes)
    return Exported(pathlib.Path(path), name, {key: tensor.shape for key, tensor in tensors.items()}, notes)


def _imported(path: str) -> _Model:
    found = imported.read(path)
    data = config_lib.call(pipeline.make, found.config["data"], where="data")
    described = (found.config["objective"], found.config["data"], data.facts, data.tokenizer)
    return _Model(*described, found.state, found.lineage["family"])


def _trained(run: str, step: int | None) -> _Model:
    """The parameters by which a run is evaluated, and its other state."""
    workdir = pathlib.Path(run).expanduser()
    config = files.read_json(workdir / files.CONFIG)
    if config is None:
        raise ConfigError(f"There is no run in {run}: {workdir / files.CONFIG} does not exist.")
    data = config_lib.call(pipeline.make, config["data"], where="data")
    objective = base.make(
        config["objective"], data=data.facts, dtype=jnp.float32, schedule=lambda spec, where: lambda step: 0.0
    )
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise ConfigError(f"The run in {run} has saved no checkpoint yet.")
        params = checkpoints.restore_subtree("params", step)
        extra, lineage = _extra(checkpoints, step), checkpoints.meta(step).get("lineage") or {}
    evaluated = objective.evaluated(params, extra)
    if "params" in evaluated.get("encoder", {}):  # With statistics, which the rows have in `extra`.
        evaluated = params
    state = {"params": _unstacked(evaluated), "extra": extra}
    family = lineage.get("family") if "format" in lineage else None
    return _Model(config["objective"], config["data"], data.facts, data.tokenizer, state, family)


def _extra(checkpoints: Checkpoints, step: int) -> Any:
    try:
        return checkpoints.restore_subtree("extra", step)
    except layout.CheckpointError as error:
        if "holds nothing at" in str(error):
            return {}
        raise


def _unstacked(params: Mapping[str, Any]) -> dict[str, Any]:
    """Stacked blocks, `blocks/...` [depth, ...], as `block_00/...`, which the rows name."""
    found: dict[str, Any] = {}
    for name, array in imported.leaves(params).items():
        head, middle, tail = name.partition("transformer/blocks/")
        if not middle:
            found[name] = array
            continue
        found |= {f"{head}transformer/block_{layer:02d}/{tail}": part for layer, part in enumerate(array)}
    return layout.nest(found)


def _described(
    model: _Model, format: Format, family: str | None, notes: list[str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The family, the objective as it knows it, and its configuration.

    Raises:
      ConfigError: no family knows the model, with what the first of them says.
    """
    refused: list[str] = []
    for objective in _candidates(model):
        encoder = objective.get("model") or objective["image"]
        names = _OBJECTIVES.get(objective["name"], _FAMILIES.get(encoder["name"], ()))
        names = [name for name in dict.fromkeys((model.family, *names)) if name and family in (None, name)]
        for name in names:
            write_config = _module(name) and imported.function(_module(name), format, "write")
            if not write_config:
                continue
            if getattr(_module(name), "PATCHES", False) != (model.data.get("patches") is not None):
                refused.append(f"{name}: its images are not prepared as config.data.patches has them here")
                continue
            try:
                theirs = write_config(objective, len(model.facts.classes))
            except (ConfigError, KeyError) as error:
                refused.append(f"{name}: {error}")
                continue
            if objective["name"] == "backbone" != model.objective["name"]:
                notes.append(
                    f"only the encoder is written; {format} has nothing like a whole {model.objective['name']}"
                )
            if encoder.get("mask_token") is False and "mask_token" in _encoder(model.state["params"]):
                notes.append(f"the mask token is left out, which {format} has no place for, and no answer depends on")
            return name, objective, theirs
    reasons = "".join(f"\n  {line}" for line in refused) or f" vitfm writes nothing like it in the format of {format}."
    raise ConfigError(f"This model can't be exported to {format}{f' as {family}' if family else ''}:{reasons}")


def _candidates(model: _Model) -> Iterator[dict[str, Any]]:
    """The objective with all that its encoder is, then its encoder alone; each then without a mask token."""
    objective = ml_collections.ConfigDict(model.objective).to_dict()
    if objective["name"] == "deit":  # What it was taught by is no part of it: it is a classifier.
        objective = {"name": "supervised", "model": objective["model"]}
    key = "image" if "image" in objective else "model"
    defaults = {"name": "vit", "image_size": model.facts.image_size, **encoders.DEFAULTS.get(objective["name"], {})}
    encoder = {**defaults, **objective.get(key, {}), "scan": False}
    forms = [encoder, {**encoder, "mask_token": False}] if encoder.get("mask_token") else [encoder]
    if objective["name"] in ("supervised", "backbone", *_OBJECTIVES):
        yield from ({**objective, key: encoder} for encoder in forms)
    if objective["name"] != "backbone":
        yield from ({"name": "backbone", "model": encoder} for encoder in forms)


def _state_of(objective: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a state that an objective has."""
    params = state["params"]
    extra = {name: leaves for name, leaves in state["extra"].items() if name != base.FROZEN}
    encoder = _encoder(params)
    if objective.get("model", {}).get("mask_token") is False:
        encoder = {name: array for name, array in encoder.items() if name != "mask_token"}
    if objective["name"] == "dvae":  # The decoder has no place there.
        return {"params": {name: params[name] for name in ("encoder", "head")}, "extra": extra}
    if objective["name"] != "backbone":
        return {"params": {**params, "encoder": encoder} if "encoder" in params else params, "extra": extra}
    return {"params": {"encoder": encoder}, "extra": {k: v for k, v in extra.items() if k == "batch_stats"}}


def _encoder(params: Mapping[str, Any]) -> Mapping[str, Any]:
    return params["encoder"] if "encoder" in params else params["image"]["tower"]


def _module(name: str) -> ModuleType | None:
    full = f"vitfm.interop.families.{name}"
    if not re.fullmatch(r"[a-z0-9_]+", name) or importlib.util.find_spec(full) is None:
        return None
    return importlib.import_module(full)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(DTYPES[dtype]) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _configs(
    format: Format, theirs: dict[str, Any], model: _Model, data: Mapping[str, Any], dtype: str
) -> dict[str, dict[str, Any]]:
    """File name -> JSON."""
    names, channels = list(model.facts.classes), model.facts.channels
    theirs = texts.with_texts(channels_lib.written(theirs, channels), model.facts, texts.special(model.tokenizer))
    if format == "open_clip":
        return {folder.OPEN_CLIP: {**theirs, "preprocess_cfg": preprocessing.to_open_clip(data)}}
    if format == "timm":
        labels = {"label_names": names} if theirs.get("num_classes") else {}
        return {folder.CONFIG: {**theirs, **labels, "pretrained_cfg": preprocessing.to_timm(data, channels)}}
    if "id2label" in theirs:
        theirs = {**theirs, "id2label": {str(i): name for i, name in enumerate(names)}}
        theirs["label2id"] = {name: i for i, name in enumerate(names)}
    kind = "Flava" if model.objective["name"] == "dvae" else "Bit"
    return {folder.CONFIG: {**theirs, "dtype": dtype}, folder.PROCESSOR: preprocessing.to_transformers(data, kind)}
