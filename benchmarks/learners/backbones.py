"""Encoders with a classifier of 1,000 classes, ours and timm's: inference, and training steps with AdamW, in float32.

A worker of `benchmarks.backbones`; its settings are `side`, `model`, `mode`, `batch`, `size` and `cores`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import learners, workers
from vitfm import host

CLASSES = 1000
MODELS = {  # Ours, and timm's name.
    "vit_s16": ({"name": "vit", "size": "S", "patch_size": 16, "pool": "cls"}, "vit_small_patch16_224"),
    "swin_t": ({"name": "swin", "size": "T"}, "swin_tiny_patch4_window7_224"),
    "convnext_t": ({"name": "convnext", "size": "T"}, "convnext_tiny"),
    "resnet50": ({"name": "resnet", "size": "50"}, "resnet50"),
    "nano": ({"name": "convnext", "depths": (1, 2, 4, 2), "hidden_dims": (24, 32, 48, 64)}, "test_convnext"),
}
Step = Callable[[], Any]


def batch_of(settings: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Images and labels."""
    rng = np.random.default_rng(0)
    count, side = settings["batch"], settings["size"]
    image = rng.normal(size=(count, side, side, 3)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, CLASSES, count, dtype=np.int32)}


def ours(settings: Mapping[str, Any]) -> tuple[int, Step]:
    """Parameters, and a step of vitfm's."""
    import jax
    import jax.numpy as jnp

    from vitfm import optim, train_state, train_step, tree
    from vitfm.data.facts import Facts
    from vitfm.objectives import base
    from vitfm.parallel import compiler, mesh

    asked = compiler.options(mesh.make(devices=jax.devices()[:1]))  # As a run's programs are compiled.
    batch = batch_of(settings)
    facts = Facts(settings["size"], 3, 0, 0, tuple(map(str, range(CLASSES))))
    spec = {"name": "supervised", "model": MODELS[settings["model"]][0]}
    objective = base.make(spec, data=facts, dtype=jnp.float32)
    shapes = jax.eval_shape(objective.init, jax.random.key(0), batch)
    adamw = {"name": "adamw", "learning_rate": 1e-4, "weight_decay": 0.05, "clip_norm": None}
    whole = {"total": 10_000, "to_steps": lambda duration, where: int(duration)}
    optimizer, rate = optim.make({**adamw, "schedule": {"name": "constant"}}, shapes.params, **whole)
    create = lambda key: train_state.create(objective.init(key, batch), optimizer, ema=False)
    state = jax.jit(create)(jax.random.key(0))
    if settings["mode"] == "inference":
        params = jax.jit(objective.evaluated)(state.params, state.extra)
        logits = jax.jit(objective.predict["logits"], compiler_options=asked)
        return tree.count(state.params), lambda: np.asarray(logits(params, batch["image"]))
    gradients = train_step.gradients_of(objective, lambda batch, keys: batch)
    step_of = train_step.make(gradients, objective, optimizer, rate, seed=0)
    update = jax.jit(step_of, donate_argnums=0, compiler_options=asked)

    def step() -> None:
        nonlocal state
        state, metrics = update(state, batch)
        jax.block_until_ready((state, metrics))

    return tree.count(state.params), step


def timms(settings: Mapping[str, Any]) -> tuple[int, Step]:
    """Parameters, and a step of timm's, with the layout of images in memory that is faster here."""
    from benchmarks.learners.peers import optimizer
    from tests.parity.reference import timm, torch

    torch.set_num_threads(settings["cores"])
    batch, name = batch_of(settings), MODELS[settings["model"]][1]
    sized = {"img_size": settings["size"]} if name.startswith(("vit", "swin")) else {}
    model = timm.create_model(name, num_classes=CLASSES, **sized)
    adamw = optimizer(model, 1e-4, 0.05)
    label = torch.from_numpy(batch["label"]).long()

    def inference(layout: Any) -> None:
        with torch.inference_mode():
            image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            model.eval()(image).numpy()

    def train(layout: Any) -> None:
        image = torch.from_numpy(batch["image"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
        adamw.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model.train()(image), label).backward()
        adamw.step()

    step = inference if settings["mode"] == "inference" else train

    def best(layout: Any) -> float:
        model.to(memory_format=layout)
        return min(learners.timed(lambda: step(layout), 3)[1:])

    layout = min((torch.contiguous_format, torch.channels_last), key=best)
    model.to(memory_format=layout)
    return sum(parameter.numel() for parameter in model.parameters()), lambda: step(layout)


def start(settings: Mapping[str, Any]) -> tuple[dict[str, Any], workers.Answer]:
    """The worker: {"steps": n} -> wall and processor milliseconds of n steps, and the memory so far."""
    host.prepare()
    parameters, step = (ours if settings["side"] == "vitfm" else timms)(settings)
    begin = time.perf_counter()
    step()
    greeting = {"parameters": parameters, "first_step_seconds": time.perf_counter() - begin}

    def answer(request: Mapping[str, Any]) -> dict[str, Any]:
        used = [time.process_time()]
        milliseconds = learners.timed(lambda: (step(), used.append(time.process_time())), request["steps"])
        processor = [1e3 * (b - a) for a, b in itertools.pairwise(used)]
        memory = learners.peak_memory()
        return {"milliseconds": milliseconds, "processor_milliseconds": processor, "peak_memory_bytes": memory}

    return greeting, answer


if __name__ == "__main__":
    workers.serve(start)
