"""SimMIM on `emoji`, the data set inside vitfm: masked squares of a drawing, from what is around them.

    python -m vitfm.main --config=configs/simmim.py

Hardware: two CPU cores. Time: about five minutes with AVX-512.
Expected: docs/recipes/README.md has what every such recipe reaches. configs/simmim_b16_in1k.py has the published
settings, and what of them to change for fewer images.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/simmim.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "16 epochs"
    config.batch_size = 128
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "simmim",
        # Where it is, is all that a masked patch knows: fixed positions tell from the first step.
        "model": {
            "name": "vit",
            "stem": "conv",  # Under which masked squares are 0 in the image.
            "patch_size": 16,
            "hidden_dim": 192,
            "depth": 4,
            "num_heads": 3,
            "position": "sincos",
            "pool": "gap",  # A class token would have no loss of its own, and neighbours by it are worse.
        },
        "mask_size": 16,  # A quarter of the side; published are 32 of 192 pixels, a sixth.
        "mask_ratio": 0.6,
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.4, 1.1), "flip": False},
        # White behind all: of a coloured background the squares to fill would be mostly that colour.
        "augment": {"background": "white"},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.05,
    }
    config.evals = {
        "reconstruction": {
            "name": "reconstruction",
            "source": "tfds:emoji:test_style",
            "prefix": "test_style",
            "every": "25%",
        },
        "knn": _probe("knn"),
        "knn_whitened": {**_probe("knn"), "whiten": True},  # Few directions hold most of what varies.
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64, "depth": 2, "num_heads": 2})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
