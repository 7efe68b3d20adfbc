"""ResNet and BiT in training: batch statistics are torch's, an objective holds them, and what refuses to."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.reference import relative_error, timm, torch
from vitfm import train_step
from vitfm.config import ConfigError
from vitfm.data.facts import Facts
from vitfm.interop import weights
from vitfm.interop.families import resnet as family
from vitfm.models import bit, resnet, statistics
from vitfm.objectives import base

TINY: dict[str, Any] = {"block": "bottleneck", "stem_dim": 64, "depths": (1, 1), "hidden_dims": (16, 32)}
FOUR = {**TINY, "depths": (1, 1, 1, 1), "hidden_dims": (16, 32, 32, 32)}  # timm has no fewer stages.
SPEC = {"name": "supervised", "model": {"name": "resnet", **FOUR}, "head_init": "fan_in"}
FACTS = Facts(image_size=64, channels=3, vocab_size=0, text_length=0, classes=("cat", "dog", "hen"))
keep: train_step.Preprocess = lambda batch, keys: batch


@functools.cache
def objective(**model: Any) -> base.Objective:
    spec = {**SPEC, "model": {**SPEC["model"], **model}}
    return base.make(spec, data=FACTS, dtype=jnp.float32)


def some_batch(size: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.normal(0.3, 1.2, (size, 64, 64, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 3, size, dtype=np.int32)}


class Pair:
    """timm's and ours with the same weights, ours as those of `objective()`."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.theirs = timm.models.ResNet(
            timm.models.resnet.Bottleneck,
            layers=(1, 1, 1, 1),
            channels=(4, 8, 8, 8),
            num_classes=3,
            zero_init_last=False,
        )
        like = jax.eval_shape(objective().init, jax.random.key(0), some_batch())
        self.like = {"params": like.params, "extra": like.extra}
        self.rows = family.timm_rows(SPEC)

    def ours(self) -> Any:
        tensors = {name: t.numpy().copy() for name, t in self.theirs.state_dict().items() if "tracked" not in name}
        return weights.to_ours(self.rows, tensors, self.like)


@functools.cache
def trained(steps: int) -> tuple[Any, ...]:
    """Loss, gradients and statistics of the last of some batches, ours and theirs; no parameter moves."""
    pair, batch = Pair(), some_batch()
    state = pair.ours()
    gradients = jax.jit(train_step.gradients_of(objective(), keep))
    pixels, label = torch.tensor(batch["image"]).permute(0, 3, 1, 2), torch.tensor(batch["label"]).long()
    extra = state["extra"]
    for step in range(steps):
        keys = train_step.example_keys(0, step, len(batch["label"]))
        value, aux, grads = gradients(state["params"], extra, batch, keys, jnp.int32(step))
        extra = {**extra, **aux.extra}
        pair.theirs.zero_grad()
        loss = torch.nn.functional.cross_entropy(pair.theirs(pixels), label)
        loss.backward()
    named = {name: p.grad.numpy() for name, p in pair.theirs.named_parameters()}
    rows = [row for row in pair.rows if row[0].startswith("params/")]
    their_grads = weights.to_ours(rows, named, {"params": pair.like["params"]})["params"]
    return (value, loss), (grads, their_grads), (extra, pair.ours()["extra"]), (state["params"], pair)


def test_loss_gradients_and_running_statistics_are_torchs():
    losses, grads, extras, _ = trained(3)
    assert relative_error(*losses) < 1e-5
    for ours, theirs in (grads, extras):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert relative_error(a, b) < 1e-4
    assert set(extras[0]) == {"batch_stats"}


def test_predictions_take_the_running_statistics():
    _, _, (extra, _), (params, pair) = trained(3)
    image = some_batch(2)["image"]
    evaluated = objective().evaluated(params, extra)
    with torch.no_grad():
        theirs = pair.theirs.eval()(torch.tensor(image).permute(0, 3, 1, 2))
        pair.theirs.train()
    assert relative_error(objective().predict["logits"](evaluated, image), theirs) < 1e-5
    assert objective().predict["features"](evaluated, image).shape == (2, 1, 1, 32)
    assert objective().predict["embed_image"](evaluated, image).shape == (2, 32)


def test_accumulation_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="statistics of the whole batch, which no micro-batch knows"):
        train_step.gradients_of(objective(), keep, 2)


def test_an_objective_without_statistics_is_told_so():
    model = resnet.make(**TINY)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(ConfigError, match="running statistics, which this objective does not hold"):
        jax.eval_shape(lambda p: model.apply({"params": p}, jnp.zeros((1, 32, 32, 3))), variables["params"])


def test_other_encoders_hold_none():
    made = base.make(
        {"name": "supervised", "model": {"name": "bit", "depths": (1,), "hidden_dims": (128,)}}, data=FACTS
    )
    variables = jax.eval_shape(made.init, jax.random.key(0), some_batch())
    assert (made.accumulate, variables.extra, made.evaluated) == ("mean", {}, base.as_trained)


def test_recomputed_blocks_change_no_gradient_and_no_statistics():
    state, keys = Pair().ours(), train_step.example_keys(0, 0, 6)

    def gradients(made: base.Objective) -> Any:
        function = jax.jit(train_step.gradients_of(made, keep))
        return function(state["params"], state["extra"], some_batch(), keys, jnp.int32(0))

    results = [gradients(objective(remat=remat, drop_path_rate=0.5)) for remat in (False, True)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("train", [True, False])
def test_statistics_are_float32_whatever_the_compute_dtype(train: bool):
    norm = statistics.BatchNorm(dtype=jnp.bfloat16)
    x = jnp.full((4, 2, 2, 3), 1000.0, jnp.bfloat16)
    y, variables = norm.init_with_output(jax.random.key(0), x, train)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("module", [resnet, bit])
def test_any_size_and_number_of_channels(module: Any):
    options = TINY if module is resnet else {"depths": (1, 1), "hidden_dims": (32, 32), "stem_dim": 8, "groups": 8}
    model = module.make(**options, drop_path_rate=0.5)
    apply = lambda: model.init_with_output(jax.random.key(0), jnp.zeros((2, 33, 20, 4)), last=1)[0]
    features = jax.eval_shape(apply)
    assert (features.grid, features.prefix, features.pooled.shape) == ((5, 3), 0, (2, 32))
    assert [layer.shape for layer in features.layers] == [(2, 15, 32)]
    with pytest.raises(ConfigError, match="none can be hidden"):
        model.apply({}, jnp.zeros((2, 33, 20, 4)), jnp.zeros((2, 1), jnp.int32))


@pytest.mark.parametrize(("name", "count"), [("18", 11_176_512), ("50", 23_508_032)])
def test_published_sizes(name: str, count: int):
    shapes = jax.eval_shape(resnet.make(**resnet.SIZES[name]).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == count  # timm's without classifier.


def test_groups_divide_the_widths():
    with pytest.raises(ConfigError, match="groups = 32 must divide all widths, 16, 64"):
        bit.make(depths=(1,), hidden_dims=(64,))
