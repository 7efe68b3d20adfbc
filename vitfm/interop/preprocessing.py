"""How images reach a model: other libraries' preprocessing as the `data` part of a recipe, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import inputs
from vitfm.interop import options

_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # In the order of Pillow's numbers.
_CONVNEXT_WHOLE = 384  # ConvNeXt's processor crops below this side, and squeezes the whole image from it on.
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
# What transformers' processors take where preprocessor_config.json does not say: Pillow's filter, mean and deviation,
# and whether a `size` that is a single number means a square.
_PROCESSORS = {
    "ViT": (2, (_HALF, _HALF), True),
    "DeiT": (3, (_HALF, _HALF), True),
    "Beit": (3, (_HALF, _HALF), True),
    "ConvNext": (3, (_HALF, _HALF), False),
    "CLIP": (3, _CLIP, False),
    "Siglip": (3, (_HALF, _HALF), True),
    "Bit": (3, _CLIP, False),
    "DINOv3ViT": (2, _IMAGENET, True),
    "Siglip2": (2, (_HALF, _HALF), True),
    "Flava": (1, ((0.0,) * 3, (1.0,) * 3), True),
}
_CODEBOOK = "codebook_"  # Options of FLAVA's processor that begin so are those of its tokenizer's images.


def transformers(processor: Mapping[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json -> `image_size`, `augment`, and `evaluation` or `patches` of a recipe's data.

    Raises:
      ConfigError: a processor or an option that vitfm lacks, by name.
    """
    name = processor.get("image_processor_type") or processor.get("feature_extractor_type") or "ViTImageProcessor"
    kind = name.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in _PROCESSORS:
        known = ", ".join(f"{known}ImageProcessor" for known in _PROCESSORS)
        raise ConfigError(f"preprocessor_config.json: image_processor_type = {name!r} is not known; there are {known}.")
    if kind == "Flava":
        processor = _of_codebook(processor)
    for key in ("do_resize", "do_rescale"):
        if not processor.get(key, True):
            raise ConfigError(
                f"preprocessor_config.json: {key} = False is not supported; vitfm's models need one size."
            )
    if abs(processor.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9 or processor.get("do_pad"):
        raise ConfigError(
            f"preprocessor_config.json: rescale_factor = {processor.get('rescale_factor')}, do_pad = "
            f"{processor.get('do_pad')} is not supported; vitfm knows 1/255 without padding."
        )
    number, normalisation, square = _PROCESSORS[kind]
    mean, std = (
        processor.get(key) or value for key, value in zip(("image_mean", "image_std"), normalisation, strict=True)
    )
    mean, std = (mean, std) if processor.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)
    resampling = processor.get("resample", number)
    if kind == "Siglip2":
        patch_size, count = processor.get("patch_size", 16), processor.get("max_num_patches", 256)
        cut = {"patch_size": patch_size, "max_patches": count, "interpolation": _FILTERS[resampling]}
        augment = {"mean": list(mean), "std": list(std)}
        return {"image_size": math.isqrt(count) * patch_size, "crop": None, "patches": cut, "augment": augment}
    size = _transformers_size(kind, processor, square)
    return _data(**size, interpolation=_FILTERS[resampling], centre="floor", mean=mean, std=std)


def _of_codebook(processor: Mapping[str, Any]) -> dict[str, Any]:
    """What FLAVA's processor does with the images of its tokenizer, as options that others have, too.

    Raises:
      ConfigError: pixels are not in [0, 1], mapped to [0.1, 0.9], which `vitfm.objectives.dvae` does itself.
    """
    wanted = {"do_map_pixels": True, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    own = {"size": 112, "crop_size": {"height": 112, "width": 112}, "do_center_crop": True}
    own |= {key.removeprefix(_CODEBOOK): value for key, value in processor.items() if key.startswith(_CODEBOOK)}
    for key, value in wanted.items():
        found = own.get(key, value)
        if found != value if key == "do_map_pixels" else set(map(float, found)) != set(value):
            raise ConfigError(
                f"preprocessor_config.json: {_CODEBOOK}{key} = {found!r} is not supported; vitfm's dvae has {value!r}."
            )
    return own


def _transformers_size(kind: str, processor: Mapping[str, Any], square: bool) -> dict[str, Any]:
    """`size`, `resize` and `crop` of `vitfm.data.evaluation`."""
    given = processor.get("size", 224)
    given = given if isinstance(given, Mapping) else ({"height": given} if square else {"shortest_edge": given})
    unknown = given.keys() - {"height", "width", "shortest_edge"}
    if unknown:
        raise ConfigError(
            f"preprocessor_config.json: size = {dict(given)!r} is not supported; {min(unknown)} is unknown."
        )
    exact = "shortest_edge" not in given
    sides = [given["height"], given.get("width", given["height"])] if exact else given["shortest_edge"]
    size = options.square(sides, "size")
    if kind == "ConvNext":
        if size >= _CONVNEXT_WHOLE:
            return {"size": size, "resize": "exact", "crop": None}
        share = processor.get("crop_pct") or 224 / 256
        return {"size": int(size / share), "resize": "shortest", "crop": size}
    cropped = processor.get("do_center_crop", kind in ("CLIP", "Bit", "DeiT"))
    crop = processor.get("crop_size", {"height": 224, "width": 224}) if cropped else None
    if isinstance(crop, Mapping):
        crop = options.square([crop["height"], crop["width"]], "crop_size")
    if not exact and crop is None:
        raise ConfigError("preprocessor_config.json: size.shortest_edge without a crop leaves images of any shape.")
    return {"size": size, "resize": "exact" if exact else "shortest", "crop": crop}


def timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """timm's config.json -> the same, by its `pretrained_cfg`.

    Raises:
      ConfigError: a `crop_mode` that vitfm lacks.
    """
    cfg = config.get("pretrained_cfg", {})
    side = options.square(list(cfg.get("input_size", (3, 224, 224)))[1:], "pretrained_cfg.input_size")
    mode, share = cfg.get("crop_mode", "center"), cfg.get("crop_pct", 0.875)
    if mode not in ("center", "squash"):
        raise ConfigError(
            f"config.json: pretrained_cfg.crop_mode = {mode!r} is not supported; vitfm knows center, squash."
        )
    resize = "shortest" if mode == "center" else "exact"
    size = {"size": math.floor(side / share), "resize": resize, "crop": side}
    mean, std = cfg.get("mean", _IMAGENET[0]), cfg.get("std", _IMAGENET[1])
    return _data(**size, interpolation=cfg.get("interpolation", "bicubic"), centre="round", mean=mean, std=std)


def open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    """open_clip_config.json -> the same, by its `preprocess_cfg`.

    Raises:
      ConfigError: a `resize_mode` that vitfm lacks.
    """
    cfg = config.get("preprocess_cfg", {})
    side = options.square(
        cfg.get("size") or config["model_cfg"]["vision_cfg"].get("image_size", 224), "preprocess_cfg.size"
    )
    mode = cfg.get("resize_mode") or "shortest"
    if mode not in ("shortest", "squash"):
        raise ConfigError(f"{mode!r} is a preprocess_cfg.resize_mode that vitfm lacks; it knows shortest, squash.")
    size = (
        {"size": side, "resize": "shortest", "crop": side} if mode == "shortest" else {"size": side, "resize": "exact"}
    )
    mean, std = cfg.get("mean") or _CLIP[0], cfg.get("std") or _CLIP[1]
    return _data(**size, interpolation=cfg.get("interpolation") or "bicubic", centre="round", mean=mean, std=std)


def _data(*, mean: Any, std: Any, size: int, crop: int | None = None, **evaluation: Any) -> dict[str, Any]:
    return {
        "image_size": crop or size,
        "evaluation": {"size": size, "crop": crop, **evaluation},
        "augment": {"mean": list(mean), "std": list(std)},
    }


def assumed(image_size: int, mean: Any = _HALF, std: Any = _HALF) -> dict[str, Any]:
    """Where a folder says nothing: the whole image, squeezed."""
    return _data(size=image_size, resize="exact", interpolation="bicubic", centre="floor", mean=mean, std=std)


# Back: of a recipe's data.


def of_recipe(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """`image_size`, `evaluation` and `augment` as above, and what no other library can do as this recipe does."""
    side, notes = data.get("image_size", 224), []
    if data.get("patches") is not None:
        cut = {"patch_size": 16, "max_patches": 256, "interpolation": "bilinear", **data["patches"]}
        return {"image_size": side, "crop": None, "patches": cut, "augment": _normalisation(data)}, notes
    evaluation = data.get("evaluation")
    if evaluation is None:
        evaluation = {"size": side, "resize": "shortest", "crop": side, "interpolation": "bicubic", "centre": "floor"}
        notes.append(
            f"images that are not {side} x {side} are resized by bicubic interpolation there, by OpenCV in this run; "
            "set config.data.evaluation to train and evaluate with the same"
        )
    if data.get("alpha"):
        notes.append("transparent pixels show what is stored behind them there, and the background in this run")
    evaluation = {"resize": "shortest", "crop": None, "interpolation": "bicubic", "centre": "floor", **evaluation}
    if evaluation["resize"] == "longest":
        notes.append("oblong images are squeezed to a square there, and padded in this run")
        evaluation |= {"resize": "exact", "size": side, "crop": None}
    return {"image_size": side, "evaluation": evaluation, "augment": _normalisation(data)}, notes


def _normalisation(data: Mapping[str, Any]) -> dict[str, Any]:
    """Of values over 255, which is what other libraries make of numbers of any type."""
    channels = data.get("channels", 3)
    spec = config.call(inputs.make, data.get("input", {}), where="data.input", channels=channels)
    augment, (low, high) = data.get("augment", {}), spec.range
    mean, std = (augment.get(key) or [0.5] * channels for key in ("mean", "std"))
    if (low, high) != (0, 255):
        mean, std = [(low + x * (high - low)) / 255 for x in mean], [x * (high - low) / 255 for x in std]
    return {**augment, "mean": list(mean), "std": list(std)}


def to_transformers(data: Mapping[str, Any], kind: str = "Bit") -> dict[str, Any]:
    """preprocessor_config.json of what `of_recipe` returns.

    Args:
      data: `evaluation` and `augment`.
      kind: the processor: "Bit", of which every step is an option, or another whose steps can say it; of "Flava" it
        is the tokenizer's part, to which the recipe's normalisation makes no difference.
    """
    if "patches" in data:
        return _to_siglip2(data)
    evaluation, augment = data["evaluation"], data["augment"]
    size, crop = evaluation["size"], evaluation["crop"]
    if kind == "Flava":
        channels = len(augment["mean"])
        pixels = {**data, "augment": {"mean": [0.0] * channels, "std": [1.0] * channels}}
        plain = {key: value for key, value in to_transformers(pixels).items() if key != "image_processor_type"}
        named = {f"{_CODEBOOK}{key}": value for key, value in plain.items() if key != "do_convert_rgb"}
        return {"image_processor_type": "FlavaImageProcessor", **named, f"{_CODEBOOK}do_map_pixels": True}
    return {
        "image_processor_type": f"{kind}ImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size} if evaluation["resize"] == "shortest" else {"height": size, "width": size},
        "resample": _FILTERS.index(evaluation["interpolation"]),
        "do_center_crop": crop is not None,
        **({"crop_size": {"height": crop, "width": crop}} if crop is not None else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(augment["mean"]),
        "image_std": list(augment["std"]),
    }


def _to_siglip2(data: Mapping[str, Any]) -> dict[str, Any]:
    cut, augment = data["patches"], data["augment"]
    return {
        "image_processor_type": "Siglip2ImageProcessor",
        "do_resize": True,
        "resample": _FILTERS.index(cut["interpolation"]),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(augment["mean"]),
        "image_std": list(augment["std"]),
        "patch_size": cut["patch_size"],
        "max_num_patches": cut["max_patches"],
    }


def to_timm(data: Mapping[str, Any], channels: int = 3) -> dict[str, Any]:
    """`pretrained_cfg` of what `of_recipe` returns, for images of so many channels."""
    evaluation, augment, side = data["evaluation"], data["augment"], data["image_size"]
    share = side / evaluation["size"]
    if math.floor(side / share) != evaluation["size"]:  # As timm computes it.
        share = side / (evaluation["size"] + 0.5)
    return {
        "input_size": [channels, side, side],
        "fixed_input_size": False,
        "interpolation": evaluation["interpolation"],
        "crop_pct": share,
        "crop_mode": "center" if evaluation["resize"] == "shortest" else "squash",
        "mean": list(augment["mean"]),
        "std": list(augment["std"]),
    }


def to_open_clip(data: Mapping[str, Any]) -> dict[str, Any]:
    """`preprocess_cfg` of what `of_recipe` returns.

    Raises:
      ConfigError: it crops less than it resizes to, which open_clip can't.
    """
    evaluation, augment = data["evaluation"], data["augment"]
    if evaluation["crop"] not in (None, evaluation["size"]):
        raise ConfigError(
            f"config.data.evaluation: open_clip crops the size it resizes to; this crops {evaluation['crop']} of "
            f"{evaluation['size']} pixels. Export to transformers, or change it."
        )
    return {
        "mean": list(augment["mean"]),
        "std": list(augment["std"]),
        "interpolation": evaluation["interpolation"],
        "resize_mode": "shortest" if evaluation["resize"] == "shortest" else "squash",
        "size": [data["image_size"]] * 2,
    }
