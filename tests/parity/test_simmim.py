"""SimMIM equals transformers' `ViTForMaskedImageModeling` and `SwinForMaskedImageModeling`: pixels, loss, gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pytest

from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from tests.parity.weights import FORWARD, GRADIENT, worst
from vitfm import models
from vitfm.interop import weights
from vitfm.interop.families import swin, vit
from vitfm.interop.weights import Row, Way, token
from vitfm.models import heads
from vitfm.objectives import simmim


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture of both sides; `options` are transformers'."""

    kind: str
    mask_size: int
    stride: int
    options: Mapping[str, Any]
    image_size: int = 32
    channels: int = 3
    batch: int = 4


SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "mlp_ratio": 2.0, "window_size": 4}
VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 80}
CASES = {
    "vit": Case("vit", 16, 8, {**VIT, "patch_size": 8}),
    "vit, odd sizes, squares of one patch, 4 channels": Case("vit", 7, 7, {**VIT, "patch_size": 7}, 35, 4),
    "swin, tokens wider than squares": Case("swin", 4, 8, {**SWIN, "patch_size": 4}),
    "swin, squares wider than tokens, absolute positions, 4 channels": Case(
        "swin", 12, 6, {**SWIN, "patch_size": 3, "use_absolute_embeddings": True}, 48, 4
    ),
}


def shuffled(stride: int) -> Way:
    """Filters [C*s*s,D,1,1] before torch's `PixelShuffle`, and ours, [D,s*s*C]; or the biases of both."""
    square = stride**2
    to_ours = lambda w: w.reshape(-1, square, w[0].size).transpose(2, 1, 0)
    to_theirs = lambda w: w.reshape(-1, square, w.shape[-1] // square).transpose(2, 1, 0)
    shape = lambda w: (w.shape[-1], *(n for width in w.shape[:-1] for n in (width, 1, 1)))
    return Way(to_ours, lambda w: to_theirs(w).reshape(shape(w)))


class Pair:
    """The same model with the same weights on both sides, images and masks."""

    def __init__(self, case: Case):
        shared = {"image_size": case.image_size, "num_channels": case.channels, "encoder_stride": case.stride}
        Config, Model, module = {
            "vit": (transformers.ViTConfig, transformers.ViTForMaskedImageModeling, vit),
            "swin": (transformers.SwinConfig, transformers.SwinForMaskedImageModeling, swin),
        }[case.kind]
        self.theirs = Model(Config(**case.options, **shared)).eval()
        randomise(self.theirs, seed=1)
        config = {**self.theirs.config.to_dict(), "architectures": None}
        model = {**module.read(config)["model"], "mask_token": True}
        encoder = models.make(model, where="objective.model")
        self.rows: list[Row] = [
            *(row for row in module.rows({"name": "supervised", "model": model}) if "/head/" not in str(row[0])),
            *([("params/encoder/mask_token", "vit.embeddings.mask_token", token)] if case.kind == "vit" else []),
            ("params/head/pixels/kernel", "decoder.0.weight", shuffled(case.stride)),
            ("params/head/pixels/bias", "decoder.0.bias", shuffled(case.stride)),
        ]
        assert encoder.stride == case.stride
        head = heads.Pixels(case.stride**2 * case.channels)
        self.ours = simmim.Predictor(encoder, head, case.mask_size, 0.6)
        rng = np.random.default_rng(0)
        shape = (case.batch, case.image_size, case.image_size, case.channels)
        self.image = rng.normal(size=shape).astype(np.float32)
        self.masked = np.asarray(self.ours.masked(jax.random.split(jax.random.key(0), case.batch), self.image))
        self.like = {"params": jax.eval_shape(lambda: self.ours.init(jax.random.key(0), self.image))}

    def converted(self, named: Mapping[str, np.ndarray]) -> Any:
        """Their tensors, values or gradients, as our parameters."""
        return weights.to_ours(self.rows, named, self.like)["params"]

    def run_theirs(self) -> Any:
        rows = np.sqrt(self.masked.shape[1]).astype(int)
        times = self.ours.mask_size // self.ours.encoder.patch_size
        masks = np.kron(self.masked.reshape(-1, rows, rows), np.ones((1, times, times)))
        pixels = torch.tensor(self.image).permute(0, 3, 1, 2)
        return self.theirs(pixels, bool_masked_pos=torch.tensor(masks.reshape(len(masks), -1)).bool())


@pytest.mark.parametrize("name", CASES)
def test_pixels_loss_and_gradient_of_every_parameter_are_theirs(name: str):
    both = Pair(CASES[name])
    theirs = both.run_theirs()
    theirs.loss.backward()
    assert theirs.reconstruction.std() > 0.1
    params = both.converted({name: p.detach().numpy() for name, p in both.theirs.named_parameters()})
    assert params["encoder"]["mask_token"].std() > 0.1

    @jax.jit
    def ours(params: Any) -> tuple[Any, ...]:
        loss = lambda params: both.ours.loss(params, both.image, both.masked)[0]
        return *jax.value_and_grad(loss)(params), both.ours.predict(params, both.image, both.masked)

    value, grads, pixels = ours(params)
    assert relative_error(pixels, theirs.reconstruction.permute(0, 2, 3, 1)) < FORWARD
    assert relative_error(value, theirs.loss) < FORWARD
    named = {name: p.grad.numpy() for name, p in both.theirs.named_parameters()}
    assert worst(grads, both.converted(named)) < (GRADIENT,)
