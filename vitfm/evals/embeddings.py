"""Embeddings of whole data sets, batch by batch on the device, gathered on the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitfm.evals.base import Context


def of_images(context: Context, params: Any, source: Sequence[Mapping[str, Any]], batch_size: int) -> np.ndarray:
    """[N, D] float32, row i for example i of `source`."""
    batches = context.batches(source, batch_size)
    rows = [np.asarray(context.predict["embed_image"](params, batch["image"])) for batch in batches]
    return np.concatenate(rows)[: len(source)]  # The padding is behind the last example.


def of_texts(context: Context, params: Any, texts: Sequence[str], batch_size: int) -> np.ndarray:
    """[N, D] float32, row i for text i; the last batch is padded, so that one program serves all."""
    rows = []
    for start in range(0, len(texts), batch_size):
        chunk = list(texts[start : start + batch_size])
        ids, mask = context.tokenize(chunk + [""] * (batch_size - len(chunk)))
        rows.append(np.asarray(context.predict["embed_text"](params, ids, mask))[: len(chunk)])
    return np.concatenate(rows)
