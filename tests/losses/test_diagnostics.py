"""The diagnostics tell collapse from its absence, and have the values that their definitions give."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.losses import diagnostics


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def test_entropy():
    one, uniform = np.eye(5, dtype=np.float32)[[2]], np.full((1, 5), 0.2, np.float32)
    assert diagnostics.entropy(one) == 0
    assert diagnostics.entropy(uniform) == pytest.approx(np.log(5), rel=1e-6)
    assert diagnostics.entropy(np.stack([one, uniform])) == pytest.approx(np.log(5) / 2, rel=1e-6)


def by_singular_values(features: np.ndarray) -> float:
    share = np.linalg.svd(features.astype(np.float64), compute_uv=False)
    share = share[share > 0] / share.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


@pytest.mark.parametrize("shape", [(64, 5), (40, 40), (6, 30), (200, 96)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape: tuple[int, int]):
    features = drawn(*shape) * np.linspace(0.1, 2, shape[1], dtype=np.float32) + 1
    # Where B = D the smallest singular value is as good as none, and half its digits are lost.
    assert diagnostics.effective_rank(features) == pytest.approx(by_singular_values(features), rel=1e-3)


def test_rank_and_uniformity_of_many_rows_are_those_of_the_first():
    rows = unit(600, 400)
    for measure in (diagnostics.effective_rank, diagnostics.uniformity):
        first = measure(rows[:256])
        assert measure(rows) == first
        assert measure(np.concatenate([rows[:256], rows[:1].repeat(344, 0)])) == first
        assert measure(np.concatenate([rows[:1].repeat(344, 0), rows[:256]])) != first
    solved = jax.make_jaxpr(diagnostics.effective_rank)(np.zeros((4096, 2048), np.float32)).pretty_print()
    assert "256,256" in solved and "2048,2048" not in solved


def test_rank_does_not_depend_on_how_rows_are_split():
    rows = drawn(512, 40) + 1
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), ("data",))
    split = jax.device_put(rows, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    whole = float(jax.jit(diagnostics.effective_rank)(rows))
    assert float(jax.jit(diagnostics.effective_rank)(split)) == pytest.approx(whole, rel=1e-5)


def test_effective_rank_counts_directions():
    for rank in (1, 2, 7):
        directions = np.linalg.qr(drawn(32, rank))[0]
        coordinates = np.linalg.qr(drawn(100, rank))[0]
        assert diagnostics.effective_rank(coordinates @ directions.T) == pytest.approx(rank, rel=1e-3)


def test_collapsed_features_have_rank_one():
    constant = np.tile(drawn(1, 384), (128, 1))
    assert diagnostics.effective_rank(constant) == pytest.approx(1, abs=0.05)
    assert diagnostics.effective_rank(constant + 1e-5 * drawn(128, 384)) == pytest.approx(1, abs=0.05)
    assert diagnostics.effective_rank(constant + drawn(128, 384)) > 50
    assert diagnostics.effective_rank(np.zeros((8, 4), np.float32)) == 1


def test_effective_rank_takes_views_as_rows_and_ignores_scale():
    features = drawn(6, 2, 5)
    whole = diagnostics.effective_rank(features.reshape(12, 5))
    assert diagnostics.effective_rank(features) == whole
    assert diagnostics.effective_rank(jnp.asarray(1e3 * features)) == pytest.approx(float(whole), rel=1e-4)


def test_prototype_use_counts_first_choices():
    logits = np.zeros((4, 2, 16), np.float32)
    assert diagnostics.prototype_use(jax.nn.softmax(logits)) == 1 / 8  # One of the 8 that 8 rows could choose.
    logits[np.arange(4), :, np.arange(4)] = 1
    assert diagnostics.prototype_use(jax.nn.softmax(logits)) == 4 / 8
    many = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1]]
    assert diagnostics.prototype_use(many) == pytest.approx(2 / 3)


def test_perplexity_tells_how_many_prototypes_the_mean_spreads_over():
    assert diagnostics.perplexity(np.eye(6, dtype=np.float32)[[0, 0, 0]]) == pytest.approx(1)
    assert diagnostics.perplexity(np.eye(6, dtype=np.float32)[[[0, 1], [2, 3]]]) == pytest.approx(4, rel=1e-5)
    assert diagnostics.perplexity(np.full((2, 6), 1 / 6, np.float32)) == pytest.approx(6, rel=1e-5)


def unit(*shape: int) -> np.ndarray:
    rows = drawn(*shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_alignment_and_uniformity_are_as_published():
    one, other = unit(20, 6), unit(20, 6)[::-1]
    assert diagnostics.alignment(one, other) == pytest.approx(np.linalg.norm(one - other, axis=1).__pow__(2).mean())
    pairs = [np.square(one[i] - one[j]).sum() for i in range(20) for j in range(i)]  # torch.pdist(x) ** 2
    assert diagnostics.uniformity(one) == pytest.approx(np.log(np.exp(-2 * np.array(pairs)).mean()), rel=1e-5)
    assert diagnostics.uniformity(one, t=5.0) == pytest.approx(np.log(np.exp(-5 * np.array(pairs)).mean()), rel=1e-5)


def test_uniformity_tells_collapse():
    assert diagnostics.alignment(unit(1, 8).repeat(9, 0), unit(1, 8).repeat(9, 0)) == 0
    assert diagnostics.uniformity(unit(1, 8).repeat(9, 0)) == pytest.approx(0, abs=1e-5)
    assert diagnostics.uniformity(unit(200, 64)) == pytest.approx(-4, abs=0.3)  # |x - y|² is 2 almost everywhere.


def test_crops_are_compared_by_direction_and_one_alone_is_not():
    one, other = unit(6, 5), -unit(6, 5)
    lengths = np.arange(1, 13, dtype=np.float32).reshape(6, 2, 1)
    found = diagnostics.of_crops(np.stack([one, other], axis=1) * lengths)
    assert found["alignment"] == pytest.approx(np.linalg.norm(one - other, axis=1).__pow__(2).mean(), rel=1e-5)
    assert found["uniformity"] == pytest.approx(float(diagnostics.uniformity(one)), rel=1e-5)
    assert diagnostics.of_crops(one[:, None]).keys() == {"effective_rank"}
