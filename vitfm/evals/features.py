"""Features of a data set, written to a file for other tools."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from vitfm.config import ConfigError
from vitfm.evals import base, embeddings
from vitfm.metrics import files


def make(
    *,
    source: str,
    path: str,
    prefix: str,
    id: str | None = None,
    function: str = "embed_image",
    batch_size: int = 256,
    context: base.Context,
) -> base.Evaluate:
    """Writes a row for every image: `id` and `features`. An evaluation replaces what the one before it wrote.

    In a `.npz` file, `numpy.load(path)["features"]` is float32 [N, ...] in the shape that the function gives; in a
    `.parquet` file it is a column of lists, flat, with that shape in the file's metadata.

    Args:
      source: images.
      path: the file, ending in .npz or .parquet, relative to the run's directory.
      prefix: `prefix/features/rows` is the number of rows written.
      id: the feature that names an image; its index in the source if None.
      function: the objective's predict function: "embed_image" [N,D], "features" [N,L,P,D], "logits" [N,K].
      batch_size: images at a time.

    Raises:
      ConfigError: another ending, no such feature or function, or Parquet without pyarrow.
    """
    context.need("features", function)
    batch_size = context.batch_size(batch_size)
    file = context.directory / path
    if file.suffix not in _WRITERS:
        raise ConfigError(f"config.{context.where}.path = {path!r} must end in {' or '.join(_WRITERS)}.")
    if file.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError(f"config.{context.where}.path = {path!r} needs pyarrow: pip install 'vitfm[parquet]'.")
    images = context.open_source(source)
    ids = range(len(images)) if id is None else context.feature(images, id)
    if not all(isinstance(value, str | int) for value in ids):
        raise ConfigError(f"config.{context.where}.id = {id!r}: {ids[0]!r} is neither a text nor a whole number.")

    def evaluate(params: Any) -> Iterator[tuple[str, base.Value]]:
        features = embeddings.of_images(context, params, images, batch_size, function)
        if jax.process_index() == 0:
            files.replace(file, _WRITERS[file.suffix](np.array(ids), features))
        yield f"{prefix}/features/rows", float(len(features))

    return evaluate


def _npz(ids: np.ndarray, features: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, id=ids, features=features)
    return content.getvalue()


def _parquet(ids: np.ndarray, features: np.ndarray) -> bytes:
    import pyarrow
    import pyarrow.parquet

    flat = features.reshape(len(features), -1)
    rows = pyarrow.FixedSizeListArray.from_arrays(flat.ravel(), flat.shape[1])
    table = pyarrow.table({"id": pyarrow.array(ids), "features": rows})
    table = table.replace_schema_metadata({"shape": str(list(features.shape[1:]))})
    content = io.BytesIO()
    pyarrow.parquet.write_table(table, content)
    return content.getvalue()


_WRITERS = {".npz": _npz, ".parquet": _parquet}
