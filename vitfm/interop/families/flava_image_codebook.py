"""DALL-E's image tokenizer (Ramesh et al. 2021) as FLAVA has it: transformers' `FlavaImageCodebook`.

There is no decoder. The class takes pixels x in [0, 1] as 0.8 x + 0.1, which its processor makes of them; ours takes
images as the recipe's data normalises them, and does that itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitfm.config import ConfigError
from vitfm.interop import options
from vitfm.interop.weights import Row, Way, filters, same

MODEL_TYPE = "flava_image_codebook"
_CLASS = "FlavaImageCodebook"
_GROUPS = 4  # Whatever `num_groups` says, which is but a factor of the gain there.
_SIZES = {"base_dim": ("hidden_size", 256), "blocks": ("num_blocks_per_group", 2)}

_linear = Way(lambda w: w[:, :, 0, 0].T, lambda w: w.T[:, :, None, None])  # [K,D,1,1] and [D,K].


def read(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' config.json -> objective."""
    options.expect(config, num_groups=_GROUPS, architectures=[_CLASS])
    model = {"name": "dvae", **{ours: config.get(*key) for ours, key in _SIZES.items()}}
    return {"name": "dvae", "model": model, "codes": config.get("vocab_size", 8192), "decoder": None}


def write(objective: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """Objective -> transformers' config.json."""
    if objective["name"] != "dvae":
        raise ConfigError(f"{_CLASS} is a whole tokenizer; config.objective.name = {objective['name']!r} is none.")
    model = options.only(objective["model"], ("image_size", *_SIZES))
    return {
        "model_type": MODEL_TYPE,
        "architectures": [_CLASS],
        "num_groups": _GROUPS,
        "input_channels": 3,
        "vocab_size": objective.get("codes", 8192),
        **{key: model[ours] for ours, (key, _) in _SIZES.items()},
    }


def rows(objective: Mapping[str, Any]) -> list[Row]:
    """transformers' names."""
    model = options.complete(objective["model"])
    table = [*_pair("encoder/stem", "blocks.input"), *_pair("head/logits", "blocks.output.conv", _linear)]
    for group in range(_GROUPS):
        for block in range(model["blocks"]):
            ours = f"encoder/group_{group}_block_{block:02d}"
            theirs = f"blocks.group_{group + 1}.group.block_{block + 1}"
            for conv in range(4):
                table += _pair(f"{ours}/conv_{conv}", f"{theirs}.res_path.path.conv_{conv + 1}")
            if group and not block:  # The width doubles.
                table += _pair(f"{ours}/shortcut", f"{theirs}.id_path")
    return table


def _pair(ours: str, theirs: str, way: Way = filters) -> list[Row]:
    """Kernel and bias of a convolution."""
    return [(f"params/{ours}/kernel", f"{theirs}.weight", way), (f"params/{ours}/bias", f"{theirs}.bias", same)]
