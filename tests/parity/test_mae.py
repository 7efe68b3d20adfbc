"""MAE equals transformers' `ViTMAEForPreTraining`: masks, positions, reconstructions, loss, gradients, ten updates."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.adamw import ten_steps
from tests.parity.reference import randomise, relative_error, torch, transformers
from tests.parity.weights import (
    FORWARD,
    GRADIENT,
    TRANSFORMERS_BLOCK,
    Row,
    converted,
    filters,
    fused,
    same,
    transposed,
    values,
    worst,
)
from vitfm.models import mae_decoder, masking, position, vit
from vitfm.objectives import mae

# The weight map; `qkv` is what the reference keeps in three.
OUTER: tuple[Row, ...] = (
    ("encoder/class_token", "vit.embeddings.cls_token", same),
    ("encoder/stem/patch/kernel", "vit.embeddings.patch_embeddings.projection.weight", filters),
    ("encoder/stem/patch/bias", "vit.embeddings.patch_embeddings.projection.bias", same),
    ("encoder/transformer/norm/scale", "vit.layernorm.weight", same),
    ("encoder/transformer/norm/bias", "vit.layernorm.bias", same),
    ("decoder/embed/kernel", "decoder.decoder_embed.weight", transposed),
    ("decoder/embed/bias", "decoder.decoder_embed.bias", same),
    ("decoder/mask_token", "decoder.mask_token", same),
    ("decoder/transformer/norm/scale", "decoder.decoder_norm.weight", same),
    ("decoder/transformer/norm/bias", "decoder.decoder_norm.bias", same),
    ("decoder/pixels/kernel", "decoder.decoder_pred.weight", transposed),
    ("decoder/pixels/bias", "decoder.decoder_pred.bias", same),
)
FIXED = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")


def rows_of(depth: int, decoder_depth: int) -> list[Row]:
    rows = list(OUTER)
    for ours, theirs, layers in (
        ("encoder", "vit.layers", depth),
        ("decoder", "decoder.decoder_layers", decoder_depth),
    ):
        for layer in range(layers):
            block = f"{ours}/transformer/block_{layer:02d}/", f"{theirs}.{layer}."
            rows += [(block[0] + mine, block[1] + name, convert) for mine, name, convert in TRANSFORMERS_BLOCK]
    return rows


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture of both sides."""

    seed: int
    norm_pix: bool
    mask_ratio: float
    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_dim: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_dim: int
    epsilon: float = 1e-6
    channels: int = 3
    batch: int = 4


CASES = {
    "normalised": Case(1, True, 0.75, 32, 8, 48, 2, 3, 192, 32, 2, 2, 128),
    "raw, 25 patches": Case(2, False, 0.6, 35, 7, 40, 1, 2, 56, 24, 1, 3, 100, epsilon=1e-12),
    "normalised, 4 channels": Case(3, True, 0.9, 20, 4, 32, 2, 4, 128, 40, 1, 5, 64, epsilon=1e-12, channels=4),
    "raw, 100 patches, half": Case(4, False, 0.5, 30, 3, 24, 1, 1, 96, 28, 2, 7, 112, batch=3),
}


class Pair:
    """The same autoencoder with the same weights on both sides, images and noise."""

    def __init__(self, case: Case):
        config = transformers.ViTMAEConfig(
            hidden_size=case.width,
            num_hidden_layers=case.depth,
            num_attention_heads=case.heads,
            intermediate_size=case.mlp_dim,
            layer_norm_eps=case.epsilon,
            image_size=case.image_size,
            patch_size=case.patch_size,
            num_channels=case.channels,
            decoder_num_attention_heads=case.decoder_heads,
            decoder_hidden_size=case.decoder_width,
            decoder_num_hidden_layers=case.decoder_depth,
            decoder_intermediate_size=case.decoder_mlp_dim,
            mask_ratio=case.mask_ratio,
            norm_pix_loss=case.norm_pix,
        )
        self.case = case
        self.theirs = transformers.ViTMAEForPreTraining(config)
        self.side = case.image_size // case.patch_size
        # It is made with positions of zeros, and takes its encoder for one that has got its own.
        self.theirs.vit.embeddings.patch_embeddings.projection._is_hf_initialized = False
        self.theirs.vit.embeddings.initialize_weights()
        self.theirs.decoder.initialize_weights(self.side**2)
        positions = {name: self.theirs.get_parameter(name).clone() for name in FIXED}
        randomise(self.theirs, case.seed)
        with torch.no_grad():
            for name, position in positions.items():
                self.theirs.get_parameter(name).copy_(position)
        rng = np.random.default_rng(case.seed)
        shape = (case.batch, case.image_size, case.image_size, case.channels)
        self.image = rng.normal(0.2, 1.5, shape).astype(np.float32)
        self.noise = rng.random((case.batch, self.side**2), np.float32)
        encoder = vit.make(
            image_size=case.image_size,
            patch_size=case.patch_size,
            hidden_dim=case.width,
            depth=case.depth,
            num_heads=case.heads,
            mlp_dim=case.mlp_dim,
            position="sincos",
            pool="cls",
            epsilon=case.epsilon,
        )
        decoder = mae_decoder.make(
            outputs=case.patch_size**2 * case.channels,
            hidden_dim=case.decoder_width,
            depth=case.decoder_depth,
            num_heads=case.decoder_heads,
            mlp_dim=case.decoder_mlp_dim,
            epsilon=case.epsilon,
        )
        self.ours = mae.Autoencoder(encoder, decoder, case.mask_ratio, case.norm_pix)
        self.rows = rows_of(case.depth, case.decoder_depth)
        self.like = jax.eval_shape(lambda: self.ours.init(jax.random.key(0), self.image))

        @jax.jit
        def evaluate(params: Any) -> tuple[Any, ...]:
            """Loss, gradients and reconstructions."""
            loss = lambda params: self.ours.loss(params, self.image, self.noise)[0]
            return *jax.value_and_grad(loss)(params), self.ours.reconstruct(params, jnp.asarray(self.image), self.noise)

        self.evaluate = evaluate

    def params(self) -> Any:
        return self.converted(values(self.theirs))

    def converted(self, named: Mapping[str, np.ndarray]) -> Any:
        """The reference's tensors, values or gradients, as ours."""
        learned = {name: value for name, value in named.items() if name not in FIXED}
        return converted(self.rows, fused(learned), self.like)

    def run_theirs(self) -> Any:
        self.theirs.zero_grad()
        pixels = torch.tensor(self.image).permute(0, 3, 1, 2)
        return self.theirs(pixels, noise=torch.tensor(self.noise))


@functools.cache
def pair(name: str) -> Pair:
    return Pair(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_masks_are_theirs(name: str):
    both = pair(name)
    theirs = both.run_theirs()
    keep, hidden = masking.split(both.noise, both.ours.visible(both.side**2))
    mask = np.zeros(both.noise.shape)
    np.put_along_axis(mask, np.asarray(hidden), 1, axis=1)
    np.testing.assert_array_equal(mask, theirs.mask)
    np.testing.assert_array_equal(np.argsort(np.concatenate([keep, hidden], 1), axis=1), theirs.ids_restore)
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize("name", CASES)
def test_positions_are_theirs(name: str):
    both = pair(name)
    for parameter, width in zip(FIXED, (both.case.width, both.case.decoder_width), strict=True):
        table = both.theirs.get_parameter(parameter).detach()[0]
        assert (table[0] == 0).all() and table[1:].std() > 0.1  # The class token stands nowhere.
        ours = position.sincos((both.side, both.side), width).reshape(-1, width)
        assert relative_error(ours, table[1:]) < FORWARD


@pytest.mark.parametrize("name", CASES)
def test_reconstructions_are_theirs(name: str):
    both = pair(name)
    with torch.no_grad():
        theirs = both.run_theirs()
        assert theirs.logits.std() > 0.1
        logits, pixels = theirs.logits, torch.tensor(both.image).permute(0, 3, 1, 2)
        if both.case.norm_pix:
            patches = both.theirs.patchify(pixels)
            logits = logits * (patches.var(-1, keepdim=True) + 1e-6).sqrt() + patches.mean(-1, keepdim=True)
        guessed = both.theirs.unpatchify(logits).permute(0, 2, 3, 1)
        mask = both.theirs.unpatchify(theirs.mask[..., None].expand_as(logits)).permute(0, 2, 3, 1)
        filled = guessed * mask + torch.tensor(both.image) * (1 - mask)
    _, _, ours = both.evaluate(both.params())
    np.testing.assert_array_equal(ours[:, 1], both.image * (1 - mask.numpy()))
    assert relative_error(ours[:, 2] * mask.numpy(), guessed * mask) < FORWARD
    assert relative_error(ours[:, 2], filled) < FORWARD


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_of_every_parameter_are_theirs(name: str):
    both = pair(name)
    theirs = both.run_theirs().loss
    theirs.backward()
    named = {n: p.grad.numpy().copy() for n, p in both.theirs.named_parameters() if n not in FIXED}
    assert len(named) == len(dict(both.theirs.named_parameters())) - len(FIXED)
    value, grads, _ = both.evaluate(both.params())
    assert relative_error(value, theirs) < FORWARD
    assert worst(grads, both.converted(named)) < (GRADIENT,)


def test_ten_steps_of_adamw_follow_torch():
    both, evaluate = Pair(CASES["normalised"]), pair("normalised").evaluate  # One batch; the torch side is its own.
    learned = {name: p for name, p in both.theirs.named_parameters() if name not in FIXED}
    decays = {name for name, p in learned.items() if p.ndim in (2, 4)}  # As ours; not the tokens of three axes.
    rates = {"learning_rate": 3e-3, "b2": 0.95, "weight_decay": 0.05}
    ours, torchs = ten_steps(evaluate, both.params(), lambda: both.run_theirs().loss, learned, decays, **rates)
    np.testing.assert_allclose(ours, torchs, rtol=1e-4)
    assert ours[-1] < 0.8 * ours[0]  # Both went somewhere.
