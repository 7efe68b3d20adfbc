"""What tells a self-supervised model that learns from one that has collapsed: one vector for all, or all alike."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from vitfm.ranges import Range

# Rows whose rank and spread are measured: RankMe wants tens of thousands, but a collapse shows in few, and the
# eigenvalues of a matrix as wide as an encoder's features take accelerators a good part of the step.
_MOST_ROWS = 256
ONE_VECTOR = "the features are about to be one and the same for every image"
# Of the metrics below by the names that objectives give them; far outside what any recipe of configs/ is seen at.
RANK = {"effective_rank": Range(ONE_VECTOR, least=2.0)}
VIEWS = RANK | {"uniformity": Range(ONE_VECTOR, most=-0.1)}
PAIRS = {
    f"uniformity/{side}": Range(f"the {side}s' embeddings are about to be one and the same", most=-0.1)
    for side in ("image", "text")
}
CODES = {"code_use": Range("nearly all patches have the same few codes", least=0.02)}


def of_teacher(prototypes: int) -> dict[str, Range]:
    """Ranges of the metrics of a teacher's distributions over so many prototypes."""
    most = math.log(prototypes)
    return RANK | {
        "teacher_entropy": Range(
            f"between one prototype for all images, 0, and no choice at all, {most:.2f}, neither teaches anything",
            least=0.01 * most,
            most=0.99 * most,
        )
    }


def entropy(probabilities: jax.Array) -> jax.Array:
    """The mean entropy of distributions [..., K] in nats: 0 where one prototype takes all, log K where none does."""
    return jax.scipy.special.entr(probabilities).sum(-1).mean()


def effective_rank(features: jax.Array) -> jax.Array:
    """Of features [..., D]: the exponential of the entropy of their singular values, from 1 to min(rows, D).

    Roy and Vetterli 2007; Garrido et al. 2023 (arXiv:2210.02885) find that it tells the quality of representations
    without labels. The features are not centred: where all have become one vector it is 1, not the rank of their noise.
    Of more than 256 rows it is that of the first 256. No gradient flows.
    """
    rows = jax.lax.stop_gradient(features.reshape(-1, features.shape[-1])[:_MOST_ROWS]).astype(jnp.float32)
    rows = rows.T if rows.shape[0] < rows.shape[1] else rows
    gram = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
    gram = gram / jnp.maximum(jnp.trace(gram), jnp.finfo(jnp.float32).tiny)
    squares = jnp.linalg.eigvalsh(gram)  # In units of their sum; what is as small as its rounding is noise.
    singular = jnp.sqrt(jnp.where(squares > 10 * jnp.finfo(jnp.float32).eps, squares, 0))
    return jnp.exp(entropy(singular / jnp.maximum(singular.sum(), jnp.finfo(jnp.float32).tiny)))


def prototype_use(probabilities: jax.Array) -> jax.Array:
    """The share of the prototypes that are some row's first choice, of those that could be: min(K, rows).

    Args:
      probabilities: [..., K]; all leading axes are rows.
    """
    prototypes = probabilities.shape[-1]
    first = probabilities.argmax(-1).reshape(-1)
    return jnp.zeros(prototypes).at[first].set(1).sum() / min(prototypes, first.size)


def perplexity(probabilities: jax.Array) -> jax.Array:
    """How many prototypes the mean of distributions [..., K] spreads over, from 1 to K."""
    return jnp.exp(entropy(probabilities.reshape(-1, probabilities.shape[-1]).mean(0)))


def of_codes(codes: jax.Array, count: int) -> dict[str, jax.Array]:
    """Metrics of a tokenizer's codes, int [...], of `count` there are.

    `code_use` is the share of the codes that occur, of those that could: min(count, positions); `code_perplexity` is
    how many they spread over, from 1 to `count`.
    """
    times = jnp.zeros(count).at[codes.reshape(-1)].add(1)
    spread = jnp.exp(entropy(times / codes.size))
    return {"code_use": (times > 0).sum() / min(count, codes.size), "code_perplexity": spread}


def alignment(one: jax.Array, other: jax.Array) -> jax.Array:
    """The mean squared distance of two views' unit vectors [..., D]: 0 where they agree, 2 where they are unrelated.

    Wang and Isola 2020 (arXiv:2005.10242), section 4.1.1, α = 2. Alone it may as well be collapse: see `uniformity`.
    """
    return jnp.square(one.astype(jnp.float32) - other.astype(jnp.float32)).sum(-1).mean()


def uniformity(rows: jax.Array, t: float = 2.0) -> jax.Array:
    """How evenly unit vectors [M, D] lie on the sphere: 0 where all are one, down to about -2 t where none are near.

    Wang and Isola 2020 (arXiv:2005.10242), section 4.1.2: the logarithm of the mean of exp(-t |x - y|²) over all pairs,
    of more than 256 rows over those of the first 256: all pairs of a large batch would cost as much as the loss.
    """
    rows = rows[:_MOST_ROWS]
    cosines = jnp.einsum("id,jd->ij", rows, rows, preferred_element_type=jnp.float32)
    scores = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, 2 * t * (cosines - 1))
    return jax.nn.logsumexp(scores) - jnp.log(len(rows) * (len(rows) - 1))


def of_views(features: jax.Array, one: jax.Array, other: jax.Array) -> dict[str, jax.Array]:
    """Metrics of whoever compares two views: the rank of features [..., D], alignment and uniformity of rows [B, K]."""
    one, other = jax.lax.stop_gradient((one, other))
    return {
        "effective_rank": effective_rank(features),
        "alignment": alignment(one, other),
        "uniformity": uniformity(one),
    }


def of_crops(features: jax.Array) -> dict[str, jax.Array]:
    """Metrics of features [B, V, D] of V views an image: `of_views` of the first two's directions; of one, its rank."""
    if features.shape[1] == 1:
        return {"effective_rank": effective_rank(features)}
    pair = jax.lax.stop_gradient(features[:, :2]).astype(jnp.float32)
    pair = pair / jnp.maximum(jnp.linalg.norm(pair, axis=-1, keepdims=True), jnp.finfo(jnp.float32).tiny)
    return of_views(features, pair[:, 0], pair[:, 1])


def of_pairs(image: jax.Array, text: jax.Array) -> dict[str, jax.Array]:
    """Metrics of whoever compares images with texts, unit rows [B, K]: alignment of pairs, uniformity of each side."""
    image, text = jax.lax.stop_gradient((image, text))
    return {
        "alignment": alignment(image, text),
        "uniformity/image": uniformity(image),
        "uniformity/text": uniformity(text),
    }


def of_classes(features: jax.Array, rows: jax.Array, label: jax.Array) -> dict[str, jax.Array]:
    """Metrics of whoever brings classes together: the rank of features [B, D], and for unit rows [B, K] with labels [B]
    the share whose nearest other row is of their class, and their uniformity.
    """
    rows = jax.lax.stop_gradient(rows)
    cosines = jnp.einsum("id,jd->ij", rows, rows, preferred_element_type=jnp.float32)
    nearest = jnp.where(jnp.eye(len(rows), dtype=bool), -jnp.inf, cosines).argmax(1)
    return {
        "effective_rank": effective_rank(features),
        "accuracy": (label[nearest] == label).mean(),
        "uniformity": uniformity(rows),
    }
