"""What is said of some parameters is done to these, in stacked blocks as in others, and to no other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.optim.test_optim import after, difference, made, random_like
from vitfm import models, tree
from vitfm.config import ConfigError
from vitfm.optim import rules

DEPTH = 3


def vit_params(scan: bool) -> Any:
    """Shapes of a classifier's parameters."""
    spec = {"name": "vit", "image_size": 8, "patch_size": 4, "hidden_dim": 8, "depth": DEPTH, "num_heads": 2}
    tower = models.make({**spec, "pool": "cls", "scan": scan}, where="model")
    encoder = jax.eval_shape(tower.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    head = {"kernel": jax.ShapeDtypeStruct((8, 5), jnp.float32), "bias": jax.ShapeDtypeStruct((5,), jnp.float32)}
    return {"encoder": encoder, "head": head}


def few_params() -> Any:
    """Fewer leaves, which compile sooner: one or more of every kind."""
    draw = np.random.default_rng(0).normal
    leaf = lambda *shape: draw(size=shape).astype(np.float32)
    block = lambda: {"attention": {"qkv": {"kernel": leaf(8, 3, 2, 4)}}, "mlp_norm": {"scale": leaf(8)}}
    return {
        "encoder": {
            "stem": {"patch": {"kernel": leaf(12, 8), "bias": leaf(8)}},
            "class_token": leaf(8),
            "transformer": {**{f"block_{n:02d}": block() for n in range(DEPTH)}, "norm": {"scale": leaf(8)}},
        },
        "head": {"kernel": leaf(8, 5), "bias": leaf(5)},
    }


def stacked(params: Any) -> Any:
    """The parameters of an unrolled transformer as a scanned one has them."""
    transformer = dict(params["encoder"]["transformer"])
    blocks = [transformer.pop(f"block_{layer:02d}") for layer in range(DEPTH)]
    transformer["blocks"] = jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    return {**params, "encoder": {**params["encoder"], "transformer": transformer}}


def assert_close(ours: Any, theirs: Any) -> None:
    ours, theirs = dict(tree.named_leaves(ours)), dict(tree.named_leaves(theirs))
    assert ours.keys() == theirs.keys()
    for name, leaf in theirs.items():
        np.testing.assert_allclose(ours[name], leaf, rtol=1e-4, atol=1e-6 * np.abs(leaf).max(), err_msg=name)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_stacked_blocks_move_as_others_do(name: str):
    """With everything that rules by parameter or layer switched on."""
    spec = {
        "name": name,
        "weight_decay": {"name": "linear", "start": 0.1, "end": 0.5},
        "layer_decay": 0.5,
        "multipliers": [["stem", 0.2]],
        "clip_norm": None,
        "clip_parameter_norm": 1.0,
        "freeze": [["head", 2], "class_token$"],
    }
    params = few_params()
    grads = [random_like(params, seed) for seed in range(1, 4)]

    def trained(params: Any, grads: Any) -> Any:
        optimizer, _ = made(params, **spec)
        state = optimizer.init(params)
        step = jax.jit(optimizer.update)
        for gradient in grads:
            updates, state = step(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params

    assert_close(trained(stacked(params), map(stacked, grads)), stacked(trained(params, grads)))


def test_factors_scale_the_whole_update():
    params = few_params()
    spec = {"name": "adamw", "weight_decay": 0.3}
    plain, _ = made(params, **spec)
    scaled, _ = made(params, **spec, layer_decay=0.5, multipliers=(("stem/patch/kernel", 0.2), ("norm", 3)))
    plain, scaled = (difference(after(optimizer, params), params) for optimizer in (plain, scaled))
    factors = {
        "encoder/stem/patch/kernel": 0.5**4 * 0.2,
        "encoder/stem/patch/bias": 0.5**4,
        "encoder/transformer/block_02/mlp_norm/scale": 0.5 * 3,
        "encoder/transformer/norm/scale": 3.0,
        "head/kernel": 1.0,
    }
    for name, factor in factors.items():
        np.testing.assert_allclose(scaled[name], factor * plain[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_what_is_frozen_never_moves_and_keeps_no_state():
    params = few_params()
    optimizer, _ = made(params, name="adamw", weight_decay=0.5, freeze=["encoder/"])
    moved = difference(after(optimizer, params, steps=2), params)
    assert {name for name, change in moved.items() if np.any(change)} == {"head/kernel", "head/bias"}
    state = [name for name, leaf in tree.named_leaves(optimizer.init(params)) if leaf.ndim]
    assert len(state) == 4  # Two moments of two leaves.
    assert all("head" in name for name in state)


def test_what_is_frozen_counts_in_no_norm():
    params = few_params()
    grads = random_like(params, 1)

    def head_update(params: Any, grads: Any, **spec: Any) -> Any:
        # An epsilon that dwarfs the gradient makes Adam's first update linear in it.
        optimizer, _ = made(params, name="adamw", epsilon=1e4, clip_norm=1.0, **spec)
        return jax.jit(optimizer.update)(grads, optimizer.init(params), params)[0]["head"]

    alone = head_update({"head": params["head"]}, {"head": grads["head"]})
    for freeze in (["encoder/"], [["encoder/", 1]]):
        assert_close(head_update(params, grads, freeze=freeze), alone)
    assert not np.allclose(head_update(params, grads)["kernel"], alone["kernel"])


def test_what_begins_late_begins_as_if_new():
    params = few_params()
    spec = {"name": "adamw", "weight_decay": 0.5, "clip_norm": None}
    late, _ = made(params, **spec, freeze=[["head", 3]])
    plain, _ = made(params, **spec)
    assert_close({"head": after(late, params, steps=3)["head"]}, {"head": params["head"]})
    ours, theirs = after(late, params, steps=4), after(plain, params, steps=4)
    assert_close({"encoder": ours["encoder"]}, {"encoder": theirs["encoder"]})
    gradient = random_like(params, 3)["head"]["kernel"]
    first = -0.1 * (np.sign(gradient) + 0.5 * params["head"]["kernel"])  # Adam's first step is a sign.
    assert_close({"head": ours["head"]["kernel"]}, {"head": params["head"]["kernel"] + first})


def test_weight_decay_follows_its_schedule():
    params = {"kernel": np.ones((2, 2), np.float32), "bias": np.ones(2, np.float32)}
    decay = {"name": "linear", "start": 0.1, "end": 0.3, "length": 2}
    optimizer, _ = made(params, name="adamw", weight_decay=decay)
    state, moves = optimizer.init(params), []
    for _ in range(4):
        updates, state = optimizer.update(jax.tree.map(np.zeros_like, params), state, params)
        assert not updates["bias"].any()
        moves.append(float(updates["kernel"][0, 0]))
    np.testing.assert_allclose(moves, [-0.01, -0.02, -0.03, -0.03], rtol=1e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_each_parameter_is_clipped_alone(scan: bool):
    """Of stacked blocks each slice is one."""
    block = {"mlp": {"up": {"kernel": np.zeros((2, 2), np.float32)}}}
    blocks = (
        {"blocks": jax.tree.map(lambda x: np.stack([x, x]), block)} if scan else {"block_00": block, "block_01": block}
    )
    gradients = np.array([[[3.0, 0], [0, 4.0]], [[0.3, 0], [0, 0.4]]], np.float32)  # Norms 5 and 0.5.
    own = {"mlp": {"up": {"kernel": gradients}}} if scan else [{"mlp": {"up": {"kernel": g}}} for g in gradients]
    grads = {"transformer": {"blocks": own} if scan else {"block_00": own[0], "block_01": own[1]}}
    clipped, _ = rules.clip_each(1.0, {"transformer": blocks}).update(grads, optax.EmptyState())
    values = np.stack([leaf.reshape(-1, 2, 2) for leaf in jax.tree.leaves(clipped)]).reshape(2, 2, 2)
    np.testing.assert_allclose(values[0], gradients[0] / 5, rtol=1e-5)
    np.testing.assert_allclose(values[1], gradients[1], rtol=1e-5)


def test_each_module_is_clipped_alone():
    params, gradients = few_params(), random_like(few_params(), 0)
    lengths = {name: float(optax.global_norm(part)) for name, part in gradients.items()}
    norm = (lengths["encoder"] + lengths["head"]) / 2
    assert lengths["encoder"] > norm > lengths["head"]
    shorter = jax.tree.map(lambda g: g * norm / lengths["encoder"], gradients["encoder"])
    clipped = {**gradients, "encoder": shorter}
    ours, _ = rules.clip_modules(norm).update(gradients, optax.EmptyState())
    assert_close(ours, clipped)
    optimizer, _ = made(params, name="sgd", momentum=0.0, clip_norm=None, clip_module_norm=norm)
    assert_close(after(optimizer, params), jax.tree.map(lambda p, g: p - 0.1 * g, params, clipped))


def test_plain_recipes_keep_their_state():
    """Their checkpoints stay readable."""
    params = random_like(vit_params(scan=False), 0)
    optimizer, rate = made(params, name="adamw", weight_decay=0.1)
    mask = tree.by_rule(((r"(kernel|position)$", True), (".*", False)), params, where="rules")
    expected = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.1, mask),
        optax.scale_by_learning_rate(rate),
    )
    assert jax.tree.structure(optimizer.init(params)) == jax.tree.structure(expected.init(params))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"layer_decay": 0.0}, r"config\.optim\.layer_decay = 0\.0 must be above 0"),
        ({"layer_decay": 1.5}, r"config\.optim\.layer_decay = 1\.5"),
        ({"layer_decay": "0.75"}, r"config\.optim\.layer_decay = '0\.75' has the wrong type"),
        ({"multipliers": [["stm", 0.2]]}, r"optim\.multipliers that cover nothing: 'stm'"),
        ({"multipliers": ["stem"]}, r"config\.optim\.multipliers holds 'stem'; write \(pattern, factor\)"),
        ({"multipliers": [("stem", -1)]}, r"config\.optim\.multipliers holds \('stem', -1\)"),
        ({"multipliers": [("(stem", 1)]}, r"config\.optim\.multipliers: '\(stem' is no regular expression"),
        ({"freeze": "head"}, r"config\.optim\.freeze = 'head' has the wrong type"),
        ({"freeze": ["hed"]}, r"optim\.freeze that cover nothing: 'hed'"),
        ({"freeze": ["head", "head/bias"]}, r"optim\.freeze that cover nothing: 'head/bias' \(a rule before"),
        ({"freeze": [["head"]]}, r"config\.optim\.freeze holds \['head'\]; write a pattern, or \(pattern, duration\)"),
        ({"freeze": [3]}, r"config\.optim\.freeze holds 3"),
        ({"freeze": ["head", "encoder"]}, r"config\.optim\.freeze = .* freezes every parameter"),
        ({"weight_decay": {"name": "cosine", "start": 0.1}}, r"config\.optim\.weight_decay lacks end"),
        ({"weight_decay": "0.1"}, r"config\.optim\.weight_decay = '0\.1' has the wrong type"),
        ({"clip_parameter_norm": "3"}, r"config\.optim\.clip_parameter_norm = '3' has the wrong type"),
    ],
)
def test_refuses_in_words(spec: Mapping[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(vit_params(scan=False), name="adamw", **spec)
