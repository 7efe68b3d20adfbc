"""Folders of AIMv2 with text answer texts and image files as transformers does, and come back as they were."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

import vitfm
from tests.interop import folders
from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from vitfm.config import ConfigError
from vitfm.data import tokenizer
from vitfm.data.tokenizer import ASSETS
from vitfm.interop import exported, imported
from vitfm.interop.families import aimv2, clip

FORWARD = 1e-5
LENGTH, END = 10, 2
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
TEXT = {**BLOCKS, "hidden_size": 24, "vocab_size": 4128, "max_position_embeddings": LENGTH, "eos_token_id": END}
TEXTS = ["a red apple", "gorilla", "an emoji of a very small bicycle that does not end"]


def texts() -> dict[str, torch.Tensor]:
    ids, mask = tokenizer.make(length=LENGTH)(TEXTS)
    return {"input_ids": torch.tensor(ids, dtype=torch.long), "attention_mask": torch.tensor(mask, dtype=torch.long)}


def pictures() -> list[PIL.Image.Image]:
    rng = np.random.default_rng(0)
    return [PIL.Image.fromarray(rng.integers(0, 256, (*s, 3), np.uint8)) for s in ((28, 28), (57, 90), (71, 30))]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, Any, Any]:
    """A folder as transformers writes it, the model, and its processor."""
    vision = {**BLOCKS, "image_size": 28, "patch_size": 7}
    model = transformers.Aimv2Model(transformers.Aimv2Config(text_config=TEXT, vision_config=vision)).eval()
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    path = tmp_path_factory.mktemp("interop") / "aimv2"
    randomise(model, 0)
    for part in (model, processor):
        part.save_pretrained(path)
    (path / "tokenizer.json").write_bytes((ASSETS / "emoji_bpe.json").read_bytes())
    return path, model, processor


def assert_same_answers(path: pathlib.Path, model: Any, processor: Any) -> None:
    run = vitfm.load(str(path))
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        theirs = model(**texts(), **processor(pictures(), return_tensors="pt"))
        image, text = run.embed_image([np.asarray(image) for image in pictures()]), run.embed_text(TEXTS)
    assert relative_error(image, theirs.image_embeds) < FORWARD
    assert relative_error(text, theirs.text_embeds) < FORWARD
    assert np.linalg.norm(text[0] - text[1]) > 0.1
    scale = np.exp(np.clip(run.params["logit_scale"], 0, np.log(run.config.objective.max_scale)))
    assert relative_error(scale * image @ text.T, theirs.logits_per_image) < FORWARD


def test_texts_and_images_are_embedded_as_in_transformers(saved: tuple[pathlib.Path, Any, Any]):
    assert_same_answers(*saved)


def test_export_gives_back_every_tensor_and_the_same_answers(
    saved: tuple[pathlib.Path, Any, Any], tmp_path: pathlib.Path
):
    path, again = saved[0], tmp_path / "again"
    assert "attention mask" in " ".join(exported.write(str(path), str(again)).notes)
    old, new = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (path, again))
    assert {name: array.tobytes() for name, array in old.items()} == {name: a.tobytes() for name, a in new.items()}
    rebuilt, info = transformers.AutoModel.from_pretrained(again, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_same_answers(again, rebuilt.eval(), transformers.AutoImageProcessor.from_pretrained(again, backend="pil"))


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("", {"architectures": ["Aimv2ForFun"]}, r"Aimv2ForFun.*Aimv2Model"),
        ("vision_config", {"use_head": False}, "use_head = False"),
        ("text_config", {"is_causal": False}, "is_causal = False"),
        ("text_config", {"hidden_act": "relu6"}, "hidden_act = 'relu6'"),
        ("text_config", {"eos_token_id": 7}, r"text_config.eos_token_id = 7.*tokenizer.json, 2"),
    ],
)
def test_what_we_lack_is_refused_by_key_and_value(
    saved: tuple[pathlib.Path, Any, Any], tmp_path: pathlib.Path, part: str, changes: dict[str, Any], words: str
):
    for file in saved[0].iterdir():
        (tmp_path / file.name).symlink_to(file)
    config = json.loads((saved[0] / "config.json").read_text())
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(config))
    folders.edit(tmp_path / "config.json", **({part: {**config[part], **changes}} if part else changes))
    with pytest.raises(ConfigError, match=words):
        imported.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clamped": "parameter"}, "clamped = 'parameter' can't be exported"),
        ({"embed_dim": None}, "embed_dim = None"),
        ({"image": {"pool": "gap"}}, "pool = 'gap'"),
        ({"image": {"pool": "cls"}}, "config.objective.image: .*pool = 'aim' or 'gap'"),
        ({"image": {"out_bias": True}}, "config.objective.image: .*qkv_bias = '', out_bias = True"),
        ({"text": {"norm": "layer"}}, "config.objective.text.norm = 'layer'"),
        ({"text": {"causal": False}}, "config.objective.text.causal = False"),
    ],
)
def test_what_they_lack_is_refused_by_the_option(
    saved: tuple[pathlib.Path, Any, Any], changes: dict[str, Any], words: str
):
    objective = aimv2.read(json.loads((saved[0] / "config.json").read_text()))
    merged = {key: {**objective[key], **x} if isinstance(x, dict) else x for key, x in changes.items()}
    with pytest.raises(ConfigError, match=words):
        aimv2.write({**objective, **merged}, 0)


def test_clip_is_not_taken_for_it(saved: tuple[pathlib.Path, Any, Any]):
    with pytest.raises(ConfigError, match="clamped = 'loss' can't be exported"):
        clip.write(aimv2.read(json.loads((saved[0] / "config.json").read_text())), 0)
