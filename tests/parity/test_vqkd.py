"""VQ-KD equals an independent one: its codebook over several steps in NumPy, loss and all gradients in torch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity import networks
from tests.parity.reference import relative_error, timm, torch
from tests.parity.weights import FORWARD, GRADIENT, converted, same, transposed, worst
from vitfm.data.facts import Facts
from vitfm.losses import quantization
from vitfm.objectives import base, vqkd

CODES, DIM, BATCH, TAUGHT = 20, 6, 5, 13
GRID = networks.SIZE // 8
COMMITMENT, DECAY = 0.7, 0.9


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def nearest(rows: np.ndarray, codebook: np.ndarray) -> np.ndarray:
    """By Euclidean distance, one row at a time."""
    return np.array([np.square(codebook - row).sum(1).argmin() for row in rows])


def update(codebook: np.ndarray, rows: np.ndarray, decay: float) -> np.ndarray:
    """Each code after the rows that are nearest to it."""
    codes, new = nearest(rows, codebook), codebook.copy()
    for code in set(codes):
        new[code] = unit(decay * codebook[code] + (1 - decay) * unit(rows[codes == code].mean(0)))
    return new


def drawn(seed: int, *shape: int) -> np.ndarray:
    """Unit rows around a few directions, so that some codes have many and some none."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(4, shape[-1]))[rng.integers(0, 4, shape[:-1])] + 0.4 * rng.normal(size=shape))


def test_codebook_over_several_steps():
    """k-means, then moving averages: which codes there are, and where."""
    rows = [drawn(seed, 60, DIM) for seed in range(6)]
    order = np.random.default_rng(9).uniform(size=60)
    theirs = rows[0][np.argsort(order)[:CODES]]
    for _ in range(10):
        theirs = update(theirs, rows[0], 0.0)
    narrow = [x.astype(np.float32) for x in rows]
    ours = jax.jit(lambda rows, order: quantization.kmeans(rows, order, CODES))(narrow[0], order.astype(np.float32))
    assert relative_error(ours, theirs) < FORWARD

    @jax.jit
    def step(codebook: jax.Array, rows: jax.Array) -> tuple[jax.Array, ...]:
        codes = quantization.nearest(rows, codebook)
        pull = quantization.pull(rows, codes, CODES)
        return codes, quantization.quantized(rows, codebook, codes)[1], quantization.moved(codebook, pull, DECAY)

    for wide, batch in zip(rows, narrow, strict=True):
        codes, distance, ours = step(ours, batch)
        np.testing.assert_array_equal(codes, nearest(wide, theirs))
        assert relative_error(distance, np.square(theirs[nearest(wide, theirs)] - wide).mean()) < FORWARD
        before, theirs = theirs, update(theirs, wide, DECAY)
        assert relative_error(ours, theirs) < FORWARD
        idle = (theirs == before).all(1)
        assert 0 < idle.sum() < CODES  # Some have no rows.


def test_fewer_rows_than_codes_start_a_codebook():
    rows = drawn(0, 7, DIM).astype(np.float32)
    found = np.asarray(quantization.kmeans(rows, jnp.arange(7.0), CODES))
    np.testing.assert_allclose(found, rows[np.arange(CODES) % 7], rtol=1e-5, atol=1e-6)


class Reference(torch.nn.Module):
    """timm's ViTs around an MLP to the sphere, the nearest code, and an MLP to the teacher's features."""

    def __init__(self) -> None:
        super().__init__()
        mlp = lambda width: torch.nn.Sequential(
            torch.nn.Linear(networks.WIDTH, networks.WIDTH), torch.nn.Tanh(), torch.nn.Linear(networks.WIDTH, width)
        )
        sizes = {"embed_dim": networks.WIDTH, "depth": networks.DEPTH, "num_heads": 3, "num_classes": 0}
        vit = timm.models.vision_transformer.VisionTransformer
        self.encoder, self.encoder_head = networks.vit(), mlp(DIM)
        self.decoder = vit(GRID, 1, DIM, **sizes, global_pool="token")
        self.decoder_head = mlp(TAUGHT)

    def forward(self, pixels: Any, codebook: Any, taught: Any) -> tuple[Any, Any]:
        """The loss, and the codes [B,N]."""
        points = self.encoder_head(self.encoder.forward_features(pixels)[:, 1:])
        points = torch.nn.functional.normalize(points, dim=-1)
        codes = torch.cdist(points, codebook[None]).argmin(-1)
        found = codebook[codes]
        grid = (points + (found - points).detach()).transpose(1, 2).reshape(BATCH, DIM, GRID, GRID)
        told = self.decoder_head(self.decoder.forward_features(grid)[:, 1:])
        distance = 1 - torch.nn.functional.cosine_similarity(told, taught, dim=-1).mean()
        return distance + COMMITMENT * torch.nn.functional.mse_loss(points, found), codes


def mlp(name: str) -> list[Any]:
    layers = (("hidden", "0"), ("logits", "2"))
    return [
        row
        for ours, theirs in layers
        for row in (
            (f"{name}/{ours}/kernel", f"{name}.{theirs}.weight", transposed),
            (f"{name}/{ours}/bias", f"{name}.{theirs}.bias", same),
        )
    ]


ROWS = [
    row for part in ("encoder", "decoder") for row in (*networks.below(part, part, networks.VIT), *mlp(f"{part}_head"))
]


def test_loss_gradients_and_the_next_codebook():
    theirs = networks.randomised(Reference(), 3)
    image = networks.pictures(6, BATCH)[:, 0]
    codebook = unit(np.random.default_rng(7).normal(size=(CODES, DIM))).astype(np.float32)
    taught = np.random.default_rng(8).normal(size=(BATCH, GRID, GRID, TAUGHT)).astype(np.float32)
    rows = torch.tensor(taught).reshape(BATCH, -1, TAUGHT)
    value, codes = theirs(networks.as_torch(image), torch.tensor(codebook), rows)
    value.backward()
    assert 3 < len(codes.unique()) < CODES

    teacher = base.Teacher(lambda key: {}, {"patches": lambda params, image: taught[: len(image)]}, lambda x: x, None)
    model = {key: option for key, option in networks.MODEL.items() if key != "patch_size"}
    options = {"codes": CODES, "code_dim": DIM, "decay": DECAY, "commitment": COMMITMENT, "start": "random"}
    data = Facts(networks.SIZE, 3, 0, 0)
    ours = vqkd.make(model=networks.MODEL, decoder=model, data=data, teacher=teacher, **options)
    batch, keys = {"image": image}, jax.random.split(jax.random.key(0), BATCH)
    like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params
    named = networks.summed(networks.summed(networks.learned(theirs), "encoder"), "decoder")
    params = converted(ROWS, named, like)
    extra = {base.FROZEN: {}, "codebook": codebook, "pull": np.zeros_like(codebook)}

    @jax.jit
    def step(params: Any) -> tuple[Any, ...]:
        loss = lambda params: ours.loss(params, extra, batch, keys, jnp.int32(0))
        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        after = ours.after_update(params, {**extra, **aux.extra}, jnp.int32(0))
        return value, aux.metrics, grads, after, ours.predict["codes"](ours.evaluated(params, extra), image)

    found, metrics, grads, after, chosen = step(params)
    assert relative_error(found, value) < FORWARD
    np.testing.assert_array_equal(chosen, codes)
    assert float(metrics["code_use"]) == pytest.approx(len(codes.unique()) / CODES)
    assert worst(grads, converted(ROWS, networks.learned_gradients(theirs), like)) < (GRADIENT,)
    with torch.no_grad():
        points = theirs.encoder_head(theirs.encoder.forward_features(networks.as_torch(image))[:, 1:])
    wide = unit(points.numpy().astype(np.float64)).reshape(-1, DIM)
    assert relative_error(after["codebook"], update(codebook.astype(np.float64), wide, DECAY)) < FORWARD
    assert float(jnp.linalg.norm(after["codebook"] - codebook)) > 0.1
