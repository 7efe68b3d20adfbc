"""An attentive probe is AIM's in torch, for every learning rate at once; held-out images choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tests.evals import probed
from tests.evals.fake import World
from tests.parity.reference import relative_error, torch
from vitfm.config import ConfigError
from vitfm.evals import attentive_probe

RATES = [1e-4, 1e-2]
LENGTHS = {"minibatch_size": 40, "epochs": 6, "num_heads": 2}
SPEC = {"name": "attentive_probe", "train": "train", "test": "test", "label": "kind", "prefix": "p", **LENGTHS}
SPEC |= {"learning_rates": RATES}
P = "p/attentive_probe"
GRID, DIM, CLASSES = (2, 3), 8, 7


def world(train: Any, test: Any, devices: int = 1) -> World:
    """Of patches [N, h, w, D] and labels."""
    made = probed.world(train[0], train[1].tolist(), test[0], test[1].tolist(), devices)
    made.context = dataclasses.replace(made.context, predict={"patches": made.context.predict["features"]})
    return made


def one_patch_tells(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Of six patches one, anywhere, tells of the class, and is marked; the others are of other classes."""
    random = np.random.default_rng(seed)
    centres = 2 * np.random.default_rng(99).normal(size=(CLASSES, DIM - 1))
    labels, place = random.integers(CLASSES, size=images), random.integers(6, size=images)
    shown = random.integers(CLASSES, size=(images, 6))
    shown[np.arange(images), place] = labels
    marked = 3.0 * (np.arange(6) == place[:, None])[..., None]
    patches = np.concatenate([centres[shown] + 0.3 * random.normal(size=(images, 6, DIM - 1)), marked], -1)
    return patches.reshape(images, *GRID, DIM).astype(np.float32), labels


class Theirs(torch.nn.Module):
    """The classifier of the paper as its authors publish it."""

    def __init__(self, start: dict[str, np.ndarray], heads: int):
        super().__init__()
        self.heads = heads
        self.weights = torch.nn.ParameterDict({name: torch.tensor(np.array(leaf[0])) for name, leaf in start.items()})
        self.norm = torch.nn.BatchNorm1d(DIM, affine=False, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, w = self.norm(x.transpose(1, 2)).transpose(1, 2), self.weights
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = split(w["query"].expand(len(x), 1, -1))
        pooled = torch.nn.functional.scaled_dot_product_attention(query, split(x @ w["key"]), split(x @ w["value"]))
        return pooled.transpose(1, 2).flatten(1) @ w["kernel"] + w["bias"]


def trained(x: np.ndarray, labels: np.ndarray, rate: float, steps: int, size: int) -> Theirs:
    """By torch, on the batches that the probe says it takes."""
    model = Theirs(attentive_probe.start(DIM, CLASSES, 1), heads=2)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    order = np.concatenate([np.random.default_rng(i).permutation(len(x)) for i in range(steps)])
    for step in range(steps):
        rows = order[step * size : (step + 1) * size]
        optimizer.param_groups[0]["lr"] = rate * (1 + np.cos(np.pi * step / steps)) / 2
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(x[rows])), torch.tensor(labels[rows])).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("devices", [1, 8])
def test_every_rate_is_trained_as_torch_trains_it_alone(devices: int) -> None:
    patches, labels = one_patch_tells(64, 0)
    w = world((patches, labels), (patches, labels), devices)
    read = attentive_probe.reader(w.context, {}, "train", 32, cache_gb=1)
    sizes = {"epochs": 3, "minibatch_size": 24, "classes": CLASSES, "num_heads": 2, "weight_decay": 0.1}
    probe = attentive_probe.fit(w.context, read, labels=labels, rows=np.arange(64), rates=[1e-3, 1e-2], **sizes)
    tokens = patches.reshape(64, 6, DIM)
    for number, rate in enumerate((1e-3, 1e-2)):
        model = trained(tokens, labels, rate, 8, 24)
        assert relative_error(probe.mean, model.norm.running_mean) < 1e-5
        assert relative_error(probe.variance, model.norm.running_var) < 1e-5
        for name, leaf in model.weights.items():
            assert relative_error(probe.params[name][number], leaf) < 1e-3, name
        normed = (tokens - np.asarray(probe.mean)) / np.sqrt(np.asarray(probe.variance) + 1e-6)
        ours = attentive_probe.logits({name: leaf[number] for name, leaf in probe.params.items()}, normed, 2)
        assert relative_error(ours, model(torch.tensor(tokens))) < 1e-3


def test_it_finds_the_patch_that_tells_and_held_out_images_choose_the_rate() -> None:
    train, test = one_patch_tells(500, 1), one_patch_tells(203, 2)
    w = world(train, test)
    found = w.evaluate(**{**SPEC, "epochs": 12})
    assert (w.asked[501:] == 1).all()
    mean = train[0].mean((1, 2)), test[0].mean((1, 2))
    nearest = np.square(mean[1][:, None] - mean[0]).sum(-1).argmin(1)
    assert found[f"{P}/top1"] > 0.8 > 0.4 > (train[1][nearest] == test[1]).mean()
    assert found[f"{P}/top1_low"] < found[f"{P}/top1"] <= found[f"{P}/top5"]
    assert found[f"{P}/learning_rate"] == 1e-2


def test_tokens_that_are_too_many_to_keep_are_computed_in_each_pass_and_change_nothing() -> None:
    train, test = one_patch_tells(100, 1), one_patch_tells(30, 2)
    kept, anew = world(train, test), world(train, test)
    spec = {**SPEC, "epochs": 3}
    assert kept.evaluate(**spec) == anew.evaluate(**spec, cache_gb=0.0)
    assert anew.asked[1:100].min() == 1 + 3 and kept.asked[1:100].max() == 1  # Chosen by, and trained on at the end.


def test_blocks_are_asked_of_the_model() -> None:
    train, test = one_patch_tells(100, 1), one_patch_tells(30, 2)
    w, asked = world(train, test), []
    plain = w.context.predict["patches"]

    def patches(params: Any, image: Any, **options: int) -> Any:
        asked.append(options)
        return plain(params, image)

    w.context.predict["patches"] = patches
    w.evaluate(**{**SPEC, "epochs": 1, "blocks": 6}, cache_gb=0.0)
    assert asked and all(options == {"blocks": 6} for options in asked)
    asked.clear()
    w.evaluate(**{**SPEC, "epochs": 1})
    assert asked and not any(asked)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rates": []}, r"config\.evals\.test\.learning_rates = \[\]: at least one, and all above 0"),
        ({"epochs": 0}, r"config\.evals\.test\.epochs = \[0\]"),
        ({"blocks": 0}, r"config\.evals\.test\.blocks = 0 must be at least 1, or None"),
        ({"heldout": 0.0}, r"heldout = 0\.0 leaves one part of 100 images empty"),
        ({"num_heads": 3}, r"config\.evals\.test\.num_heads = 3 must divide the tokens' width, 8"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        world(one_patch_tells(100, 1), one_patch_tells(30, 2)).evaluate(**{**SPEC, **change})


def test_an_objective_without_patches_is_refused() -> None:
    w = probed.world(np.zeros((8, 1, 1, 2)), [0, 1] * 4, np.zeros((2, 1, 1, 2)), [0, 1])
    with pytest.raises(ConfigError, match="needs patches"):
        w.evaluate(**SPEC)
