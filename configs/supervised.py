"""Supervised classification of `emoji`, the data set inside vitfm: 98 subgroups, each emoji drawn by up to four hands.

    python -m vitfm.main --config=configs/supervised.py

Hardware: two CPU cores. Time: three and a half minutes with AVX-512.
Expected: on drawings of a fifth hand, 98 subgroups, 43.5% top-1 and 71% top-5; docs/recipes/supervised.md has more.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/supervised.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "20 epochs"
    config.batch_size = 256
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "supervised",
        "model": {"name": "vit", "stem": "conv", "patch_size": 16, "hidden_dim": 192, "depth": 2, "num_heads": 3},
        "label_smoothing": 0.1,
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.75, 1.15), "ratio": (0.8, 1.25), "rotation": 6.0, "flip": False},
        "label": {"feature": "subgroup"},
        "augment": {"background": "random", "brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "grayscale": 0.1},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.2,
        "clip_norm": 1.0,
    }
    config.evals = {
        "validation": _classification("validation", every="25%"),
        "test_style": _classification("test_style", pictures=12),
        "knn": _probe("knn"),
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64, "num_heads": 2})
    return config


def _classification(split: str, **options: str | int) -> dict:
    return {
        "name": "classification",
        "source": f"tfds:emoji:{split}",
        "label": "subgroup",
        "prefix": split,
        **options,
    }


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
