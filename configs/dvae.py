"""A discrete VAE on `emoji`, the data set inside vitfm: 64 codes a drawing, a tokenizer for configs/beit.py.

    python -m vitfm.main --config=configs/dvae.py

Hardware: two CPU cores. Time: under five minutes with AVX-512.
Expected: `reconstruction` and `kl` fall while `code_perplexity` stays far from 1; the report shows what the codes keep.
docs/recipes/README.md has what every such recipe reaches. configs/dvae_in1k.py has the published settings, and what of
them to change for fewer images.
"""

import ml_collections

from vitfm import config as config_lib

SIZES = {"base_dim": 16, "blocks": 1}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/dvae.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "3 epochs"
    config.batch_size = 64
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "dvae",
        "model": {**SIZES},
        # Thousands of drawings in flat colours: fewer codes than the 8,192 for photographs.
        "codes": 512,
        "decoder": {**SIZES, "code_dim": 64},
        "temperature": {"name": "cosine", "start": 1.0, "end": 1 / 16, "length": "50%"},
        # A long way up: codes have to mean something before they are made alike.
        "kl_weight": {"name": "cosine", "start": 0.0, "end": 1.0, "length": "50%"},
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.4, 1.1), "flip": False},
        "augment": {"background": "random", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": 3e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
    }
    config.evals = {
        "reconstruction": {
            "name": "reconstruction",
            "source": "tfds:emoji:test_style",
            "prefix": "test_style",
            "every": "25%",
        },
        "knn": _probe("knn"),
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 32
        config.objective.update({"codes": 64})
        config.objective.model.update({"base_dim": 8})
        config.objective.decoder.update({"base_dim": 8})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
