"""MoCo v2 on `emoji`, the data set inside vitfm: drawings by four hands, without their names.

    python -m vitfm.main --config=configs/moco.py
    python -m vitfm.main --config=configs/moco.py:v3       without a queue, in batches of both views

Hardware: two CPU cores. Time: about five minutes with AVX-512.
Expected: docs/recipes/README.md has what every such recipe reaches. configs/moco_v2_r50_in1k.py and
configs/moco_v3_s16_in1k.py have the published settings, and what of them to change for fewer images.
"""

import math

import ml_collections

from vitfm import config as config_lib

COLOURS = {
    "background": "random",
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "jitter_probability": 0.8,
    "grayscale": 0.2,
}
IMAGES = 5_980  # In `emoji`'s training split.


def scaled(images: int) -> dict:
    """What of v2 depends on the number of images: as published from a million, rules of thumb for fewer.

    Reasoned, not measured, but for `emoji`'s own run. configs/moco_v3_s16_in1k.py has the same for v3.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 256, 5: 256, 4: 128}[decade]  # An epoch should be dozens of steps.
    return {
        "batch_size": batch_size,
        # A twentieth of the images, rounded to a power of two; much more, and the queue holds this batch's own images
        # from the last epoch, as negatives.
        "queue": {6: 65536, 5: 4096, 4: 512}[decade],
        # A key may be no older than the teacher's memory of it: as the queue passes in fewer steps (256, 16, 4), the
        # teacher may follow faster, and in a shorter run it has to.
        "momentum": {6: 0.999, 5: 0.996, 4: 0.99}[decade],
        # SGD's rate, linear in the batch.
        "learning_rate": 0.03 * batch_size / 256,
        # 1,000,000 steps at 1e6; fewer images give out earlier, at about 400,000 and 80,000.
        "epochs": {6: 200, 5: 1000, 4: 1000}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `v3` for MoCo v3; `--config=configs/moco.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny", "v3")
    size = scaled(IMAGES)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "11 epochs" if arg == "v3" else "20 epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "moco",
        "model": {
            "name": "vit",
            "stem": "conv",
            "patch_size": 16,
            "hidden_dim": 192,
            "depth": 2,
            "num_heads": 3,
        },
        "hidden_dim": 512,
        "out_dim": 128,
        "temperature": 0.2,
    }
    if arg == "v3":
        config.objective.update({"version": "v3", "momentum": {"name": "cosine", "start": 0.98, "end": 1.0}})
    else:
        config.objective.update({"version": "v2", "queue": size["queue"], "momentum": size["momentum"]})
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.2, 1.0), "ratio": (0.8, 1.25), "flip": False},
        "augment": COLOURS,
        "views": {"global": {"count": 2}},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup": "10%"},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    config.evals = {
        "knn": {**_probe("knn"), "every": "50%"},
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64, "num_heads": 2})
        config.objective.update({"hidden_dim": 64, "out_dim": 32})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
