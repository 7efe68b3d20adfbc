"""VQ-KD on `emoji`, the data set inside vitfm: a tokenizer for configs/beit.py, taught by a model that learned before.

    python -m vitfm.main --config=configs/clip.py
    python -m vitfm.main --config=configs/vqkd.py
    python -m vitfm.main --config=configs/beit.py

The teacher is CLIP's image tower of runs/clip, as in the paper CLIP's own (Peng et al. 2022, arXiv:2208.06366), or
`--config.teacher.run=DIR`: any run with an image encoder, or a folder of another library's model. Its grid of 4 x 4
patches is the tokenizer's; another is resized to it. Codes that nothing is assigned to stay idle: `code_use` and
`code_perplexity` in the metrics tell; more than half of the codes should be in use.

Hardware: two CPU cores. Time: under four minutes. Expected: docs/recipes/README.md.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 5_980  # In `emoji`'s training split.


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for fewer.

    Reasoned, not measured. A batch has 64 or 196 patches an image, of which each code should get several. The learning
    rate is the published one of AdamW, linear in the batch.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 512, 5: 512, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        "codes": {6: 8192, 5: 2048, 4: 512}[decade],
        "epochs": {6: 100, 5: 300, 4: 600}[decade],  # 250,000 steps, 59,000, 47,000.
        "learning_rate": 5e-5 * batch_size / 128,
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/vqkd.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    size = scaled(IMAGES)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "20 epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "vqkd",
        "model": {
            "name": "vit",
            "patch_size": 16,
            "hidden_dim": 128,
            "depth": 3,
            "num_heads": 2,
            "position": "sincos",
        },
        "decoder": {"hidden_dim": 128, "depth": 1, "num_heads": 2},
        "codes": size["codes"],
        "code_dim": 32,
    }
    config.teacher = {"run": "runs/clip"}
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
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup": "10%"},
        "weight_decay": 1e-4,
        "clip_norm": 1.0,
    }
    config.evals = {
        "knn": _probe("knn"),
        "linear_probe": _probe("linear_probe"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.update({"codes": 64, "code_dim": 8})
        config.objective.model.update({"hidden_dim": 64, "depth": 1})
        config.objective.decoder.update({"hidden_dim": 64})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
