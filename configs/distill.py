"""Distillation on `emoji`, the data set inside vitfm: a small ViT learns the features of a larger one, without labels.

    python -m vitfm.main --config=configs/clip.py
    python -m vitfm.main --config=configs/distill.py

The teacher is CLIP's image tower of runs/clip, or `--config.teacher.run=DIR`: any run with an image encoder, or a
folder of another library's model, of any size: images are resized for it on the device. configs/distill_b14_in1k.py has
published settings, and what of them to change for fewer images: the batch size and the length, as there is neither a
queue nor a negative.

    --config.objective.pooled=0 --config.objective.logits=1 --config.objective.temperature=2     a classifier's logits
    --config.objective.distance=l2                                                        instead of cosines

Hardware: two CPU cores. Time: about three minutes, beside those of the teacher.
Expected: docs/recipes/README.md has what every such recipe reaches.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/distill.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "20 epochs"
    config.batch_size = 256
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "distill",
        "model": {"name": "vit", "stem": "conv", "patch_size": 16, "hidden_dim": 128, "depth": 2, "num_heads": 2},
        "pooled": 1.0,
        "patches": 0.5,
        "distance": "cosine",
    }
    config.teacher = {"run": "runs/clip"}
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.5, 1.1), "ratio": (0.8, 1.25), "flip": False},
        "augment": {"background": "random", "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "grayscale": 0.1},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
    }
    config.evals = {
        "knn": {**_probe("knn"), "every": "50%"},
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
