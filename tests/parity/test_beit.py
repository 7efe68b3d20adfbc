"""BEiT equals transformers' `BeitForMaskedImageModeling`: logits of masked patches, loss, all gradients; its masks."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from tests.parity.weights import FORWARD, GRADIENT, worst
from vitfm import models
from vitfm.interop import weights
from vitfm.interop.families import beit as family
from vitfm.interop.weights import Row
from vitfm.models import heads, masking
from vitfm.objectives import beit

CODES, MASKED, BATCH = 40, 6, 3
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
CASES = {
    "as published: shared biases, layer scale": {"image_size": 32, "use_shared_relative_position_bias": True},
    "biases of each block, absolute positions, 4 channels": {
        "image_size": 40,
        "num_channels": 4,
        "use_relative_position_bias": True,
        "use_absolute_position_embeddings": True,
    },
}


class Pair:
    """The same model with the same weights on both sides, images, masks and codes."""

    def __init__(self, options: Mapping[str, Any]):
        config = transformers.BeitConfig(**SIZES, patch_size=8, vocab_size=CODES, use_mask_token=True, **options)
        self.theirs = transformers.BeitForMaskedImageModeling(config).eval()
        randomise(self.theirs, seed=1)
        # Theirs has the last norm outside of the model; ours has it where a model without mean pooling has it.
        read = family.read({**config.to_dict(), "architectures": ["BeitModel"], "use_mean_pooling": False})
        model = read["model"]
        assert model["epsilon"] == 1e-12 and model["layer_scale"] == 0.1
        encoder = models.make(model, where="objective.model")
        self.ours = beit.Predictor(encoder, heads.Linear(CODES, "fan_in"), MASKED, 4)
        named = family.rows({"name": "supervised", "model": model})
        self.rows = [renamed(row) for row in named]
        rng = np.random.default_rng(0)
        side, channels = config.image_size, config.num_channels
        self.image = rng.normal(size=(BATCH, side, side, channels)).astype(np.float32)
        self.masked = np.asarray(self.ours.masked(jax.random.split(jax.random.key(0), BATCH), self.image))
        self.codes = rng.integers(0, CODES, self.masked.shape)
        self.like = {"params": jax.eval_shape(lambda: self.ours.init(jax.random.key(0), self.image))}

    def converted(self, named: Mapping[str, np.ndarray]) -> Any:
        """Their tensors, values or gradients, as our parameters."""
        return weights.to_ours(self.rows, named, self.like)["params"]

    def run_theirs(self) -> Any:
        masked = torch.tensor(self.masked)
        pixels = torch.tensor(self.image).permute(0, 3, 1, 2)
        return self.theirs(pixels, bool_masked_pos=masked, labels=torch.tensor(self.codes)[masked])


def renamed(row: Row) -> Row:
    """A classifier's row, for the model of masked images."""
    ours, theirs, way = row
    change = lambda name: name.replace("beit.layernorm.", "layernorm.").replace("classifier.", "lm_head.")
    return ours, change(theirs) if isinstance(theirs, str) else tuple(map(change, theirs)), way


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradient_of_every_parameter_are_theirs(name: str):
    both = Pair(CASES[name])
    theirs = both.run_theirs()
    theirs.loss.backward()
    logits = theirs.logits.detach()
    assert logits.std() > 0.1 and both.masked.sum() == BATCH * MASKED
    params = both.converted({name: p.detach().numpy() for name, p in both.theirs.named_parameters()})

    @jax.jit
    def ours(params: Any) -> tuple[Any, ...]:
        loss = lambda params: both.ours.loss(params, both.image, both.masked, both.codes)
        return *jax.value_and_grad(loss, has_aux=True)(params), both.ours.logits(params, both.image, both.masked)

    (value, metrics), grads, (found, _) = ours(params)
    assert relative_error(found, logits[torch.tensor(both.masked)]) < FORWARD
    assert relative_error(value, theirs.loss) < FORWARD
    right = logits.argmax(-1).numpy() == both.codes
    assert float(metrics["accuracy"]) == pytest.approx(right[both.masked].mean())
    named = {name: p.grad.numpy() for name, p in both.theirs.named_parameters()}
    assert worst(grads, both.converted(named)) < (GRADIENT,)


def host_mask(rng: random.Random, side: int, most: int, least: int) -> np.ndarray:
    """Bao et al. 2022, algorithm 1, as the authors' code draws it: block after block, until ten in a row do not fit."""
    mask, failures = np.zeros((side, side), bool), 0
    while failures < 10 and mask.sum() < most:
        left = most - int(mask.sum())
        area, aspect = rng.uniform(least, left), math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
        high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        failures += 1
        if high < side and wide < side:
            top, start = rng.randint(0, side - high), rng.randint(0, side - wide)
            new = high * wide - mask[top : top + high, start : start + wide].sum()
            if 0 < new <= left:
                mask[top : top + high, start : start + wide], failures = True, 0
    return mask


def test_masks_are_distributed_as_the_authors():
    """75 of 14 x 14: how often each patch is hidden, and how often with its neighbour."""
    rng, count = random.Random(0), 1500
    theirs = np.stack([host_mask(rng, 14, 75, 16) for _ in range(count)])
    assert 74 < theirs.sum((1, 2)).mean() < 75 and theirs.sum((1, 2)).max() == 75
    draw = jax.jit(lambda keys: masking.blocks(keys, jnp.full(count, 75), (14, 14), 16))
    ours = np.asarray(draw(jax.random.split(jax.random.key(0), count))).reshape(-1, 14, 14)
    np.testing.assert_array_equal(ours.sum((1, 2)), 75)
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.065)  # Five deviations of a difference of shares.
    together = lambda masks: (masks[:, :, :-1] & masks[:, :, 1:]).sum() / masks[:, :, :-1].sum()
    assert together(ours) == pytest.approx(together(theirs), abs=0.01)
