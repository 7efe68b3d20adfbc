"""BEiT on `emoji`, the data set inside vitfm: the codes of masked patches, which a tokenizer has learned before.

    python -m vitfm.main --config=configs/vqkd.py        the tokenizer; its header says what teaches it
    python -m vitfm.main --config=configs/beit.py

The tokenizer is VQ-KD's of runs/vqkd, which makes this BEiT v2 without the shortcut from its class token, or that of
`--config.teacher.run=DIR`: another run with as many codes (`--config.objective.codes`) on a grid of 4 x 4, or, with
`--config.objective.model.patch_size=8 --config.objective.masked_patches=25`, of 8 x 8, such as configs/dvae.py's.

Hardware: two CPU cores. Time: under five minutes. Expected: docs/recipes/README.md.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/beit.py:tiny` is a minute's rehearsal, after configs/vqkd.py:tiny."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "15 epochs"
    config.batch_size = 128
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "beit",
        "model": {
            "name": "vit",
            "stem": "hmlp",
            "patch_size": 16,
            "hidden_dim": 192,
            "depth": 4,
            "num_heads": 3,
            # No loss trains the class token but through what patches see of it: they are what is pooled.
            "class_token": True,
            "pool": "gap",
        },
        "codes": 512,
        "masked_patches": 6,  # Of 16, the published share.
        "smallest_block": 2,
    }
    config.teacher = {"run": "runs/vqkd"}
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.4, 1.1), "flip": False},
        "augment": {"background": "random"},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "newton_schulz_steps": 3,  # As five, a tenth cheaper.
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.05,
        "clip_norm": 3.0,
    }
    config.evals = {
        "knn": _probe("knn"),
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.codes = 64
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
