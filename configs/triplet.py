"""FaceNet's triplets on `emoji`, the data set inside vitfm: drawings of a subgroup are nearer to one another.

    python -m vitfm.main --config=configs/triplet.py

Margin, embedding and mining are the published ones (Schroff et al. 2015, arXiv:1503.03832): 0.2, 128 numbers, semi-hard
negatives; batches have 4 drawings of each of 64 subgroups, the paper's have 40 faces of a person, and 1,800 in all.
configs/triplet_r50_vggface2.py has those settings, and what of them to change for fewer images.

    --config.data.label.feature=codepoint      an emoji by several hands as one identity, as people are in the paper
    --config.objective.mining=hard

Hardware: two CPU cores. Time: about three minutes.
Expected: docs/recipes/README.md has what every such recipe reaches.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/triplet.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "20 epochs"
    config.batch_size = 256
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "triplet",
        "model": {"name": "vit", "stem": "conv", "patch_size": 16, "hidden_dim": 192, "depth": 2, "num_heads": 3},
        "embed_dim": 128,
        "margin": 0.2,
        "mining": "semi-hard",
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.75, 1.15), "ratio": (0.8, 1.25), "rotation": 6.0, "flip": False},
        "label": {"feature": "subgroup"},
        "balance": {"images": 4},
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
        "knn": {**_probe("knn"), "every": "50%"},
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64, "num_heads": 2})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
