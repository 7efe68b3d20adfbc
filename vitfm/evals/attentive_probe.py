"""Attentive probing: a classifier that attends to what a frozen encoder makes of each patch.

AIM's protocol (El-Nouby et al. 2024, arXiv:2401.08541; `AttentionPoolingClassifier` of github.com/apple/ml-aim), for
encoders that no loss has taught to pool: batch norm without scale and shift, one learned query, keys and values without
biases, a linear classifier. All learning rates are trained at once on the same batches; a part of the training images
chooses one, which is trained again on all of them. Images are taken as they are, without augmentation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitfm.config import ConfigError
from vitfm.evals import base, embeddings, probing

_EPSILON, _MOMENTUM = 1e-6, 0.1  # Of batch norm.
Read = Callable[[np.ndarray, int], Iterator[np.ndarray]]  # (rows, size) -> tokens [size,T,D], the last ones padded.


class Probe(NamedTuple):
    """Classifiers of R learning rates, and what the batch norm before them all has seen.

    Attributes:
      params: `query` [R,D], `key` and `value` [R,D,D], `kernel` [R,D,K] and `bias` [R,K].
      mean, variance: [D], moving averages.
    """

    params: Mapping[str, jax.Array]
    mean: jax.Array
    variance: jax.Array


def make(
    *,
    train: str,
    test: str,
    label: str,
    prefix: str,
    num_heads: int | None = None,
    blocks: int | None = None,
    learning_rates: Sequence[float] = (1e-4, 3e-4, 1e-3, 3e-3),
    weight_decay: float = 0.1,
    epochs: float = 10,
    minibatch_size: int = 256,
    heldout: float = 0.1,
    batch_size: int = 256,
    cache_gb: float = 4.0,
    context: base.Context,
) -> base.Evaluate:
    """Accuracy of an attentive classifier on the frozen model's tokens of patches.

    Args:
      train, test: sources of images.
      label: the feature with the class.
      prefix: metrics are named `prefix/attentive_probe/top1`, `top5` (of more than 5 classes), `top1_low` and
        `top1_high` (the 95% interval of Wilson); `heldout_top1` and `learning_rate` tell of the choice.
      num_heads: of the attention; None for heads as wide as 64, or fewer than that.
      blocks: the mean of the last so many blocks is what it attends to, before their final norm: 6 in the paper's main
        results. A model with fewer gives all it has. None for the patches after the last block and the norm.
      learning_rates: of AdamW, each tried; they follow a cosine to zero.
      weight_decay: of all parameters.
      epochs: passes over the training images.
      minibatch_size: images a step; rounded up to what the devices divide.
      heldout: the share of the training images that chooses.
      batch_size: images at a time where nothing is trained.
      cache_gb: most tokens that are kept, in GiB; where the training images have more, the encoder runs in each pass.
    """
    context.need("attentive_probe", "patches")
    batch_size, minibatch_size = context.batch_size(batch_size), context.batch_size(minibatch_size)
    probing.check(context, learning_rates=learning_rates, epochs=[epochs])
    if blocks is not None and blocks < 1:
        raise ConfigError(f"config.{context.where}.blocks = {blocks} must be at least 1, or None.")
    train_labels, test_labels, classes = context.labels(label, train, test)
    order, held, kept = probing.divided(context, len(train_labels), heldout)
    trained = functools.partial(
        fit,
        context,
        labels=train_labels,
        num_heads=num_heads,
        weight_decay=weight_decay,
        classes=len(classes),
        epochs=epochs,
        minibatch_size=minibatch_size,
    )

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        read = reader(context, params, train, batch_size, cache_gb, blocks)
        probe = trained(read, rows=kept, rates=learning_rates)
        accuracy = (ranks(context, probe, read, train_labels, held, num_heads, batch_size) < 1).mean(-1)
        best = int(np.argmax(accuracy))
        probe = trained(read, rows=order, rates=learning_rates[best : best + 1])
        read = reader(context, params, test, batch_size, 0, blocks)
        everything = np.arange(len(test_labels))
        rank = ranks(context, probe, read, test_labels, everything, num_heads, batch_size)[0]
        yield from probing.accuracies(f"{prefix}/attentive_probe", rank, len(classes))
        yield f"{prefix}/attentive_probe/heldout_top1", float(accuracy[best])
        yield f"{prefix}/attentive_probe/learning_rate", float(learning_rates[best])

    return evaluate


def reader(
    context: base.Context, params: Any, source: str, batch_size: int, cache_gb: float, blocks: int | None = None
) -> Read:
    """The tokens of a source's images by their rows, kept where they are no more than `cache_gb`; see `make`."""
    images, options = context.open_source(source), {} if blocks is None else {"blocks": blocks}

    def computed(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
        for batch in context.batches(base.Chosen(images, rows.tolist()), size):
            found = np.asarray(context.predict["patches"](params, batch["image"], **options), np.float32)
            yield found.reshape(len(found), -1, found.shape[-1])

    one = next(computed(np.arange(1), context.batch_size(1)))[0]
    if one.nbytes * len(images) > cache_gb * 2**30:
        return computed
    tokens = embeddings.of_images(context, params, images, batch_size, "patches", **options)
    tokens = tokens.reshape(len(images), *one.shape)
    parts = lambda rows, size: (rows[start : start + size] for start in range(0, len(rows), size))
    return lambda rows, size: (tokens[probing.padded(part, size)[0]] for part in parts(rows, size))


def start(dim: int, classes: int, count: int) -> dict[str, jax.Array]:
    """Parameters of `count` classifiers, all alike: maps uniform within ±1/√D as in torch, a query of deviation .02."""
    keys = jax.random.split(jax.random.key(0), 5)
    uniform = lambda key, *shape: jax.random.uniform(key, shape, minval=-1, maxval=1) / dim**0.5
    params = {
        "query": 0.02 * jax.random.normal(keys[0], (dim,)),
        "key": uniform(keys[1], dim, dim),
        "value": uniform(keys[2], dim, dim),
        "kernel": uniform(keys[3], dim, classes),
        "bias": uniform(keys[4], classes),
    }
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), params)


def fit(
    context: base.Context,
    read: Read,
    *,
    labels: np.ndarray,
    rows: np.ndarray,
    rates: Sequence[float],
    num_heads: int | None,
    weight_decay: float,
    classes: int,
    epochs: float,
    minibatch_size: int,
) -> Probe:
    """Classifiers for every learning rate; see `make` for the arguments, of which `rows` are the images to train on."""
    steps = max(1, round(epochs * len(rows) / minibatch_size))
    order = probing.stream(rows, steps, minibatch_size)[: steps * minibatch_size]
    optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(weight_decay))
    state = update = None
    for step, tokens in enumerate(read(order, minibatch_size)):
        if state is None:
            dim = tokens.shape[-1]
            update = context.on_devices(functools.partial(_updated, optimizer, heads(context, dim, num_heads)))
            params = start(dim, classes, len(rates))
            state = Probe(params, jnp.zeros(dim), jnp.ones(dim)), jax.vmap(optimizer.init)(params)
        now = np.float32(rates) * np.float32(probing.cosine(step, steps))
        taken = order[step * minibatch_size : (step + 1) * minibatch_size]
        state = update((*state, now), tokens, labels[taken])
        jax.block_until_ready(state)  # XLA's collectives over several CPU devices deadlock from two steps on.
    return state[0]


def heads(context: base.Context, dim: int, wanted: int | None) -> int:
    """How many the attention has.

    Raises:
      ConfigError: they do not divide the width.
    """
    found = max(1, dim // 64) if wanted is None else wanted
    if found < 1 or dim % found:
        raise ConfigError(f"config.{context.where}.num_heads = {found} must divide the tokens' width, {dim}.")
    return found


def ranks(
    context: base.Context,
    probe: Probe,
    read: Read,
    labels: np.ndarray,
    rows: np.ndarray,
    num_heads: int | None,
    batch_size: int,
) -> np.ndarray:
    """How many classes come before its own in each image of `rows`, [R, rows]; ties and NaNs count against."""
    rank = context.on_devices(functools.partial(_ranks, heads(context, len(probe.mean), num_heads)))
    own = probing.padded(rows, batch_size)[0].reshape(-1, batch_size)
    found = [
        np.asarray(rank(probe, tokens, labels[part])) for part, tokens in zip(own, read(rows, batch_size), strict=True)
    ]
    return np.concatenate(found, axis=-1)[:, : len(rows)]


def logits(params: Mapping[str, jax.Array], x: jax.Array, heads: int) -> jax.Array:
    """One classifier's, [B,K], of normalised tokens [B,T,D].

    The query is one for all images: keys are never made, but what the query sees of a token, [D, heads]; and tokens
    are averaged before values are made of them.
    """
    dim = x.shape[-1]
    by_head = lambda matrix: matrix.reshape(dim, heads, dim // heads)
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    seen = product("chd,hd->ch", by_head(params["key"]), params["query"].reshape(heads, -1)) * (dim // heads) ** -0.5
    weights = jax.nn.softmax(product("btc,ch->bht", x, seen), axis=-1)
    pooled = product("bhc,chd->bhd", product("bht,btc->bhc", weights, x), by_head(params["value"]))
    return product("bc,ck->bk", pooled.reshape(-1, dim), params["kernel"]) + params["bias"]


def _updated(optimizer: optax.GradientTransformation, heads: int, whole: Any, x: jax.Array, labels: jax.Array) -> Any:
    """One step of AdamW: (probe, optimizer's state, rates [R]) -> (probe, optimizer's state)."""
    probe, state, rates = whole
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    count = x.shape[0] * x.shape[1]
    x = (x - mean) * jax.lax.rsqrt(variance + _EPSILON)

    def loss(params: Mapping[str, jax.Array]) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, x, heads), labels).mean()

    def moved(params: Any, state: Any, rate: jax.Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(lambda value, update: value - rate * update, params, updates), state

    averaged = lambda old, new: old + _MOMENTUM * (new - old)
    params, state = jax.vmap(moved)(probe.params, state, rates)
    unbiased = variance * count / max(count - 1, 1)
    return Probe(params, averaged(probe.mean, mean), averaged(probe.variance, unbiased)), state


def _ranks(heads: int, probe: Probe, x: jax.Array, labels: jax.Array) -> jax.Array:
    x = (x - probe.mean) * jax.lax.rsqrt(probe.variance + _EPSILON)
    return jax.vmap(lambda params: probing.rank(logits(params, x, heads), labels))(probe.params)
