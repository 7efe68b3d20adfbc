"""Retrieval between images and texts, both ways, with pictures of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.evals import base, embeddings
from vitfm.metrics import pictures as draw


def make(
    *,
    source: str,
    prefix: str,
    caption: str = "name",
    template: str = "{}",
    top: Sequence[int] = (1, 5, 10),
    batch_size: int = 256,
    pictures: int = 0,
    context: base.Context,
) -> base.Evaluate:
    """Recall@k: the share of queries with a right answer among the k nearest.

    Images with equal captions are all right answers to it, and the caption is one candidate, not several.

    Args:
      source: images with captions; those without are left out.
      prefix: metrics are named `prefix/retrieval/text_to_image_recall1`.
      caption: the feature with the caption.
      template: with one `{}` for the caption.
      top: values of k.
      batch_size: images or texts at a time.
      pictures: queries shown in the pictures, spread evenly over the set; 0 draws none.
    """
    context.need("retrieval", "embed_image", "embed_text")
    context.templates("template", template)
    batch_size = context.batch_size(batch_size)
    images, captions = context.captioned(context.open_source(source), caption)
    names = sorted(set(captions))
    index = {name: i for i, name in enumerate(names)}
    labels = np.array([index[name] for name in captions])

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        image = embeddings.of_images(context, params, images, batch_size)
        text = embeddings.of_texts(context, params, [template.format(name) for name in names], batch_size)
        similarity = image @ text.T
        for k, (from_image, from_text) in recalls(similarity, labels, top).items():
            yield f"{prefix}/retrieval/image_to_text_recall{k}", from_image
            yield f"{prefix}/retrieval/text_to_image_recall{k}", from_text
        if pictures:
            yield from _pictures(prefix, similarity, labels, names, lambda i: context.picture(images[i]), pictures)

    return evaluate


def recalls(similarity: np.ndarray, labels: np.ndarray, top: Sequence[int]) -> Mapping[int, tuple[float, float]]:
    """k -> (image-to-text, text-to-image) recall of similarity [N, K] with label [N] in [0, K).

    Ties and NaNs count against.
    """
    own = similarity[np.arange(len(labels)), labels]
    image_rank = (~(similarity < own[:, None])).sum(1) - 1
    right = labels[:, None] == np.arange(similarity.shape[1])
    best_right = np.where(right, similarity, -np.inf).max(0)
    text_rank = (~(similarity < best_right) & ~right).sum(0)
    return {k: (float((image_rank < k).mean()), float((text_rank < k).mean())) for k in top}


def _pictures(
    prefix: str,
    similarity: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
    picture: Callable[[int], np.ndarray],
    count: int,
) -> Iterator[tuple[str, np.ndarray]]:
    """Texts with the images they find, images with the texts they find, and the similarity of some pairs."""
    queries = np.linspace(0, len(names) - 1, count).astype(int)
    found = np.argsort(-similarity[:, queries], axis=0, kind="stable")[:8].T
    rows = [[(picture(i), bool(labels[i] == query)) for i in row] for query, row in zip(queries, found, strict=True)]
    yield f"{prefix}/text_to_image", draw.retrieval_grid([names[query] for query in queries], rows)
    chosen = np.linspace(0, len(labels) - 1, count).astype(int)
    thumbnails, truth = [picture(i) for i in chosen], [names[labels[i]] for i in chosen]
    best = np.argsort(-similarity[chosen], axis=1, kind="stable")[:, :5]
    texts = [[names[j] for j in row] for row in best]
    right = [[bool(j == labels[i]) for j in row] for i, row in zip(chosen, best, strict=True)]
    yield f"{prefix}/image_to_text", draw.image_to_text_grid(thumbnails, texts, right, truth)
    pairs = similarity[np.ix_(chosen, labels[chosen])]
    yield f"{prefix}/similarity", draw.similarity_matrix(pairs, truth, thumbnails)
