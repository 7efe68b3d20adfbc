"""DINO on `emoji`, the data set inside vitfm: drawings by four hands, without their names.

    python -m vitfm.main --config=configs/dino.py

To go on from an encoder of transformers', timm's or another run's of the same shape (docs/warm_start.md):

    --config.init.run=~/dinov2 --config.optim.freeze='[["head/prototypes", "5%"], ["^encoder/", "5%"]]'

Hardware: two CPU cores. Time: just under five minutes.
Expected: on drawings of a fifth hand, 98 subgroups, 35% under the linear probe, where raw pixels have 27% and the
untrained encoder 21%; docs/recipes/dino.md has more.
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
    """The recipe; `--config=configs/dino.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "6.5 epochs"
    config.batch_size = 64  # Twice the steps that 128 would allow.
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "dino",
        "model": {
            "name": "vit",
            "stem": "conv",
            "patch_size": 16,
            "hidden_dim": 192,
            "depth": 2,
            "num_heads": 3,
            "pool": "cls",
        },
        # Hundreds of concepts, not thousands of classes: fewer prototypes than the paper, and a narrower head.
        "prototypes": 512,
        "hidden_dim": 512,
        "bottleneck_dim": 128,
        # With the paper's centre and a temperature that rises the teacher became uniform within two epochs.
        "centering": "sinkhorn",
        "teacher_temperature": 0.04,
        # Six hundred steps: the teacher looks back on ten of them at first, where the paper's has 250.
        "momentum": {"name": "cosine", "start": 0.9, "end": 1.0},
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"flip": False, "ratio": (0.8, 1.25)},
        "augment": COLOURS,
        "views": {
            "global": {"count": 2, "crop": {"scale": (0.4, 1.0)}},
            "local": {"count": 4, "size": 32, "crop": {"scale": (0.1, 0.4)}},
        },
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup": "10%"},
        "weight_decay": {"name": "cosine", "start": 0.04, "end": 0.4},
        "clip_norm": None,
        "clip_parameter_norm": 3.0,
        "freeze": (("head/prototypes", "5%"),),
    }
    config.evals = {
        "knn": _probe("knn"),
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.objective.model.update({"hidden_dim": 64, "num_heads": 2})
        config.objective.update({"hidden_dim": 64, "bottleneck_dim": 32, "prototypes": 64})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
