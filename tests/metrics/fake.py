"""A run directory as a real one would leave it: 300 rows, evaluations, pictures, a result."""

from __future__ import annotations

import math
import pathlib

import numpy as np

from vitfm.metrics import pictures, writers

STEPS = 6000
EVERY = 20
BATCH = 1024
SPEED = 8450.0
LABELS = ("red fox", "tabby cat", "lighthouse", "bicycle", "violin", "volcano", "harbour", "hot air balloon")
EVALUATIONS = {
    "validation/retrieval/text_to_image_recall1": 0.412,
    "validation/retrieval/text_to_image_recall5": 0.688,
    "validation/retrieval/image_to_text_recall1": 0.437,
    "validation/retrieval/image_to_text_recall5": 0.702,
    "validation/retrieval/median_rank": 2.0,
    "test_style/zeroshot/top1": 0.6123,
    "test_style/zeroshot/top5": 0.8741,
    "test_style/zeroshot_group/top1": 0.7311,
    "test_style/knn/top1": 0.5534,
    "test_concept/zeroshot/top1": 0.5012,
    "test_concept/zeroshot/top5": 0.7893,
    "test_concept/zeroshot_heldout/top5": 0.6377,
}
CONFIG = {
    "seed": 0,
    "total_steps": STEPS,
    "global_batch_size": BATCH,
    "objective": {"name": "clip", "temperature": None, "caption": "<script>alert('config')</script> & more"},
    "model": {"name": "vit", "patch_size": 16, "hidden_dim": 384, "depth": 12, "num_heads": 6, "layer_scale": 1e-5},
    "optim": {"name": "adamw", "learning_rate": 5e-4, "weight_decay": 0.2, "betas": (0.9, 0.98), "warmup": "5%"},
    "data": {"name": "folder", "image_size": 224, "augment": ["crop", "flip"], "workers": 16},
}
RESULT = {
    "step": STEPS,
    "examples": STEPS * BATCH,
    "seconds": STEPS * BATCH / SPEED,
    "images_per_second": SPEED,
    "device": "4 x TPU v5e",
    "versions": {"vitfm": "0.1.0", "jax": "0.10.2", "flax": "0.12.8"},
    "phases": {"setup": 6.2, "compile": 41.8, "train": 640.1, "data": 9.7, "eval": 58.4, "report": 2.2},
    "peak_memory_bytes": 9_000_000_000,
    "seed": 3,
    "loss": 1.234,
    **EVALUATIONS,
}


def shapes(count: int, seed: int = 0) -> list[np.ndarray]:
    """Images [64,64,3] that differ from one another."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    images = []
    for _ in range(count):
        inside = np.abs(x) ** (p := random.uniform(0.7, 4)) + np.abs(y) ** p < random.uniform(0.2, 0.6)
        images.append(np.where(inside[..., None], random.integers(0, 256, 3), random.integers(60, 240, 3)).astype("u1"))
    return images


def write(workdir: pathlib.Path, *, finished: bool = True) -> pathlib.Path:
    """Writes the run into `workdir` as training would."""
    with writers.Writer(workdir, step=0) as writer:
        writer.config(CONFIG)
        random = np.random.default_rng(0)
        for step in range(EVERY, STEPS + 1, EVERY):
            _row(writer, step, random)
            if step % 1000 == 0:
                _evaluate(writer, step)
        if finished:
            writer.result(RESULT)
    return workdir


def _row(writer: writers.Writer, step: int, random: np.random.Generator) -> None:
    done = step / STEPS
    loss = 1.2 + 5.7 * math.exp(-5 * done) + random.normal(0, 0.12)
    values = {
        "loss": loss,
        "accuracy/image_to_text": float(np.clip(0.9 - 0.12 * loss + random.normal(0, 0.015), 0, 1)),
        "accuracy/text_to_image": float(np.clip(0.88 - 0.12 * loss + random.normal(0, 0.015), 0, 1)),
        "learning_rate": 5e-4 * min(step / 300, 0.5 + 0.5 * math.cos(math.pi * done)),
        "grad_norm": math.inf if step == 2500 else math.exp(random.normal(0.3 - done, 0.25)),
        "logit_scale": 14.3 + 40 * done,
        "images_per_second": SPEED * random.normal(1, 0.015),
        "data_wait": abs(random.normal(0.012, 0.006)),
        "token_norm_ratio": 1 + 0.2 * done,
    }
    writer.scalars(step, values, examples=step * BATCH, seconds=step * BATCH / SPEED)


def _evaluate(writer: writers.Writer, step: int) -> None:
    grown = 1 - 0.8 * math.exp(-3.2 * step / STEPS)
    values = {name: value * grown if value < 1 else value / grown for name, value in EVALUATIONS.items()}
    writer.scalars(step, values, examples=step * BATCH, seconds=step * BATCH / SPEED)
    images, texts = shapes(len(LABELS)), [f"a photo of a {label}" for label in LABELS]
    hits = [[(images[(i + k) % 8], k == i % 3) for k in range(5)] for i in range(4)]
    lines = [[texts[(i + k) % 8] for k in range(5)] for i in range(4)]
    similarity = 0.6 * grown * np.eye(8) + np.random.default_rng(1).uniform(0, 0.3, (8, 8))
    writer.picture(step, "validation/retrieval/text_to_image", pictures.retrieval_grid(texts[:4], hits))
    right = [[k == 0 for k in range(5)]] * 4
    writer.picture(
        step, "validation/retrieval/image_to_text", pictures.image_to_text_grid(images[:4], lines, right, texts[:4])
    )
    writer.picture(step, "validation/similarity", pictures.similarity_matrix(similarity, LABELS, images))
