"""CLIP's loss and towers equal open_clip's, the ViT equals timm's, and AdamW equals torch's: values and gradients."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.adamw import ten_steps
from tests.parity.reference import CLIP, CLIPTextCfg, CLIPVisionCfg, open_clip, randomise, relative_error, timm, torch
from tests.parity.weights import (
    FORWARD,
    GRADIENT,
    OPEN_CLIP_BLOCK,
    Row,
    converted,
    filters,
    gradients,
    patch_positions,
    same,
    timm_rows,
    values,
    worst,
)
from vitfm.data.facts import Facts
from vitfm.losses import contrastive
from vitfm.models import vit
from vitfm.objectives import clip as objective

OPEN_CLIP: tuple[Row, ...] = (
    ("logit_scale", "logit_scale", same),
    ("image/projection/kernel", "visual.proj", same),
    ("image/tower/class_token", "visual.class_embedding", same),
    ("image/tower/position", "visual.positional_embedding", patch_positions),
    ("image/tower/stem/patch/kernel", "visual.conv1.weight", filters),
    ("image/tower/pre_norm/scale", "visual.ln_pre.weight", same),
    ("image/tower/pre_norm/bias", "visual.ln_pre.bias", same),
    ("image/tower/transformer/norm/scale", "visual.ln_post.weight", same),
    ("image/tower/transformer/norm/bias", "visual.ln_post.bias", same),
    ("text/projection/kernel", "text_projection", same),
    ("text/tower/embedding", "token_embedding.weight", same),
    ("text/tower/position", "positional_embedding", same),
    ("text/tower/transformer/norm/scale", "ln_final.weight", same),
    ("text/tower/transformer/norm/bias", "ln_final.bias", same),
)


def open_clip_rows(image_depth: int, text_depth: int) -> list[Row]:
    rows = list(OPEN_CLIP)
    for tower, prefix, depth in (("image", "visual.", image_depth), ("text", "", text_depth)):
        for layer in range(depth):
            block = f"{tower}/tower/transformer/block_{layer:02d}/", f"{prefix}transformer.resblocks.{layer}."
            rows += [(block[0] + ours, block[1] + theirs, convert) for ours, theirs, convert in OPEN_CLIP_BLOCK]
    return rows


# The loss.


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("batch", "width", "scale"), [(2, 3, 1.0), (5, 8, 14.3), (16, 64, 100.0), (33, 24, 40.0)])
def test_loss_equals_open_clip(batch: int, width: int, scale: float):
    rng = np.random.default_rng(batch)
    image, text, scale = unit_rows(rng, batch, width), unit_rows(rng, batch, width), np.float32(scale)
    reference = [torch.tensor(x, requires_grad=True) for x in (image, text, scale)]
    theirs = open_clip.ClipLoss()(*reference)
    theirs.backward()
    loss = lambda *arrays: contrastive.softmax_contrastive(*arrays)[0]
    ours, grads = jax.value_and_grad(loss, (0, 1, 2))(image, text, scale)
    assert relative_error(ours, theirs) < FORWARD
    assert max(relative_error(a, b.grad) for a, b in zip(grads, reference, strict=True)) < GRADIENT


def in_numpy(image: np.ndarray, text: np.ndarray, scale: float, concept: np.ndarray) -> tuple[float, np.ndarray, dict]:
    """The loss, its gradient with respect to `image`, and the metrics, row by row over lists of candidates."""
    count, loss, grad, hits = len(image), 0.0, np.zeros_like(image), {"image_to_text": 0, "text_to_image": 0}
    for i in range(count):
        rivals = [j for j in range(count) if j == i or concept[j] != concept[i]]
        for direction in hits:
            own, other = (image, text) if direction == "image_to_text" else (text, image)
            scores = np.array([scale * own[i] @ other[j] for j in rivals])
            chance = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            loss -= math.log(chance[rivals.index(i)]) / (2 * count)
            hits[direction] += rivals[scores.argmax()] == i
            for j, p in zip(rivals, chance, strict=True):
                row, column = (i, text[j]) if direction == "image_to_text" else (j, text[i])
                grad[row] += scale * (p - (j == i)) * column / (2 * count)
    return loss, grad, {name: hit / count for name, hit in hits.items()}


@pytest.mark.parametrize("kinds", [1, 3, 7, 100])
def test_concepts_are_masked_as_an_independent_computation_says(kinds: int):
    rng = np.random.default_rng(kinds)
    text, concept = (
        unit_rows(rng, 11, 6),
        rng.integers(-kinds, kinds, 11).astype(np.int32) if kinds > 1 else np.ones(11),
    )
    image = unit_rows(rng, 11, 6) + text  # Near enough to its text that some rows are hits and some are not.
    loss, grad, accuracy = in_numpy(image.astype(np.float64), text.astype(np.float64), 9.0, concept)
    (ours, metrics), ours_grad = jax.value_and_grad(contrastive.softmax_contrastive, has_aux=True)(
        image, text, jnp.float32(9.0), concept
    )
    assert ours == pytest.approx(loss, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(ours_grad, grad, rtol=1e-4, atol=1e-6)
    assert {name: float(metrics[f"accuracy/{name}"]) for name in accuracy} == pytest.approx(accuracy)
    if kinds == 100:
        assert ours < contrastive.softmax_contrastive(image, text, jnp.float32(9.0))[0] or len({*concept}) == 11


# The towers.


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture of both sides."""

    seed: int
    quick: bool
    image_size: int
    patch_size: int
    width: int
    heads: int
    layers: int
    text_width: int
    text_heads: int
    text_layers: int
    embed_dim: int
    vocabulary: int = 40
    length: int = 9
    batch: int = 5


CASES = {
    "quick_gelu": Case(1, True, 32, 8, 48, 3, 2, 32, 2, 2, 24),
    "gelu": Case(2, False, 42, 14, 64, 2, 1, 48, 4, 2, 40, length=13),
    "gelu, small patches": Case(4, False, 20, 4, 40, 5, 2, 24, 1, 1, 16, vocabulary=300),
}


class Pair:
    """The same towers with the same weights on both sides, and a batch."""

    def __init__(self, case: Case):
        vision = CLIPVisionCfg(case.layers, case.width, case.width // case.heads, 4.0, case.patch_size, case.image_size)
        text = CLIPTextCfg(
            case.length, case.vocabulary, width=case.text_width, heads=case.text_heads, layers=case.text_layers
        )
        self.theirs = CLIP(case.embed_dim, vision, text, quick_gelu=case.quick)
        randomise(self.theirs, case.seed)
        rng = np.random.default_rng(case.seed)
        self.image = rng.normal(size=(case.batch, case.image_size, case.image_size, 3)).astype(np.float32)
        # open_clip reads the text at its highest id, ours at the last token of the mask: the end of text is both.
        lengths = np.array([case.length, *rng.integers(2, case.length, case.batch - 1)])
        self.mask = np.arange(case.length) < lengths[:, None]
        self.text = np.where(self.mask, rng.integers(1, case.vocabulary - 1, self.mask.shape), 0).astype(np.int32)
        self.text[np.arange(case.batch), lengths - 1] = case.vocabulary - 1
        blocks = {"activation": "quick_gelu" if case.quick else "gelu", "epsilon": 1e-5}
        self.ours = objective.make(
            image={
                "name": "vit",
                "patch_size": case.patch_size,
                "hidden_dim": case.width,
                "depth": case.layers,
                "num_heads": case.heads,
                "pool": "cls",
                "pre_norm": True,
                "stem_bias": False,
                **blocks,
            },
            text={
                "name": "text",
                "hidden_dim": case.text_width,
                "depth": case.text_layers,
                "num_heads": case.text_heads,
                "causal": True,
                "pool": "last",
                **blocks,
            },
            embed_dim=case.embed_dim,
            data=Facts(case.image_size, 3, case.vocabulary, case.length),
        )
        self.rows = open_clip_rows(case.layers, case.text_layers)
        self.like = jax.eval_shape(lambda: self.ours.init(jax.random.key(0), self.batch)).params
        loss = lambda params: self.ours.loss(params, {}, self.batch, None, jnp.int32(0))[0]

        @jax.jit
        def evaluate(params: Any) -> tuple[Any, ...]:
            """Loss, gradients, image embeddings and text embeddings."""
            image, text = self.ours.predict["embed_image"], self.ours.predict["embed_text"]
            embeddings = image(params, self.image), text(params, self.text, self.mask)
            return *jax.value_and_grad(loss)(params), *embeddings

        self.evaluate = evaluate

    @property
    def batch(self) -> dict[str, np.ndarray]:
        return {"image": self.image, "text": self.text, "text_mask": self.mask}

    def params(self) -> Any:
        """Their weights as ours: our class token holds the sum of theirs and its position."""
        named = values(self.theirs)
        named["visual.class_embedding"] += named["visual.positional_embedding"][0]
        return converted(self.rows, named, self.like)

    def their_inputs(self) -> tuple[Any, Any]:
        return torch.tensor(self.image).permute(0, 3, 1, 2), torch.tensor(self.text, dtype=torch.long)

    def their_loss(self) -> Any:
        self.theirs.zero_grad()
        return open_clip.ClipLoss()(*self.theirs(*self.their_inputs()))


@functools.cache
def pair(name: str) -> Pair:
    return Pair(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_embeddings_equal_open_clip(name: str):
    both = pair(name)
    params = both.params()
    images, texts = both.their_inputs()
    with torch.no_grad():
        for raw in (both.theirs.encode_image(images), both.theirs.encode_text(texts)):
            assert raw.std() > 0.1
            assert raw.std(0).mean() > 0.1  # Nor is it the same for every example.
        image, text, scale = both.theirs(images, texts)
    _, _, our_image, our_text = both.evaluate(params)
    assert relative_error(our_image, image) < FORWARD
    assert relative_error(our_text, text) < FORWARD
    assert relative_error(np.exp(params["logit_scale"]), scale) < FORWARD


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_every_parameter_equals_open_clip(name: str):
    both = pair(name)
    theirs = both.their_loss()
    theirs.backward()
    named = gradients(both.theirs)
    assert relative_error(named["visual.class_embedding"], named["visual.positional_embedding"][0]) < GRADIENT
    value, grads, *_ = both.evaluate(both.params())
    assert relative_error(value, theirs) < FORWARD
    assert worst(grads, converted(both.rows, named, grads)) < (GRADIENT,)


def test_ten_steps_of_adamw_follow_torch():
    both, evaluate = Pair(CASES["quick_gelu"]), pair("quick_gelu").evaluate  # One batch; the torch side is its own.
    theirs = dict(both.theirs.named_parameters())
    with torch.no_grad():  # Adam would move class token and its position both, ours once: only one is left to move.
        theirs["visual.positional_embedding"][0] = 0
    theirs["visual.positional_embedding"].register_hook(lambda grad: grad.index_fill(0, torch.tensor([0]), 0.0))
    decays = {theirs for ours, theirs, _ in both.rows if ours.rsplit("/")[-1] in ("kernel", "embedding", "position")}
    rates = {"learning_rate": 3e-3, "b2": 0.98, "weight_decay": 0.2}
    ours, torchs = ten_steps(evaluate, both.params(), both.their_loss, theirs, decays, **rates)
    np.testing.assert_allclose(ours, torchs, rtol=1e-4)
    assert ours[-1] < 0.5 * ours[0]  # Both went somewhere.


# The ViT that averages its patches.


@pytest.mark.parametrize(
    ("image_size", "patch_size", "width", "heads", "depth", "shape"),
    [(32, 8, 48, 3, 2, (32, 32)), (28, 7, 40, 5, 1, (42, 21)), (24, 4, 32, 2, 1, (16, 40))],
    ids=["own size", "another shape", "small patches, another shape"],
)
def test_average_pooled_vit_equals_timm(
    image_size: int, patch_size: int, width: int, heads: int, depth: int, shape: tuple[int, int]
):
    theirs = timm.models.vision_transformer.VisionTransformer(
        image_size,
        patch_size,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        num_classes=0,
        global_pool="avg",
        class_token=False,
        fc_norm=False,
        pos_embed="learn",
        dynamic_img_size=True,
    )
    randomise(theirs, depth)
    rng = np.random.default_rng(depth)
    images = rng.normal(size=(3, *shape, 3)).astype(np.float32)
    weight = rng.normal(size=(3, width)).astype(np.float32)
    pooled = theirs(torch.tensor(images).permute(0, 3, 1, 2))
    assert pooled.std() > 0.1
    (pooled * torch.tensor(weight)).sum().backward()

    ours = vit.make(
        image_size=image_size, patch_size=patch_size, hidden_dim=width, depth=depth, num_heads=heads, pool="gap"
    )
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), images))["params"]
    rows = timm_rows(depth)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def scalar(params: Any) -> tuple[jax.Array, jax.Array]:
        pooled = ours.apply({"params": params}, images).pooled
        return (pooled * weight).sum(), pooled

    (_, ours_pooled), grads = jax.jit(scalar)(converted(rows, values(theirs), like))
    assert relative_error(ours_pooled, pooled) < FORWARD
    assert worst(grads, converted(rows, gradients(theirs), like)) < (GRADIENT,)
