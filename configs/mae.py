"""MAE on `emoji`, the data set inside vitfm: drawings by four hands, three quarters of each hidden.

    python -m vitfm.main --config=configs/mae.py

To go on from an encoder of transformers', timm's or another run's of the same shape (docs/warm_start.md):

    --config.init.run=~/vit --config.init.fresh='["^decoder"]' --config.optim.freeze='[["^encoder/", "5%"]]'

Hardware: two CPU cores. Time: under five minutes with AVX-512.
Expected: on drawings of a fifth hand, 98 subgroups, 36.6 ± 0.8% under the linear probe, where raw pixels have 27% and
the untrained encoder 23%; docs/recipes/mae.md has more.
"""

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/mae.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "14 epochs"
    config.batch_size = 128
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "mae",
        "model": {"patch_size": 8, "hidden_dim": 192, "depth": 4, "num_heads": 3},
        "decoder": {"hidden_dim": 96, "depth": 1, "num_heads": 3},
        "mask_ratio": 0.75,
        "norm_pix": True,
    }
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
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.05,
    }
    probe = {"train": "tfds:emoji:train", "test": "tfds:emoji:test_style", "label": "subgroup", "prefix": "test_style"}
    config.evals = {
        "reconstruction": {
            "name": "reconstruction",
            "source": "tfds:emoji:test_style",
            "prefix": "test_style",
            "every": "25%",
        },
        "knn": {"name": "knn", **probe},
        "linear_probe": {"name": "linear_probe", **probe},
        "fewshot": {"name": "fewshot", **probe},
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.model.update({"hidden_dim": 64, "depth": 2, "num_heads": 2})
        config.objective.decoder.update({"hidden_dim": 32, "num_heads": 2})
    return config
