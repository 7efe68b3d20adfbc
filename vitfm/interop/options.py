"""What families share: reading another library's configuration, and a model's own options with their defaults."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from vitfm import config, models
from vitfm.config import ConfigError

# Options that change how fast or how well a model trains, never what it answers.
TRAINING = ("drop_path_rate", "patch_dropout", "channel_dropout", "attention", "platform", "remat", "scan", "dtype")

SIZES = {  # Ours, transformers' name, and its default for vision transformers.
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 16),
    "hidden_dim": ("hidden_size", 768),
    "depth": ("num_hidden_layers", 12),
    "num_heads": ("num_attention_heads", 12),
    "mlp_dim": ("intermediate_size", 3072),
}
ACTIVATIONS = {  # transformers' names and ours.
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
}


def activation(name: str, key: str = "hidden_act") -> str:
    """Our name of transformers' activation.

    Raises:
      ConfigError: we have none like it.
    """
    if name not in ACTIVATIONS:
        raise ConfigError(f"config.json: {key} = {name!r} is an activation that vitfm lacks; it has {_known()}.")
    return ACTIVATIONS[name]


def their_activation(name: str) -> str:
    """The inverse; of two names of transformers' the one that its newer models use."""
    inverse = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    if name not in inverse:
        raise ConfigError(f"objective: activation = {name!r} is none that this format has; it has {_known()}.")
    return inverse[name]


def _known() -> str:
    return ", ".join(ACTIVATIONS)


def square(value: Any, key: str) -> int:
    """A side in pixels, given as a number or as two equal ones.

    Raises:
      ConfigError: two that differ.
    """
    sides = list(value) if isinstance(value, Sequence) else [value]
    if len(set(sides)) != 1:
        raise ConfigError(f"config.json: {key} = {value!r} is not square, which vitfm's models and data need.")
    return int(sides[0])


def sizes(theirs: Mapping[str, Any], **defaults: int) -> dict[str, int]:
    """What transformers' vision transformers call alike; `defaults`, by those names, where a family has others."""
    found = {ours: theirs.get(key, defaults.get(key, default)) for ours, (key, default) in SIZES.items()}
    return found | {name: square(found[name], name) for name in ("image_size", "patch_size")}


def their_sizes(model: Mapping[str, Any]) -> dict[str, int]:
    """The inverse of `sizes`."""
    named = {**model, "mlp_dim": model["mlp_dim"] or 4 * model["hidden_dim"]}
    return {key: named[ours] for ours, (key, _) in SIZES.items()}


def expect(theirs: Mapping[str, Any], **wanted: Any) -> None:
    """Refuses a configuration with a key that is not what our model does.

    Args:
      theirs: the configuration; a key it lacks is as wanted.
      **wanted: key -> the only value that is known.

    Raises:
      ConfigError: naming key and value.
    """
    for key, value in wanted.items():
        if theirs.get(key, value) != value:
            raise ConfigError(f"config.json: {key} = {theirs[key]!r} is not supported; vitfm knows {key} = {value!r}.")


def objective(
    theirs: Mapping[str, Any], model: Mapping[str, Any], backbone: str, classifier: str | None = None
) -> dict[str, Any]:
    """The objective for the class that transformers' configuration names: a bare encoder, or one with a classifier.

    Args:
      theirs: the configuration.
      model: the encoder's spec.
      backbone, classifier: the classes that there are; None where transformers has no classifier.

    Raises:
      ConfigError: it is neither of these.
    """
    name = (theirs.get("architectures") or [backbone])[0]
    if name == backbone:
        return {"name": "backbone", "model": dict(model)}
    if name != classifier:
        known = backbone if classifier is None else f"{backbone}, {classifier}"
        raise ConfigError(f"config.json: architectures = [{name!r}] is not supported; vitfm knows {known}.")
    several = theirs.get("problem_type") == "multi_label_classification"
    return {"name": "supervised", "model": dict(model), "loss": "sigmoid" if several else "softmax"}


def classes(objective: Mapping[str, Any], num_classes: int, backbone: str, classifier: str) -> dict[str, Any]:
    """The inverse: which class it is, and how many labels it has; who knows their names adds them."""
    if objective["name"] != "supervised":
        return {"architectures": [backbone]}
    if objective.get("head_hidden_dim") is not None:
        raise ConfigError("config.objective.head_hidden_dim can't be exported: the format has linear heads only.")
    several = objective.get("loss") == "sigmoid"
    return {
        "architectures": [classifier],
        "id2label": {str(index): f"LABEL_{index}" for index in range(num_classes)},
        "label2id": {f"LABEL_{index}": index for index in range(num_classes)},
        "problem_type": "multi_label_classification" if several else "single_label_classification",
    }


def complete(spec: Mapping[str, Any], *, kind: str = "models", **defaults: Any) -> dict[str, Any]:
    """All options of a model, those that the spec leaves out with the defaults of its `make`; `name` stays.

    Args:
      spec: `name` and options.
      kind: the room of `name`.
      **defaults: the objective's own.
    """
    spec = models.sized({**defaults, **spec}, "objective.model") if kind == "models" else {**defaults, **spec}
    parameters = inspect.signature(config.module(kind, spec["name"]).make).parameters
    known = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    return {**known, **spec}


def only(
    spec: Mapping[str, Any], free: Sequence[str], *, where: str = "objective.model", **fixed: Any
) -> dict[str, Any]:
    """All options of a model, after refusing those that another library can't be told.

    Args:
      spec: `name` and options.
      free: options that the other library has, too.
      where: the path of the spec in the recipe, for messages.
      **fixed: options that it has with one value only; all others must be as by default.

    Raises:
      ConfigError: an option has another value.
    """
    model = complete(spec)
    wanted = {**complete({"name": spec["name"]}), **fixed}
    for key, value in model.items():
        if key not in free and key not in TRAINING and key in wanted and value != wanted[key]:
            raise ConfigError(
                f"config.{where}.{key} = {value!r} can't be exported in this format, which has {key} = {wanted[key]!r}."
            )
    return model
