"""The supervised objective equals transformers' `ViTForImageClassification`, timm's ViT and torch's losses.

Logits, loss, the gradient of every parameter, and ten updates.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.adamw import ten_steps
from tests.parity.reference import randomise, relative_error, timm, torch, transformers
from tests.parity.weights import (
    FORWARD,
    GRADIENT,
    TRANSFORMERS_BLOCK,
    Row,
    converted,
    filters,
    fused,
    gradients,
    same,
    timm_rows,
    transposed,
    values,
    worst,
)
from vitfm.data.facts import Facts
from vitfm.losses import classification
from vitfm.objectives import supervised

# The losses.


def some_labels(rng: np.random.Generator, kind: str, batch: int, classes: int) -> np.ndarray:
    if kind == "one":
        return rng.integers(0, classes, batch, dtype=np.int32)
    if kind == "mixed":
        return rng.dirichlet([0.5] * classes, batch).astype(np.float32)
    return (rng.uniform(size=(batch, classes)) < 0.4).astype(np.float32)


def their_loss(
    logits: Any, label: np.ndarray, loss: str, smoothing: float = 0.0, weights: np.ndarray | None = None
) -> Any:
    """Torch's cross-entropies, as sums over the classes and means over the batch."""
    from timm.loss import BinaryCrossEntropy  # Once torchvision's operators are declared.

    target = torch.tensor(label, dtype=torch.long if label.ndim == 1 else torch.float32)
    weight = None if weights is None else torch.tensor(weights)
    if loss == "softmax":
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": "sum"}
        return torch.nn.functional.cross_entropy(logits, target, **options) / len(label)
    if label.ndim == 1:  # timm's, which smooths such labels alone.
        return BinaryCrossEntropy(smoothing, weight=weight, sum_classes=True)(logits, target)
    options = {"weight": weight, "reduction": "sum"}
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, **options) / len(label)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "class weights"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("loss", "kind"), [("softmax", "one"), ("softmax", "mixed"), ("sigmoid", "one"), ("sigmoid", "many")]
)
def test_losses_equal_torch(loss: str, kind: str, smoothing: float, weighted: bool):
    smoothing = 0.0 if kind == "many" else smoothing  # Torch and timm have no such.
    rng = np.random.default_rng(5)
    logits = rng.normal(scale=3, size=(9, 6)).astype(np.float32)
    label, weights = some_labels(rng, kind, 9, 6), rng.uniform(0, 3, 6).astype(np.float32) if weighted else None
    reference = torch.tensor(logits, requires_grad=True)
    theirs = their_loss(reference, label, loss, smoothing, weights)
    theirs.backward()

    def ours(logits: jax.Array) -> jax.Array:
        return getattr(classification, loss)(logits, classification.targets(label, 6, smoothing), weights).mean()

    value, grad = jax.value_and_grad(ours)(logits)
    assert relative_error(value, theirs) < FORWARD
    assert relative_error(grad, reference.grad) < GRADIENT


# The models.

TRANSFORMERS: tuple[Row, ...] = (
    ("encoder/class_token", "vit.embeddings.cls_token", same),
    ("encoder/position", "vit.embeddings.position_embeddings", lambda w: w[:, 1:]),
    ("encoder/stem/patch/kernel", "vit.embeddings.patch_embeddings.projection.weight", filters),
    ("encoder/stem/patch/bias", "vit.embeddings.patch_embeddings.projection.bias", same),
    ("encoder/transformer/norm/scale", "vit.layernorm.weight", same),
    ("encoder/transformer/norm/bias", "vit.layernorm.bias", same),
    ("head/logits/kernel", "classifier.weight", transposed),
    ("head/logits/bias", "classifier.bias", same),
)
TIMM_HEAD: tuple[Row, ...] = (
    ("head/logits/kernel", "head.weight", transposed),
    ("head/logits/bias", "head.bias", same),
)
TIMM_TOKEN: tuple[Row, ...] = (
    ("encoder/class_token", "cls_token", same),
    ("encoder/position", "pos_embed", lambda w: w[:, 1:]),
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One architecture, loss and batch of both sides."""

    library: Literal["transformers", "timm"]
    pool: Literal["cls", "gap"]
    shape: tuple[int, int]
    image_size: int
    patch_size: int
    width: int
    heads: int
    depth: int
    classes: int
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label: Literal["one", "mixed", "many"] = "one"
    smoothing: float = 0.0
    channels: int = 3
    epsilon: float = 1e-6
    batch: int = 5

    @property
    def rows(self) -> list[Row]:
        if self.library == "transformers":
            return list(TRANSFORMERS) + [
                (f"encoder/transformer/block_{layer:02d}/{ours}", f"vit.layers.{layer}.{theirs}", convert)
                for layer in range(self.depth)
                for ours, theirs, convert in TRANSFORMERS_BLOCK
            ]
        tower = [(f"encoder/{ours}", theirs, convert) for ours, theirs, convert in timm_rows(self.depth)]
        if self.pool == "gap":
            return [*tower, *TIMM_HEAD]
        return [row for row in tower if row[0] != "encoder/position"] + [*TIMM_TOKEN, *TIMM_HEAD]

    def reference(self) -> Any:
        """Their model, its weights drawn again."""
        if self.library == "transformers":
            config = transformers.ViTConfig(
                hidden_size=self.width,
                num_hidden_layers=self.depth,
                num_attention_heads=self.heads,
                intermediate_size=4 * self.width,
                layer_norm_eps=self.epsilon,
                image_size=self.image_size,
                patch_size=self.patch_size,
                num_channels=self.channels,
                num_labels=self.classes,
                problem_type="multi_label_classification" if self.label == "many" else "single_label_classification",
            )
            model = transformers.ViTForImageClassification(config)
        else:
            model = timm.models.vision_transformer.VisionTransformer(
                self.image_size,
                self.patch_size,
                self.channels,
                self.classes,
                global_pool="token" if self.pool == "cls" else "avg",
                embed_dim=self.width,
                depth=self.depth,
                num_heads=self.heads,
                class_token=self.pool == "cls",
                fc_norm=False,
                dynamic_img_size=True,
            )
        randomise(model, self.depth + self.classes)
        return model


CASES = {
    "transformers": Case("transformers", "cls", (32, 32), 32, 8, 48, 3, 2, 7),
    "transformers, several labels": Case(
        "transformers", "cls", (28, 28), 28, 7, 40, 5, 1, 4, "sigmoid", "many", channels=4, epsilon=1e-12
    ),
    "timm, class token, not square, mixed labels": Case(
        "timm", "cls", (40, 24), 32, 8, 48, 2, 2, 6, label="mixed", smoothing=0.1
    ),
    "timm, average, not square, smooth labels": Case("timm", "gap", (21, 42), 28, 7, 40, 5, 1, 9, smoothing=0.2),
    "timm, average, sigmoid": Case("timm", "gap", (20, 20), 20, 4, 32, 2, 2, 5, "sigmoid", "mixed"),
}


class Pair:
    """The same classifier with the same weights on both sides, images and labels."""

    def __init__(self, case: Case):
        self.case, self.theirs = case, case.reference()
        rng = np.random.default_rng(case.classes)
        self.image = rng.normal(size=(case.batch, *case.shape, case.channels)).astype(np.float32)
        self.label = some_labels(rng, case.label, case.batch, case.classes)
        model = {
            "patch_size": case.patch_size,
            "hidden_dim": case.width,
            "depth": case.depth,
            "num_heads": case.heads,
            "pool": case.pool,
            "epsilon": case.epsilon,
        }
        names = tuple(map(str, range(case.classes)))
        facts = Facts(case.image_size, case.channels, 0, 0, classes=names, multi_label=case.label == "many")
        ours = supervised.make(model=model, loss=case.loss, label_smoothing=case.smoothing, data=facts)
        batch = {"image": self.image, "label": self.label}
        self.like = jax.eval_shape(lambda: ours.init(jax.random.key(0), batch)).params

        @jax.jit
        def evaluate(params: Any) -> tuple[Any, ...]:
            """Loss, gradients and logits."""
            loss = lambda params: ours.loss(params, {}, batch, None, jnp.int32(0))[0]
            return *jax.value_and_grad(loss)(params), ours.predict["logits"](params, self.image)

        self.evaluate = evaluate

    def converted(self, named: Mapping[str, np.ndarray]) -> Any:
        return converted(self.case.rows, fused(named) if self.case.library == "transformers" else named, self.like)

    def params(self) -> Any:
        """Their weights as ours: our class token holds the sum of theirs and its position."""
        named = values(self.theirs)
        if self.case.pool == "cls":
            token, position = self.token_and_position()
            named[token] += named[position][:, :1]
        return self.converted(named)

    def token_and_position(self) -> tuple[str, str]:
        """The names of their class token and position embeddings."""
        if self.case.library == "timm":
            return "cls_token", "pos_embed"
        return "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"

    def run_theirs(self) -> tuple[Any, Any]:
        """Their loss and logits; transformers' own loss takes the mean over several classes."""
        self.theirs.zero_grad()
        pixels = torch.tensor(self.image).permute(0, 3, 1, 2)
        if self.case.library == "transformers":
            label = torch.tensor(self.label, dtype=torch.float32 if self.label.ndim == 2 else torch.long)
            output = self.theirs(pixels, labels=label)
            return output.loss * (self.case.classes if self.case.label == "many" else 1), output.logits
        logits = self.theirs(pixels)
        return their_loss(logits, self.label, self.case.loss, self.case.smoothing), logits


@functools.cache
def pair(name: str) -> Pair:
    return Pair(CASES[name])


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradient_of_every_parameter(name: str):
    both = pair(name)
    theirs, their_logits = both.run_theirs()
    theirs.backward()
    named = gradients(both.theirs)
    value, grads, logits = both.evaluate(both.params())
    assert their_logits.std() > 0.1
    assert their_logits.std(0).mean() > 0.1  # Nor are they the same for every example.
    assert relative_error(logits, their_logits) < FORWARD
    assert relative_error(value, theirs) < FORWARD
    assert worst(grads, both.converted(named)) < (GRADIENT,)
    if both.case.pool == "cls":
        token, position = both.token_and_position()
        assert relative_error(named[token], named[position][:, :1]) < GRADIENT


def test_ten_steps_of_adamw_follow_torch():
    name = "transformers"
    both, evaluate = Pair(CASES[name]), pair(name).evaluate  # One batch; the torch side is its own.
    theirs = dict(both.theirs.named_parameters())
    _, position = both.token_and_position()
    with torch.no_grad():  # Adam would move class token and its position both, ours once: only one is left to move.
        theirs[position][:, 0] = 0
    theirs[position].register_hook(lambda grad: grad.index_fill(1, torch.tensor([0]), 0.0))
    decays = {name for name, p in theirs.items() if p.ndim in (2, 4) or name == position}
    rates = {"learning_rate": 1e-3, "b2": 0.999, "weight_decay": 0.1}
    ours, torchs = ten_steps(evaluate, both.params(), lambda: both.run_theirs()[0], theirs, decays, **rates)
    np.testing.assert_allclose(ours, torchs, rtol=1e-4)
    assert ours[-1] < 0.5 * ours[0]  # Both went somewhere.
