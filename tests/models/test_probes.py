"""What encoders offer to probes is what their blocks give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from tests.parity.reference import relative_error
from vitfm import models
from vitfm.models import probes
from vitfm.models.transformer import Block

VIT = {"name": "vit", "image_size": 16, "patch_size": 8, "hidden_dim": 16, "depth": 3, "num_heads": 2}
RESNET = {"name": "resnet", "stem_dim": 8, "depths": (1, 2), "hidden_dims": (16, 32)}


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype(np.float32)


def drawn(tower: Any) -> Any:
    shapes = jax.eval_shape(tower.init, jax.random.key(0), images())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 3, 6])
def test_patches_of_several_blocks_are_their_mean_before_the_norm(scan: bool, blocks: int):
    tower = models.make({**VIT, "pool": "cls", "scan": scan}, where="model")
    params = drawn(tower)["params"]
    of_blocks = lambda module, method: isinstance(module, Block) and method == "__call__"
    run = lambda params: tower.apply({"params": params}, images(), capture_intermediates=of_blocks, mutable=True)
    kept = jax.jit(run)(params)[1]["intermediates"]["transformer"]
    if scan:
        raw = np.asarray(kept["blocks"]["__call__"][0])
    else:
        raw = np.stack([kept[f"block_{layer:02d}"]["__call__"][0] for layer in range(3)])
    expected = raw[-blocks:].mean(0).reshape(2, 1 + 6, 16)[:, 1:].reshape(2, 2, 3, 16)
    found = jax.jit(lambda *given: probes.predictions(tower)["patches"](*given, blocks=blocks))
    assert relative_error(found({"encoder": params}, images()), expected) < 1e-6


def test_patches_are_those_after_the_norm_unless_blocks_are_asked_for():
    tower = models.make(VIT, where="model")
    params = drawn(tower)["params"]
    features = jax.jit(tower.apply)({"params": params}, images())
    found = jax.jit(probes.predictions(tower)["patches"])({"encoder": params}, images())
    np.testing.assert_allclose(found.reshape(2, 6, 16), features.tokens, rtol=1e-5, atol=1e-5)


def test_other_encoders_average_what_they_have_of_their_last_stage():
    tower = models.make(RESNET, where="model")
    params = jax.jit(tower.init)(jax.random.key(0), images())
    layers = jax.jit(lambda params: tower.apply(params, images(), last=2).layers)(params)
    found = probes.predictions(tower, lambda params: params)["patches"]
    found = jax.jit(lambda *given: found(*given, blocks=6))(params, images())
    assert relative_error(found.reshape(layers[0].shape), sum(layers) / 2) < 1e-6


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize(
    ("options", "queries"),
    [
        ({"pool": "cls", "registers": 2}, [0]),
        ({"pool": "cls_gap"}, [0]),
        ({"pool": "gap"}, range(6)),
        ({"pool": "gap", "class_token": True}, range(1, 7)),
        ({"pool": "map"}, range(6)),
    ],
)
def test_attention_is_the_last_softmax_of_what_is_pooled(options: dict[str, Any], queries: Sequence[int], scan: bool):
    tower = models.make({**VIT, **options, "scan": scan}, where="model")
    params = drawn(tower)["params"]
    norms = lambda module, method: module.name == "attention_norm" and method == "__call__"
    run = lambda params: tower.apply({"params": params}, images(), capture_intermediates=norms, mutable=True)
    kept = jax.jit(run)(params)[1]["intermediates"]["transformer"]
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree["blocks"]) if scan else tree["block_02"]
    x = np.asarray(last(kept)["attention_norm"]["__call__"][0]).reshape(2, -1, 16)
    qkv = last(params["transformer"])["attention"]["qkv"]
    query, key, _ = np.moveaxis(np.einsum("bnd,dthe->bnthe", x, qkv["kernel"]) + qkv["bias"], 2, 0)
    scores = np.exp(np.einsum("bqhe,bkhe->bhqk", query, key) * 8**-0.5)
    weights = (scores / scores.sum(-1, keepdims=True))[:, :, [*queries], -6:].reshape(2, 2, -1, 2, 3)
    found = jax.jit(probes.predictions(tower)["attention"])({"encoder": params}, images())
    assert relative_error(found, weights) < 1e-5


@pytest.mark.parametrize("options", [RESNET, {**VIT, "pool": "gap", "window_size": 2}])
def test_only_vits_that_see_all_show_attention(options: dict[str, Any]):
    assert "attention" not in probes.predictions(models.make(options, where="model"))
