"""Folders of SigLIP and SigLIP 2 answer texts and image files as transformers does, and come back as they were."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import tokenizers

import vitfm
from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from vitfm.config import ConfigError
from vitfm.data.tokenizer import ASSETS
from vitfm.interop import exported, imported

FORWARD = 1e-5
LENGTH = 10
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**BLOCKS, "hidden_size": 24, "projection_size": 32, "vocab_size": 4128, "max_position_embeddings": LENGTH}
TEXTS = ["A red Apple", "gorilla", "an emoji of a very small bicycle that does not end"]
KINDS = {
    "siglip": (
        transformers.SiglipModel,
        transformers.SiglipConfig(text_config=TEXT, vision_config={**BLOCKS, "image_size": 32, "patch_size": 8}),
        transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32}),
    ),
    "siglip2": (
        transformers.Siglip2Model,
        transformers.Siglip2Config(text_config=TEXT, vision_config={**BLOCKS, "num_patches": 16, "patch_size": 8}),
        transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20),
    ),
}


def tokenizer(path: pathlib.Path) -> None:
    """Ours, as SigLIP's: no beginning, an end that also pads, and letters that keep their case."""
    made = tokenizers.Tokenizer.from_file(str(ASSETS / "emoji_bpe.json"))
    made.normalizer = tokenizers.normalizers.NFC()
    made.post_processor = tokenizers.processors.TemplateProcessing("$A <eos>", special_tokens=[("<eos>", 2)])
    made.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "SiglipTokenizer", "pad_token": {"content": "<eos>", "special": True}}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def ids() -> torch.Tensor:
    """As transformers' slow tokenizer makes them: lowercased, cut, ended, padded with ends."""
    made = tokenizers.Tokenizer.from_file(str(ASSETS / "emoji_bpe.json"))
    rows = [made.encode(text.lower(), add_special_tokens=False).ids[: LENGTH - 1] for text in TEXTS]
    return torch.tensor([row + [2] * (LENGTH - len(row)) for row in rows])


def pictures() -> list[PIL.Image.Image]:
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (*s, 3), np.uint8)) for s in ((32, 32), (57, 90), (71, 20))]


@pytest.fixture(scope="module", params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Any, Any]:
    """A folder as transformers writes it, the model, and its processor."""
    kind, config, processor = KINDS[request.param]
    path = tmp_path_factory.mktemp("interop") / request.param
    model = kind(config).eval()
    randomise(model, 0)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    tokenizer(path)
    return path, model, processor


def answers(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    run = vitfm.load(str(path))
    with jax.default_matmul_precision("highest"):
        return run.embed_image([np.asarray(image) for image in pictures()]), run.embed_text(TEXTS)


def test_texts_and_images_are_embedded_as_in_transformers(saved: tuple[pathlib.Path, Any, Any]):
    path, model, processor = saved
    with torch.no_grad():
        theirs = model(input_ids=ids(), **processor(pictures(), return_tensors="pt"))
    image, text = answers(path)
    assert relative_error(image, theirs.image_embeds) < FORWARD
    assert relative_error(text, theirs.text_embeds) < FORWARD
    assert np.linalg.norm(text[0] - text[1]) > 0.1


def test_export_gives_back_every_tensor_and_the_same_answers(
    saved: tuple[pathlib.Path, Any, Any], tmp_path: pathlib.Path
):
    path, model = saved[:2]
    assert not exported.write(str(path), str(tmp_path / "again")).notes
    old, new = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (path, tmp_path / "again"))
    assert {name: array.tobytes() for name, array in old.items()} == {name: a.tobytes() for name, a in new.items()}
    rebuilt, info = type(model).from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    written = transformers.AutoImageProcessor.from_pretrained(tmp_path / "again", backend="pil")
    pixels = written(pictures(), return_tensors="pt")
    with torch.no_grad():
        theirs = rebuilt.eval()(input_ids=ids(), **pixels)
    image, text = answers(tmp_path / "again")
    assert relative_error(image, theirs.image_embeds) < FORWARD
    assert relative_error(text, theirs.text_embeds) < FORWARD


def test_padded_patches_and_whole_images_are_not_mistaken_for_one_another(
    saved: tuple[pathlib.Path, Any, Any], tmp_path: pathlib.Path
):
    path, other = saved[0], {"siglip": "siglip2", "siglip2": "siglip"}[saved[0].name]
    with pytest.raises(ConfigError, match=rf"{other}: .*config\.data\.patches"):
        exported.write(str(path), str(tmp_path / "no"), family=other)
    spec = imported.read(path).config["objective"]
    assert spec["name"] == "siglip" and spec["image"]["pool"] == "map" and spec["text"]["projection_dim"] == 32
