"""Models for images of other than three channels: trained on such, or an RGB stem's weights for other bands."""

from __future__ import annotations

import pathlib

import jax
import numpy as np
import pytest

import vitfm
from tests.interop import folders
from tests.parity.reference import relative_error, torch, transformers
from vitfm.config import ConfigError
from vitfm.data import pipeline
from vitfm.interop import __main__ as command
from vitfm.interop import exported, imported, preprocessing

FIVE = {"image_mean": [0.1, 0.2, 0.3, 0.4, 0.5], "image_std": [0.5, 0.4, 0.3, 0.2, 0.1]}


def images(channels: int, *, side: int = 16) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 256, (2, side, side, channels), dtype=np.uint8)


def test_a_folder_of_five_channels_is_what_transformers_makes_of_it(tmp_path: pathlib.Path):
    folder = five(tmp_path / "a")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
    batch = images(5)
    mean, std = (np.array(FIVE[key], np.float32) for key in ("image_mean", "image_std"))
    pixels = torch.tensor((batch.astype(np.float32) / 255 - mean) / std).permute(0, 3, 1, 2)
    run = vitfm.load(str(folder))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        assert relative_error(run.logits(batch), model(pixels).logits) < 1e-5
    assert run.config.data.channels == 5
    again = exported.write(str(folder), str(tmp_path / "b")).path
    assert np.array_equal(vitfm.load(str(again)).logits(batch), run.logits(batch))
    with pytest.raises(ValueError, match=r"uint8 \[B,H,W,5\]"):
        run.logits(images(3))


def five(path: pathlib.Path) -> pathlib.Path:
    """A classifier of images with five channels, as transformers saves it."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, num_channels=5, num_labels=3)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(path)
    (path / "preprocessor_config.json").write_text("{}")
    folders.edit(path / "preprocessor_config.json", **{**folders.PROCESSOR, **FIVE})
    return path


def test_a_band_for_the_mean_of_all_leaves_grey_images_as_they_are(tmp_path: pathlib.Path):
    """Of larger images, which are resized channel by channel."""
    folder, grey = str(folders.write(tmp_path / "a")), images(1, side=40)
    rgb = vitfm.load(folder, mean=[0.5] * 3, std=[0.25] * 3)
    four = vitfm.load(folder, bands=(0, 1, 2, None), mean=[0.5] * 4, std=[0.25] * 4)
    with jax.default_matmul_precision("highest"):
        theirs = rgb.logits(np.repeat(grey, 3, axis=-1))
        assert relative_error(four.logits(np.repeat(grey, 4, axis=-1)), theirs) < 1e-5


def test_three_bands_in_their_order_are_the_identity(tmp_path: pathlib.Path):
    folder = folders.write(tmp_path / "a")
    plain, same = imported.read(folder), imported.read(folder, bands=(0, 1, 2))
    assert same.config == plain.config
    assert same.lineage == {**plain.lineage, "bands": [0, 1, 2]}
    assert jax.tree.all(jax.tree.map(np.array_equal, same.state, plain.state))


def test_bands_in_another_order_see_the_same_of_images_in_that_order(tmp_path: pathlib.Path):
    folder = folders.write(tmp_path / "a")
    batch = images(3, side=24)
    turned = vitfm.load(str(folder), bands=(2, 1, 0))
    with jax.default_matmul_precision("highest"):
        theirs = vitfm.load(str(folder)).logits(batch)
        assert relative_error(turned.logits(batch[..., ::-1]), theirs) < 1e-5
    assert list(turned.config.data.augment.mean) == folders.PROCESSOR["image_mean"][::-1]


def test_what_is_imported_for_other_bands_is_recorded(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]):
    folder, run = folders.write(tmp_path / "a"), tmp_path / "run"
    options = ["--bands=2,1,0,mean", "--mean=.6,.5,.4,.3", "--std=.4,.3,.2,.1"]
    assert command.main(["import", str(folder), str(run), *options]) == 0
    assert "mean = [0.6, 0.5, 0.4, 0.3]" in capsys.readouterr().out
    loaded, batch = vitfm.load(str(run)), images(4)
    same = vitfm.load(str(folder), bands=(2, 1, 0, None), mean=[0.6, 0.5, 0.4, 0.3], std=[0.4, 0.3, 0.2, 0.1])
    assert np.array_equal(loaded.logits(batch), same.logits(batch))
    kernel = np.asarray(loaded.params["encoder"]["stem"]["patch"]["kernel"]).reshape(64, 4, -1)
    own = np.asarray(vitfm.load(str(folder)).params["encoder"]["stem"]["patch"]["kernel"]).reshape(64, 3, -1)
    np.testing.assert_allclose(kernel, 0.75 * np.concatenate([own[:, ::-1], own.mean(1, keepdims=True)], 1), rtol=1e-6)


def test_what_cannot_be_known_is_asked_for(tmp_path: pathlib.Path):
    folder = folders.write(tmp_path / "a")
    for bands, words in (((0, None), "can't be known"), ((0, 3), "channels 0 to 2"), ((), "channels 0 to 2")):
        with pytest.raises(ConfigError, match=words):
            imported.read(folder, bands=bands)
    with pytest.raises(ConfigError, match=r"4 channels, and mean = \[0.5\] is of 1"):
        imported.read(folder, bands=(0, 1, 2, 0), mean=[0.5], std=[0.2] * 4)
    five_channels = five(tmp_path / "b")
    (five_channels / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"5 channels, and mean .* image_mean in preprocessor_config.json"):
        imported.read(five_channels)
    assert imported.read(five_channels, mean=FIVE["image_mean"], std=FIVE["image_std"]).config["data"]["channels"] == 5


def test_an_exported_models_normalisation_has_the_range_in_it():
    """Other libraries divide numbers of any type by 255."""
    augment = {"mean": [0.3, 0.4], "std": [0.1, 0.2]}
    recipe = {"channels": 2, "input": {"dtype": "float32", "range": [-1024, 3071]}, "augment": augment}
    theirs = preprocessing.to_transformers(preprocessing.of_recipe({**recipe, "image_size": 8})[0])
    values = np.linspace(-1024, 3071, 20).reshape(1, 5, 2, 2)
    found = (values * theirs["rescale_factor"] - theirs["image_mean"]) / theirs["image_std"]
    ours = pipeline.make(source=None, **recipe).preprocess_eval({"image": values.astype(np.float32)})["image"]
    np.testing.assert_allclose(found, ours, atol=1e-4)


def test_data_of_other_channels_refuses_what_is_for_pictures():
    with pytest.raises(ConfigError, match=r"data.channels = 5 has no use for config.data.augment.grayscale"):
        pipeline.make(source=None, channels=5, augment={"grayscale": 0.5})
    with pytest.raises(ConfigError, match=r"alpha = True keeps the opacity of 8-bit RGB"):
        pipeline.make(source=None, channels=5, alpha=True)
    with pytest.raises(ConfigError, match=r"must be 5 numbers each"):
        pipeline.make(source=None, channels=5, augment={"mean": [0.5] * 3})
    assert pipeline.make(source=None, channels=5).facts.mean == (0.5,) * 5
