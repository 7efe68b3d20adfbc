"""webdataset on tar shards, decoded by Pillow and transformed by torchvision, as its documentation shows."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import webdataset

from benchmarks import pipelines
from benchmarks.pipelines.torchvision import VERSIONS, endless, one


def make(settings: Mapping[str, Any]) -> tuple[pipelines.Batches, dict[str, str]]:
    """Shards and then examples are shuffled."""
    shards = settings["shards"]
    images = webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0).shuffle(1000).decode("pil").to_tuple("jpg")
    batches = images.map_tuple(one(settings)).batched(settings["batch"], partial=False)
    loader = webdataset.WebLoader(batches, batch_size=None, num_workers=settings["workers"], persistent_workers=True)
    versions = {**VERSIONS, "webdataset": metadata.version("webdataset")}
    return ({"image": batch} for (batch,) in endless(loader)), versions


if __name__ == "__main__":
    pipelines.serve(make)
