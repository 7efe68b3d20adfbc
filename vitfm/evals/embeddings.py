"""Embeddings of whole data sets, batch by batch on the device, gathered on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.evals.base import Context

_PIECE = 4096  # Rows that are copied to float64 at a time.
_DAMPING = 1e-3  # Of the largest deviation: directions with less are next to noise, and stay small.


def of_images(
    context: Context,
    params: Any,
    source: Sequence[Mapping[str, Any]],
    batch_size: int,
    function: str = "embed_image",
    **options: Any,
) -> np.ndarray:
    """[N, ...], row i for example i of `source`: what the predict function of images gives for it, with its options.

    Float32, but for codes and token ids, which are int32.
    """
    rows = np.empty(())
    for start, batch in zip(range(0, len(source), batch_size), context.batches(source, batch_size), strict=True):
        found = np.asarray(context.predict[function](params, batch["image"], **options))
        found = found if found.dtype == np.int32 else found.astype(np.float32)
        if not start:  # Filled in place: two copies of the features of a large set may not fit.
            rows = np.empty((len(source), *found.shape[1:]), found.dtype)
        rows[start : start + batch_size] = found[: len(source) - start]  # The padding is behind the last example.
    return rows


def features_of(context: Context, params: Any, source: str, batch_size: int) -> np.ndarray:
    """[N, L, P, D] float32, row i for example i of the source of that name: `predict["features"]`.

    The last L blocks, the last one last, and of each the class token and the mean of the patches, or the mean alone.
    Evaluators of the same parameters share the array, so that it is computed once: it is to be read, never written.
    """
    shared = context.shared
    if shared.params is not params:
        shared.params, shared.features = params, {}
    if source not in shared.features:
        images = context.open_source(source)
        shared.features[source] = of_images(context, params, images, batch_size, "features")
    return shared.features[source]


def standardization(features: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation [...] over some rows of `features` [N, ...]; the latter plus 1e-5, as big_vision has it.

    Summed in float64 and by pieces, so that a million rows lose neither digits nor memory.
    """
    pieces, mean = _mean(features, rows)
    variance = sum(np.square(features[piece] - mean).sum(0) for piece in pieces) / len(rows)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32) + np.float32(1e-5)


def whitening(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A mean [D] and a matrix [D, D]: (features - mean) @ matrix has no mean and the identity for a covariance.

    By principal components, as Jegou and Chum 2012 (Negative evidences and co-occurrences in image retrieval, ECCV),
    section 3, have it; but a deviation below a thousandth of the largest is not divided out entirely. Summed as in
    `standardization`. The matrix is NaN where a feature is not finite.

    Args:
      features: float32 [N, D].
    """
    pieces, mean = _mean(features, np.arange(len(features)))
    centred = (features[piece] - mean for piece in pieces)
    covariance = sum(x.T @ x for x in centred) / len(features)
    if not np.isfinite(covariance).all():
        return mean.astype(np.float32), np.full(covariance.shape, np.nan, np.float32)
    variances, directions = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(variances, 0) + _DAMPING**2 * variances[-1]) + np.finfo(np.float32).tiny
    return mean.astype(np.float32), (directions / deviations).astype(np.float32)


def _mean(features: np.ndarray, rows: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """The rows in pieces, and the float64 mean [...] of `features` [N, ...] over them."""
    pieces = [rows[start : start + _PIECE] for start in range(0, len(rows), _PIECE)]
    mean = sum(features[piece].sum(0, dtype=np.float64) for piece in pieces) / len(rows)
    return pieces, mean


def of_texts(context: Context, params: Any, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """[N, D] float32, row i for text i; the last batch is padded, so that one program serves all."""
    rows = []
    for start in range(0, len(texts), batch_size):
        chunk = list(texts[start : start + batch_size])
        ids, mask = context.tokenize(chunk + [""] * (batch_size - len(chunk)))
        rows.append(np.asarray(context.predict["embed_text"](params, ids, mask))[: len(chunk)])
    return np.concatenate(rows)
