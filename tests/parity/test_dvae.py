"""The discrete VAE: its loss and every gradient equal torch's; DALL-E's encoder gives its codes in both libraries.

The encoder is transformers' `FlavaImageCodebook`, relaxation, density and divergence are torch's own; the decoder,
which no package has, is written here.
"""

from __future__ import annotations

import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import vitfm
from tests.parity.family import randomise
from tests.parity.reference import relative_error, torch, transformers
from tests.parity.weights import FORWARD, GRADIENT, worst
from vitfm.interop import exported, weights
from vitfm.interop.families import flava_image_codebook as flava
from vitfm.interop.weights import Row, filters, same
from vitfm.models import dvae as encoders
from vitfm.models import dvae_decoder, heads
from vitfm.objectives import dvae

WIDTH, CODES, CODE_DIM, BATCH, SHAPE = 16, 20, 12, 3, (16, 24)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
TEMPERATURE, WEIGHT = 0.7, 6.6
Conv = torch.nn.Conv2d


def sharpen(encoder: torch.nn.Module) -> None:
    """Makes some codes much more probable than others."""
    with torch.no_grad():
        encoder.blocks.output.conv.weight.mul_(3)


class Block(torch.nn.Module):
    """A residual block of the decoder: 1x1, then 3x3 three times."""

    def __init__(self, before: int, width: int, gain: float):
        super().__init__()
        narrow = width // 4
        sides = [(before, narrow, 1), (narrow, narrow, 3), (narrow, narrow, 3), (narrow, width, 3)]
        self.convs = torch.nn.ModuleList([Conv(*widths, side, padding="same") for *widths, side in sides])
        self.shortcut = Conv(before, width, 1) if before != width else torch.nn.Identity()
        self.gain = gain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv in self.convs:
            y = conv(torch.relu(y))
        return self.shortcut(x) + self.gain * y


class Theirs(torch.nn.Module):
    """Encoder, decoder and the negative evidence lower bound."""

    def __init__(self):
        super().__init__()
        config = transformers.FlavaImageCodebookConfig(hidden_size=WIDTH, vocab_size=CODES, freeze=False)
        self.encoder = transformers.FlavaImageCodebook(config)
        widths = (CODE_DIM, 8 * WIDTH, 8 * WIDTH, 4 * WIDTH, 4 * WIDTH, 2 * WIDTH, 2 * WIDTH, WIDTH, WIDTH)
        pairs = itertools.pairwise(widths)
        self.blocks = torch.nn.ModuleList([Block(*pair, 1 / 64) for pair in pairs])
        self.codebook, self.pixels = Conv(CODES, CODE_DIM, 1), Conv(WIDTH, 6, 1)
        randomise(self, seed=1)
        sharpen(self.encoder)

    def decoded(self, z: torch.Tensor) -> torch.Tensor:
        x = self.codebook(z)
        for number, block in enumerate(self.blocks):
            x = torch.nn.functional.interpolate(x, scale_factor=2) if number in (2, 4, 6) else x
            x = block(x)
        return self.pixels(torch.relu(x))

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Of pixels [B,3,H,W] in [0, 1]; noise is drawn by `exponential_`."""
        x = 0.8 * pixels + 0.1
        logits = self.encoder(x)
        z = torch.nn.functional.gumbel_softmax(logits, tau=TEMPERATURE, dim=1)
        location, log_scale = self.decoded(z).chunk(2, 1)
        laplace = torch.distributions.Laplace(location, log_scale.exp())
        sigmoid = torch.distributions.transforms.SigmoidTransform()
        errors = -torch.distributions.TransformedDistribution(laplace, [sigmoid]).log_prob(x)
        posterior = torch.distributions.Categorical(logits=logits.movedim(1, -1))
        prior = torch.distributions.Categorical(logits=torch.zeros(CODES))
        kl = torch.distributions.kl_divergence(posterior, prior)
        value = (errors.sum() + WEIGHT * kl.sum()) / pixels.numel()
        return {"loss": value, "reconstruction": errors.mean(), "kl": kl.mean()}


def rows() -> list[Row]:
    """The family's for the encoder, and those of the decoder above."""
    spec = {"name": "dvae", "model": {"name": "dvae", "base_dim": WIDTH}}
    table = [(ours, f"encoder.{theirs}", way) for ours, theirs, way in flava.rows(spec)]
    pairs = [("codebook", "codebook"), ("pixels", "pixels")]
    for number in range(8):
        block = f"group_{number // 2}_block_{number % 2:02d}"
        pairs += [(f"{block}/conv_{conv}", f"blocks.{number}.convs.{conv}") for conv in range(4)]
        pairs += [(f"{block}/shortcut", f"blocks.{number}.shortcut")] if number in (0, 2, 4, 6) else []
    for ours, theirs in pairs:
        table.append((f"params/decoder/{ours}/kernel", f"{theirs}.weight", filters))
        table.append((f"params/decoder/{ours}/bias", f"{theirs}.bias", same))
    return table


def test_loss_and_the_gradient_of_every_parameter_are_theirs(monkeypatch: pytest.MonkeyPatch):
    theirs, rng = Theirs(), np.random.default_rng(0)
    pixels = rng.uniform(size=(BATCH, *SHAPE, 3)).astype(np.float32)
    noise = rng.gumbel(size=(BATCH, SHAPE[0] // 8, SHAPE[1] // 8, CODES)).astype(np.float32)
    exponential = torch.tensor(np.exp(-noise)).movedim(-1, 1)
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_(exponential))
    expected = theirs(torch.tensor(pixels).permute(0, 3, 1, 2))
    expected["loss"].backward()

    encoder = encoders.make(base_dim=WIDTH)
    decoder = dvae_decoder.make(outputs=6, code_dim=CODE_DIM, base_dim=WIDTH)
    ours = dvae.Autoencoder(encoder, heads.Linear(CODES, "fan_in"), decoder, MEAN, STD)
    image = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    like = {"params": jax.eval_shape(lambda: ours.init(jax.random.key(0), image))}
    converted = lambda named: weights.to_ours(rows(), named, like)["params"]
    params = converted({name: p.detach().numpy() for name, p in theirs.named_parameters()})

    loss = lambda params: ours.loss(params, image, noise, TEMPERATURE, WEIGHT)
    (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert relative_error(value, expected["loss"]) < FORWARD
    for name in ("reconstruction", "kl"):
        assert relative_error(metrics[name], expected[name]) < FORWARD
    assert metrics["kl"] > 0.2  # Of at most log 20 = 3.
    named = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert worst(grads, converted(named)) < (GRADIENT,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """As transformers writes it."""
    config = transformers.FlavaImageCodebookConfig(hidden_size=WIDTH, vocab_size=CODES, num_blocks_per_group=1)
    model = transformers.FlavaImageCodebook(config).eval()
    model.requires_grad_(True)
    randomise(model, seed=5)
    sharpen(model)
    path = tmp_path_factory.mktemp("flava") / "codebook"
    model.save_pretrained(path)
    return path


def images(side: int) -> np.ndarray:
    """Squares of random colours, a code each."""
    colours = np.random.default_rng(0).integers(0, 256, (2, side // 8, side // 8, 3), np.uint8)
    return colours.repeat(8, 1).repeat(8, 2)


def codes_of(path: pathlib.Path, pixels: Any) -> np.ndarray:
    """transformers', of pixels [B,H,W,3] in [0.1, 0.9]."""
    model = transformers.FlavaImageCodebook.from_pretrained(path).eval()
    with torch.no_grad():
        found = model.get_codebook_indices(torch.as_tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
    return found.flatten(1).numpy()


def test_a_folder_of_transformers_gives_the_same_codes(folder: pathlib.Path):
    found = vitfm.load(str(folder)).codes(images(112))
    assert found.dtype == np.int32 and found.shape == (2, 14 * 14)
    assert len(np.unique(found)) > 5
    np.testing.assert_array_equal(found, codes_of(folder, 0.8 * (images(112) / np.float32(255)) + 0.1))


def test_an_exported_tokenizer_is_theirs_again(folder: pathlib.Path, tmp_path: pathlib.Path):
    written = exported.write(str(folder), str(tmp_path / "again"))
    assert (written.family, list(written.notes)) == ("flava_image_codebook", [])
    ours, again = (vitfm.load(str(path)) for path in (folder, tmp_path / "again"))
    assert again.config.data.to_dict() == ours.config.data.to_dict()
    tensors = [transformers.FlavaImageCodebook.from_pretrained(path).state_dict() for path in (folder, written.path)]
    assert all(torch.equal(tensors[1][name], tensor) for name, tensor in tensors[0].items())
