"""Classification by the model's own logits, over the classes it was trained on."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.evals import base, embeddings, zeroshot
from vitfm.metrics import pictures as draw


def make(
    *,
    source: str,
    label: str,
    prefix: str,
    top: Sequence[int] = (1, 5),
    batch_size: int = 256,
    pictures: int = 0,
    context: base.Context,
) -> base.Evaluate:
    """Top-k accuracy, or for images of several classes the mean average precision.

    Args:
      source: the images, e.g. "tfds:emoji:test_style".
      label: the feature with the class, or the classes, as in training: names, or indices.
      prefix: metrics are named `prefix/classification/top1`, or `prefix/classification/mean_average_precision`.
      top: an image counts as right in top-k if its class is among the k of highest logits. A k that is not below the
        number of classes says nothing and is left out.
      batch_size: images at a time.
      pictures: images shown with the classes they were taken for, spread evenly over the source; 0 shows none.
    """
    context.need("classification", "logits")
    batch_size = context.batch_size(batch_size)
    images = context.open_source(source)
    right = _known(context, label, context.feature(images, label))

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        logits = embeddings.of_images(context, params, images, batch_size, "logits")
        if context.multi_label:
            yield f"{prefix}/classification/mean_average_precision", mean_average_precision(logits, right)
        else:
            for k, accuracy in zeroshot.topk_accuracies(logits, right.argmax(1), top).items():
                yield f"{prefix}/classification/top{k}", accuracy
        if pictures:
            yield f"{prefix}/classification", _picture(context, images, logits, right, pictures)

    return evaluate


def mean_average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Mean over the classes of the area under the steps of precision over recall, as scikit-learn has it.

    Images of equal scores are found together. A class of none of the images is left out.

    Args:
      scores: [N, K]; NaN is below all.
      right: bool [N, K].
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    return float(np.mean([_average_precision(scores[:, k], right[:, k]) for k in np.flatnonzero(right.any(0))]))


def _average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    falling, right = -scores[order], right[order]
    found = np.searchsorted(falling, falling, side="right")  # How many images score at least as high.
    return float((np.cumsum(right)[found - 1] / found)[right].mean())


def _known(context: base.Context, label: str, values: Sequence[Any]) -> np.ndarray:
    """Which classes are each image's, bool [N, K].

    Raises:
      ConfigError: one that training did not know, or several classes where training had one, or the reverse.
    """
    several = isinstance(values[0], tuple)
    if several != context.multi_label:
        kinds = ("one class", "several classes")
        raise ConfigError(
            f"config.{context.where}.label = {label!r} gives an image {kinds[several]}, such as {values[0]!r}; "
            f"the model was trained with {kinds[context.multi_label]} an image."
        )
    index = {name: number for number, name in enumerate(context.classes)}
    number = lambda value: index.get(value, -1) if isinstance(value, str) else value
    sets = values if several else [(value,) for value in values]
    unknown = {one for own in sets for one in own if not _is_index(number(one), len(index))}
    if unknown:
        one = min(unknown, key=str)
        near = difflib.get_close_matches(str(one), context.classes) or context.classes[:3]
        raise ConfigError(
            f"config.{context.where}.label = {label!r}: {len(unknown)} classes of the images, such as {one!r}, are "
            f"none of the {len(index)} that the model was trained on, which are such as {', '.join(map(repr, near))}."
        )
    right = np.zeros((len(values), len(index)), bool)
    for row, own in enumerate(sets):
        right[row, [number(one) for one in own]] = True
    return right


def _is_index(value: Any, classes: int) -> bool:
    return isinstance(value, int) and 0 <= value < classes


def _picture(
    context: base.Context, images: Sequence[Mapping[str, Any]], logits: np.ndarray, right: np.ndarray, count: int
) -> np.ndarray:
    """Some images and the classes of their five highest logits."""
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    best = np.argsort(-logits[chosen], axis=1, kind="stable")[:, :5]
    return draw.image_to_text_grid(
        [context.picture(images[i]) for i in chosen],
        [[context.classes[k] for k in row] for row in best],
        [[bool(right[i, k]) for k in row] for i, row in zip(chosen, best, strict=True)],
        [", ".join(context.classes[k] for k in np.flatnonzero(right[i])) for i in chosen],
    )
