"""The input specification: what makes no sense is refused, and any numbers go through every transform as they are."""

from __future__ import annotations

import pathlib
from typing import Any

import cv2
import jax
import numpy as np
import pytest
import tifffile

from vitfm import config
from vitfm.config import ConfigError
from vitfm.data import augment, bands, inputs, pipeline
from vitfm.data import image as images

RNG = np.random.default_rng(0)
DTYPES, CHANNELS = ("uint8", "uint16", "float32"), (1, 2, 3, 4, 5, 13)


def numbers(dtype: str, *shape: int) -> np.ndarray:
    """Over all of the type's range, floats from -1000 to 3000; smooth, so that resampling keeps the most of it."""
    coarse = RNG.uniform(-1000, 3000, (shape[0] // 8 + 2, shape[1] // 8 + 2, shape[2]))
    fine = np.stack([cv2.resize(coarse[..., i], shape[1::-1]) for i in range(shape[2])], axis=-1)
    scale = {"uint8": 255, "uint16": 65535}.get(dtype)
    return fine.astype(np.float32) if scale is None else np.round((fine + 1000) / 4000 * scale).astype(dtype)


def spec(dtype: str, channels: int, **options: Any) -> inputs.Input:
    ranged = {"range": (-1000, 3000)} if dtype == "float32" else {}
    return inputs.make(dtype=dtype, channels=channels, **ranged, **options)


def test_defaults():
    assert inputs.make() == inputs.Input()
    assert inputs.make(dtype="uint16").range == (0, 65535) and inputs.make(dtype="float32").range == (0, 1)
    assert inputs.make(spacing=2).spacing == (2, 2) and inputs.make(spacing=(2, 3)).spacing == (2, 3)
    assert inputs.make(alpha=True).samples == 4 and inputs.make(channels=13, dtype="uint16").samples == 13
    assert inputs.make(alpha=True).is_plain and not inputs.make(channels=1).is_plain


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"range": (255, 0)}, r"input\.range = \(255\.0, 0\.0\): the first number has to be below"),
        ({"range": (0, 4095)}, r"input\.range = \(0\.0, 4095\.0\) is not among the values of uint8"),
        ({"range": (0,)}, r"input\.range = \(0,\) should be two numbers"),
        ({"range": (0, float("nan"))}, r"input\.range = .* should be two numbers"),
        ({"dtype": "int16"}, r"input\.dtype = 'int16' has the wrong type"),
        ({"spacing": 0}, r"input\.spacing = \(0\.0, 0\.0\) must be above 0"),
        ({"spacing": (1, 2, 3)}, r"input\.spacing = \(1, 2, 3\) should be two"),
        ({"window": (40, 1)}, r"input\.window = \(40\.0, 1\.0\) .* must be above 1"),
        ({"window": "flie"}, r"input\.window = 'flie' has the wrong type"),
        ({"max_pixels": 0}, r"input\.max_pixels = 0 must be at least 1"),
        ({"bands": (1, 2)}, r"input\.bands = \(1, 2\) must name config\.data\.channels = 3"),
        ({"bands": (1, 2, -1)}, r"input\.bands = \(1, 2, -1\) must name"),
        ({"channels": 0}, r"config\.data\.channels = 0 must be at least 1"),
        ({"channels": 1, "alpha": True}, r"config\.data\.alpha = True keeps the opacity of 8-bit RGB"),
        ({"dtype": "uint16", "alpha": True}, r"config\.data\.alpha = True keeps"),
        ({"fill": -1}, r"input\.fill = -1 is no value of uint8"),
        ({"rnage": (0, 1)}, r"config\.data\.input\.rnage: did you mean 'range'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    given = {key: value for key, value in options.items() if key not in ("channels", "alpha")}
    outer = {key: value for key, value in options.items() if key in ("channels", "alpha")}
    with pytest.raises(ConfigError, match=words):
        pipeline.make(source=None, input=given, **outer)


# On the host.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_crops_treat_every_channel_alike(dtype: str, channels: int):
    """As it would be cut alone, in its own type; and without any change where the whole is asked for."""
    pixels = numbers(dtype, 40, 56, channels)
    limits = spec(dtype, channels).range
    several, single = spec(dtype, channels).sampling, {**spec(dtype, 1).sampling, "outside": 7}
    for options in ({"scale": (0.1, 0.5)}, {"scale": (0.5, 1.5), "rotation": 30.0}, None, "pad"):
        cut = images.cutter(24, options, path="data.crop", **{**several, "outside": 7})
        found = cut(pixels, np.random.default_rng(3))
        assert found.shape == (24, 24, channels) and found.dtype == dtype
        alone = images.cutter(24, options, path="data.crop", **single)
        for i in range(channels):
            expected = alone(np.ascontiguousarray(pixels[..., i : i + 1]), np.random.default_rng(3))[..., 0]
            # OpenCV rounds places to 1/32 of a pixel, but not for all numbers of channels.
            np.testing.assert_allclose(found[..., i].astype(float), expected, atol=0.02 * np.ptp(limits))
    square = pixels[:40, :40]
    np.testing.assert_array_equal(images.cutter(40, None, path="", **several)(square, None), square)


@pytest.mark.parametrize(("channels", "dtype"), [(3, "uint16"), (1, "uint16"), (5, "float32")])
def test_beyond_the_border_lies_white_or_the_lower_end(channels: int, dtype: str):
    pixels = np.full((20, 20, channels), 5, dtype)
    given = inputs.make(dtype=dtype, channels=channels, range=(2, 9))
    found = images.cutter(32, {"scale": (9.0, 9.0)}, path="", **given.sampling)(pixels, np.random.default_rng(0))
    assert set(np.unique(found[0])) == {9 if channels == 3 else 2}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 4, 5])
def test_pillow_resizes_every_channel_alike(dtype: str, channels: int):
    pixels = numbers(dtype, 40, 56, channels)
    data = pipeline.make(
        source=None,
        image_size=24,
        channels=channels,
        input={"dtype": dtype},
        evaluation={"size": 24, "crop": 24, "interpolation": "bicubic"},
    )
    found = data.load_eval.cut(pixels, None)
    assert found.shape == (24, 24, channels) and found.dtype == dtype
    exact = pixels.astype(np.float32)
    expected = bands.resized(exact, (33, 24), 3, colours=False)[:, 4:28]
    limits = (0, np.iinfo(dtype).max) if dtype != "float32" else (-np.inf, np.inf)
    np.testing.assert_allclose(found, np.clip(expected, *limits), atol=1 if dtype != "float32" else 0)


def test_patches_of_any_numbers():
    pixels = numbers("uint16", 48, 32, 5)
    options = {"patch_size": 8, "max_patches": 24, "interpolation": "bicubic"}
    data = pipeline.make(source=None, channels=5, input={"dtype": "uint16"}, crop=None, patches=options)
    batch = data.prepare_images([pixels])
    cut = pixels.reshape(6, 8, 4, 8, 5).transpose(0, 2, 1, 3, 4).reshape(24, 64, 5)
    np.testing.assert_array_equal(batch["patches"][0], cut)
    ready = data.preprocess_eval({"image": batch})["image"]["patches"]
    np.testing.assert_allclose(ready[0], (cut.reshape(24, -1) / 65535 - 0.5) / 0.5, atol=1e-6)


# On the device.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
def test_numbers_are_normalised_by_their_range(dtype: str, channels: int):
    given = spec(dtype, channels)
    low, high = given.range
    pixels = np.stack([numbers(dtype, 8, 8, channels) for _ in range(2)])
    mean, std = np.linspace(0.3, 0.6, channels), np.linspace(0.1, 0.3, channels)
    for options in ({}, {"mean": tuple(mean), "std": tuple(std)}):
        train, evaluate = augment.make(spec=given, **options)
        unit = (pixels.astype(np.float64) - low) / (high - low)
        expected = (unit - mean) / std if options else (unit - 0.5) / 0.5
        for found in (evaluate({"image": pixels}), train({"image": pixels}, jax.random.split(jax.random.key(0), 2))):
            assert found["image"].dtype == np.float32
            np.testing.assert_allclose(found["image"], expected, atol=2e-5)


def test_what_makes_sense_for_any_channels_is_done():
    given = inputs.make(dtype="uint16", channels=5)
    pixels, keys = np.stack([numbers("uint16", 16, 16, 5)] * 40), jax.random.split(jax.random.key(0), 40)
    plain = augment.make(spec=given)[0]({"image": pixels}, keys)["image"]
    for options in ({"flip": 0.5}, {"erase": {"probability": 0.5}}, {"blur": {"kernel_size": 5}}, {"brightness": 0.3}):
        found = augment.make(spec=given, **options)[0]({"image": pixels}, keys)["image"]
        changed = np.array([not np.array_equal(a, b) for a, b in zip(found, plain, strict=True)])
        assert found.shape == plain.shape and changed.sum() > 10
        if "flip" in options:
            np.testing.assert_array_equal(found[changed], plain[changed][:, :, ::-1])


def test_what_is_done_to_colours_is_refused_by_name():
    for options in ({"hue": 0.1}, {"contrast": 0.1}, {"saturation": 0.1}, {"grayscale": 0.1}, {"randaugment": {}}):
        (name,) = options
        if name == "randaugment":
            with pytest.raises(ConfigError, match=r"input\.dtype = 'uint16' has no use for .*augment\.randaugment"):
                augment.make(spec=inputs.make(dtype="uint16"), **options)
        else:
            augment.make(spec=inputs.make(dtype="uint16"), **options)
            with pytest.raises(ConfigError, match=rf"channels = 1 has no use for config\.data\.augment\.{name}:"):
                augment.make(spec=inputs.make(channels=1), **options)


def test_pictures_for_people():
    unit = RNG.uniform(-0.1, 1.1, (2, 4, 4, 13)).astype(np.float32)
    eight_bits = np.clip(np.round(unit * 255), 0, 255).astype(np.uint8)
    mean, std = np.linspace(0.3, 0.6, 13, dtype=np.float32), np.linspace(0.1, 0.3, 13, dtype=np.float32)
    shown = augment.to_pixels((unit - mean) / std, mean=tuple(mean), std=tuple(std))
    assert np.abs(shown.astype(int) - eight_bits[..., :3]).max() <= 1
    for channels in (1, 2):
        found = augment.to_pixels(unit[..., :channels] * 2 - 1)
        assert found.dtype == np.uint8 and np.abs(found.astype(int) - eight_bits[..., :1]).max() <= 1


def test_a_file_as_people_see_it(tmp_path: pathlib.Path):
    values = np.array([[[-1000, 9, 9], [1000, 9, 9], [3000, 9, 9]]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", values[..., :1])
    found = bands.picture((tmp_path / "a.tif").read_bytes(), spec("float32", 1))
    np.testing.assert_array_equal(found[0], [[0] * 3, [128] * 3, [255] * 3])


# Through the loader.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Eight scenes of five bands."""
    folder = tmp_path_factory.mktemp("scenes")
    for i in range(8):
        values = numbers("uint16", 32, 32, 5)
        tifffile.imwrite(folder / f"{i}.tif", values, photometric="minisblack", planarconfig="contig")
    return folder


def test_batches_carry_what_is_in_the_files(folder: pathlib.Path):
    options = {"source": f"folder:{folder}", "image_size": 32, "channels": 5, "input": {"dtype": "uint16"}}
    data = config.call(pipeline.make, {**options, "crop": None}, where="data")
    stream = data.train_loader(batch_size=8, seed=0).batches()
    batch = next(stream)["image"]
    stream.close()
    files = np.stack([tifffile.imread(path) for path in sorted(folder.iterdir())])
    assert batch.dtype == np.uint16 and batch.shape == (8, 32, 32, 5)
    assert {row.tobytes() for row in batch} == {row.tobytes() for row in files}
    cropped = config.call(pipeline.make, {**options, "views": {"two": {"count": 2, "size": 16}}}, where="data")
    stream = cropped.train_loader(batch_size=8, seed=0).batches()
    views = next(stream)["views"]
    stream.close()
    assert views["two"].shape == (8, 2, 16, 16, 5) and views["two"].dtype == np.uint16
    ready = cropped.preprocess_train({"views": views}, jax.random.split(jax.random.key(0), 8))["views"]["two"]
    np.testing.assert_allclose(ready, (views["two"] / 65535 - 0.5) / 0.5, atol=1e-5)


def test_bands_are_chosen_while_reading(folder: pathlib.Path):
    data = pipeline.make(
        source=f"folder:{folder}", image_size=32, input={"dtype": "uint16", "bands": (4, 0, 2)}, crop=None
    )
    from vitfm.data import sources

    (batch,) = data.eval_batches(sources.make(f"folder:{folder}"), 8)
    expected = np.stack([tifffile.imread(folder / f"{i}.tif")[..., [4, 0, 2]] for i in range(8)])
    np.testing.assert_array_equal(batch["image"], expected)
