"""BEiT: masks of one size for all, a loss of masked patches alone, and tokenizers that do not go with the encoder."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitfm import train_step, tree
from vitfm.config import ConfigError
from vitfm.data import augment
from vitfm.data.facts import Facts
from vitfm.models import heads, masking, vit
from vitfm.objectives import base, beit, dvae

SIZE, PATCH, BATCH, CODES, MASKED = 32, 8, 6, 7, 5
COUNT = (SIZE // PATCH) ** 2
MODEL = {"patch_size": PATCH, "hidden_dim": 16, "depth": 2, "num_heads": 2}


def facts(image_size: int = SIZE) -> Facts:
    return Facts(image_size, 3, 0, 0)


def brightness(params: Any, image: jax.Array) -> jax.Array:
    """A tokenizer's codes: the mean of each patch."""
    side = image.shape[1] // PATCH
    mean = image.reshape(len(image), side, PATCH, side, PATCH, -1).mean((2, 4, 5)).reshape(len(image), -1)
    return jnp.clip((mean * 10 + CODES / 2).astype(jnp.int32), 0, CODES - 1)


TEACHER = base.Teacher(lambda key: {}, {"codes": brightness}, lambda image: image, None)


def made(**options: Any) -> base.Objective:
    sizes = {"codes": CODES, "masked_patches": MASKED, "smallest_block": 2}
    return beit.make(**{"model": MODEL, "data": facts(), "teacher": TEACHER, **sizes, **options})


@functools.cache
def objective() -> base.Objective:
    return made()


@functools.cache
def params() -> Any:
    shapes = jax.eval_shape(objective().init, jax.random.key(0), {"image": images()}).params
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


def keys(step: int) -> jax.Array:
    return train_step.example_keys(0, jnp.int32(step), BATCH)


@functools.cache
def predictor() -> beit.Predictor:
    return beit.Predictor(vit.make(image_size=SIZE, **{**beit.BIASED, **MODEL}), heads.Linear(CODES), MASKED, 2)


@functools.cache
def loss() -> Any:
    """(image, masked, codes) -> loss and metrics."""
    return functools.partial(jax.jit(predictor().loss), params())


@settings(deadline=None, max_examples=25)
@given(
    grid=st.sampled_from([(1, 5), (7, 3), (14, 14)]),
    share=st.floats(0, 1),
    smallest=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_have_their_count_on_any_grid(grid: tuple[int, int], share: float, smallest: int, seed: int):
    most = grid[0] * grid[1]
    count = 1 + int(share * (most - 1))
    masks = drawn(jax.random.split(jax.random.key(seed), 4), jnp.full(4, count), grid, smallest)
    assert masks.shape == (4, most)
    np.testing.assert_array_equal(masks.sum(1), count)
    again = drawn(jax.random.split(jax.random.key(seed), 4)[::-1], jnp.full(4, count), grid, smallest)
    np.testing.assert_array_equal(again[::-1], masks)  # Each by its own key.


drawn = jax.jit(masking.blocks, static_argnums=2)


def test_the_loss_is_of_masked_patches_and_the_encoder_sees_none_of_them():
    image, masked = images(), np.asarray(predictor().masked(keys(0), images()))
    codes = np.asarray(brightness(None, image))
    found, metrics = loss()(image, masked, codes)
    other = np.where(masked, codes, (codes + 1) % CODES)
    assert float(loss()(image, masked, other)[0]) == float(found)  # Of what is seen, no code counts.
    assert abs(float(loss()(image, masked, np.where(masked, (codes + 1) % CODES, codes))[0]) - float(found)) > 1e-3
    side = SIZE // PATCH
    pixels = masked.reshape(BATCH, side, side).repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
    assert float(loss()(np.where(pixels, 9, image), masked, codes)[0]) == float(found)
    assert abs(float(loss()(np.where(pixels, image, 9), masked, codes)[0]) - float(found)) > 1e-3
    assert 0 <= float(metrics["accuracy"]) <= 1 and float(metrics["code_perplexity"]) > 1


def test_a_code_beyond_the_heads_is_not_learned_of():
    masked = predictor().masked(keys(0), images())
    for code in (-1, CODES):
        assert np.isnan(float(loss()(images(), masked, np.full((BATCH, COUNT), code))[0]))


def test_masks_are_drawn_by_step_and_example():
    run = jax.jit(objective().loss)
    extra = {base.FROZEN: {}}
    losses = [float(run(params(), extra, {"image": images()}, keys(step), jnp.int32(0))[0]) for step in (3, 4, 3)]
    assert losses[0] == losses[2] and abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("scan", [False, True])
def test_the_last_maps_of_both_branches_start_smaller_by_depth(scan: bool):
    encoder = vit.make(image_size=SIZE, **{**beit.BIASED, **MODEL, "scan": scan})
    started = jax.eval_shape(encoder.init, jax.random.key(0), images())["params"]
    started = jax.tree.map(lambda leaf: np.random.default_rng(0).normal(size=leaf.shape), started)
    before, after = (dict(tree.named_leaves(params)) for params in (started, beit.rescaled(started)))
    last = {name for name in before if name.endswith(("attention/out/kernel", "mlp/down/kernel"))}
    assert len(last) == (2 if scan else 4)
    for name in before.keys() - last:
        np.testing.assert_array_equal(after[name], before[name])
    for name in last:
        factors = np.sqrt([[[2]], [[4]]]) if scan else np.sqrt(2 if "block_00" in name else 4)
        np.testing.assert_allclose(after[name], before[name] / factors, rtol=1e-6)


def test_encoders_are_as_beits_where_a_recipe_does_not_say_otherwise():
    names = {name for name, _ in tree.named_leaves(params()["encoder"])}
    assert {"mask_token", "class_token", "transformer/relative_position/table"} <= names
    assert "position" not in names and "transformer/block_00/attention_scale" in names


@pytest.mark.parametrize("side", [16, 24])
def test_a_dvae_sees_the_whole_image_at_its_own_size(side: int):
    """As DALL-E's does, 112 pixels of 224, so that both have the same grid; at another size they have not."""
    tokenizer = dvae.make(
        model={"base_dim": 4, "groups": 3, "blocks": 1},
        codes=CODES,
        decoder=None,
        data=facts(side),
        schedule=lambda spec, where: lambda step: 0.0,
    )
    example = {"image": jnp.zeros((1, side, side, 3))}
    teacher = base.Teacher(
        lambda key: tokenizer.init(key, example).params, tokenizer.predict, augment.adapting({}, {}, side), facts(side)
    )
    ours = made(teacher=teacher)
    if side == 24:  # Of 4 pixels a code: 6 x 6 of them, and 4 x 4 patches.
        with pytest.raises(ConfigError, match="config.teacher has 36 codes .* patch_size = 8, 16 patches"):
            jax.eval_shape(ours.init, jax.random.key(0), {"image": images()})
        return
    start = jax.eval_shape(ours.init, jax.random.key(0), {"image": images()})
    assert start.extra[base.FROZEN]["head"]["logits"]["bias"].shape == (CODES,)
    loss = functools.partial(jax.eval_shape, ours.loss, start.params, start.extra)
    assert loss({"image": images()}, keys(0), jnp.int32(0))[0].shape == ()


def logits(count: int) -> base.Teacher:
    """A tokenizer that says how many codes it has."""
    of_codes = lambda params, image: jnp.zeros((len(image), COUNT, count))
    return dataclasses.replace(TEACHER, functions={"codes": brightness, "code_logits": of_codes})


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (None, r"set config\.teacher = "),
        (dataclasses.replace(TEACHER, functions={"logits": brightness}), r"'codes'; it offers logits"),
        (logits(CODES + 1), r"objective\.codes = 7, and config\.teacher has 8 of them"),
    ],
)
def test_tokenizers_that_do_not_fit_are_refused_before_anything_compiles(teacher: base.Teacher | None, words: str):
    with pytest.raises(ConfigError, match=words):
        jax.eval_shape(made(teacher=teacher).init, jax.random.key(0), {"image": images()})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masked_patches": 0}, r"masked_patches = 0 of 16"),
        ({"masked_patches": 16}, r"masked_patches = 16 of 16"),
        ({"smallest_block": 6}, r"smallest_block = 6 must be from 1 to masked_patches = 5"),
        ({"codes": 1}, r"objective\.codes = 1 must be at least 2"),
        ({"model": {**MODEL, "mask_token": False}}, r"mask_token = True"),
        ({"model": {"name": "swin"}}, r"name = 'vit'"),
        ({"model": {"dept": 2}}, r"config\.objective\.model\.dept: did you mean 'depth'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        made(**options)
