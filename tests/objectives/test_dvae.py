"""What the discrete VAE promises: a code for each square, whatever the normalisation; pictures of codes alone."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import train_step
from vitfm.config import ConfigError
from vitfm.objectives import base, dvae

SIZE, STRIDE, CODES, BATCH = 16, 4, 24, 4
MODEL = {"base_dim": 8, "groups": 3, "blocks": 1}
DECODER = {"base_dim": 8, "blocks": 1, "code_dim": 12}


@dataclasses.dataclass(frozen=True)
class Data:
    """The facts that the objective reads."""

    image_size: int = SIZE
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def made(**options: Any) -> base.Objective:
    schedule = lambda spec, where: lambda step: {"objective.temperature": 0.5, "objective.kl_weight": 2.0}[where]
    spec = {"model": MODEL, "decoder": DECODER, "codes": CODES, "data": Data(), "schedule": schedule}
    return dvae.make(**{**spec, **options})


@functools.cache
def objective() -> base.Objective:
    return made()


@functools.cache
def params() -> Any:
    shapes = jax.eval_shape(objective().init, jax.random.key(0), {"image": pixels()}).params
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def pixels() -> np.ndarray:
    return np.random.default_rng(0).uniform(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


def predict(name: str, image: np.ndarray, objective: base.Objective | None = None) -> np.ndarray:
    return np.asarray(jax.jit((objective or globals()["objective"]()).predict[name])(params(), image))


def test_codes_are_the_most_probable_ones_square_by_square():
    codes, logits = predict("codes", pixels()), predict("code_logits", pixels())
    assert codes.dtype == np.int32 and codes.shape == (BATCH, (SIZE // STRIDE) ** 2)
    np.testing.assert_array_equal(codes, logits.argmax(-1))
    assert len(np.unique(codes)) > 2
    patches = predict("patches", pixels())
    assert patches.shape == (BATCH, 4, 4, 32)
    head = params()["head"]["logits"]
    np.testing.assert_allclose(
        patches.reshape(BATCH, 16, 32) @ head["kernel"] + head["bias"], logits, rtol=1e-4, atol=1e-4
    )


def test_they_are_the_pictures_not_its_normalisations():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    other = made(data=Data(mean=mean, std=std))
    image = (pixels() - np.float32(mean)) / np.float32(std)
    ours = predict("code_logits", pixels())
    np.testing.assert_allclose(predict("code_logits", image, other), ours, atol=1e-5)
    assert np.abs(predict("code_logits", image) - ours).max() > 0.1
    shown = predict("reconstruct", image, other)
    np.testing.assert_array_equal(shown[:, 0], image)
    expected = predict("reconstruct", pixels())[:, 1]
    np.testing.assert_allclose(shown[:, 1] * np.float32(std) + np.float32(mean), expected, atol=1e-5)


def test_a_reconstruction_is_of_the_codes_alone():
    codes, shown = predict("codes", pixels()), predict("reconstruct", pixels())
    assert shown.shape == (BATCH, 2, SIZE, SIZE, 3)
    assert shown[:, 1].min() >= 0 and shown[:, 1].max() <= 1 and shown[:, 1].std((1, 2)).min() > 0.01
    near = pixels() * (1 - 1e-5)
    np.testing.assert_array_equal(predict("codes", near), codes)
    np.testing.assert_array_equal(predict("reconstruct", near)[:, 1], shown[:, 1])


def test_the_loss_is_the_bound_of_a_number_and_draws_from_the_examples_keys():
    loss = jax.jit(objective().loss)
    keys = [train_step.example_keys(0, jnp.int32(step), BATCH) for step in (7, 8)]
    (value, aux), (other, _) = (loss(params(), {}, {"image": pixels()}, own, jnp.int32(0)) for own in keys)
    metrics = aux.metrics
    expected = metrics["reconstruction"] + 2.0 * metrics["kl"] / (STRIDE**2 * 3)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(metrics["temperature"]) == 0.5 and float(metrics["kl_weight"]) == 2
    assert 0 < float(metrics["kl"]) < np.log(CODES)
    assert 0 < float(metrics["code_use"]) <= 1 < float(metrics["code_perplexity"]) <= CODES
    assert abs(float(value) - float(other)) > 1e-4
    shuffled = loss(params(), {}, {"image": pixels()[::-1]}, keys[0][::-1], jnp.int32(0))[0]
    assert float(shuffled) == pytest.approx(float(value), rel=1e-5)


def test_a_tokenizer_without_decoder_gives_codes_and_no_loss():
    bare = made(decoder=None)
    assert "reconstruct" not in bare.predict
    assert jax.eval_shape(bare.init, jax.random.key(0), {"image": pixels()}).params.keys() == {"encoder", "head"}
    np.testing.assert_array_equal(predict("codes", pixels(), bare), predict("codes", pixels()))
    with pytest.raises(ConfigError, match="decoder = None"):
        jax.eval_shape(bare.loss, params(), {}, {"image": pixels()}, jax.random.split(jax.random.key(0), 4), 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"codes": 1}, "codes = 1 must be at least 2"),
        ({"temperature": {"name": "cosine", "start": 1.0, "end": 0.0}}, "temperature = .* above 0"),
        ({"kl_weight": -1.0}, r"kl_weight = -1\.0 must be at least 0"),
        ({"decoder": {"groups": 4}}, r"decoder\.groups = 4 must be the encoder's, 3"),
        ({"data": Data(image_size=18)}, r"image_size = 18 must be a multiple of the 4 pixels"),
        ({"model": {"name": "vit"}}, r"objective\.model\.name"),
        ({"model": {"base_dim": 6}}, "base_dim = 6 must be a multiple of 4"),
        ({"model": {"block": 1}}, r"config\.objective\.model\.block: did you mean 'blocks'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)


def test_hidden_patches_are_refused():
    with pytest.raises(ConfigError, match="none can be hidden"):
        dvae.Encoder(SIZE, 8, 2, 1, False, jnp.float32).init(jax.random.key(0), pixels(), jnp.zeros((BATCH, 1), int))
