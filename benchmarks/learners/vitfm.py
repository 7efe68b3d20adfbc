"""vitfm's own step, as `vitfm.main` compiles it, on the architecture and the optimizer that the peers are given."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from benchmarks import learners, workers
from benchmarks.sizes import HEAD_WIDTH, SIZES, Size


def config(size: Size, batch_size: int, objective: str = "clip") -> dict[str, Any]:
    """The recipe of an objective with the peers' blocks and AdamW, in float32."""
    parts = {"clip": _clip, "supervised": _supervised, "mae": _mae, "dino": _dino}[objective](size)
    data = {"source": "tfds:emoji:train", "image_size": size.image_size, **parts.pop("data")}
    optim = {
        "name": "adamw",
        "learning_rate": size.learning_rate,
        "b2": 0.98,
        "epsilon": 1e-6,
        "weight_decay": 0.2,
        "clip_norm": None,
        "schedule": {"name": "cosine", "warmup": "10%"},
    }
    recipe = {"total": 10_000, "batch_size": batch_size, "dtype": "float32", "data": data, "optim": optim}
    return {**recipe, "objective": {"name": objective, **parts}}


def _tower(size: Size, **options: Any) -> dict[str, Any]:
    return {
        "name": "vit",
        "patch_size": size.patch_size,
        "hidden_dim": size.width,
        "depth": size.depth,
        "num_heads": size.width // HEAD_WIDTH,
        "pool": "cls",
        "activation": "gelu",
        **options,
    }


def _clip(size: Size) -> dict[str, Any]:
    text = {
        "name": "text",
        "hidden_dim": size.text_width,
        "depth": size.text_depth,
        "num_heads": size.text_width // HEAD_WIDTH,
        "causal": True,
        "pool": "last",
        "epsilon": 1e-5,
        "activation": "gelu",
    }
    return {
        "embed_dim": size.embed_dim,
        "mask_same_concept": False,
        "image": _tower(size, pre_norm=True, stem_bias=False, epsilon=1e-5),
        "text": text,
        "data": {"captions": {}, "tokenizer": {"length": 16}},
    }


def _supervised(size: Size) -> dict[str, Any]:
    return {"model": _tower(size), "data": {"label": {"feature": "subgroup"}}}


def _mae(size: Size) -> dict[str, Any]:
    decoder = {
        "hidden_dim": size.decoder_width,
        "depth": size.decoder_depth,
        "num_heads": size.decoder_width // (HEAD_WIDTH // 2),
    }
    return {"model": _tower(size, position="sincos"), "decoder": decoder, "data": {}}


def _dino(size: Size) -> dict[str, Any]:
    views = {
        "global": {"count": 2, "size": size.image_size},
        "local": {"count": size.local_count, "size": size.local_size},
    }
    return {"model": _tower(size), "prototypes": size.prototypes, "data": {"views": views}}


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """A worker of `benchmarks.step`, which writes its batch to the file `settings["batch"]` for the peer."""
    from vitfm import heap

    heap.keep()  # Before JAX starts, as in vitfm.main.
    import jax
    import numpy as np

    from vitfm import config as config_lib
    from vitfm import program, recipe, tree
    from vitfm.data import loader
    from vitfm.parallel import mesh

    size, batch_size = SIZES[settings["size"]], settings["batch_size"]
    built = program.build(recipe.parse(config(size, batch_size, settings["objective"])))
    batch = {key: value for key, value in next(built.loader.batches(0)).items() if key != loader.REPLACED}
    np.savez(settings["batch"], **dict(config_lib.flatten(batch)))
    state = built.init(jax.random.key(0))
    begin = time.perf_counter()
    compiled = built.compiled(mesh.place_local(built.mesh, batch))

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, mesh.place_local(built.mesh, batch))
        jax.block_until_ready((state, metrics))

    step()
    facts, tokenizer = built.data.facts, built.data.tokenizer
    greeting = {
        "parameters": tree.count(state.params),
        "first_step_seconds": time.perf_counter() - begin,
        "versions": {"jax": jax.__version__},
        "facts": {
            "vocab_size": facts.vocab_size,
            "text_length": facts.text_length,
            "eos_id": getattr(tokenizer, "eos_id", None),
            "classes": facts.num_classes,
        },
    }
    return greeting, lambda request: learners.answer(step, request)


if __name__ == "__main__":
    workers.serve(start)
