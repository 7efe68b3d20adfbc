"""vitfm's own loader on a folder, as a recipe has it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

from benchmarks import pipelines
from vitfm import host

host.prepare()  # As `vitfm.main` does, before JAX is imported.

from vitfm.data import pipeline  # noqa: E402


def make(settings: Mapping[str, Any]) -> tuple[pipelines.Batches, dict[str, str]]:
    """The training stream of a recipe."""
    views = {
        name: {"count": count, "size": side, "crop": {"scale": scale}}
        for name, (count, side, scale) in pipelines.VIEWS.items()
    }
    data = pipeline.make(
        source=f"folder:{settings['root']}",
        image_size=pipelines.GLOBAL,
        crop={"scale": pipelines.SCALE, "ratio": pipelines.RATIO},
        views=views if settings["crops"] == "ten" else None,
        threads=1 if settings["processes"] else settings["workers"],
        workers=settings["workers"] if settings["processes"] else 0,
    )
    stream = data.train_loader(batch_size=settings["batch"], seed=0).batches()
    batches = (batch.get("views") or {"image": batch["image"]} for batch in stream)
    return batches, {name: metadata.version(name) for name in ("grain", "simplejpeg", "opencv-python-headless")}


if __name__ == "__main__":
    pipelines.serve(make)
