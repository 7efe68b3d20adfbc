"""Few-shot accuracy: ridge regression in closed form on a few images a class.

The protocol and its numbers are those of big_vision's evaluators/fewshot_lsr.py, by which ViT and SigLIP are followed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitfm.config import ConfigError
from vitfm.evals import base, embeddings, linear_probe


def make(
    *,
    train: str,
    test: str,
    label: str,
    prefix: str,
    shots: Sequence[int] = (1, 5, 10, 25),
    draws: int = 5,
    ridge: float = 2.0**10,
    batch_size: int = 256,
    context: base.Context,
) -> base.Evaluate:
    """Accuracy of the linear map that takes standardised features of a few images nearest to their classes.

    Least squares between the map's outputs and +1 for the own class, -1 for the others, plus `ridge` times the squared
    weights, the intercept's excepted (big_vision's is a feature of constant value 100, hardly held back either).
    Features are the class token of the last block, or the mean of its patches where there is none, standardised by mean
    and deviation of the few images.

    Args:
      train, test: sources of images.
      label: the feature with the class.
      prefix: metrics are named `prefix/fewshot/top1_5shot`, the mean over draws, and `top1_5shot_std`, their standard
        deviation.
      shots: images a class. A class with fewer has all it has.
      draws: how often the images are drawn anew, the same ones in every evaluation.
      ridge: the penalty's weight, for the sum over images and not their mean.
      batch_size: images at a time.
    """
    context.need("fewshot", "features")
    batch_size = context.batch_size(batch_size)
    if not shots or min(*shots, draws, ridge) <= 0:
        raise ConfigError(
            f"config.{context.where}: shots = {shots!r}, draws = {draws} and ridge = {ridge} must be above 0."
        )
    train_labels, test_labels, classes = context.labels(label, train, test)

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        features, test_features = (embeddings.features_of(context, params, name, batch_size) for name in (train, test))
        for count in shots:
            rows = [drawn(train_labels, count, seed) for seed in range(draws)]
            solved = [solve(context, features[r, -1, 0], train_labels[r], len(classes), ridge) for r in rows]
            probe = linear_probe.Probe({linear_probe.Choice(1, False): np.stack(solved, axis=1)})
            ranks = linear_probe.ranks(context, probe, test_features, test_labels, np.arange(len(test_labels)))[0]
            accuracies = (ranks < 1).mean(1)
            yield f"{prefix}/fewshot/top1_{count}shot", float(accuracies.mean())
            yield f"{prefix}/fewshot/top1_{count}shot_std", float(accuracies.std())

    return evaluate


def drawn(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of `count` examples of each class; those of a smaller count are among those of a larger one."""
    random = np.random.default_rng(seed)
    return np.concatenate([random.permutation(np.flatnonzero(labels == c))[:count] for c in range(labels.max() + 1)])


def solve(context: base.Context, x: np.ndarray, labels: np.ndarray, classes: int, ridge: float) -> np.ndarray:
    """Ridge regression of the classes on features [N, D], standardised inside: [D + 1, K], the last row the bias."""
    mean, deviation = embeddings.standardization(x, np.arange(len(x)))
    targets = 2 * np.eye(classes, dtype=np.float32)[labels] - 1
    intercept = targets.mean(0)
    # Both sides are centred, so the intercept is the mean target and the weights are found without it.
    pad = lambda rows: np.pad(rows, ((0, -len(rows) % context.devices), (0, 0)))  # Zeros add nothing to a product.
    weights = context.on_devices(_ridge)(np.float32(ridge), pad((x - mean) / deviation), pad(targets - intercept))
    kernel = np.asarray(weights) / deviation[:, None]
    return np.concatenate([kernel, (intercept - mean @ kernel)[None]])


def _ridge(ridge: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """(X'X + ridge)^-1 X'Y, for X [N, D] and Y [N, K]; X'(XX' + ridge)^-1 Y, which is the same, where N is smaller."""
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    solved = lambda gram, y: jax.scipy.linalg.solve(gram + ridge * jnp.eye(len(gram)), y, assume_a="pos")
    if len(x) < x.shape[1]:
        return product(x.T, solved(product(x, x.T), y))
    return solved(product(x.T, x), product(x.T, y))
