"""A worker that trains and evaluates a peer on the data and with the evaluators of a vitfm recipe."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from typing import Any

from benchmarks import learners, workers
from benchmarks.learners import open_clip, timm
from benchmarks.sizes import SIZES, Size
from vitfm import host
from vitfm import recipe as recipes
from vitfm.data import pipeline, sources
from vitfm.evals import base as evaluation
from vitfm.recipe import Recipe

_LINES = 10  # of progress, over a run


def train(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Trains for `settings["total"]` steps, then evaluates.

    Args:
      settings: `peer`; `recipe`, of which data and evaluators are used; `size`, `batch_size`, `learning_rate`,
        `total`, `seed`, `cores` and `evaluate`.

    Returns:
      steps, seconds (of batches and steps, without the preparation), waiting (the part of them spent on batches),
      preparation, batch_size, peak_memory_bytes at the end of training, parameters and the metrics.
    """
    host.prepare()  # torch's temporaries gain from it too: the peer gets what vitfm.main gives itself.
    open_clip.torch.set_num_threads(settings["cores"])
    size = SIZES[settings["size"]]
    recipe = recipes.parse(settings["recipe"])
    recipe = dataclasses.replace(recipe, data={**recipe.data, "image_size": size.image_size})
    data = recipes.make_data(recipe)
    learner = _learner(size, data, recipe, settings)
    loader = data.train_loader(batch_size=settings["batch_size"], seed=settings["seed"])
    start = time.perf_counter()
    learner.backward(next(loader.batches(0)))  # Memory and primitives, which the timed steps find ready.
    preparation = time.perf_counter() - start
    seconds, waiting = _steps(learner, iter(loader.batches(0)), settings["total"])
    result = {
        "steps": settings["total"],
        "batch_size": settings["batch_size"],
        "seconds": seconds,
        "waiting": waiting,
        "preparation": preparation,
        "peak_memory_bytes": learners.peak_memory(),
        "parameters": learner.parameters,
        "versions": learner.versions,
    }
    return {**result, "metrics": _evaluate(learner, data, recipe) if settings["evaluate"] else {}}


def _learner(size: Size, data: pipeline.Data, recipe: Recipe, settings: Mapping[str, Any]) -> Any:
    common = {
        "total": settings["total"],
        "learning_rate": settings["learning_rate"],
        "augment": recipe.data.get("augment", {}),
        "seed": settings["seed"],
    }
    if settings["peer"] == "timm":
        return timm.Learner(size, classes=data.facts.num_classes, **common)
    text = {"vocab_size": data.facts.vocab_size, "text_length": data.facts.text_length}
    return open_clip.Learner(size, **text, eos_id=data.tokenizer.eos_id, **common)


def _steps(learner: Any, batches: Any, total: int) -> tuple[float, float]:
    """Seconds of `total` steps, and those of them that went by waiting for a batch."""
    waiting, start = 0.0, time.perf_counter()
    for step in range(1, total + 1):
        before = time.perf_counter()
        batch = next(batches)
        waiting += time.perf_counter() - before
        loss = learner.step(batch)
        if step % max(1, total // _LINES) == 0:
            print(f"{type(learner).__module__}: step {step}/{total}  loss {loss:.3f}", file=sys.stderr)
    return time.perf_counter() - start, waiting


def _evaluate(learner: Any, data: pipeline.Data, recipe: Recipe) -> dict[str, float]:
    """The recipe's own evaluators, as far as the peer can serve them, given its predictions."""
    context = evaluation.Context(
        predict={name: lambda params, *arrays, f=function: f(*arrays) for name, function in learner.predict.items()},
        open_source=sources.make,
        batches=data.eval_batches,
        tokenize=data.tokenizer,
        picture=lambda example: example[data.image_key],
        classes=data.facts.classes,
    )
    metrics = {}
    served = {name: spec for name, spec in recipe.evals.items() if spec["name"] in learner.evaluators}
    for name, spec in served.items():
        options = {key: value for key, value in spec.items() if key not in ("every", "pictures")}
        values = evaluation.make(name, options, context)(None)
        metrics |= {metric: value for metric, value in values if isinstance(value, float)}
    return metrics


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """Trains once, which is the greeting; there is nothing more to ask."""
    return train(settings), lambda request: {}


if __name__ == "__main__":
    workers.serve(start)
