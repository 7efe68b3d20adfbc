"""Layer-wise decay gives each parameter of every encoder the factor that its paper's code gives it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.optim.test_rules import DEPTH, vit_params
from vitfm import models, tree
from vitfm.config import ConfigError
from vitfm.optim import layers

DECAY = 0.5


def steps(params: Any) -> dict[str, int]:
    """Name -> how many layers lie behind: its factor is DECAY to that power."""
    found = {}
    for name, factor in tree.named_leaves(layers.factors(DECAY, params)):
        found[name] = round(np.log(factor) / np.log(DECAY))
        assert factor == np.float32(DECAY ** found[name])
    return found


def of(*names: str) -> dict[str, Any]:
    """Parameters with such names."""
    params: dict[str, Any] = {}
    for name in names:
        *parents, leaf = name.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.zeros(1)
    return params


def test_it_grows_from_the_stem_to_the_head():
    found = steps(vit_params(scan=False))
    expected = {"stem/": 4, "position": 4, "class_token": 4, "block_00/": 3, "block_02/": 1, "transformer/norm/": 0}
    for part, count in {**expected, "head/": 0}.items():
        assert {value for name, value in found.items() if part in name} == {count}, part


def test_stacked_blocks_have_a_factor_a_slice():
    factors = layers.factors(DECAY, vit_params(scan=True))
    kernel = factors["encoder"]["transformer"]["blocks"]["attention"]["qkv"]["kernel"]
    assert kernel.shape == (DEPTH, 1, 1, 1, 1)
    assert kernel.ravel().tolist() == [0.5**3, 0.5**2, 0.5]


def test_each_encoder_has_a_depth_of_its_own():
    text = ("text/tower/position", "text/tower/transformer/block_00/kernel", "scale")
    image = [
        f"image/tower/{name}" for name in ("position", "transformer/block_00/kernel", "transformer/block_01/kernel")
    ]
    assert steps(of(*image, *text)) == dict(zip([*image, *text], [3, 2, 1, 2, 1, 0], strict=True))


def convnext_layer(name: str) -> int:
    """Its number in ConvNeXt's own optim_factory, written for depths 3, 3, 27 and 3."""
    kind, *numbers = name.split(".")
    if kind == "downsample_layers":
        return {0: 0, 1: 2, 2: 3, 3: 12}[int(numbers[0])]
    if kind == "stages":
        stage, block = map(int, numbers[:2])
        return {0: 1, 1: 2, 2: 3 + block // 3, 3: 12}[stage]
    return 13


def test_convnexts_groups_are_the_papers():
    theirs = {"encoder/stem/kernel": "downsample_layers.0.0", "encoder/stem_norm/scale": "downsample_layers.0.1"}
    theirs |= {"encoder/norm/scale": "norm", "head/kernel": "head"}
    for stage, depth in enumerate((3, 3, 27, 3)):
        theirs |= {f"encoder/stage_{stage}_block_{n:02d}/depthwise/kernel": f"stages.{stage}.{n}" for n in range(depth)}
        if stage:
            down = f"encoder/downsample_{stage}"
            theirs |= dict.fromkeys((f"{down}/kernel", f"{down}_norm/scale"), f"downsample_layers.{stage}")
    assert steps(of(*theirs)) == {ours: 13 - convnext_layer(name) for ours, name in theirs.items()}


def swin_layer(name: str, depths: tuple[int, ...]) -> int:
    """Its number in SimMIM's get_swin_layer."""
    kind, *rest = name.split(".")
    if kind in ("mask_token", "patch_embed"):
        return 0
    if kind == "layers":
        stage, block = int(rest[0]), rest[2]
        return sum(depths[: stage + 1]) if block in ("reduction", "norm") else sum(depths[:stage]) + int(block) + 1
    return sum(depths) + 1


def test_swins_blocks_are_simmims():
    depths = (2, 2, 6, 2)
    theirs = {"encoder/stem/patch/kernel": "patch_embed.proj", "encoder/stem_norm/scale": "patch_embed.norm"}
    theirs |= {"encoder/mask_token": "mask_token", "encoder/norm/scale": "norm", "head/kernel": "head"}
    for stage, depth in enumerate(depths):
        blocks = {
            f"encoder/stage_{stage}/block_{n:02d}/mlp/up/bias": f"layers.{stage}.blocks.{n}" for n in range(depth)
        }
        theirs |= blocks
        if stage:
            merge, name = f"encoder/stage_{stage}_merge", f"layers.{stage - 1}.downsample"
            theirs |= {f"{merge}/reduction/kernel": f"{name}.reduction", f"{merge}/norm/scale": f"{name}.norm"}
    assert steps(of(*theirs)) == {ours: sum(depths) + 1 - swin_layer(name, depths) for ours, name in theirs.items()}


FEW = {"depths": (1, 4), "image_size": 32}
MODELS = {
    "swin": {**FEW, "embed_dim": 8, "num_heads": (1, 2), "window_size": 4, "position": "learned"},
    "convnext": {**FEW, "hidden_dims": (8, 16)},
    "resnet": {**FEW, "stem_dim": 8, "hidden_dims": (16, 32)},
    "bit": {**FEW, "stem_dim": 8, "hidden_dims": (16, 32), "groups": 4},
}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_an_encoder_has_its_layer(name: str):
    tower = models.make({"name": name, **MODELS[name]}, where="model")
    encoder = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    found = steps({"encoder": encoder, "head": {"kernel": np.zeros(1)}})
    convnext, slash = name == "convnext", "/" if name == "swin" else "_"
    total = 3 if convnext else 5  # Groups of one and of three and one blocks; or five blocks.
    expected = {"stem": total + 1, "position": total + 1, f"stage_0{slash}block_00": total, "head": 0, "norm": 0}
    expected |= {f"stage_1{slash}block_{n:02d}": total - 1 - (n // 3 if convnext else n) for n in range(4)}
    expected |= {"downsample_1": 2, "stage_1_merge": 5}
    for leaf, count in found.items():
        part = max((part for part in expected if leaf.removeprefix("encoder/").startswith(part)), key=len)
        assert count == expected[part], leaf


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("kernel",), r"layer_decay = 0\.5: no parameter lies in a block, called transformer/block_00/"),
        (
            ("image/tower/layer_0/kernel", "text/tower/transformer/block_00/kernel"),
            r"no parameter lies in a block of image/tower/, .*multipliers",
        ),
        (("encoder/layer_0/kernel", "decoder/transformer/block_00/kernel"), r"in a block of encoder/"),
    ],
)
def test_encoders_without_known_layers_are_refused(names: tuple[str, ...], words: str):
    with pytest.raises(ConfigError, match=words):
        layers.factors(DECAY, of(*names))
