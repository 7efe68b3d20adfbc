"""Layer-wise learning-rate decay: which layer of its encoder a parameter lies in, by its path.

The blocks of a scanned transformer are stacked: `transformer/blocks/...` [depth, ...] holds what `block_00`, `block_01`
and so on hold otherwise. Whatever is said of a block is said of each slice.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np

from vitfm import tree
from vitfm.config import ConfigError

_BLOCK = re.compile(
    r"(?P<encoder>(?:.*/)?)"
    r"(?:transformer/(?:block_(?P<number>\d+)|(?P<stacked>blocks))"
    r"|stage_(?P<stage>\d+)[/_]block_(?P<staged>\d+))/"
)
_DOWN = re.compile(r"stage_(?P<after>\d+)_merge/|downsample_(?P<before>\d+)(_norm)?/")
# What comes before the blocks.
_FIRST = re.compile(r"(stem|stem_norm|\w*position|embedding|\w+_token|registers|pre_norm)(/|$)")
_ROOT = re.compile(r"(?:.*?/)??(?:encoder|tower)/")  # Where objectives keep encoders.


@dataclasses.dataclass(frozen=True)
class _Encoder:
    """How an encoder's blocks make up its layers.

    Attributes:
      blocks: of each stage; a transformer is one stage.
      group: how many consecutive blocks of a stage are a layer; the last may be fewer.
    """

    blocks: tuple[int, ...]
    group: int

    def before(self, stage: int) -> int:
        """Layers of blocks before a stage."""
        return sum(-(-count // self.group) for count in self.blocks[:stage])

    @property
    def depth(self) -> int:
        return self.before(len(self.blocks))

    def layer(self, name: str, leaf: Any) -> Any:
        """Of a leaf by its name in the encoder: 0 for what comes before the blocks, depth + 1 for what comes after."""
        if match := _BLOCK.match(name):
            if match["stacked"]:
                return 1 + np.arange(self.depth).reshape(-1, *[1] * (leaf.ndim - 1))
            return self.before(int(match["stage"] or 0)) + int(match["number"] or match["staged"]) // self.group + 1
        if match := _DOWN.match(name):
            return self.before(int(match["after"])) if match["after"] else self.before(int(match["before"])) + 1
        return 0 if _FIRST.match(name) else self.depth + 1


def is_stacked(name: str) -> bool:
    """Whether the leading axis of the leaf `name` counts the blocks of a scanned transformer."""
    match = _BLOCK.match(name)
    return bool(match and match["stacked"])


def factors(decay: float, params: Any) -> Any:
    """The further a layer is from the output, the smaller its steps.

    The factor is decay^(depth + 1 - i). i is 0 for what comes before an encoder's blocks (stem, positions, tokens) and
    depth + 1 for what comes after them and for everything outside of encoders. In between, from 1 up,
    - in transformers (BEiT, Bao et al. 2022, arXiv:2106.08254, MAE, DINOv2), ResNet and BiT (timm) and Swin (SimMIM,
      Xie et al. 2022, arXiv:2111.09886) each block is a layer, where Swin's merging belongs to the block before it;
    - in ConvNeXt (Liu et al. 2022, arXiv:2201.03545, appendix A.2: 12 groups of depths 3, 3, 27 and 3) three
      consecutive blocks of a stage are one, the downsampling before a stage in the stage's first.
    Of several encoders each has its own depth.

    Returns:
      A tree like `params` of float32 factors: [], or [depth, 1, ...] for stacked blocks.

    Raises:
      ConfigError: the decay is no such factor, or the layers of an encoder are not known.
    """
    if not 0 < decay <= 1:
        raise ConfigError(f"config.optim.layer_decay = {decay} must be above 0 and at most 1.")
    leaves = tree.named_leaves(params)
    encoders = _encoders(leaves)
    roots = {match[0] for name, _ in leaves if (match := _ROOT.match(name))}
    unknown = sorted(root for root in roots if not any(encoder.startswith(root) for encoder in encoders))
    if unknown or not encoders:
        where = f" of {unknown[0]}" if unknown else ""
        raise ConfigError(
            f"config.optim.layer_decay = {decay}: no parameter lies in a block{where}, "
            "called transformer/block_00/, stage_0/block_00/ or stage_0_block_00/. Give its layers factors by "
            "config.optim.multipliers instead, and set layer_decay = None."
        )

    def factor(path: Any, leaf: Any) -> np.ndarray:
        name = tree.name(path)
        root = max((root for root in encoders if name.startswith(root)), key=len, default=None)
        if root is None:
            return np.float32(1)
        encoder = encoders[root]
        return np.float32(decay ** (encoder.depth + 1 - encoder.layer(name[len(root) :], leaf)))

    return jax.tree_util.tree_map_with_path(factor, params)


def _encoders(leaves: list[tuple[str, Any]]) -> dict[str, _Encoder]:
    """Path of each encoder that has blocks -> how they make up its layers."""
    blocks: dict[str, dict[int, int]] = {}
    for name, leaf in leaves:
        if match := _BLOCK.match(name):
            stages, stage = blocks.setdefault(match["encoder"], {}), int(match["stage"] or 0)
            count = leaf.shape[0] if match["stacked"] else int(match["number"] or match["staged"]) + 1
            stages[stage] = max(stages.get(stage, 0), count)
    grouped = {_BLOCK.match(name)["encoder"] for name, _ in leaves if _BLOCK.match(name) and "/depthwise/" in name}
    return {
        root: _Encoder(tuple(stages[n] for n in sorted(stages)), 3 if root in grouped else 1)
        for root, stages in blocks.items()
    }
