"""AIM: masks and loss equal independent NumPy ones, the network lightly's with every gradient.

lightly has the encoder and the head, but compares predictions with the patches themselves instead of the next ones:
what its gradients are of is written here, and held to the NumPy loss.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.reference import lightly, randomise, relative_error, torch
from tests.parity.weights import FORWARD, GRADIENT, Row, converted, same, timm_rows, transposed, worst
from vitfm.models import aim_head, position, vit
from vitfm.objectives import aim

SIZE, PATCH, WIDTH, BATCH, DEPTH = 24, 6, 32, 6, 2
SIDE = SIZE // PATCH
COUNT = SIDE**2
PREFIX = np.array([1, 2, 5, 9, 14, 15])
NORM = functools.partial(torch.nn.LayerNorm, eps=1e-6)


def head_rows(depth: int) -> list[Row]:
    """`blocks` of lightly's head are the first map, the blocks, a norm and the last map."""
    norm = lambda ours, theirs: [(f"{ours}/scale", f"{theirs}.weight", same), (f"{ours}/bias", f"{theirs}.bias", same)]
    rows: list[Row] = [("embed/kernel", "0.weight", transposed), *norm("norm", str(depth + 1))]
    rows.append(("pixels/kernel", f"{depth + 2}.weight", transposed))
    for layer in range(depth):
        rows += norm(f"norm_{layer:02d}", f"{layer + 1}.norm")
        rows.append((f"mlp_{layer:02d}/up/kernel", f"{layer + 1}.mlp.fc1.weight", transposed))
        rows.append((f"mlp_{layer:02d}/down/kernel", f"{layer + 1}.mlp.fc2.weight", transposed))
    return [(f"head/{ours}", f"head.blocks.{theirs}", convert) for ours, theirs, convert in rows]


class Theirs(torch.nn.Module):
    """lightly's encoder, then its head on what comes with the positions again, as its benchmark has them."""

    def __init__(self):
        super().__init__()
        sizes = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": 2}
        plain = {"class_token": False, "no_embed_class": True, "num_classes": 0, "global_pool": "avg", "fc_norm": False}
        self.encoder = lightly.models.modules.MaskedCausalVisionTransformer(**sizes, **plain)
        self.head = lightly.models.modules.AIMPredictionHead(
            WIDTH, PATCH**2 * 3, hidden_dim=40, num_blocks=2, norm_layer=NORM
        )
        randomise(self, 0)
        fixed = np.array(position.sincos((SIDE, SIDE), WIDTH)).reshape(1, COUNT, WIDTH)
        self.encoder.pos_embed = torch.nn.Parameter(torch.tensor(fixed), requires_grad=False)

    def forward(self, image: np.ndarray, prefix: np.ndarray) -> torch.Tensor:
        pixels = torch.tensor(image).permute(0, 3, 1, 2)
        mask = torch.arange(COUNT) >= torch.tensor(prefix)[:, None]
        features = self.encoder.forward_features(pixels, mask=mask)
        return self.head(features + self.encoder.pos_embed)


@functools.cache
def theirs() -> Theirs:
    return Theirs().eval()


@functools.cache
def ours() -> aim.Predictor:
    encoder = vit.make(image_size=SIZE, patch_size=PATCH, hidden_dim=WIDTH, depth=DEPTH, num_heads=2, position="sincos")
    return aim.Predictor(encoder, aim_head.make(outputs=PATCH**2 * 3, hidden_dim=40, depth=2), True)


def as_ours(named: Mapping[str, np.ndarray]) -> Any:
    """Their tensors, values or gradients, as our parameters."""
    encoder = [(f"encoder/{ours}", f"encoder.{theirs}", way) for ours, theirs, way in timm_rows(DEPTH)[1:]]
    like = jax.eval_shape(lambda: ours().init(jax.random.key(0), images()))
    return converted([*encoder, *head_rows(2)], named, like)


def learned() -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in theirs().named_parameters() if parameter.requires_grad}


def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)


def loss_by_hand(predicted: np.ndarray, image: np.ndarray, prefix: np.ndarray) -> float:
    """Patch by patch, in float64."""
    total = 0.0
    for i in range(BATCH):
        for k in range(prefix[i], COUNT):
            row, column = divmod(k, SIDE)
            patch = image[i, row * PATCH : (row + 1) * PATCH, column * PATCH : (column + 1) * PATCH].astype(np.float64)
            target = (patch.ravel() - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
            total += np.mean((predicted[i, k - 1] - target) ** 2)  # What stands at k - 1 predicts k.
    return total / BATCH / (COUNT / 2)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_a_patch_sees_the_prefix_itself_and_what_is_before(count: int):
    prefix = np.arange(1, count)
    expected = np.zeros((len(prefix), count, count), bool)
    for i, query, key in np.ndindex(expected.shape):
        expected[i, query, key] = key <= query or key < prefix[i]
    np.testing.assert_array_equal(aim.visible(jnp.asarray(prefix), count), expected)


def test_predictions_loss_and_the_gradient_of_every_parameter_are_theirs():
    predicted = theirs()(images(), PREFIX)
    assert predicted.std() > 0.1
    patches = images().reshape(BATCH, SIDE, PATCH, SIDE, PATCH, 3).transpose(0, 1, 3, 2, 4, 5).reshape(BATCH, COUNT, -1)
    target = torch.tensor(patches[:, 1:])
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    wanted = torch.arange(1, COUNT) >= torch.tensor(PREFIX)[:, None]
    loss = ((predicted[:, :-1] - target) ** 2).mean(-1)[wanted].sum() / (BATCH * COUNT / 2)
    by_hand = loss_by_hand(predicted.detach().numpy(), images(), PREFIX)
    assert relative_error(loss, by_hand) < FORWARD
    loss.backward()

    @jax.jit
    def ours_of(params: Any) -> tuple[Any, ...]:
        loss = lambda params: ours().loss(params, images(), PREFIX)[0]
        return *jax.value_and_grad(loss)(params), ours().predict(params, images(), PREFIX)

    params = as_ours({name: parameter.detach().numpy() for name, parameter in learned().items()})
    value, grads, found = ours_of(params)
    assert relative_error(found, predicted[:, :-1]) < FORWARD
    assert relative_error(value, by_hand) < FORWARD
    named = {name: parameter.grad.numpy() for name, parameter in learned().items()}
    assert worst(grads, as_ours(named)) < (GRADIENT,)
