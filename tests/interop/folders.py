"""Folders as transformers writes them, made without it: tiny, of random weights."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import ml_dtypes
import numpy as np

from vitfm.data.facts import Facts
from vitfm.interop import folder, imported, published, weights
from vitfm.interop.families import vit

CONFIG = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
    "id2label": {"0": "cat", "1": "dog", "2": "crane", "3": "crane"},
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "resample": 2,
    "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.2, 0.3, 0.4],
}
DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def tensors(config: dict[str, Any], dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random ones by the names on disk."""
    objective, rng = vit.read(config), np.random.default_rng(0)
    classes = tuple(map(str, config["id2label"]))
    shapes = imported.leaves(imported.shapes(objective, Facts(config["image_size"], 3, 0, 0, classes)))
    named = weights.expected(vit.rows(objective), shapes)
    return {
        published.on_disk("vit", name): (rng.normal(size=shape) * 0.5).astype(DTYPES[dtype]) for name, shape in named
    }


def write(path: pathlib.Path, *, dtype: str = "float32", shard_bytes: int = 10**9, **changes: Any) -> pathlib.Path:
    """A folder with a ViT; `changes` are keys of its config.json."""
    config = {**CONFIG, **changes}
    configs = {folder.CONFIG: config, folder.PROCESSOR: PROCESSOR}
    folder.write(path, configs, tensors(config, dtype), shard_bytes=shard_bytes)
    return path


def edit(file: pathlib.Path, **changes: Any) -> None:
    """Changes keys of a JSON file; None removes one."""
    found = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
