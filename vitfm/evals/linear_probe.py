"""Linear probing: a linear classifier on frozen features, its settings chosen on held-out training images.

The protocol is DINOv2's (Oquab et al. 2023, arXiv:2304.07193, dinov2/eval/linear.py): every learning rate with every
choice of features, all trained at once by SGD on the same batches. DINOv2 reports the best of them on the very images
that it was chosen by; here a part of the training images chooses, and the chosen one is trained again on all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitfm.evals import base, embeddings, probing

LEARNING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
BLOCKS = (1, 4)
_MOMENTUM = 0.9


class Choice(NamedTuple):
    """Features: the class tokens of the last `blocks` blocks and, if wanted, the mean of the last one's patches.

    Models without a class token have the means of the patches of the last `blocks` blocks.
    """

    blocks: int
    mean_patches: bool

    def of(self, features: jax.Array) -> jax.Array:
        """[B, L, P, D] -> [B, F + 1], the last one being 1: what the bias is multiplied with."""
        parts = [features[:, -self.blocks :, 0].reshape(len(features), -1), jnp.ones((len(features), 1))]
        return jnp.concatenate([features[:, -1, 1], *parts] if self.mean_patches else parts, axis=1)

    def width(self, dim: int) -> int:
        """F + 1 for features of width `dim`."""
        return (self.blocks + self.mean_patches) * dim + 1


class Probe(NamedTuple):
    """Classifiers trained at once.

    Attributes:
      kernels: choice -> [F + 1, R, K], for R learning rates and K classes; the last row is the bias.
      mean, deviation: [L, P, D], of the features they were trained on.
    """

    kernels: Mapping[Choice, jax.Array]
    mean: np.ndarray = np.float32(0)
    deviation: np.ndarray = np.float32(1)


class Chosen(NamedTuple):
    """What images held out chose, and the share of them that was right by it."""

    choice: Choice
    learning_rate: float
    accuracy: float


def make(
    *,
    train: str,
    test: str,
    label: str,
    prefix: str,
    blocks: Sequence[int] = BLOCKS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    epochs: float = 10,
    minibatch_size: int = 256,
    heldout: float = 0.1,
    batch_size: int = 256,
    context: base.Context,
) -> base.Evaluate:
    """Accuracy of a linear classifier on features of the frozen model.

    Features are standardised by mean and deviation of the training images, as MAE's batch norm without scale and shift
    does by those of a batch: it makes learning rates comparable between models, and blocks within one. There is no
    weight decay and no augmentation.

    Args:
      train, test: sources of images.
      label: the feature with the class.
      prefix: metrics are named `prefix/linear_probe/top1`, `top5` (of more than 5 classes), `top1_low` and `top1_high`
        (the 95% interval of Wilson); `heldout_top1`, `learning_rate`, `blocks` and `mean_patches` tell of the choice.
      blocks: how many of the last blocks' class tokens; each is tried with and without the mean of the patches.
      learning_rates: for 256 images a step, scaled with `minibatch_size`; they follow a cosine to zero.
      epochs: passes over the training images. Ten are DINOv2's; a few thousand images gain from more.
      minibatch_size: images a step.
      heldout: the share of the training images that chooses.
      batch_size: images at a time where features are computed.
    """
    context.need("linear_probe", "features")
    batch_size = context.batch_size(batch_size)
    context.batch_size(minibatch_size)
    probing.check(context, blocks=blocks, learning_rates=learning_rates, epochs=[epochs])
    train_labels, test_labels, classes = context.labels(label, train, test)
    parts = probing.divided(context, len(train_labels), heldout)
    lengths = {"classes": len(classes), "epochs": epochs, "minibatch_size": minibatch_size}

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        features = embeddings.features_of(context, params, train, batch_size)
        probe, chosen = choose(context, features, train_labels, parts, blocks, learning_rates, **lengths)
        test_features = embeddings.features_of(context, params, test, batch_size)
        rank = ranks(context, probe, test_features, test_labels, np.arange(len(test_labels)))[0, 0]
        yield from probing.accuracies(f"{prefix}/linear_probe", rank, len(classes))
        yield f"{prefix}/linear_probe/heldout_top1", chosen.accuracy
        yield f"{prefix}/linear_probe/learning_rate", chosen.learning_rate
        yield f"{prefix}/linear_probe/blocks", float(chosen.choice.blocks)
        yield f"{prefix}/linear_probe/mean_patches", float(chosen.choice.mean_patches)

    return evaluate


def choose(
    context: base.Context,
    features: np.ndarray,
    labels: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    blocks: Sequence[int] = BLOCKS,
    learning_rates: Sequence[float] = LEARNING_RATES,
    **lengths: Any,
) -> tuple[Probe, Chosen]:
    """A classifier trained on all images, with the settings that are best on those held out, and these.

    Args:
      context: of the evaluator.
      features, labels: [N, L, P, D] and [N], in [0, classes).
      parts: rows of all images, of those that choose and of those that train meanwhile, `probing.divided`.
      blocks, learning_rates: see `make`.
      **lengths: `classes`, `epochs` and `minibatch_size` of `fit`.
    """
    order, held, kept = parts
    choices = choices_of(features, blocks)
    probe = fit(context, features, labels, kept, choices, learning_rates, **lengths)
    accuracy = (ranks(context, probe, features, labels, held) < 1).mean(-1)
    best = np.unravel_index(np.argmax(accuracy), accuracy.shape)
    chosen = Chosen(choices[best[0]], float(learning_rates[best[1]]), float(accuracy[best]))
    return fit(context, features, labels, order, [chosen.choice], [chosen.learning_rate], **lengths), chosen


def choices_of(features: np.ndarray, blocks: Sequence[int]) -> list[Choice]:
    """Every choice that features [N, L, P, D] allow, the smallest first."""
    means = (False, True) if features.shape[2] > 1 else (False,)
    return [Choice(number, mean) for number in sorted({min(n, features.shape[1]) for n in blocks}) for mean in means]


def fit(
    context: base.Context,
    features: np.ndarray,
    labels: np.ndarray,
    rows: np.ndarray,
    choices: Sequence[Choice],
    rates: Sequence[float],
    *,
    classes: int,
    epochs: float,
    minibatch_size: int,
) -> Probe:
    """Classifiers for every choice and learning rate, from zero: the problem is convex.

    Args:
      context: of the evaluator.
      features, labels: [N, L, P, D] and [N], in [0, classes).
      rows: of those, the images to train on.
      choices, rates, classes, epochs, minibatch_size: see `make`.
    """
    update = context.on_devices(_updated)
    mean, deviation = embeddings.standardization(features, rows)
    width = features.shape[-1]
    kernels = {choice: np.zeros((choice.width(width), len(rates), classes), np.float32) for choice in choices}
    state = kernels, kernels
    steps = max(1, round(epochs * len(rows) / minibatch_size))
    order = probing.stream(rows, steps, minibatch_size)
    scaled = np.array(rates) * minibatch_size / 256
    for step in range(steps):
        taken, weight = probing.padded(order[step * minibatch_size : (step + 1) * minibatch_size], context.devices)
        now = (scaled * probing.cosine(step, steps)).astype(np.float32)
        state = update((*state, now, mean, deviation), features[taken], labels[taken], weight)
        jax.block_until_ready(state)  # XLA's collectives over several CPU devices deadlock from two steps on.
    return Probe(state[0], mean, deviation)


def ranks(
    context: base.Context, probe: Probe, features: np.ndarray, labels: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """How many classes come before its own in each image of `rows`, [choices, R, rows]; ties and NaNs count against."""
    size = context.batch_size(256)
    rank, found = context.on_devices(_ranks), []
    for start in range(0, len(rows), size):
        taken, weight = probing.padded(rows[start : start + size], size)
        found.append(np.asarray(rank(probe, features[taken], labels[taken]))[..., weight > 0])
    return np.concatenate(found, axis=-1)


def _updated(whole: Any, features: jax.Array, labels: jax.Array, weight: jax.Array) -> Any:
    """One step of SGD with momentum: (kernels, velocities, rates [R], mean, deviation) -> (kernels, velocities)."""
    kernels, velocities, rates, mean, deviation = whole
    features = (features - mean) / deviation

    def loss(kernel: jax.Array, x: jax.Array) -> jax.Array:
        logits = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
        values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return (values * weight).sum() / weight.sum()

    def step(kernel: jax.Array, velocity: jax.Array, rate: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        velocity = _MOMENTUM * velocity + jax.grad(loss)(kernel, x)
        return kernel - rate * velocity, velocity

    steps = jax.vmap(step, in_axes=(1, 1, 0, None), out_axes=1)
    moved = {choice: steps(kernels[choice], velocities[choice], rates, choice.of(features)) for choice in kernels}
    return {choice: new[0] for choice, new in moved.items()}, {choice: new[1] for choice, new in moved.items()}


def _ranks(probe: Probe, features: jax.Array, labels: jax.Array) -> jax.Array:
    features = (features - probe.mean) / probe.deviation

    def rank(kernel: jax.Array, x: jax.Array) -> jax.Array:
        logits = jnp.matmul(x, kernel, precision=jax.lax.Precision.HIGHEST)
        return probing.rank(logits, labels)

    ranked = jax.vmap(rank, in_axes=(1, None))
    return jnp.stack([ranked(kernel, choice.of(features)) for choice, kernel in probe.kernels.items()])
