"""vitfm's own step, as `vitfm.main` compiles it, on the architecture and the optimizer that the peers are given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import learners, workers
from benchmarks.sizes import HEAD_WIDTH, SIZES, Size


def config(size: Size, batch_size: int, objective: str = "clip") -> dict[str, Any]:
    """The recipe of an objective with the peers' blocks and AdamW, in float32."""
    parts = _PARTS[objective](size)
    data = {"source": "tfds:emoji:train", "image_size": size.image_size, **parts.pop("data")}
    optim = {
        "name": "adamw",
        "learning_rate": size.learning_rate,
        "b2": 0.98,
        "epsilon": 1e-6,
        "weight_decay": 0.2,
        "clip_norm": None,
        "schedule": {"name": "cosine", "warmup": "10%"},
        **parts.pop("optim", {}),
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


def _text(size: Size) -> dict[str, Any]:
    return {
        "hidden_dim": size.text_width,
        "depth": size.text_depth,
        "num_heads": size.text_width // HEAD_WIDTH,
        "activation": "gelu",
    }


_TEMPLATES = ("{}", "{} emoji", "an emoji of {}", "a drawing of {}", "a picture of {}", "an icon of {}")
_SPOKEN = {"name": "name", "tags": "tags", "templates": _TEMPLATES}
_CAPTIONS: dict[str, Any] = {"captions": _SPOKEN, "tokenizer": {"length": 16}}


def _clip(size: Size) -> dict[str, Any]:
    return {
        "embed_dim": size.embed_dim,
        "mask_same_concept": False,
        "image": _tower(size, pre_norm=True, stem_bias=False, epsilon=1e-5),
        "text": {"name": "text", **_text(size), "causal": True, "pool": "last", "epsilon": 1e-5},
        "data": _CAPTIONS,
    }


def _siglip(size: Size) -> dict[str, Any]:
    return {
        "mask_same_concept": False,
        "image": _tower(size, pool="map"),
        "text": {"name": "text", **_text(size), "epsilon": 1e-6},
        "data": _CAPTIONS,
    }


def _coca(size: Size) -> dict[str, Any]:
    """In open_clip's form, see vitfm/objectives/coca.py."""
    text = {**_text(size), "epsilon": 1e-5}
    decoder = {key: text[key] for key in ("depth", "num_heads", "activation", "epsilon")}
    return {
        "mask_same_concept": False,
        "image": _tower(size, pre_norm=True, stem_bias=False, epsilon=1e-5, final_norm=False),
        "text": {**text, "shifted_class_mask": True},
        "pooler": {"kind": "first", "queries": size.queries, "num_heads": text["num_heads"]},
        "captioner": {**decoder, "two_mlps": True},
        "data": _CAPTIONS,
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


def _simmim(size: Size) -> dict[str, Any]:
    return {"model": _tower(size), "mask_size": size.patch_size, "data": {}}


def _simclr(size: Size) -> dict[str, Any]:
    views = {"global": {"count": 2, "size": size.image_size}}
    return {"model": _tower(size), "hidden_dim": size.projection_width, "data": {"views": views}}


def _moco(size: Size) -> dict[str, Any]:
    return {**_simclr(size), "version": "v3", "optim": {"freeze": ("encoder/stem",)}}


def _dino(size: Size) -> dict[str, Any]:
    views = {
        "global": {"count": 2, "size": size.image_size},
        "local": {"count": size.local_count, "size": size.local_size},
    }
    return {"model": _tower(size), "prototypes": size.prototypes, "data": {"views": views}}


def _dinov2(size: Size) -> dict[str, Any]:
    return {**_dino(size), "centering": "centre"}


_PARTS: dict[str, Callable[[Size], dict[str, Any]]] = {
    "clip": _clip,
    "supervised": _supervised,
    "mae": _mae,
    "dino": _dino,
    "simclr": _simclr,
    "moco": _moco,
    "simmim": _simmim,
    "dinov2": _dinov2,
    "siglip": _siglip,
    "coca": _coca,
}


def facts(found: Any) -> dict[str, Any]:
    """What a peer needs to know of the batches, from `vitfm.data.Facts`."""
    names = ("vocab_size", "text_length", "eos_id", "pad_id")
    return {**{name: getattr(found, name) for name in names}, "classes": found.num_classes}


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """A worker of `benchmarks.step`, which writes its batch to the file `settings["batch"]` for the peer."""
    from vitfm import host

    host.prepare()  # Before JAX starts, as in vitfm.main.
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
    greeting = {
        "parameters": tree.count(state.params),
        "first_step_seconds": time.perf_counter() - begin,
        "versions": {"jax": jax.__version__},
        "facts": facts(built.data.facts),
    }
    return greeting, lambda request: learners.answer(step, request)


if __name__ == "__main__":
    workers.serve(start)
