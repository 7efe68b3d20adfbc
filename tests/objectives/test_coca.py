"""What CoCa promises: decoding token by token is the forward pass; padding and what comes later change nothing."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitfm import models
from vitfm import recipe as recipes
from vitfm import run as runs
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.losses import captioning, contrastive
from vitfm.models import captioner, generation, pooling
from vitfm.objectives import base, coca

VOCABULARY, LENGTH, SIZE, BATCH, WIDTH = 20, 7, 16, 3, 16
FACTS = Facts(SIZE, 3, VOCABULARY, LENGTH, bos_id=1, eos_id=2, pad_id=0)
TOWER = {"hidden_dim": WIDTH, "depth": 2, "num_heads": 2}
OPTIONS: dict[str, Any] = {
    "image": {"name": "vit", "patch_size": 8, **TOWER},
    "text": TOWER,
    "pooler": {"queries": 3, "num_heads": 2},
    "captioner": {"depth": 2, "num_heads": 2},
}


@functools.cache
def model() -> coca.Model:
    """That of an objective, by its parts."""
    sizes = {"vocab_size": VOCABULARY, "num_heads": 2, "depth": 2}
    form = generation.Form(FACTS.bos_id, FACTS.eos_id, FACTS.pad_id, LENGTH)
    return coca.Model(
        models.make({"image_size": SIZE, **OPTIONS["image"]}, where="objective.image"),
        pooling.task_poolers(hidden_dim=WIDTH, **OPTIONS["pooler"]),
        captioner.text_decoder(length=LENGTH, hidden_dim=WIDTH, **sizes),
        captioner.make(hidden_dim=WIDTH, **sizes),
        nn.Dense(8, use_bias=False),
        generation.greedy(form=form),
        LENGTH,
    )


@functools.cache
def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)
    mask = np.arange(LENGTH) < np.array([LENGTH, 4, 3])[:, None]
    text = np.where(mask, rng.integers(3, VOCABULARY, mask.shape), FACTS.pad_id)
    text[:, 0] = FACTS.bos_id
    return {"image": image, "text": text, "text_mask": mask}


@functools.cache
def params() -> Any:
    """Random ones, large enough that every token matters."""
    shapes = jax.eval_shape(model().init, jax.random.key(0), batch())
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.6, leaf.shape).astype(np.float32), shapes)


@functools.cache
def forward() -> Any:
    """(parameters, images, text, mask) -> logits [B,T,K]."""

    def logits(params: Any, image: jax.Array, text: jax.Array, mask: jax.Array) -> jax.Array:
        _, context = model().encode_image(params, image)
        return model().logits(params, model().encode_text(params, text, mask)[1], context)

    return jax.jit(logits)


def test_decoding_token_by_token_is_the_forward_pass():
    copies = 2  # Texts of an image, as in beam search.
    image = batch()["image"].repeat(copies, axis=0)
    text = np.random.default_rng(2).integers(0, VOCABULARY, (len(image), LENGTH))
    whole = np.asarray(forward()(params(), image, text, np.ones_like(text, bool)))
    state = jax.jit(lambda params: model().state(params, model().encode_image(params, batch()["image"])[1]))(params())
    cache, step = model().empty(len(text)), jax.jit(model().next)
    for place in range(LENGTH):
        logits, cache = step(state, cache, text[:, place])
        np.testing.assert_allclose(logits, whole[:, place], rtol=1e-4, atol=1e-5)
    other = np.asarray(forward()(params(), image[::-1], text, np.ones_like(text, bool)))
    assert whole.std() > 0.1 and np.abs(whole - other)[0].max() > 0.01  # They look at the image.


def test_a_caption_is_what_the_forward_pass_would_choose():
    captions = np.asarray(jax.jit(model().caption)(params(), batch()["image"]))
    text = np.full((BATCH, LENGTH), FACTS.pad_id)
    text[:, 0] = FACTS.bos_id
    ended = np.zeros(BATCH, bool)
    for place in range(1, LENGTH):
        logits = np.asarray(forward()(params(), batch()["image"], text, np.arange(LENGTH) < np.full((BATCH, 1), place)))
        text[:, place] = np.where(ended, FACTS.pad_id, logits[:, place - 1].argmax(-1))
        ended |= text[:, place] == FACTS.eos_id
    np.testing.assert_array_equal(captions, text)


def test_neither_padding_nor_later_tokens_change_anything():
    text, mask = batch()["text"], batch()["text_mask"]
    other = np.where(mask, text, 9)
    embed = jax.jit(lambda text: model().embed(params(), {**batch(), "text": text}))
    for a, b in zip(jax.tree.leaves(embed(text)), jax.tree.leaves(embed(other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    later = text.copy()
    later[0, 4:] = 11
    run = functools.partial(forward(), params(), batch()["image"])
    before, after = run(text, mask)[0], run(later, mask)[0]
    np.testing.assert_allclose(before[:4], after[:4], rtol=1e-5, atol=1e-6)
    assert np.abs(before[4:] - after[4:]).max() > 0.01
    assert np.abs(embed(later)["text"][0] - embed(text)["text"][0]).max() > 0.01  # The class token sees all of it.


def test_captioning_counts_what_is_no_padding_after_the_first_token():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(BATCH, LENGTH, VOCABULARY)).astype(np.float32)
    text, mask = batch()["text"], batch()["text_mask"]
    logits[0, 2, text[0, 3]] += 9
    found = jax.tree.map(np.asarray, captioning.next_token(logits, text, mask))
    for row in range(BATCH):
        places = range(1, int(mask[row].sum()))
        costs = [np.log(np.exp(logits[row, p - 1]).sum()) - logits[row, p - 1, text[row, p]] for p in places]
        hits = sum(logits[row, p - 1].argmax() == text[row, p] for p in places)
        assert found["loss"][row] == pytest.approx(sum(costs), rel=1e-5)
        assert (found["hits"][row], found["tokens"][row]) == (hits, len(places))
    assert found["hits"].sum() > 0
    total = captioning.mean(found["loss"], found["tokens"])
    assert float(total) == pytest.approx(found["loss"].sum() / (mask.sum() - BATCH), rel=1e-6)


def made(data: Facts = FACTS, **options: Any) -> base.Objective:
    return coca.make(**{**OPTIONS, **options}, data=data)


def test_the_loss_weighs_its_two_parts():
    objective, rng = made(contrastive_weight=0.5, caption_weight=3.0), np.random.default_rng(0)
    embeddings = {name: rng.normal(size=(BATCH, 4)).astype(np.float32) for name in ("image", "text")}
    tokens = {"loss": np.array([6.0, 1.0, 2.0]), "hits": np.array([1, 0, 2]), "tokens": np.array([3, 1, 2])}
    scaled = {"logit_scale": jnp.log(2.0)}
    value, aux = objective.couple(scaled, {}, {**embeddings, "caption": tokens}, batch(), jnp.int32(0))
    matching, _ = contrastive.softmax_contrastive(embeddings["image"], embeddings["text"], jnp.float32(2.0))
    assert float(value) == pytest.approx(0.5 * float(matching) + 3 * 9 / 6, rel=1e-6)  # By tokens, not by examples.
    assert float(aux.metrics["loss/caption"]) == pytest.approx(1.5)
    assert float(aux.metrics["accuracy/token"]) == pytest.approx(0.5)
    assert float(objective.constrain({"logit_scale": jnp.float32(9)})["logit_scale"]) == pytest.approx(np.log(100))
    assert objective.accumulate == "cached"


def test_a_loaded_run_writes_captions():
    objective = {"name": "coca", **OPTIONS, "generation": {"name": "beam", "beams": 2}}
    data = {"source": None, "image_size": SIZE, "captions": {}, "tokenizer": {"length": LENGTH}}
    recipe = recipes.parse({"objective": objective, "data": data, "total": 1, "batch_size": 1})
    init = recipes.make_objective(recipe, recipes.make_data(recipe)).init
    params = jax.jit(lambda: init(jax.random.key(0), batch()).params)()
    run = runs._made({"objective": objective, "data": data}, recipe, {"params": params}.get, 0)
    assert float(params["logit_scale"]) == pytest.approx(np.log(1 / 0.07))
    images = [np.zeros((20, 30, 3), np.uint8), np.full((SIZE, SIZE, 3), 255, np.uint8)]
    ids = run.caption(images)
    assert ids.shape == (2, LENGTH) and ids.dtype == np.int32
    assert (ids[:, 0] == run.tokenizer.bos_id).all()
    assert len(run.decode(ids)) == 2
    assert run.decode(run.tokenizer(["red apple", "cat"])[0]) == ["red apple", "cat"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": Facts(SIZE, 3, VOCABULARY, LENGTH)}, "beginning token"),
        ({"image": {**OPTIONS["image"], "pool": "map"}}, "pool = 'map'"),
        ({"pooler": {"queries": 0, "num_heads": 2}}, "queries = 0"),
        ({"pooler": {"queries": 1, "kind": "first", "num_heads": 2}}, "at least 2"),
        ({"text": {**TOWER, "num_heads": 3}}, r"objective\.text: hidden_dim = 16 .* num_heads = 3"),
        ({"captioner": {"num_heads": 5}}, r"objective\.captioner: .* num_heads = 5"),
        ({"captioner": {"hidden_dim": 5}}, "hidden_dim"),
        ({"generation": {"name": "nucleus", "top_p": 2.0}}, "top_p = 2"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        made(**options)
