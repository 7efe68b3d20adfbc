"""Small encoders and heads in torch for the parity of self-supervised objectives, and the rows of their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.parity.reference import lightly, randomise, timm, torch
from tests.parity.weights import Row, patch_positions, same, timm_rows, transposed, values, worst
from vitfm import tree

WIDTH, DEPTH, SIZE = 48, 2, 32
MODEL = {"patch_size": 8, "hidden_dim": WIDTH, "depth": DEPTH, "num_heads": 3, "pool": "cls"}


def below(ours: str, theirs: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a part that is called so on both sides."""
    return [(f"{ours}/{one}", f"{theirs}.{other}", convert) for one, other, convert in rows]


def vit() -> Any:
    """timm's, `MODEL` in ours."""
    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": 3, "num_classes": 0}
    return timm.models.vision_transformer.VisionTransformer(SIZE, 8, **sizes, global_pool="token")


VIT: list[Row] = [
    *(row for row in timm_rows(DEPTH) if row[0] != "position"),
    ("position", "pos_embed", lambda w: patch_positions(w[0])),
    ("class_token", "cls_token", same),
]


def summed(named: dict[str, np.ndarray], vit: str) -> dict[str, np.ndarray]:
    """Our class token holds the sum of theirs and its position: for values, not for gradients."""
    return {**named, f"{vit}.cls_token": named[f"{vit}.cls_token"] + named[f"{vit}.pos_embed"][:, :1]}


def head(inputs: int, hidden: int, outputs: int, layers: int, norm: bool) -> Any:
    """lightly's projection head, which SimCLR and MoCo share; of one layer, what all its heads are made of."""
    if layers == 1:
        return lightly.models.modules.heads.ProjectionHead([(inputs, outputs, None, None)])
    return lightly.models.modules.SimCLRProjectionHead(inputs, hidden, outputs, layers, norm)


def head_rows(layers: int, norm: bool, last: str | None) -> list[Row]:
    """Of `head`; `last` as of `vitfm.models.heads.Projection`: what it lacks is `constant` in theirs."""
    rows, step = [], 3 if norm else 2
    for layer in range(layers - 1):
        rows.append((f"hidden_{layer}/kernel", f"layers.{step * layer}.weight", transposed))
        place = f"layers.{step * layer + 1}"
        if norm:
            rows += [(f"norm_{layer}/scale", f"{place}.weight", same), (f"norm_{layer}/bias", f"{place}.bias", same)]
        else:
            rows.append((f"hidden_{layer}/bias", f"layers.{step * layer}.bias", same))
    end = step * (layers - 1)
    rows.append(("out/kernel", f"layers.{end}.weight", transposed))
    if not last:
        rows.append(("out/bias", f"layers.{end}.bias", same))
    if last == "scale":
        rows.append(("out_norm/scale", f"layers.{end + 1}.weight", same))
    return rows


def randomised(module: Any, seed: int, constant: Sequence[str] = ()) -> Any:
    """Every tensor drawn again, scales of batch norms around 1; but those of the names `constant` are 1, biases 0."""
    randomise(module, seed)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm1d):
                part.weight.add_(1)
        for name, parameter in module.named_parameters():
            if name in constant:
                parameter.fill_(float(name.endswith("weight")))
                parameter.requires_grad_(False)
    return module


def learned(module: Any) -> dict[str, np.ndarray]:
    """Values by name, without the constant ones."""
    wanted = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name: value for name, value in values(module).items() if name in wanted}


def learned_gradients(module: Any) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy().copy() for name, p in module.named_parameters() if p.requires_grad}


def worst_but(ours: Any, theirs: Any, shift: str) -> tuple[float, str]:
    """The largest relative error of a leaf; but that of `shift`, which a batch norm takes away, is next to nothing."""
    flat = [dict(tree.named_leaves(gradients)) for gradients in (ours, theirs)]
    assert max(np.linalg.norm(gradients.pop(shift)) for gradients in flat) < 1e-5
    return worst(*flat)


def pictures(seed: int, batch: int) -> np.ndarray:
    """Two views of each, [B,2,H,W,C]."""
    return np.random.default_rng(seed).normal(size=(batch, 2, SIZE, SIZE, 3)).astype(np.float32)


def as_torch(images: np.ndarray) -> Any:
    """[B,H,W,C] -> [B,C,H,W]."""
    return torch.tensor(images).permute(0, 3, 1, 2)
