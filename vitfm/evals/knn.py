"""k nearest neighbours: weighted votes of training images (Wu et al. 2018, arXiv:1805.01978), as DINO reports them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from vitfm.config import ConfigError
from vitfm.evals import base, embeddings, zeroshot

_MAIN = 20  # The k whose accuracy is plainly `top1`: the best of those that DINO reports.


def make(
    *,
    train: str,
    test: str,
    label: str,
    prefix: str,
    k: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
    whiten: bool = False,
    batch_size: int = 256,
    context: base.Context,
) -> base.Evaluate:
    """Each test image takes the class with most votes among the k training images of highest cosine similarity.

    A vote weighs exp(similarity / temperature). Features are the class token of the last block, or the mean of its
    patches where there is none. Every neighbour is found: nothing is approximated.

    Args:
      train, test: sources of images.
      label: the feature with the class.
      prefix: metrics are named `prefix/knn/top1_k20`, and so on, and `prefix/knn/top1`, which is that of k = 20, or of
        the first k where 20 is not among them. Of whitened features they are `prefix/knn_whitened/...`.
      k: numbers of neighbours. One above the number of training images is left out.
      temperature: of the votes.
      whiten: features lose their mean and get equal variance in all directions, those of the training images
        (`embeddings.whitening`). Where few directions hold most of the variance, which an effective rank far below the
        width shows and masked image modelling is prone to, cosines see little of what a linear probe finds.
      batch_size: images at a time.
    """
    context.need("knn", "features")
    batch_size = context.batch_size(batch_size)
    train_labels, test_labels, classes = context.labels(label, train, test)
    counts = [count for count in k if count <= len(train_labels)]
    if not counts or min(counts) < 1 or temperature <= 0:
        raise ConfigError(
            f"config.{context.where}: k = {k!r} and temperature = {temperature!r} must be above 0, and at least one k "
            f"no larger than the number of training images, {len(train_labels)}."
        )
    nearest = finder(context, max(counts), batch_size)
    metric = f"{prefix}/knn_whitened" if whiten else f"{prefix}/knn"

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        bank, queries = (
            embeddings.features_of(context, params, source, batch_size)[:, -1, 0] for source in (train, test)
        )
        if whiten:
            mean, matrix = embeddings.whitening(bank)
            bank, queries = ((x - mean) @ matrix for x in (bank, queries))
        similarity, found = nearest(_unit(queries), _unit(bank))
        accuracy = {}
        for count in counts:
            votes = votes_of(similarity[:, :count], train_labels[found[:, :count]], len(classes), temperature)
            accuracy[count] = zeroshot.topk_accuracies(votes, test_labels, (1,))[1]
            yield f"{metric}/top1_k{count}", accuracy[count]
        yield f"{metric}/top1", accuracy.get(_MAIN, accuracy[counts[0]])

    return evaluate


def finder(
    context: base.Context, count: int, batch_size: int
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A search for the `count` rows of a bank nearest to each query.

    The bank is split among the devices: each finds its nearest, and the nearest of those are the nearest of all.

    Returns:
      (queries [M, D], bank [N, D]) -> products and row numbers, both [M, count]; the highest product is first, and
      of equal ones the lower row.
    """
    search = context.on_devices(functools.partial(_search, count=count, mesh=context.mesh))

    def nearest(queries: np.ndarray, bank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        missing = -len(bank) % context.devices
        shards = np.pad(bank, ((0, missing), (0, 0))).reshape(context.devices, -1, bank.shape[1])
        real = np.arange(len(bank) + missing).reshape(context.devices, -1) < len(bank)
        batches = np.pad(queries, ((0, -len(queries) % batch_size), (0, 0))).reshape(-1, batch_size, queries.shape[1])
        return tuple(np.asarray(x).reshape(-1, count)[: len(queries)] for x in search(batches, shards, real))

    return nearest


def votes_of(similarity: np.ndarray, labels: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """Similarity and labels of neighbours, both [M, k] -> the sum of the weights of each class [M, classes]."""
    cells = np.arange(len(labels))[:, None] * classes + labels
    weights = np.exp(similarity.astype(np.float64) / temperature)
    return np.bincount(cells.ravel(), weights.ravel(), len(labels) * classes).reshape(-1, classes)


def _search(
    batches: jax.Array, shards: jax.Array, real: jax.Array, *, count: int, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array]:
    """Queries [Q, B, D] in a bank of S shards [S, N, D], whose rows are `real` [S, N] -> both [Q, B, count]."""
    size, rows, _ = shards.shape
    nearest = functools.partial(_nearest, count=min(count, rows))
    if mesh is not None:  # XLA would gather all products before it takes the highest.
        split = PartitionSpec(mesh.axis_names)
        specs = (PartitionSpec(), split, split)
        nearest = jax.shard_map(nearest, mesh=mesh, in_specs=specs, out_specs=split)
    products, places = nearest(batches, shards, real)
    places += rows * jnp.arange(size)[:, None, None, None]
    products, places = (jnp.moveaxis(x, 0, 2).reshape(*batches.shape[:2], -1) for x in (products, places))
    products, chosen = jax.lax.top_k(products, count)
    return products, jnp.take_along_axis(places, chosen, axis=2)


def _nearest(batches: jax.Array, shards: jax.Array, real: jax.Array, *, count: int) -> tuple[jax.Array, jax.Array]:
    """Each shard's own nearest, and their places in it: both [S, Q, B, count]."""

    def search(queries: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = jnp.einsum("bd,snd->sbn", queries, shards, precision=jax.lax.Precision.HIGHEST)
        return jax.lax.top_k(jnp.where(real[:, None], products, -jnp.inf), count)

    return tuple(jnp.moveaxis(x, 1, 0) for x in jax.lax.map(search, batches))


def _unit(x: np.ndarray) -> np.ndarray:
    """Rows of L2 norm 1."""
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
