"""SimCLR on `emoji`, the data set inside vitfm: drawings by four hands, without their names.

    python -m vitfm.main --config=configs/simclr.py

Hardware: two CPU cores. Time: about five minutes with AVX-512.
Expected: docs/recipes/README.md has what every such recipe reaches. configs/simclr_r50_in1k.py has the published
settings, and what of them to change for fewer images.
"""

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


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/simclr.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "14 epochs"
    config.batch_size = 128
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "simclr",
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
        # A few hundred negatives, not 8,190: a softer softmax, so that more than the nearest one counts.
        "temperature": 0.2,
    }
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
