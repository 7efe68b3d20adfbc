"""A context whose images and texts embed as written beside them, so that a test knows every answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.evals import base


class World:
    """Images are numbers and texts are texts; `image_vectors` and `text_vectors` are what they embed to.

    `asked` counts how often the embedding of each image was computed where it was no padding; `batches` notes the size
    of every batch of images or texts.
    """

    def __init__(
        self,
        sources: Mapping[str, Sequence[Mapping[str, Any]]],
        image_vectors: np.ndarray,
        text_vectors: Mapping[str, np.ndarray],
        devices: int = 1,
    ):
        self.asked = np.zeros(len(image_vectors), int)
        self.batches: list[int] = []
        texts: list[str] = []

        def embed_image(params: Any, image: np.ndarray) -> np.ndarray:
            self.batches.append(len(image))
            return image_vectors[image]

        def embed_text(params: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            self.batches.append(len(ids))
            padding = np.full_like(next(iter(text_vectors.values())), 7)
            return np.stack([text_vectors.get(texts[i], padding) for i in ids[:, 0]])

        def tokenize(new: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
            texts.extend(new)
            ids = np.arange(len(texts) - len(new), len(texts))[:, None]
            return ids, np.ones_like(ids, bool)

        def batches(source: Sequence[Mapping[str, Any]], size: int) -> Iterator[dict[str, np.ndarray]]:
            for start in range(0, len(source), size):
                rows = np.arange(start, start + size)
                valid = rows < len(source)
                image = np.array([source[min(row, len(source) - 1)]["image"] for row in rows])
                np.add.at(self.asked, image[valid], 1)
                yield {"image": image, "valid": valid}

        self.context = base.Context(
            {"embed_image": embed_image, "embed_text": embed_text},
            sources.__getitem__,
            batches,
            tokenize,
            lambda example: np.full((8, 8, 3), example["image"], np.uint8),
            devices,
        )

    def evaluate(self, **spec: Any) -> dict[str, Any]:
        """What the evaluator of a recipe's `evals.test` measures."""
        return dict(base.make("test", spec, self.context)({}))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of norm 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
