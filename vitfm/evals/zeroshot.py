"""Zero-shot classification by class names (Radford et al. 2021, arXiv:2103.00020, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm import config
from vitfm.evals import base, embeddings


def make(
    *,
    source: str,
    tasks: Mapping[str, Mapping[str, str | None]],
    prefix: str,
    templates: str | Sequence[str] = ("{}",),
    top: Sequence[int] = (1, 5, 10),
    batch_size: int = 256,
    context: base.Context,
) -> base.Evaluate:
    """Each image takes the classes whose text embeddings are nearest.

    A class embedding is the normalised mean of the embeddings of its name in all templates.

    Args:
      source: the images, e.g. "tfds:emoji:test_style".
      tasks: task name -> {"label": feature with the class name, "classes": source whose labels are the
        candidates}; without "classes" the candidates are the labels of `source` itself.
      prefix: metrics are named `prefix/task/top1`.
      templates: each with one `{}` for the name.
      top: an image counts as right in top-k if its class is among the k nearest. A k that is not below the
        number of classes says nothing and is left out.
      batch_size: images or texts at a time.
    """
    context.need("zeroshot", "embed_image", "embed_text")
    templates = context.templates("templates", templates)
    batch_size = context.batch_size(batch_size)
    images = context.open_source(source)
    plans = {
        task: config.call(_plan, spec, where=f"{context.where}.tasks.{task}", context=context, images=images)
        for task, spec in tasks.items()
    }

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        image = embeddings.of_images(context, params, images, batch_size)
        for task, (classes, labels) in plans.items():
            text = class_embeddings(context, params, classes, templates, batch_size)
            for k, accuracy in topk_accuracies(image @ text.T, labels, top).items():
                yield f"{prefix}/{task}/top{k}", accuracy

    return evaluate


def class_embeddings(
    context: base.Context, params: Any, classes: Sequence[str], templates: Sequence[str], batch_size: int
) -> np.ndarray:
    """[K, D], of norm 1: the mean over templates of the embeddings of each class's name."""
    texts = [template.format(name) for name in classes for template in templates]
    embedded = embeddings.of_texts(context, params, texts, batch_size)
    mean = embedded.reshape(len(classes), len(templates), -1).mean(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def topk_accuracies(scores: np.ndarray, labels: np.ndarray, top: Sequence[int]) -> dict[int, float]:
    """k -> share of the rows of `scores` [N, K] whose label [N] is among the k highest; ties and NaNs count against."""
    own = scores[np.arange(len(labels)), labels]
    ahead = (~(scores < own[:, None])).sum(1) - 1
    return {k: float((ahead < k).mean()) for k in top if k < scores.shape[1]}


def _plan(
    *, context: base.Context, images: Sequence[Mapping[str, Any]], label: str, classes: str | None = None
) -> tuple[list[str], np.ndarray]:
    """The candidate names, sorted, and each image's index among them [N]."""
    own = context.feature(images, label)
    if None in own:
        raise config.ConfigError(
            f"config.{context.where}: {own.count(None)} of {len(own)} images have no {label!r}; name another `label`, "
            "or images that all have one."
        )
    names = sorted(set(own if classes is None else context.feature(context.open_source(classes), label)))
    index = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(own) - set(names))
    if unknown:
        raise config.ConfigError(
            f"config.{context.where}: {len(unknown)} classes of the images, such as {unknown[0]!r}, are no candidates."
        )
    return names, np.array([index[name] for name in own])
