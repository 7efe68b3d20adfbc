"""big_vision's `.npz` checkpoints (github.com/google-research/big_vision): ViT, AugReg's among them, and SigLIP.

No configuration lies beside such a file. Sizes, heads, pooling and classes follow from the shapes; that GELU is by
tanh, epsilon 1e-6 and pixels lie in [-1, 1] from big_vision's code. A file without positions is one of fixed ones
(`posemb="sincos2d"`), which it computes. How a classifier was trained (softmax or sigmoid) and how images were resized
can't be known: softmax and the whole image, squeezed, are taken; with fixed positions of 224 pixels a side.

Names are read in every form that was published (below "opt/target/", "params/" or nothing; blocks apart or stacked by a
scan; the parts of a block numbered as before 2022) and brought to one: that of big_vision today, without a scan.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from vitfm.checkpoint.layout import CheckpointError
from vitfm.config import ConfigError
from vitfm.interop import blocks, folder, options, vit_rows
from vitfm.interop.weights import Row, Shape, Way, same

FORMAT = "big_vision"
UNUSED = ((r"^opt/state/", "the optimizer's state"),)
_ROOTS = ("opt/target/", "params/")
_STACKED = re.compile(r"(.*/encoderblock)/(.*)")
_RENAMED = (  # One after another.
    (r"(^|/)Transformer/(posembed_input/)?pos_embedding$", r"\1pos_embedding"),
    (r"(encoderblock_\d+)/LayerNorm_2/", r"\1/LayerNorm_1/"),
    (r"(encoderblock_\d+)/MultiHeadDotProductAttention_1/", r"\1/MultiHeadDotProductAttention_0/"),
    (r"(encoderblock_\d+)/MlpBlock_3/", r"\1/MlpBlock_0/"),
    (r"^(probe$|LayerNorm_0/|MultiHeadDotProductAttention_0/|MlpBlock_0/)", r"MAPHead_0/\1"),
)
_SIDE = 224  # Of images, where no table of positions tells.
_TOKENS = 3  # Axes of a table of positions, [1,N,D].
_ATTENTION = "MultiHeadDotProductAttention_0"


# Files.


@dataclasses.dataclass(frozen=True)
class Loaded(folder.Tensors):
    """name -> array, all in memory."""

    arrays: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


def is_one(path: pathlib.Path) -> bool:
    return path.suffix == ".npz" and path.is_file()


def read(path: pathlib.Path) -> folder.Folder:
    """Reads a file.

    Raises:
      CheckpointError: it is truncated, or no `.npz`.
    """
    try:
        with np.load(path) as file:
            stored = {name: _floats(file[name]) for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is truncated or no .npz file of arrays: {error}.") from None
    arrays = named(stored)
    tensors = Loaded(dict.fromkeys(arrays, path), {name: array.shape for name, array in arrays.items()}, arrays)
    text = {"max_position_embeddings": tensors.shapes.get("txt/pos_embedding", (1, 64))[1]}
    config = {"num_classes": tensors.shapes.get("head/bias", (0,))[0], "text_config": text}
    return folder.Folder(path, FORMAT, config, None, tensors)


def _floats(array: np.ndarray) -> np.ndarray:
    """NumPy stores bfloat16 as two bytes without a meaning."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def named(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the names of big_vision today, blocks apart."""
    root = next((root for root in _ROOTS if any(name.startswith(root) for name in stored)), "")
    found: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        name = name.removeprefix(root)
        stacked = _STACKED.fullmatch(name)
        if stacked is None:
            found[_renamed(name)] = array
        else:
            found |= {_renamed(f"{stacked[1]}_{layer}/{stacked[2]}"): part for layer, part in enumerate(array)}
    return found


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


# Options.


def read_vit(config: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Any]:
    """Shapes by name -> objective: an encoder, with a classifier where there is a head."""
    model = encoder(shapes, "")
    if "head/kernel" not in shapes:
        return {"name": "backbone", "model": model}
    hidden = shapes.get("pre_logits/bias", (None,))[0]
    return {"name": "supervised", "model": model, "loss": "softmax", "head_hidden_dim": hidden}


def encoder(shapes: Mapping[str, Shape], root: str) -> dict[str, Any]:
    """An image tower whose names begin with `root`.

    Raises:
      ConfigError: it is none that vitfm has.
    """
    rows, columns, _, _ = shapes[f"{root}embedding/kernel"]
    patch_size = options.square([rows, columns], f"{root}embedding/kernel: a patch")
    own_class, attended = f"{root}cls" in shapes, f"{root}MAPHead_0/probe" in shapes
    if own_class and attended:
        raise ConfigError(f"{root}cls beside {root}MAPHead_0, a class token and MAP, is not supported.")
    return {
        "name": "vit",
        "patch_size": patch_size,
        **transformer(shapes, f"{root}Transformer"),
        "pool": "cls" if own_class else "map" if attended else "gap",
        **_positions(shapes.get(f"{root}pos_embedding"), f"{root}pos_embedding", patch_size, own_class),
    }


def _positions(table: Shape | None, name: str, patch_size: int, own_class: bool) -> dict[str, Any]:
    """`image_size` and what positions are, by the shape of their table, or where there is none."""
    if table is None:
        return {"image_size": max(_SIDE // patch_size, 1) * patch_size, "position": "sincos2d"}
    if len(table) != _TOKENS:
        raise ConfigError(f"{name} {list(table)} is not supported; vitfm knows [1, N, D].")
    in_table = own_class and math.isqrt(table[1]) ** 2 != table[1]
    side = math.isqrt(table[1] - in_table)
    if side**2 != table[1] - in_table:
        raise ConfigError(f"{name} has {table[1]} positions, which are no square, as vitfm needs.")
    return {"image_size": side * patch_size, "class_position": in_table}


def transformer(shapes: Mapping[str, Shape], root: str) -> dict[str, Any]:
    """Sizes of a transformer, and what all of big_vision's have."""
    layers = {name.removeprefix(root).split("/")[1] for name in shapes if name.startswith(f"{root}/encoderblock_")}
    width, heads, _ = shapes[f"{root}/encoderblock_0/{_ATTENTION}/query/kernel"]
    return {
        "hidden_dim": width,
        "depth": len(layers),
        "num_heads": heads,
        "mlp_dim": shapes[f"{root}/encoderblock_0/MlpBlock_0/Dense_0/kernel"][1],
        "activation": "gelu_tanh",
        "epsilon": 1e-6,
    }


# Rows.

_flat_heads = Way(lambda w: w, lambda w: w.reshape(-1, w.shape[-1]))  # [3H,d] and [3,H,d].


def vit(objective: Mapping[str, Any]) -> list[Row]:
    """Of an encoder, with a classifier or without."""
    head = dense("params/head/logits", "head") if objective["name"] == "supervised" else []
    hidden = dense("params/head/hidden", "pre_logits") if objective.get("head_hidden_dim") is not None else []
    return [*image_rows("params/encoder", "", options.complete(objective["model"])), *hidden, *head]


def image_rows(ours: str, root: str, model: Mapping[str, Any]) -> list[Row]:
    """Of an image tower, all of whose options are given; their names begin with `root`."""
    size, width = model["patch_size"], model["hidden_dim"]
    kernel = Way(lambda w: w.reshape(-1, width), lambda w: w.reshape(size, size, -1, width))
    apart = {**model, "pool": "cls" if model["class_position"] else "gap"}  # What is in the table of positions.
    learned = model["position"] == "learned"
    return [
        (f"{ours}/stem/patch/kernel", f"{root}embedding/kernel", kernel),
        (f"{ours}/stem/patch/bias", f"{root}embedding/bias", same),
        *(blocks.position(ours, f"{root}pos_embedding", apart, axes=_TOKENS) if learned else []),
        *([(f"{ours}/class_token", f"{root}cls", vit_rows.token)] if model["pool"] == "cls" else []),
        *transformer_rows(f"{ours}/transformer", f"{root}Transformer", model),
        *(_pooler(f"{ours}/pooler", f"{root}MAPHead_0", model) if model["pool"] == "map" else []),
    ]


def transformer_rows(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    """Of the blocks, and the norm behind them."""
    rows = _norm(f"{ours}/norm", f"{theirs}/encoder_norm")
    for layer in range(model["depth"]):
        own, other = f"{ours}/block_{layer:02d}", f"{theirs}/encoderblock_{layer}"
        rows += _norm(f"{own}/attention_norm", f"{other}/LayerNorm_0")
        rows += _attention(f"{own}/attention", f"{other}/{_ATTENTION}", model)
        rows += _norm(f"{own}/mlp_norm", f"{other}/LayerNorm_1")
        rows += _mlp(f"{own}/mlp", f"{other}/MlpBlock_0")
    return rows


def _attention(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    """Kernels [D,H,d] for queries, keys and values, ours in one [D,3,H,d], and [H,d,D]."""
    width, heads = model["hidden_dim"], model["num_heads"]
    leaves = lambda leaf: tuple(f"{theirs}/{name}/{leaf}" for name in ("query", "key", "value"))
    joined = Way(
        lambda w: w.reshape(3, width, heads, -1).swapaxes(0, 1),
        lambda w: w.reshape(width, 3, heads, -1).swapaxes(0, 1).reshape(3 * width, heads, -1),
    )
    out = Way(lambda w: w.reshape(-1, width), lambda w: w.reshape(heads, -1, width))
    return [
        (f"{ours}/qkv/kernel", leaves("kernel"), joined),
        (f"{ours}/qkv/bias", leaves("bias"), _flat_heads),
        (f"{ours}/out/kernel", f"{theirs}/out/kernel", out),
        (f"{ours}/out/bias", f"{theirs}/out/bias", same),
    ]


def _pooler(ours: str, theirs: str, model: Mapping[str, Any]) -> list[Row]:
    return [
        (f"{ours}/query_token", f"{theirs}/probe", vit_rows.token),
        *_attention(ours, f"{theirs}/{_ATTENTION}", model),
        *_norm(f"{ours}/norm", f"{theirs}/LayerNorm_0"),
        *_mlp(f"{ours}/mlp", f"{theirs}/MlpBlock_0"),
    ]


def _mlp(ours: str, theirs: str) -> list[Row]:
    return [*dense(f"{ours}/up", f"{theirs}/Dense_0"), *dense(f"{ours}/down", f"{theirs}/Dense_1")]


def _norm(ours: str, theirs: str) -> list[Row]:
    return [(f"{ours}/{leaf}", f"{theirs}/{leaf}", same) for leaf in ("scale", "bias")]


def dense(ours: str, theirs: str) -> list[Row]:
    """A linear map, whose kernel Flax keeps as we do."""
    return [(f"{ours}/{leaf}", f"{theirs}/{leaf}", same) for leaf in ("kernel", "bias")]
