"""SimCLR's loss, head and whole objective equal lightly's on timm's encoder: values and all gradients."""

from __future__ import annotations

import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import networks
from tests.parity.reference import lightly, relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, converted, worst
from vitfm.losses import instance
from vitfm.models.heads import Projection
from vitfm.models.two_towers import unit
from vitfm.objectives import simclr


@pytest.mark.parametrize(("batch", "width", "temperature"), [(2, 8, 0.5), (5, 16, 0.1), (33, 7, 0.07), (64, 32, 1.0)])
def test_loss_equals_lightly(batch: int, width: int, temperature: float):
    drawn = np.random.default_rng(batch).normal(size=(batch, 2, width)).astype(np.float32)
    theirs = torch.tensor(drawn, requires_grad=True)
    value = lightly.loss.NTXentLoss(temperature)(*theirs.unbind(1))
    value.backward()
    ours, gradient = jax.value_and_grad(lambda rows: instance.nt_xent(unit(rows), temperature)[0])(drawn)
    assert value > 0.1
    assert relative_error(ours, value) < FORWARD
    assert relative_error(gradient, theirs.grad) < GRADIENT


def test_accuracy_counts_views_that_are_nearest_to_their_other():
    rows = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 2, 3, 3, 2]].reshape(4, 2, 8)
    assert instance.nt_xent(rows, 0.1)[1] == pytest.approx(4 / 8)


@pytest.mark.parametrize(
    ("layers", "norm", "last"),
    [(2, True, "scale"), (3, True, "plain"), (3, True, "scale"), (2, False, None), (1, False, None)],
)
def test_head_equals_lightly(layers: int, norm: bool, last: str | None):
    end = f"layers.{3 * (layers - 1) + 1}"
    constant = {"scale": [f"{end}.bias"], "plain": [f"{end}.bias", f"{end}.weight"], None: []}[last]
    theirs = networks.randomised(networks.head(24, 40, 16, layers, norm), layers, constant)
    rng = np.random.default_rng(layers)
    x, weight = (rng.normal(size=(12, size)).astype(np.float32) for size in (24, 16))
    their_x = torch.tensor(x, requires_grad=True)
    out = theirs(their_x)
    assert out.std() > 0.1
    (out * torch.tensor(weight)).sum().backward()
    ours = Projection(40, 16, layers, norm, last)
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), x))["params"]
    rows = networks.head_rows(layers, norm, last)

    def scalar(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = ours.apply({"params": params}, x)
        return (found * weight).sum(), found

    params = converted(rows, networks.learned(theirs), like)
    (_, found), grads = jax.value_and_grad(scalar, (0, 1), has_aux=True)(params, x)
    assert relative_error(found, out) < FORWARD
    assert worst(grads[0], converted(rows, networks.learned_gradients(theirs), like)) < (GRADIENT,)
    assert relative_error(grads[1], their_x.grad) < GRADIENT


@pytest.mark.parametrize(("layers", "norm"), [(2, True), (3, True), (2, False)])
def test_objective_equals_timm_under_lightly(layers: int, norm: bool):
    last, images = "scale" if norm else None, networks.pictures(layers, 6)
    constant = [f"1.layers.{3 * (layers - 1) + 1}.bias"] if norm else []
    parts = networks.vit(), networks.head(networks.WIDTH, 40, 16, layers, norm)
    theirs = networks.randomised(torch.nn.Sequential(*parts), 1, constant)
    # All views in one batch, as the authors do it: batch norm sees both.
    found = theirs(networks.as_torch(images.reshape(-1, *images.shape[2:]))).reshape(6, 2, -1)
    assert found.std() > 0.1
    value = lightly.loss.NTXentLoss(0.2)(*found.unbind(1))
    value.backward()

    sizes = {"hidden_dim": 40, "out_dim": 16, "head_layers": layers, "head_norm": norm, "temperature": 0.2}
    ours = simclr.make(model=networks.MODEL, **sizes, data=types.SimpleNamespace(image_size=networks.SIZE))
    batch = {"views": {"global": images}}
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params
    rows = networks.below("encoder", "0", networks.VIT)
    rows += networks.below("head", "1", networks.head_rows(layers, norm, last))
    params = converted(rows, networks.summed(networks.learned(theirs), "0"), like)
    loss = lambda params: ours.loss(params, {}, batch, jax.random.split(jax.random.key(0), 6), jnp.int32(0))[0]
    ours_value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert relative_error(ours_value, value) < FORWARD
    theirs = converted(rows, networks.learned_gradients(theirs), like)
    compare = functools.partial(networks.worst_but, shift="encoder/transformer/norm/bias") if norm else worst
    assert compare(grads, theirs) < (GRADIENT,)
