"""Attention in windows with global blocks equals transformers' ViTDet, and a loop over windows in torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from vitfm import models, tree
from vitfm.config import ConfigError
from vitfm.models.attention import Attention
from vitfm.models.local import in_windows
from vitfm.models.position import Place, Rope

FORWARD, GRADIENT = 1e-5, 1e-4
WINDOW = 3
VIT = {"name": "vit", "image_size": 32, "patch_size": 8, "hidden_dim": 16, "depth": 4, "num_heads": 2, "mlp_dim": 32}
BLOCK = {"attention_norm": "norm1", "attention/qkv": "attention.qkv", "attention/out": "attention.proj"}
BLOCK |= {"mlp_norm": "norm2", "mlp/up": "mlp.fc1", "mlp/down": "mlp.fc2"}


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def params_of(tower: Any, images: np.ndarray, named: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """ViTDet's arrays as ours; also of gradients."""
    shapes = jax.eval_shape(lambda: tower.init(jax.random.key(0), images))["params"]

    def one(block: int, rest: str, shape: tuple[int, ...]) -> np.ndarray:
        ours, kind = rest.rsplit("/", 1)
        array = named[f"encoder.layer.{block}.{BLOCK[ours]}.{'bias' if kind == 'bias' else 'weight'}"]
        return (array.T if kind == "kernel" else array).reshape(shape)

    def leaf(path: Any, like: Any) -> np.ndarray:
        name = tree.name(path)
        if name == "position":
            return named["embeddings.position_embeddings"][0, 1:].reshape(like.shape)
        if name.startswith("stem"):
            array = named[f"embeddings.projection.{'bias' if name.endswith('bias') else 'weight'}"]
            return (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array).reshape(like.shape)
        _, block, rest = name.split("/", 2)
        if block == "blocks":
            return np.stack([one(number, rest, like.shape[1:]) for number in range(VIT["depth"])])
        return one(int(block[-2:]), rest, like.shape)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(("size", "wide"), [((40, 56), (1, 3)), ((48, 24), (3,)), ((16, 40), ())])
def test_it_is_vitdet(size: tuple[int, int], wide: tuple[int, ...], scan: bool):
    config = transformers.VitDetConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=2,
        image_size=64,
        pretrain_image_size=32,
        patch_size=8,
        window_block_indices=[block for block in range(4) if block not in wide],
        window_size=WINDOW,
    )
    module = transformers.VitDetModel(config).eval()
    randomise(module, 0)
    images = some(2, *size, 3)
    theirs = module(torch.tensor(images).permute(0, 3, 1, 2)).last_hidden_state.permute(0, 2, 3, 1)
    along = np.random.default_rng(1).normal(size=theirs.shape).astype(np.float32)
    (theirs * torch.tensor(along)).sum().backward()
    assert theirs.std() > 0.1

    options = {"final_norm": False, "position_resize": "bicubic", "window_size": WINDOW, "global_blocks": wide}
    tower = models.make({**VIT, **options, "scan": scan}, where="model")
    state = module.state_dict()
    params = params_of(tower, images, {name: tensor.numpy() for name, tensor in state.items()})
    run = lambda params: tower.apply({"params": params}, images).tokens.reshape(theirs.shape)
    assert relative_error(jax.jit(run)(params), theirs.detach()) < FORWARD
    found = jax.jit(jax.grad(lambda params: (run(params) * along).sum()))(params)
    gradients = params_of(tower, images, {name: tensor.grad.numpy() for name, tensor in module.named_parameters()})
    for (name, ours), (_, expected) in zip(tree.named_leaves(found), tree.named_leaves(gradients), strict=True):
        assert relative_error(ours, expected) < GRADIENT, name


def looped(x: Any, weights: Mapping[str, Any], grid: tuple[int, int], waves: Any, bias: Any) -> Any:
    """Two heads' attention window by window in torch: [B, h, w, D]; `waves` and `bias` may be None."""
    rows = []
    for image, cosine, sine in zip(x, *waves, strict=True):
        out = torch.zeros_like(image)
        for top in range(0, grid[0], WINDOW):
            for left in range(0, grid[1], WINDOW):
                part = torch.zeros(WINDOW, WINDOW, x.shape[-1])
                turn = torch.stack([torch.ones(WINDOW, WINDOW, 8), torch.zeros(WINDOW, WINDOW, 8)])
                here = (slice(top, top + WINDOW), slice(left, left + WINDOW))
                height, width = image[here].shape[:2]
                part[:height, :width] = image[here]
                turn[0, :height, :width], turn[1, :height, :width] = cosine[here], sine[here]
                cos, sin = turn.reshape(2, -1, 8)
                qkv = torch.einsum("nd,dkhe->khne", part.reshape(-1, x.shape[-1]), weights["kernel"])
                q, k, v = qkv + weights["bias"][:, :, None]
                half = lambda t: torch.cat([-t[..., 4:], t[..., :4]], -1)
                q, k = (t * cos + half(t) * sin for t in (q, k))
                scores = (q @ k.transpose(1, 2) * 8**-0.5 + bias).softmax(-1)
                mixed = (scores @ v).transpose(0, 1).reshape(-1, x.shape[-1])
                mixed = (mixed @ weights["out"] + weights["out_bias"]).reshape(WINDOW, WINDOW, -1)
                out[here] = mixed[:height, :width]
        rows.append(out)
    return torch.stack(rows)


@pytest.mark.parametrize("drawn", [False, True], ids=["one rotation", "of each example"])
@pytest.mark.parametrize("grid", [(6, 3), (5, 7)])
def test_rotations_and_biases_are_those_of_a_loop(grid: tuple[int, int], drawn: bool):
    x, bias = some(2, *grid, 16), some(2, WINDOW**2, WINDOW**2)
    keys = jax.random.split(jax.random.key(0), 2) if drawn else None
    rotation = Rope(shift=0.3)(grid, 8, 0, keys)
    shapes = {"kernel": (16, 3, 2, 8), "bias": (3, 2, 8), "out": (16, 16), "out_bias": (16,)}
    rng = np.random.default_rng(1)
    weights = {name: (rng.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}

    def ours(weights: Mapping[str, Any], x: Any) -> Any:
        params = {"qkv": {name: weights[name] for name in ("kernel", "bias")}}
        params["out"] = {"kernel": weights["out"], "bias": weights["out_bias"]}
        attend = lambda x, n, r: Attention(num_heads=2).apply({"params": params}, x, n, None, bias, r)
        return in_windows(attend, x.reshape(-1, 16), Place(rotation, grid=grid), WINDOW).reshape(x.shape)

    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    waves = [torch.tensor(np.broadcast_to(np.asarray(wave).reshape(-1, *grid, 8), (2, *grid, 8))) for wave in rotation]
    theirs = looped(torch.tensor(x), leaves, grid, waves, torch.tensor(bias))
    along = some(*x.shape)
    (theirs * torch.tensor(along)).sum().backward()
    assert theirs.std() > 0.1
    assert relative_error(jax.jit(ours)(weights, x), theirs.detach()) < FORWARD
    found = jax.jit(jax.grad(lambda weights: (ours(weights, x) * along).sum()))(weights)
    for name, gradient in found.items():
        assert relative_error(gradient, leaves[name].grad) < GRADIENT, name


def test_stacked_blocks_with_rotations_are_those_that_are_not():
    options = {**VIT, "position": "rope", "rope": {"shift": 0.5}, "window_size": 2, "global_blocks": (1,)}
    options |= {"drop_path_rate": 0.3}
    one = models.make(options, where="model")
    images, keys = some(2, 40, 24, 3), jax.random.split(jax.random.key(1), 2)
    params = one.init(jax.random.key(0), images)["params"]
    blocks = [params["transformer"][f"block_{layer:02d}"] for layer in range(4)]
    stacked = {
        "blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks),
        "norm": params["transformer"]["norm"],
    }
    run = lambda tower, params: tower.apply({"params": params}, images, keys=keys).tokens
    loss = lambda params, tower: (run(tower, params) * jnp.cos(jnp.arange(16.0))).sum()
    both = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    value, slopes = both(params, one)
    slopes = [slopes["transformer"][f"block_{layer:02d}"] for layer in range(4)]
    for remat in (False, True):
        other = models.make({**options, "scan": True, "remat": remat}, where="model")
        found, gradients = both({**params, "transformer": stacked}, other)
        assert float(found) == pytest.approx(float(value), rel=1e-5)
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *slopes)
        for (name, a), (_, b) in zip(
            tree.named_leaves(gradients["transformer"]["blocks"]), tree.named_leaves(expected), strict=True
        ):
            assert relative_error(a, np.asarray(b)) < GRADIENT, name
    local = models.make({**options, "global_blocks": ()}, where="model")
    assert float(jax.jit(loss, static_argnums=1)(params, local)) != pytest.approx(float(value), rel=1e-3)


def test_biases_of_windows_are_those_of_images_as_large():
    options = {**VIT, "position": "none", "relative_position": "block"}
    whole = models.make(options, where="model")
    cut = models.make({**options, "window_size": 4}, where="model")
    images = some(1, 64, 96, 3)
    params = cut.init(jax.random.key(0), images)["params"]
    found = cut.apply({"params": params}, images).tokens.reshape(8, 12, 16)
    for row in range(2):
        for column in range(3):
            part = images[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            expected = whole.apply({"params": params}, part).tokens.reshape(4, 4, 16)
            here = found[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert relative_error(here, np.asarray(expected)) < FORWARD


def test_global_blocks_have_tables_of_the_whole_grid():
    options = {**VIT, "relative_position": "block", "window_size": 2, "global_blocks": (3,)}
    tower = models.make(options, where="model")
    params = jax.eval_shape(lambda: tower.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))["params"]
    rows = [params["transformer"][f"block_{n:02d}"]["relative_position"]["table"].shape[0] for n in range(4)]
    assert rows == [9, 9, 9, 49]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"window_size": 2, "pool": "cls"}, r"window_size = 2 cuts whole grids"),
        ({"window_size": 2, "registers": 1}, r"without class token"),
        ({"window_size": 0}, r"at least 1"),
        ({"window_size": 2, "patch_dropout": 0.5}, r"patch_dropout"),
        ({"window_size": 2, "relative_position": "shared"}, r"relative_position = 'shared'"),
        ({"window_size": 2, "relative_position": "block", "scan": True}, r"scan = False"),
        ({"window_size": 2, "global_blocks": (4,)}, r"global_blocks = \[4\] must be different ones of 0, \.\.\., 3"),
        ({"window_size": 2, "global_blocks": (1, 1)}, r"must be different ones"),
        ({"global_blocks": (1,)}, r"set window_size"),
    ],
)
def test_refuses_in_words(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        models.make({**VIT, **options}, where="model")


def test_no_patch_can_be_hidden():
    tower = models.make({**VIT, "window_size": 2}, where="model")
    with pytest.raises(ConfigError, match="no patch can be hidden: window_size = None"):
        tower.init(jax.random.key(0), some(1, 32, 32, 3), jnp.zeros((1, 4), int))
