"""Rotation equals torch's: its `rot90`, timm's encoder, a linear map and cross-entropy over four turns in one batch."""

from __future__ import annotations

import types

import jax
import jax.numpy as jnp

from tests.parity import networks
from tests.parity.reference import relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, converted, same, transposed, worst
from vitfm.objectives import rotation

ROWS = [
    *networks.below("encoder", "0", networks.VIT),
    ("head/logits/kernel", "1.weight", transposed),
    ("head/logits/bias", "1.bias", same),
]


def test_objective_equals_timm_under_torch():
    images = networks.pictures(0, 5)[:, 0]
    theirs = networks.randomised(torch.nn.Sequential(networks.vit(), torch.nn.Linear(networks.WIDTH, 4)), 1)
    turns = [torch.rot90(networks.as_torch(images), turn, dims=(2, 3)) for turn in range(4)]
    logits = theirs(torch.cat(turns))
    assert logits.std() > 0.1
    value = torch.nn.functional.cross_entropy(logits, torch.arange(4).repeat_interleave(5))
    value.backward()

    ours = rotation.make(model=networks.MODEL, data=types.SimpleNamespace(image_size=networks.SIZE))
    batch, keys = {"image": images}, jax.random.split(jax.random.key(0), 5)
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params
    params = converted(ROWS, networks.summed(networks.learned(theirs), "0"), like)
    loss = lambda params: ours.loss(params, {}, batch, keys, jnp.int32(0))
    (ours_value, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert relative_error(ours_value, value) < FORWARD
    assert worst(grads, converted(ROWS, networks.learned_gradients(theirs), like)) < (GRADIENT,)
    right = (logits.argmax(1) == torch.arange(4).repeat_interleave(5)).float().mean()
    assert relative_error(aux.metrics["accuracy"], right) < FORWARD if right else aux.metrics["accuracy"] == 0
