"""The derivatives of the norms are those of their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.models import norms

EPSILON = 1e-3


def layer(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(jnp.square(x - mean).mean(-1, keepdims=True) + EPSILON) * scale + bias


def rms(x, scale):
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON) * scale


PAIRS = {
    "layer": (lambda *inputs: norms.layer_norm(*inputs, EPSILON), layer, 2),
    "rms": (lambda *inputs: norms.rms_norm(*inputs, EPSILON), rms, 1),
}


@pytest.mark.parametrize("shape", [(9,), (6, 9), (2, 3, 9)])
@pytest.mark.parametrize("name", PAIRS)
def test_derivatives_are_those_of_the_formula(name: str, shape: tuple[int, ...]):
    ours, plain, count = PAIRS[name]
    random = np.random.default_rng(0)
    x, weights = 2 * random.normal(size=(2, *shape)).astype(np.float32) + 1
    inputs = (x, *random.normal(size=(count, 9)).astype(np.float32))
    total = lambda function: lambda *inputs: (function(*inputs) * weights).sum()
    graded = [jax.value_and_grad(total(f), tuple(range(count + 1)))(*inputs) for f in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), *graded)
    assert min(np.abs(gradient).max() for gradient in graded[0][1]) > 0.1


def test_a_bfloat16_input_has_a_bfloat16_gradient_and_float32_statistics():
    x = (100 + np.random.default_rng(0).normal(size=(4, 512))).astype(jnp.bfloat16)
    one, none = np.ones(512, np.float32), np.zeros(512, np.float32)
    out, gradient = jax.vjp(lambda x: norms.layer_norm(x, one, none, 1e-6), x)
    assert out.dtype == jnp.float32
    assert gradient(np.asarray(out))[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(out, layer(x.astype(np.float32), one, none), rtol=1e-2, atol=1e-2)
