"""16-bit TIFF and DICOM, and satellites' bands in floats, go through to a trained MAE with their range intact."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
import pytest
import tifffile
from PIL import Image

import vitfm
from tests.data.test_formats_dicom import written
from vitfm import recipe as recipes
from vitfm import train_lib
from vitfm.config import ConfigError
from vitfm.data import sources

RNG = np.random.default_rng(0)
SIDE, COUNT = 32, 12
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": False}
MEAN, STD = 0.3, 0.2


def scans(folder: pathlib.Path) -> list[np.ndarray]:
    """Of 12 bits: every other one a TIFF, the others DICOM."""
    values = [RNG.integers(0, 4096, (SIDE, SIDE, 1), dtype=np.uint16) for _ in range(COUNT)]
    for i, one in enumerate(values):
        if i % 2:
            (folder / f"{i:02}.dcm").write_bytes(written(one[..., 0], BitsStored=12))
        else:
            tifffile.imwrite(folder / f"{i:02}.tif", one[..., 0], compression="zlib")
    return values


def scenes(folder: pathlib.Path) -> list[np.ndarray]:
    """Of thirteen bands."""
    values = [RNG.normal(0.1, 0.3, (SIDE, SIDE, 13)).astype(np.float32) for _ in range(COUNT)]
    for i, one in enumerate(values):
        tifffile.imwrite(folder / f"{i:02}.tif", one, photometric="minisblack", planarconfig="contig")
    return values


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "scans": (scans, {"channels": 1, "input": {"dtype": "uint16", "range": (0, 4095)}}),
    "scenes": (scenes, {"channels": 13, "input": {"dtype": "float32", "range": (-0.5, 1.5)}}),
}


def recipe(folder: pathlib.Path, options: dict[str, Any]) -> ml_collections.ConfigDict:
    source = f"folder:{folder}"
    channels = options["channels"]
    return ml_collections.ConfigDict(
        {
            "total": "3 steps",
            "batch_size": 8,
            "objective": {
                "name": "mae",
                "model": {"patch_size": 8, "hidden_dim": 32, "depth": 1, "num_heads": 2},
                "decoder": {"hidden_dim": 32, "depth": 1, "num_heads": 2},
            },
            "data": {
                "source": source,
                "image_size": SIDE,
                "crop": WHOLE,
                "augment": {"mean": (MEAN,) * channels, "std": (STD,) * channels},
                "threads": 1,
                **options,
            },
            "evals": {"seen": {"name": "reconstruction", "source": source, "prefix": "test", "count": 4}},
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_reach_a_batch_as_they_are_and_the_model_by_the_formula(kind: str, tmp_path: pathlib.Path):
    write, options = KINDS[kind]
    values = np.stack(write(tmp_path))
    data = recipes.make_data(recipes.parse(recipe(tmp_path, options)))
    loader = data.train_loader(batch_size=COUNT, seed=0)
    batch = np.stack([loader.example(position)["image"] for position in range(COUNT)])
    dtype, (low, high) = options["input"]["dtype"], options["input"]["range"]
    assert batch.dtype == dtype
    ids = loader.batch_ids(0)
    np.testing.assert_array_equal(batch, values[ids])
    (seen,) = data.eval_batches(sources.make(f"folder:{tmp_path}"), COUNT)
    np.testing.assert_array_equal(seen["image"], values)
    expected = ((values[ids].astype(np.float64) - low) / (high - low) - MEAN) / STD
    keys = jax.random.split(jax.random.key(0), COUNT)
    for ready in (data.preprocess_train({"image": batch}, keys), data.preprocess_eval({"image": batch})):
        assert ready["image"].dtype == np.float32
        np.testing.assert_allclose(ready["image"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_masked_autoencoder_learns_of_them(kind: str, tmp_path: pathlib.Path):
    write, options = KINDS[kind]
    (tmp_path / "images").mkdir()
    values, workdir = write(tmp_path / "images"), tmp_path / "run"
    train_lib.train(recipe(tmp_path / "images", options), str(workdir))
    assert np.isfinite(json.loads((workdir / "result.json").read_text())["loss"])
    (picture,) = (workdir / "pictures").rglob("*.png")
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert len(np.unique(pixels)) > 100  # Neither black nor white.

    run = vitfm.load(str(workdir))
    found = run.reconstruct(values[:3])
    channels, dtype = options["channels"], options["input"]["dtype"]
    assert found.shape == (3, 3, SIDE, SIDE, channels)  # Original, what is visible, reconstruction.
    low, high = options["input"]["range"]
    np.testing.assert_allclose(found[:, 0] * STD + MEAN, (np.stack(values[:3]) - low) / (high - low), atol=1e-5)
    assert run.embed_image([np.repeat(values[0], 2, axis=0)]).shape == (1, 32)  # Of another size.
    with pytest.raises(ValueError, match=rf"takes images, {dtype} \[B,H,W,{channels}\]"):
        run.embed_image(np.zeros((1, SIDE, SIDE, channels), np.uint8))

    stored = json.loads((workdir / "config.json").read_text())
    for key, other in (("range", [0, 65535]), ("dtype", "uint8")):
        changed = {**stored, "data": {**stored["data"], "input": {**stored["data"]["input"], key: other}}}
        (workdir / "config.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=rf"not what this checkpoint was trained with.*\n.*data\.input\.{key}: "):
            vitfm.load(str(workdir))
