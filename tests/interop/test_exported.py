"""Runs trained here open in transformers, timm and open_clip, and see an image file as they see it here."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import PIL.Image
import pytest

import vitfm
from tests import tiny
from tests.interop import folders
from tests.parity.reference import open_clip, relative_error, timm, torch, transformers
from vitfm import config as config_lib
from vitfm import recipe as recipes
from vitfm import train_lib
from vitfm.config import ConfigError
from vitfm.interop import __main__ as command
from vitfm.interop import exported, imported

FORWARD = 1e-5
EVALUATION = {"size": 40, "resize": "shortest", "crop": 32, "interpolation": "bicubic"}
NORMALISATION = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
VIT = {"name": "vit", "patch_size": 8, "hidden_dim": 32, "depth": 1, "num_heads": 2}


def trained(path: pathlib.Path, config: dict[str, Any], **data: Any) -> pathlib.Path:
    """Three steps of a recipe, evaluated as other libraries do."""
    config["data"] |= {"image_size": 32, "evaluation": EVALUATION, "augment": NORMALISATION, "alpha": False, **data}
    config |= {"total": 3, "batch_size": 8, "evals": {}, "checkpoint": {}, "accumulate": 1, "log_every": 3}
    config["optim"] = {"name": "adamw", "learning_rate": 0.03, "schedule": {"name": "constant"}}
    train_lib.train(config, str(path))
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    config = config_lib.load_file("configs/supervised.py:tiny").to_dict()
    config["objective"]["model"] = {**VIT, "pool": "cls", "epsilon": 1e-6, "scan": True}
    return trained(tmp_path_factory.mktemp("exported") / "classifier", config)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    config = tiny.get_config().to_dict()
    blocks = {"activation": "quick_gelu", "epsilon": 1e-5}
    config["objective"]["image"] = {**VIT, "pool": "cls", "pre_norm": True, "stem_bias": False, **blocks}
    config["objective"]["text"] |= blocks
    return trained(tmp_path_factory.mktemp("exported") / "clip", config)


@pytest.fixture(scope="module")
def aimv2(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    config = tiny.get_config().to_dict()
    style = {"norm": "rms", "gated_mlp": True, "activation": "silu", "epsilon": 1e-5}
    style |= {"qkv_bias": "", "out_bias": False, "mlp_bias": False}
    config["objective"] |= {"image": {**VIT, "pool": "aim", "stem_norm": True, **style}, "clamped": "loss"}
    config["objective"]["text"] |= style
    return trained(tmp_path_factory.mktemp("exported") / "aimv2", config)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """Image files of several shapes."""
    rng, found = np.random.default_rng(0), []
    for number, (height, width) in enumerate([(32, 32), (57, 90), (71, 40), (24, 30)]):
        coarse = rng.integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
        found.append(tmp_path_factory.mktemp("images") / f"{number}.png")
        picture.save(found[-1])
    return found


def opened(files: list[pathlib.Path]) -> list[PIL.Image.Image]:
    return [PIL.Image.open(file) for file in files]


def ours(run: pathlib.Path, name: str, files: list[pathlib.Path]) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return vitfm.load(str(run)).predict[name]([np.asarray(image) for image in opened(files)])


def pixels(folder: pathlib.Path, files: list[pathlib.Path]) -> torch.Tensor:
    """As transformers' own processor makes them, with Pillow as it does without a compiled torchvision."""
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(opened(files), return_tensors="pt")["pixel_values"]


def export(run: pathlib.Path, path: pathlib.Path, *options: str) -> pathlib.Path:
    assert command.main(["export", str(run), str(path), *options]) == 0
    return path


def test_a_classifier_opens_in_transformers(
    classifier: pathlib.Path, tmp_path: pathlib.Path, files: list[pathlib.Path]
):
    folder = export(classifier, tmp_path / "hf")
    model = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    with torch.no_grad():
        theirs = model(pixels(folder, files)).last_hidden_state[:, 0]
    assert theirs.std(0).mean() > 0.01
    assert relative_error(ours(classifier, "embed_image", files), theirs) < FORWARD
    whole, info = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert list(whole.config.id2label.values()) == list(vitfm.load(str(classifier)).config.data.label.classes)
    with torch.no_grad():
        assert relative_error(ours(classifier, "logits", files), whole.eval()(pixels(folder, files)).logits) < FORWARD
    assert relative_error(ours(folder, "logits", files), ours(classifier, "logits", files)) < FORWARD


def test_a_classifier_opens_in_timm(classifier: pathlib.Path, tmp_path: pathlib.Path, files: list[pathlib.Path]):
    folder = export(classifier, tmp_path / "timm", "--format=timm")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.no_grad():
        theirs = model(torch.stack([transform(image.convert("RGB")) for image in opened(files)]))
    assert relative_error(ours(folder, "logits", files), theirs) < FORWARD


def test_clip_opens_in_transformers(clip: pathlib.Path, tmp_path: pathlib.Path, files: list[pathlib.Path]):
    folder = tmp_path / "hf"
    assert any("highest id" in note for note in exported.write(str(clip), str(folder)).notes)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    ids, mask = (torch.tensor(array, dtype=torch.long) for array in texts(clip))
    model.text_model.eos_token_id = -1  # With an id of 2 it would read the text at its highest.
    with torch.no_grad():
        seen = model(ids, pixels(folder, files), mask)
        tokens = model.text_model(ids, mask).last_hidden_state
        read = model.text_projection(tokens[torch.arange(len(ids)), mask.sum(1) - 1])
    assert relative_error(ours(clip, "embed_image", files), seen.image_embeds) < FORWARD
    assert relative_error(embedded(clip), torch.nn.functional.normalize(read)) < FORWARD
    assert relative_error(embedded(folder), embedded(clip)) < FORWARD  # By the tokenizer that lies beside it.


def test_clip_opens_in_open_clip(clip: pathlib.Path, tmp_path: pathlib.Path, files: list[pathlib.Path]):
    with pytest.raises(ConfigError, match=r"open_clip crops the size it resizes to"):
        exported.write(str(clip), str(tmp_path / "no"), format="open_clip")
    hf = export(clip, tmp_path / "hf")
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    folders.edit(hf / "preprocessor_config.json", **square)
    folder = export(hf, tmp_path / "open_clip", "--format=open_clip")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    ids, _ = texts(clip)
    with torch.no_grad():
        image = model.eval().encode_image(torch.stack([transform(image) for image in opened(files)]), normalize=True)
        text = model.encode_text(torch.tensor(ids, dtype=torch.long), normalize=True)
    assert relative_error(ours(folder, "embed_image", files), image) < FORWARD
    assert relative_error(embedded(clip), text) < FORWARD


def test_aimv2_opens_in_transformers(aimv2: pathlib.Path, tmp_path: pathlib.Path, files: list[pathlib.Path]):
    folder = export(aimv2, tmp_path / "hf")
    model, info = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids, mask = (torch.tensor(array, dtype=torch.long) for array in texts(aimv2))
    with torch.no_grad():
        theirs = model.eval()(ids, pixels(folder, files), mask)
    assert relative_error(ours(aimv2, "embed_image", files), theirs.image_embeds) < FORWARD
    assert relative_error(embedded(aimv2), theirs.text_embeds) < FORWARD
    assert relative_error(embedded(folder), embedded(aimv2)) < FORWARD  # By the tokenizer that lies beside it.


TEXTS = ["a red apple", "gorilla", "an emoji of a very small bicycle"]


def texts(run: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    config = vitfm.load(str(run)).config
    return recipes.make_data(recipes.parse(config)).tokenizer(TEXTS)


def embedded(run: pathlib.Path) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return vitfm.load(str(run)).embed_text(TEXTS)


def test_what_a_library_lacks_is_refused_by_the_option(
    classifier: pathlib.Path, clip: pathlib.Path, tmp_path: pathlib.Path
):
    with pytest.raises(ConfigError, match=r"vit: config.objective.model.stem_bias = False"):
        exported.write(str(clip), str(tmp_path / "a"), family="vit")
    with pytest.raises(ConfigError, match=r"--format=onnx"):
        exported.write(str(classifier), str(tmp_path / "b"), format="onnx")
    assert not list(tmp_path.iterdir())


def test_what_a_library_does_otherwise_is_said(clip: pathlib.Path, tmp_path: pathlib.Path):
    written = exported.write(str(clip), str(tmp_path / "a"), format="timm")
    assert [note for note in written.notes if "only the encoder is written" in note]
    assert imported.read(tmp_path / "a").config["objective"]["name"] == "backbone"
