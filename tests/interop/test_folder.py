"""Folders of weights: whole and in shards, in every float type; what is broken is refused by file and key."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.interop import folders
from vitfm.checkpoint.layout import CheckpointError
from vitfm.config import ConfigError
from vitfm.interop import exported, folder, imported
from vitfm.interop.families import aimv2_vision_model, dinov3_vit, siglip_vision_model

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def bits(path: pathlib.Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    tensors = folder.read(path).tensors
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in tensors.items()}


@pytest.mark.parametrize("dtype", folders.DTYPES)
@pytest.mark.parametrize("shard_bytes", [10**9, 2000], ids=["one file", "shards"])
def test_import_then_export_is_the_identity(tmp_path: pathlib.Path, dtype: str, shard_bytes: int):
    path = folders.write(tmp_path / "a", dtype=dtype, shard_bytes=shard_bytes)
    assert (path / INDEX).exists() == (shard_bytes < 10**9)
    written = exported.write(str(path), str(tmp_path / "b"), dtype=dtype, shard_bytes=shard_bytes)
    assert bits(tmp_path / "b") == bits(path)
    assert (written.family, list(written.notes)) == ("vit", [])
    config, again = (json.loads((path / "config.json").read_text()) for path in (path, tmp_path / "b"))
    kept = {key: again[key] for key in config if key != "id2label"}
    assert kept == {key: value for key, value in config.items() if key != "id2label"}
    assert imported.read(tmp_path / "b").config == imported.read(path).config


def test_names_of_memory_are_read_as_those_of_disk(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "disk")
    state = imported.read(path).state
    stored = safetensors.numpy.load_file(path / WEIGHTS)
    rules = (("encoder.layer.", "layers."), ("attention.attention.query", "attention.q_proj"))
    rules += (("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"))
    rules += (("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"))
    rules += (("output.dense", "mlp.fc2"),)
    renamed = {}
    for name, array in stored.items():
        for old, new in rules:
            name = name.replace(old, new)
        renamed[name] = array
    assert renamed.keys() != stored.keys()
    safetensors.numpy.save_file(renamed, path / WEIGHTS)
    again = imported.leaves(imported.read(path).state)
    assert all(np.array_equal(array, again[name]) for name, array in imported.leaves(state).items())


def refused(path: pathlib.Path, *words: str, error: type[Exception] = CheckpointError) -> None:
    with pytest.raises(error) as raised:
        imported.read(path)
    assert all(word in str(raised.value) for word in (str(path), *words)), raised.value


def test_a_missing_shard_is_named_with_its_tensors(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "a", shard_bytes=2000)
    shard = sorted(path.glob("model-*"))[1]
    name = next(iter(safetensors.numpy.load_file(shard)))
    shard.unlink()
    refused(path, shard.name, "missing", name)


def test_an_index_that_is_not_what_its_shards_hold_is_refused(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "a", shard_bytes=2000)
    index = json.loads((path / INDEX).read_text())
    shard = index["weight_map"].pop("classifier.bias")
    (path / INDEX).write_text(json.dumps(index))
    refused(path, shard, "classifier.bias", INDEX)
    index["weight_map"] |= {"classifier.bias": shard, "ghost": shard}
    (path / INDEX).write_text(json.dumps(index))
    refused(path, shard, "lacks ghost", INDEX)
    index["weight_map"]["ghost"] = "../outside.safetensors"
    (path / INDEX).write_text(json.dumps(index))
    refused(path, "../outside.safetensors", "outside the folder")


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_truncated_weights_are_refused(tmp_path: pathlib.Path, keep: int):
    path = folders.write(tmp_path / "a")
    content = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(content[:keep])
    refused(path, WEIGHTS, "truncated")


def test_tensors_that_are_missing_unexpected_or_of_another_shape_are_all_named(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "a")
    tensors = safetensors.numpy.load_file(path / WEIGHTS)
    del tensors["vit.layernorm.bias"]
    tensors["vit.surprise"] = np.zeros(3, np.float32)
    tensors["classifier.weight"] = tensors["classifier.weight"].T.copy()
    safetensors.numpy.save_file(tensors, path / WEIGHTS)
    refused(
        path, WEIGHTS, "missing: vit.layernorm.bias", "unexpected: vit.surprise", "classifier.weight (there [16, 4]"
    )


@pytest.mark.parametrize(
    ("family", "known", "made_up"),
    [
        (aimv2_vision_model, "Aimv2VisionModel", "Aimv2ForImageClassification"),
        (dinov3_vit, "DINOv3ViTModel", "DINOv3ViTForImageClassification"),
        (siglip_vision_model, "SiglipVisionModel", "SiglipForImageClassification"),
    ],
)
def test_a_classifier_that_transformers_lacks_is_not_supported(family: Any, known: str, made_up: str):
    assert family.read({"architectures": [known]})["name"] == "backbone"
    with pytest.raises(ConfigError, match=rf"\['{made_up}'\] is not supported; vitfm knows {known}\.$"):
        family.read({"architectures": [made_up]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "vitt"}, ("model_type = 'vitt'", "did you mean 'vit'")),
        ({"model_type": None}, ("model_type", "architecture")),
        ({"model_type": "clip"}, ("CLIPModel",)),
        ({"hidden_act": "relu6"}, ("hidden_act = 'relu6'",)),
        ({"qkv_bias": False}, ("qkv_bias = False",)),
        ({"architectures": ["ViTForFun"]}, ("ViTForFun", "ViTModel")),
        ({"num_channels": 5}, ("5 channels", "image_mean")),
        ({"image_size": [16, 32]}, ("image_size = [16, 32]",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_we_lack_is_refused_by_key_and_value(tmp_path: pathlib.Path, changes: dict, words: tuple[str, ...]):
    path = folders.write(tmp_path / "a")
    folders.edit(path / "config.json", **changes)
    refused(path, *words, error=ConfigError)


@pytest.mark.parametrize("text", ["", "{", "[1]"], ids=["empty", "half", "a list"])
def test_a_broken_configuration_is_refused(tmp_path: pathlib.Path, text: str):
    path = folders.write(tmp_path / "a")
    (path / "config.json").write_text(text)
    refused(path, "config.json", error=ConfigError)


def test_a_folder_without_weights_or_with_pickles_says_what_to_do(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "a")
    (path / WEIGHTS).unlink()
    refused(path, WEIGHTS, error=ConfigError)
    (path / "pytorch_model.bin").write_bytes(b"")
    refused(path, "pytorch_model.bin", "save_pretrained", error=ConfigError)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_processor_type": "FancyImageProcessor"}, ("FancyImageProcessor",)),
        ({"do_resize": False}, ("do_resize",)),
        ({"size": {"shortest_edge": 16}}, ("shortest_edge",)),
        ({"size": {"longest_edge": 16}}, ("longest_edge",)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_preprocessing_we_lack_is_refused(tmp_path: pathlib.Path, changes: dict, words: tuple[str, ...]):
    path = folders.write(tmp_path / "a")
    folders.edit(path / "preprocessor_config.json", **changes)
    refused(path, "preprocessor_config.json", *words, error=ConfigError)


def test_nothing_is_written_over_a_model(tmp_path: pathlib.Path):
    path = folders.write(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"holds config.json, preprocessor_config.json, model.safetensors already"):
        folders.write(path)
