"""What the names of timm's architectures stand for, and what becomes of what timm has no place for."""

from __future__ import annotations

import importlib
import pathlib
from typing import Any

import numpy as np
import pytest

from tests.interop import folders
from tests.parity.reference import timm, torch
from vitfm.config import ConfigError
from vitfm.interop import exported, folder, imported, options, preprocessing, timm_vit

PATTERNS = ("deit*", "beit_*", "beitv2*", "*dinov2*", "vit_*dinov3*", "vit_*siglip*", "aimv2*", "vit_*_patch*_224")
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "SiLU": "silu"}


def found(path: pathlib.Path, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> folder.Folder:
    return folder.Folder(path, "timm", config, None, folder.Tensors({}, shapes))


def read(name: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Our options of the encoder."""
    given = found(pathlib.Path("x"), {"architecture": name, "num_classes": 0}, shapes)
    module = importlib.import_module(f"vitfm.interop.families.{imported.family(given)}")
    return options.complete(module.timm_read(given.config, shapes)["model"])


def test_a_name_stands_for_what_it_does_in_timm():
    known = 0
    for name in sorted({name for pattern in PATTERNS for name in timm.list_models(pattern)}):
        with torch.device("meta"):  # No memory for its weights.
            model = timm.create_model(name, num_classes=0, depth=1)
        try:
            ours = read(name, {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()})
        except ConfigError as error:
            refused = str(error)
            if f"architecture = {name!r}" in refused or ("patch14_siglip" in name and "384" in refused):
                continue  # Of 384 pixels, patches of 14 leave 6.
            raise
        known += 1
        block, act = model.blocks[0], model.blocks[0].mlp.act
        assert ours["num_heads"] == block.attn.num_heads, name
        assert ours["epsilon"] == block.norm1.eps, name
        assert ours["activation"] == ACTIVATIONS[type(act).__name__], name
        assert ours["position"] == "rope" or ours["image_size"] == model.patch_embed.img_size[0], name
        assert ours["pool"] == timm_vit.POOLS[model.global_pool], name
    assert known > 100


@pytest.mark.parametrize(
    ("architecture", "tag", "family"),
    [
        ("vit_small_patch14_reg4_dinov2", "lvd142m", "dinov2_with_registers"),
        ("convnext_tiny", "dinov3_lvd1689m", "dinov3_convnext"),
        ("convnext_tiny", "fb_in1k", "convnext"),
        ("vit_base_patch16_siglip_224", "webli", "siglip_vision_model"),
        ("aimv2_large_patch14_224", "apple_pt", "aimv2_vision_model"),
        ("deit3_base_patch16_224", None, "deit"),
    ],
)
def test_names_and_tags_tell_the_family(architecture: str, tag: str | None, family: str):
    config = {"architecture": architecture, "pretrained_cfg": {"tag": tag}}
    assert imported.family(found(pathlib.Path("x"), config, {})) == family


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "deit_base_patch16_clip_224"}, "architecture = 'deit_base_patch16_clip_224' is no DeiT"),
        ({"model_args": {"qk_norm": True}}, "model_args.qk_norm = True"),
        ({"model_args": {"global_pool": "avgmax"}}, "global_pool = 'avgmax'"),
        ({"model_args": {"img_size": 40}}, "img_size = 40"),
    ],
    ids=str,
)
def test_what_we_lack_is_refused_by_argument_and_value(tmp_path: pathlib.Path, changes: dict[str, Any], words: str):
    path = folders.write(tmp_path / "hf", layer_norm_eps=1e-6)
    exported.write(str(path), str(tmp_path / "a"), format="timm")
    config = folder.read_json(tmp_path / "a/config.json")
    args = {**config["model_args"], **changes.get("model_args", {})}
    folders.edit(tmp_path / "a/config.json", **{**changes, "model_args": args})
    with pytest.raises(ConfigError, match=words):
        imported.read(tmp_path / "a")


def test_a_mask_token_that_has_no_place_is_left_out_and_said(tmp_path: pathlib.Path):
    model = {"name": "vit", "image_size": 16, "patch_size": 8, "hidden_dim": 16, "depth": 1, "num_heads": 2}
    model |= {
        "pool": "cls",
        "mask_token": True,
        "layer_scale": 1.0,
        "class_position": True,
        "position_resize": "bicubic",
    }
    objective = {"name": "backbone", "model": model}
    data = preprocessing.assumed(16)
    state = imported.shapes(objective, imported.pipeline.make(source=None, **data).facts)
    state = {"params": _zeros(state["params"]), "extra": {}}
    described = exported._Model(objective, data, imported.pipeline.make(source=None, **data).facts, None, state)
    notes: list[str] = []
    _, told, _ = exported._described(described, "timm", None, notes)
    assert not told["model"]["mask_token"]
    assert "mask token is left out" in notes[0]
    assert "mask_token" not in exported._state_of(told, state)["params"]["encoder"]
    notes = []
    assert exported._described(described, "transformers", "dinov2", notes)[1]["model"]["mask_token"]
    assert not notes


def _zeros(tree: Any) -> Any:
    return {key: _zeros(x) if isinstance(x, dict) else np.zeros(x.shape, x.dtype) for key, x in tree.items()}
