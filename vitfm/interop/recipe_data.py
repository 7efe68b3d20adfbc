"""What a model of another library does with images and texts, as the `data` of a recipe."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from vitfm.checkpoint.layout import some
from vitfm.interop import big_vision, folder, preprocessing, texts
from vitfm.interop import channels as channels_lib

_ASSUMED = (
    "{}: they are resized to {} pixels a side (bicubic) and normalised to [-1, 1]. If it was trained otherwise, {}."
)


def read(found: folder.Folder, objective: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The recipe's `data`: no source, but preprocessing, classes and the tokenizer."""
    spec = objective.get("model", objective.get("image", {}))
    if found.format == "timm":
        data = preprocessing.timm(found.config)
    elif found.format == "open_clip":
        data = preprocessing.open_clip(found.config)
    elif found.processor is not None:
        data = preprocessing.transformers(found.processor)
    elif found.config.get("model_type") == "flava_image_codebook":
        data = preprocessing.transformers({"image_processor_type": "FlavaImageProcessor"})
        notes.append(
            f"There is no {folder.PROCESSOR}: images are resized to {data['image_size']} pixels a side, as by "
            "transformers' FlavaImageProcessor for this model; a code is of 8 x 8 of them."
        )
    elif found.format == big_vision.FORMAT:
        data = preprocessing.assumed(spec["image_size"], *[[0.5] * channels_lib.of(found)] * 2)
        notes.append(
            _ASSUMED.format("A .npz says nothing of images", data["image_size"], "set config.data of the import")
        )
        if spec.get("position") == "sincos2d":
            notes.append("It stores no positions: big_vision's fixed ones are computed, posemb = 'sincos2d'.")
    else:
        data = preprocessing.assumed(spec.get("image_size", 224))
        none = f"There is no {folder.PROCESSOR}"
        notes.append(_ASSUMED.format(none, data["image_size"], "put that file beside the weights"))
    data = {"source": None, **data}
    if objective["name"] == "supervised":
        several = objective.get("loss") == "sigmoid"
        data["label"] = {"feature": "label", "classes": _classes(found.config, notes), "multi_label": several}
    if "text" in objective:
        data |= {"captions": {}, "tokenizer": texts.tokenizer(found, objective)}
    return data


def for_images(
    data: Mapping[str, Any],
    found: folder.Folder,
    bands: channels_lib.Bands | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recipe's data as the model was trained, and for the images that it is to see."""
    channels = channels_lib.of(found)
    if bands is None:
        own = channels_lib.normalised(data, channels, mean, std)
        return own, own
    own = channels_lib.normalised(data, channels, None, None)
    return own, channels_lib.for_bands(own, bands, mean, std)


def _classes(config: Mapping[str, Any], notes: list[str]) -> list[str]:
    """Names in the order of their indices; those that occur twice, as some of ImageNet's do, with their index."""
    named = config.get("id2label") or {}
    names = [str(named[key]) for key in sorted(named, key=int)]
    names = names or list(config.get("label_names") or map(str, range(config.get("num_classes", 2))))
    count = collections.Counter(names)
    if max(count.values()) > 1:
        twice = [name for name, times in count.items() if times > 1]
        notes.append(f"Classes that share a name have their index behind it: {some(twice)}.")
    return [f"{name} ({index})" if count[name] > 1 else name for index, name in enumerate(names)]
