"""Images reach an imported model as transformers', timm's and open_clip's own preprocessing makes them, bit by bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.parity.reference import open_clip, timm, torch, transformers
from vitfm import config as config_lib
from vitfm.config import ConfigError
from vitfm.data import evaluation, pipeline
from vitfm.interop import preprocessing

SHAPES = ((48, 48), (37, 53), (201, 117), (20, 31), (49, 300))
SQUARE, SHORTEST = {"height": 48, "width": 48}, {"shortest_edge": 48}
PROCESSORS = {
    "ViT": {"size": SQUARE},
    "ViT, bicubic": {"size": SQUARE, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7]},
    "DeiT": {"size": SQUARE, "crop_size": {"height": 41, "width": 41}},
    "Beit": {"size": SQUARE, "do_center_crop": False},
    "CLIP": {"size": SHORTEST, "crop_size": {"height": 48, "width": 48}},
    "CLIP, odd rests": {"size": {"shortest_edge": 47}, "crop_size": {"height": 32, "width": 32}},
    "Bit": {"size": SHORTEST, "crop_size": {"height": 40, "width": 40}, "do_normalize": False},
    "ConvNext": {"size": SHORTEST},
    "ConvNext, whole": {"size": {"shortest_edge": 384}},
    "ConvNext, 0.9": {"size": SHORTEST, "crop_pct": 0.9},
    "Siglip": {"size": SQUARE},
}


def pictures() -> list[PIL.Image.Image]:
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in SHAPES]


def ours(data: Mapping[str, Any], picture: PIL.Image.Image) -> np.ndarray:
    """[C,H,W], as a batch of the recipe's data is normalised."""
    cut = config_lib.call(evaluation.make, data["evaluation"], where="data.evaluation", image_size=data["image_size"])
    mean, std = (np.array(data["augment"][key]) for key in ("mean", "std"))
    return ((cut(np.asarray(picture), None) / 255 - mean) / std).transpose(2, 0, 1)


def assert_same_pixels(ours: np.ndarray, theirs: Any) -> None:
    assert ours.shape == tuple(theirs.shape)
    np.testing.assert_allclose(ours, np.asarray(theirs), atol=1e-5)  # A step of a pixel is a hundred times as much.


@pytest.mark.parametrize("name", PROCESSORS)
def test_transformers(name: str):
    processor = getattr(transformers, f"{name.split(',')[0]}ImageProcessorPil")(**PROCESSORS[name])
    data = preprocessing.transformers(json.loads(processor.to_json_string()))
    for picture in pictures():
        assert_same_pixels(ours(data, picture), processor(picture, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize("name", PROCESSORS)
def test_what_is_written_for_transformers_does_the_same(name: str):
    processor = getattr(transformers, f"{name.split(',')[0]}ImageProcessorPil")(**PROCESSORS[name])
    data = preprocessing.transformers(json.loads(processor.to_json_string()))
    written = preprocessing.to_transformers(data)
    assert preprocessing.transformers(written) == data
    kind = written.pop("image_processor_type")
    again = getattr(transformers, f"{kind}Pil")(**written)
    for picture in pictures():
        assert_same_pixels(ours(data, picture), again(picture, return_tensors="np")["pixel_values"][0])


@pytest.mark.parametrize(
    "options", [{"patch_size": 8, "max_num_patches": 30}, {"resample": 3, "image_mean": [0.2] * 3}]
)
def test_siglip2_patches_at_their_own_aspect_ratio(options: dict[str, Any]):
    processor = transformers.Siglip2ImageProcessorPil(**options)
    data = preprocessing.transformers(json.loads(processor.to_json_string()))
    assert preprocessing.transformers(preprocessing.to_transformers(data)) == data
    made = pipeline.make(**{"source": None, **data})
    images = [*pictures(), PIL.Image.fromarray(np.arange(3 * 5 * 400, dtype=np.uint8).reshape(5, 400, 3))]
    batch = made.prepare_images([np.asarray(image) for image in images])
    ours = made.preprocess_eval({"image": batch})["image"]
    theirs = processor(images, return_tensors="np")
    np.testing.assert_array_equal(ours["grid"], theirs["spatial_shapes"])
    np.testing.assert_array_equal(ours["mask"], theirs["pixel_attention_mask"])
    real = np.asarray(ours["mask"])[..., None]
    np.testing.assert_allclose(ours["patches"] * real, theirs["pixel_values"] * real, atol=1e-5)


@pytest.mark.parametrize(
    "cfg",
    [
        {"input_size": (3, 48, 48), "crop_pct": 0.9, "interpolation": "bicubic"},
        {
            "input_size": (3, 32, 32),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.5,) * 3,
            "std": (0.4,) * 3,
        },
        {"input_size": (3, 48, 48), "crop_pct": 1.0, "crop_mode": "squash"},
    ],
    ids=["0.9", "0.875", "squash"],
)
def test_timm(cfg: dict[str, Any]):
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in cfg.items()}
    data = preprocessing.timm({"pretrained_cfg": options})
    transform = timm.data.create_transform(**timm.data.resolve_data_config(cfg))
    for picture in pictures():
        assert_same_pixels(ours(data, picture), transform(picture))
    assert preprocessing.timm({"pretrained_cfg": preprocessing.to_timm(data)}) == data


@pytest.mark.parametrize("cfg", [{}, {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3}])
def test_open_clip(cfg: dict[str, Any]):
    cfg = {"size": 48, **cfg}
    data = preprocessing.open_clip({"preprocess_cfg": cfg})
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**cfg), is_train=False)
    for picture in pictures():
        assert_same_pixels(ours(data, picture), transform(picture))
    assert preprocessing.open_clip({"preprocess_cfg": preprocessing.to_open_clip(data)}) == data


def test_what_pads_here_is_said_to_squeeze_there():
    evaluation_ = {"size": 48, "resize": "longest", "crop": 48}
    data, notes = preprocessing.of_recipe({"image_size": 48, "evaluation": evaluation_})
    assert len(notes) == 1 and "padded in this run" in notes[0]
    assert (
        preprocessing.to_transformers(data)["size"] == SQUARE
        and not preprocessing.to_transformers(data)["do_center_crop"]
    )
    assert preprocessing.to_open_clip(data)["resize_mode"] == "squash"


def test_torchvision_rounds_a_few_pixels_otherwise():
    """What transformers does where torchvision is compiled is at most one step of a pixel away."""
    processor = transformers.ViTImageProcessor(size=SQUARE)
    data = preprocessing.transformers(json.loads(processor.to_json_string()))
    for picture in pictures():
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0]
        assert torch.is_tensor(theirs)
        assert np.abs(ours(data, picture) - theirs.numpy()).max() < 1.01 / 255 / 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 40}, r"evaluation.size = 40 must be config.data.image_size = 48"),
        ({"size": 60, "crop": 40}, r"evaluation.crop = 40 must be"),
        ({"size": 48}, r"'shortest' leaves oblong images oblong"),
        ({"size": 48, "crop": 48, "interpolation": "cubic"}, r"interpolation"),
        ({"size": 48, "cropp": 48}, r"cropp.*did you mean 'crop'"),
    ],
)
def test_evaluation_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        config_lib.call(evaluation.make, options, where="data.evaluation", image_size=48)
