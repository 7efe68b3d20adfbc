"""An encoder alone: it predicts as its model does, and says what to do where someone would train it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm.config import ConfigError
from vitfm.models import vit
from vitfm.objectives import backbone

MODEL = {"image_size": 16, "patch_size": 8, "hidden_dim": 8, "depth": 1, "num_heads": 1, "pool": "cls"}
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


def test_it_predicts_as_its_model_does():
    objective = backbone.make(model={"name": "vit", **MODEL})
    variables = objective.init(jax.random.key(0), {"image": IMAGE})
    assert set(variables.params) == {"encoder"} and not variables.extra
    features = vit.make(**MODEL).apply({"params": variables.params["encoder"]}, IMAGE)
    np.testing.assert_array_equal(objective.predict["embed_image"](variables.params, IMAGE), features.pooled)
    assert set(objective.predict) == {"embed_image", "features", "patches", "attention"}


def test_its_loss_says_what_to_do():
    objective = backbone.make(model={"name": "vit", **MODEL})
    with pytest.raises(ConfigError, match=r"no loss.*config.init"):
        objective.loss({}, {}, {"image": IMAGE}, None, jnp.int32(0))
