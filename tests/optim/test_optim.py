"""Optimizers: each is what its paper says, decays what the rules say, and refuses what it does not know."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitfm import config, optim, tree
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.objectives import clip
from vitfm.optim import muon

OPTIMIZERS = [m.name for m in pkgutil.iter_modules(optim.__path__) if m.name not in ("layers", "rules", "schedules")]
CONSTANT = {"name": "constant"}


@functools.cache
def clip_params() -> Any:
    """Parameters of a small CLIP: names as rules meet them."""
    image = {"name": "vit", "patch_size": 4, "hidden_dim": 16, "depth": 1, "num_heads": 2, "pool": "cls"}
    text = {"name": "text", "hidden_dim": 16, "depth": 1, "num_heads": 2}
    objective = clip.make(image=image, text=text, embed_dim=8, data=Facts(8, 3, 20, 6))
    batch = {"image": jnp.zeros((1, 8, 8, 3)), "text": jnp.zeros((1, 6), int), "text_mask": jnp.ones((1, 6), bool)}
    return jax.jit(lambda key: objective.init(key, batch).params)(jax.random.key(0))


def random_like(params: Any, seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)


def made(params: Any, total: int = 100, **spec: Any) -> tuple[optax.GradientTransformation, optax.Schedule]:
    to_steps = lambda duration, where: config.steps(duration, where=where, batch_size=1, total=total)
    return optim.make({"learning_rate": 0.1, "schedule": CONSTANT, **spec}, params, total=total, to_steps=to_steps)


def after(optimizer: optax.GradientTransformation, params: Any, steps: int = 1, scale: float = 1.0) -> Any:
    """The parameters after some steps of random gradients."""
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for seed in range(steps):
        grads = jax.tree.map(lambda g: scale * g, random_like(params, seed))
        params, state = step(params, state, grads)
    return params


def difference(new: Any, old: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(a - b) for (name, a), b in zip(tree.named_leaves(new), jax.tree.leaves(old), strict=True)}


def test_adamw_equals_optax():
    params = random_like(clip_params(), 100)
    ours, _ = made(params, name="adamw", b1=0.8, b2=0.95, epsilon=1e-6, weight_decay=0.2, clip_norm=None)
    mask = tree.by_rule(optim.DECAY_RULES, params, where="rules")
    theirs = optax.adamw(0.1, 0.8, 0.95, 1e-6, weight_decay=0.2, mask=mask)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        after(ours, params, steps=4),
        after(theirs, params, steps=4),
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_touches_only_what_the_rules_name(name: str):
    params = random_like(clip_params(), 100)
    optimizer, _ = made(params, name=name, weight_decay=0.5)
    moved = difference(after(optimizer, params, scale=0.0), params)  # Without gradients only decay is left.
    decayed = {leaf for leaf, change in moved.items() if np.any(change)}
    assert decayed == {leaf for leaf in moved if leaf.rsplit("/")[-1] in ("kernel", "embedding", "position")}
    assert {leaf for leaf in moved if "bias" in leaf or "norm" in leaf} | {"logit_scale"} <= moved.keys() - decayed
    for leaf, value in tree.named_leaves(params):
        if leaf in decayed:
            np.testing.assert_allclose(moved[leaf], -0.1 * 0.5 * value, rtol=1e-4, atol=1e-6)


def test_decay_rules_are_the_recipes():
    params = random_like(clip_params(), 100)
    rules = [["text/tower/embedding$", True], [".*", False]]  # Lists, as a stored recipe has them.
    optimizer, _ = made(params, name="adamw", weight_decay=0.5, decay_rules=rules)
    moved = difference(after(optimizer, params, scale=0.0), params)
    assert {leaf for leaf, change in moved.items() if np.any(change)} == {"text/tower/embedding"}


def test_gradients_are_clipped_by_their_global_norm():
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    grads = {"a": jnp.array([3.0, 0, 0]), "b": jnp.array([[0, 4.0], [0, 0]])}  # Norm 5.
    for clip_norm, scale in ((1.0, 0.2), (10.0, 1.0), (None, 1.0)):
        # An epsilon that dwarfs the gradient makes Adam's first update linear in it.
        optimizer, _ = made(params, name="adamw", epsilon=1e4, clip_norm=clip_norm)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        expected = jax.tree.map(lambda g, s=scale: -0.1 * s * g / 1e4, grads)
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-2), updates, expected)


def test_learning_rate_follows_the_schedule():
    params = {"kernel": jnp.zeros((2, 2))}
    optimizer, rate = made(params, total=10, name="adamw", schedule={"name": "linear", "warmup": 2})
    expected = [0.05, 0.1, 0.1, 0.0875, 0.075]
    np.testing.assert_allclose([float(rate(step)) for step in range(5)], expected, rtol=1e-5)
    state, moves = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update({"kernel": jnp.ones((2, 2))}, state, params)
        moves.append(-float(updates["kernel"][0, 0]))  # Adam's update of a constant gradient is the rate.
    np.testing.assert_allclose(moves, expected, rtol=1e-4)


def test_muon_orthogonalises_each_matrix_and_leaves_the_rest_to_adam():
    params = random_like(clip_params(), 100)
    optimizer, _ = made(params, name="muon", clip_norm=None)
    moved = difference(after(optimizer, params), params)
    grads = dict(tree.named_leaves(random_like(params, 0)))
    nadam = difference(after(optax.nadamw(0.1, 0.9, 0.95, weight_decay=0.0), params), params)
    for name, change in moved.items():
        assert (change * grads[name]).sum() < 0, name  # Downhill.
        if "block_" not in name or not name.endswith("kernel"):
            np.testing.assert_allclose(change, nadam[name], rtol=1e-4, atol=1e-6, err_msg=name)
            continue
        matrices = np.moveaxis(change, 1, 0).reshape(3, 16, 16) if name.endswith("qkv/kernel") else change[None]
        for matrix in matrices:  # Queries, keys and values are three.
            values = np.linalg.svd(matrix, compute_uv=False)
            assert values.max() / values.min() < 2.5, name  # Of the gradient it is beyond 10.
            assert np.sqrt(np.square(matrix).mean()) == pytest.approx(0.1 * 0.2, rel=0.2)
    spread = np.linalg.svd(grads["image/tower/transformer/block_00/attention/out/kernel"], compute_uv=False)
    assert spread.max() / spread.min() > 10


def test_muon_knows_queries_keys_and_values_apart():
    leaf = jax.ShapeDtypeStruct((16, 3, 2, 8), jnp.float32)
    assert muon._dimensions("block_00/qkv/kernel", leaf) == (0, (2, 3))
    stacked = jax.ShapeDtypeStruct((12, 16, 3, 2, 8), jnp.float32)
    assert muon._dimensions("encoder/transformer/blocks/qkv/kernel", stacked) == (1, (3, 4))
    params = {"block_00": {"qkv": {"kernel": jnp.zeros((16, 3, 2, 8)), "bias": jnp.zeros((3, 2, 8))}}}
    grads = random_like(params, 0)
    changed = jax.tree.map(np.copy, grads)
    changed["block_00"]["qkv"]["kernel"][:, 0] *= -3  # Other queries...
    optimizer, _ = made(params, name="muon", clip_norm=None)
    update = lambda grads: optimizer.update(grads, optimizer.init(params), params)[0]["block_00"]["qkv"]["kernel"]
    updates = update(grads), update(changed)
    np.testing.assert_allclose(updates[0][:, 1:], updates[1][:, 1:], rtol=1e-4)  # ... leave keys and values alone.
    np.testing.assert_allclose(updates[0][:, 0], -updates[1][:, 0], rtol=1e-3, atol=1e-5)


def test_muon_takes_a_convolution_as_one_matrix_and_leaves_filters_of_one_channel_to_adam():
    conv, depthwise = np.random.default_rng(0).normal(size=(3, 3, 8, 16)), np.ones((7, 7, 16))
    params = {"block_00": {"conv": {"kernel": conv}, "depthwise": {"kernel": depthwise}}}
    params = jax.tree.map(jnp.float32, params)
    optimizer, _ = made(params, name="muon", clip_norm=None)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    found = np.linalg.svd(updates["block_00"]["conv"]["kernel"].reshape(72, 16), compute_uv=False)
    assert found.max() / found.min() < 2 < np.divide(*np.linalg.svd(conv.reshape(72, 16), compute_uv=False)[[0, -1]])
    assert np.ptp(updates["block_00"]["depthwise"]["kernel"]) < 1e-6  # Adam's first step is a sign.


def test_muon_refuses_a_pattern_that_names_nothing_or_no_matrix():
    with pytest.raises(ConfigError, match="optim.matrices that cover nothing: 'layer_"):
        made(clip_params(), name="muon", matrices=r"layer_\d+/kernel$")
    with pytest.raises(ConfigError, match=r"names image/tower/position of shape \(2, 2, 16\), no matrix"):
        made(clip_params(), name="muon", matrices=r"(kernel|image/tower/position)$")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_common_options_are_everyones(name: str):
    params = clip_params()
    optimizer, rate = made(
        params,
        name=name,
        learning_rate=1,
        schedule={"name": "cosine", "warmup": 5},
        clip_norm=2.0,
        weight_decay=0.1,
        decay_rules=((".*", True),),
    )
    new = after(optimizer, params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
    assert float(rate(4)) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "adamw", "bt1": 0.9}, r"Unknown key config\.optim\.bt1: did you mean 'b1'"),
        ({"name": "muon", "momentum": 0.9}, r"Unknown key config\.optim\.momentum: .*beta"),
        ({"name": "adamw", "weight_decy": 0.9}, r"Unknown key config\.optim\.weight_decy: did you mean 'weight_decay'"),
        ({"name": "adam"}, "no optim module 'adam': did you mean 'adamw'"),
        ({"name": "adamw", "b1": "high"}, r"config\.optim\.b1 = 'high' has the wrong type"),
        ({"name": "adamw", "clip_norm": "1"}, r"config\.optim\.clip_norm = '1' has the wrong type"),
        ({"name": "adamw", "weight_decay": 0.1, "decay_rules": [["scale$", True]]}, r"optim\.decay_rules covers"),
        ({"learning_rate": 0.1}, r"config\.optim needs a `name`"),
    ],
)
def test_refuses_in_words(spec: Mapping[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(clip_params(), **spec)


def test_a_learning_rate_is_needed():
    with pytest.raises(ConfigError, match=r"config\.optim lacks learning_rate"):
        optim.make({"name": "adamw"}, clip_params(), total=10, to_steps=lambda duration, where: int(duration))
