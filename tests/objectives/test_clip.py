"""CLIP's factor on the cosines, and what holds it within its bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.data.facts import Facts
from vitfm.losses import contrastive
from vitfm.objectives import clip

TOWERS = {"image": {"name": "vit", "patch_size": 8}, "text": {"name": "text"}}


@pytest.mark.parametrize(("logarithm", "factor"), [(-0.5, 1.0), (0.7, np.exp(0.7)), (2.0, 5.0)])
def test_aimv2s_factor_is_clamped_in_the_loss_and_its_logarithm_is_free(logarithm: float, factor: float):
    objective, rng = clip.make(**TOWERS, max_scale=5.0, clamped="loss", data=Facts(16, 3, 30, 8)), np.random
    embeddings = {name: rng.default_rng(len(name)).normal(size=(4, 6)) for name in TOWERS}
    loss = lambda x: objective.couple({"logit_scale": x}, {}, embeddings, {}, jnp.int32(0))
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.float32(logarithm))
    assert float(aux.metrics["logit_scale"]) == pytest.approx(factor)
    expected, _ = contrastive.softmax_contrastive(embeddings["image"], embeddings["text"], jnp.float32(factor))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert (float(gradient) != 0) == (factor == np.exp(logarithm))
    assert objective.constrain({"logit_scale": logarithm}) == {"logit_scale": logarithm}
