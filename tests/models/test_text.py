"""The text tower: what it sees and what it does not."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import tree
from vitfm.config import ConfigError
from vitfm.models import text

SMALL: dict[str, Any] = {"vocab_size": 30, "length": 8, "hidden_dim": 16, "depth": 2, "num_heads": 2}
FORMS = [(True, "last"), (False, "mean"), (True, "mean"), (False, "last")]


@functools.cache
def weights() -> Any:
    """Of every form, for they share them; large enough that every token matters."""
    init = jax.jit(text.make(**SMALL).init)
    params = init(jax.random.key(0), jnp.zeros((1, 8), int), jnp.ones((1, 8), bool))
    return jax.tree.map(lambda x: np.asarray(x) * (20 if x.shape[0] in (30, 8) else 1), params)


@functools.cache
def made(**options: Any) -> Any:
    """(ids, mask) -> Features."""
    return jax.jit(functools.partial(text.make(**{**SMALL, **options}).apply, weights()))


def mask_of(*lengths: int) -> np.ndarray:
    return np.arange(8) < np.array(lengths)[:, None]


@pytest.mark.parametrize(("causal", "pool"), FORMS)
def test_padding_never_changes_an_embedding(causal: bool, pool: str):
    embed, rng = made(causal=causal, pool=pool), np.random.default_rng(0)
    ids, mask = rng.integers(1, 30, (4, 8)), mask_of(1, 3, 5, 8)
    plain = embed(ids, mask).pooled
    for padding in (0, 29, rng.integers(1, 30, (4, 8))):
        np.testing.assert_allclose(embed(np.where(mask, ids, padding), mask).pooled, plain, atol=1e-6)
    np.testing.assert_allclose(embed(ids[:3, :5], mask[:3, :5]).pooled, plain[:3], atol=1e-6)  # Shorter rows.
    changed = np.where(np.arange(8) == 0, ids % 29 + 1, ids)
    assert np.abs(embed(changed, mask).pooled - plain).max(1).min() > 1e-3  # Real tokens do.


@pytest.mark.parametrize(("causal", "seen"), [(True, [False] * 4 + [True] * 4), (False, [True] * 8)])
def test_who_sees_whom(causal: bool, seen: list[bool]):
    embed, ids = made(causal=causal), np.random.default_rng(0).integers(1, 30, (1, 8))
    other = ids.copy()
    other[0, 4] = ids[0, 4] % 29 + 1
    tokens = [embed(x, mask_of(8)).tokens[0] for x in (ids, other)]
    np.testing.assert_array_equal(np.abs(tokens[0] - tokens[1]).max(1) > 1e-6, seen)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_pooling_takes_the_real_tokens(pool: str):
    features = made(pool=pool)(np.random.default_rng(0).integers(1, 30, (3, 8)), mask_of(2, 5, 8))
    for row, length in enumerate((2, 5, 8)):
        tokens = features.tokens[row, :length]
        np.testing.assert_allclose(features.pooled[row], tokens[-1] if pool == "last" else tokens.mean(0), atol=1e-6)


def test_blocks_in_the_style_of_aimv2_have_no_biases():
    style = {"norm": "rms", "gated_mlp": True, "qkv_bias": "", "out_bias": False, "mlp_bias": False}
    init = text.make(**SMALL, **style).init
    params = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8), int), jnp.ones((1, 8), bool))["params"]
    names = {name for name, _ in tree.named_leaves(params["transformer"]["block_00"])}
    linear = {"attention/qkv", "attention/out", "mlp/gate", "mlp/up", "mlp/down"}
    assert names == {f"{x}/kernel" for x in linear} | {f"{x}_norm/scale" for x in ("attention", "mlp")}


def test_order_of_tokens_matters():
    embed = made()
    ids = np.array([[3, 4, 5, 0, 0, 0, 0, 0]])
    assert (
        np.abs(embed(ids, mask_of(3)).pooled - embed(ids[:, [1, 0, 2, 3, 4, 5, 6, 7]], mask_of(3)).pooled).max() > 1e-3
    )


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"hidden_dim = 20.*num_heads = 3"):
        text.make(**{**SMALL, "hidden_dim": 20, "num_heads": 3})
    with pytest.raises(ValueError, match="9 tokens for a tower of 8"):
        jax.eval_shape(text.make(**SMALL).init, jax.random.key(0), jnp.zeros((1, 9), int), jnp.ones((1, 9), bool))
