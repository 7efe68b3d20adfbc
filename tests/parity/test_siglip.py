"""SigLIP's loss equals open_clip's, and with its towers transformers': values and every gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.families import siglip as family
from tests.parity.family import Pair, error
from tests.parity.reference import open_clip, relative_error, torch
from tests.parity.test_clip import unit_rows
from tests.parity.weights import FORWARD, GRADIENT
from vitfm import tree
from vitfm.data.facts import Facts
from vitfm.interop import weights
from vitfm.losses import contrastive
from vitfm.objectives import siglip


@pytest.mark.parametrize(
    ("batch", "width", "scale", "bias"),
    [(1, 3, 1.0, 0.0), (5, 8, 10.0, -10.0), (16, 64, 100.0, -15.0), (33, 24, 40.0, 3.0)],
)
def test_loss_equals_open_clip(batch: int, width: int, scale: float, bias: float):
    rng = np.random.default_rng(batch)
    text = unit_rows(rng, batch, width)
    image = unit_rows(rng, batch, width) + text
    arrays = (image, text, np.float32(scale), np.float32(bias))
    reference = [torch.tensor(x, requires_grad=True) for x in arrays]
    theirs = open_clip.loss.SigLipLoss()(*reference)
    theirs.backward()
    loss = lambda *arrays: contrastive.sigmoid_contrastive(*arrays)[0]
    ours, grads = jax.value_and_grad(loss, (0, 1, 2, 3))(*arrays)
    assert relative_error(ours, theirs) < FORWARD
    assert max(relative_error(a, b.grad) for a, b in zip(grads, reference, strict=True)) < GRADIENT


def in_numpy(image: np.ndarray, text: np.ndarray, scale: float, bias: float, concept: np.ndarray) -> tuple[float, Any]:
    """The loss and its gradient with respect to `image`, pair by pair."""
    count, loss, grad = len(image), 0.0, np.zeros_like(image)
    for i in range(count):
        for j in range(count):
            if i == j or concept[i] != concept[j]:
                sign = 1 if i == j else -1
                logit = sign * (scale * image[i] @ text[j] + bias)
                loss += math.log1p(math.exp(-logit)) / count
                grad[i] -= sign * scale * text[j] / (1 + math.exp(logit)) / count
    return loss, grad


@pytest.mark.parametrize("kinds", [1, 3, 7, 100])
def test_concepts_are_left_out_as_an_independent_computation_says(kinds: int):
    rng = np.random.default_rng(kinds)
    text, concept = unit_rows(rng, 11, 6), rng.integers(0, kinds, 11).astype(np.int32)
    image = unit_rows(rng, 11, 6) + text
    loss, grad = in_numpy(image.astype(np.float64), text.astype(np.float64), 9.0, -4.0, concept)
    (ours, metrics), ours_grad = jax.value_and_grad(contrastive.sigmoid_contrastive, has_aux=True)(
        image, text, jnp.float32(9.0), jnp.float32(-4.0), concept
    )
    assert ours == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(ours_grad, grad, rtol=1e-4, atol=1e-6)
    softmax = contrastive.softmax_contrastive(image, text, jnp.float32(9.0), concept)[1]
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in softmax.items()}
    )


@pytest.mark.parametrize("case", [case for case in family.CASES if case.text], ids=str)
def test_loss_and_gradient_of_every_parameter_equal_transformers(case: Any):
    both = Pair(case, seed=3)
    with torch.no_grad():
        both.theirs.logit_scale.fill_(1.2)
        both.theirs.logit_bias.fill_(-1.7)  # Neither sign's terms vanish.
    texts = torch.tensor(case.text["text"], dtype=torch.long)
    theirs = both.theirs(texts, both.pixels, return_loss=True, interpolate_pos_encoding=True).loss
    theirs.backward()
    named = {name: parameter.grad.numpy() for name, parameter in both.theirs.named_parameters()}
    wanted = weights.to_ours(both.rows, named, both.like)["params"]
    batch = {"image": both.image, **case.text}
    loss = lambda params: both.objective.loss(params, {}, batch, None, jnp.int32(0))[0]
    value, grads = jax.jit(jax.value_and_grad(loss))(both.ours()["params"])
    assert relative_error(value, theirs) < FORWARD
    errors = zip(tree.named_leaves(grads), jax.tree.leaves(wanted), strict=True)
    assert max((error(a, b), name) for (name, a), b in errors) < (GRADIENT,)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads))


@functools.cache
def made(**options: Any) -> Any:
    tower = {"hidden_dim": 16, "depth": 1, "num_heads": 2}
    spec = {"image": {"patch_size": 8, **tower}, "text": {**tower, "hidden_dim": 24, "num_heads": 3}, **options}
    return siglip.make(**spec, data=Facts(16, 3, 20, 5))


def test_it_starts_as_algorithm_1_says():
    batch = {"image": jnp.zeros((1, 16, 16, 3)), "text": jnp.zeros((1, 5), int), "text_mask": jnp.ones((1, 5), bool)}
    params = made().init(jax.random.key(0), batch).params
    assert float(params["logit_scale"]) == pytest.approx(math.log(10)) and float(params["logit_bias"]) == -10
    assert set(params["image"]) == set(params["text"]) == {"tower"}  # No projections but the text tower's own.
    assert "pooler" in params["image"]["tower"]
    assert params["text"]["tower"]["projection"]["kernel"].shape == (24, 16)
    assert made().accumulate == "cached"
