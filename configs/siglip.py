"""SigLIP on `emoji`: configs/clip.py with a sigmoid for each pair, and image and text tower pooled as SigLIP's.

    python -m vitfm.main --config=configs/siglip.py

Hardware: two CPU cores, 3 GB of memory. Time: about that of configs/clip.py, five minutes.
Expected: docs/recipes/README.md has what every such recipe reaches. configs/siglip_b16_webli.py has the published
settings, and takes the number of pairs.
"""

import math
import pathlib

import ml_collections

from vitfm import config as config_lib

IMAGES = 5_980  # In `emoji`'s training split.


def scaled(images: int) -> dict:
    """What depends on the number of pairs: as published for ten billion, rules of thumb for fewer.

    Reasoned, not measured, but for batch and bias of ten thousand pairs, which are this recipe's. Negatives are a
    batch's own: with fewer images more of them would show the same thing.
    """
    decade = min(max(round(math.log10(images)), 4), 10)
    batch_size = {10: 32768, 9: 32768, 8: 32768, 7: 16384, 6: 4096, 5: 1024, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        # 1,220,000 steps, 980,000, 98,000, 20,000, 7,300, 7,300, 7,800.
        "epochs": {10: 4, 9: 32, 8: 32, 7: 32, 6: 30, 5: 75, 4: 100}[decade],
        # By the square root of the batch, as Adam's steps vary with it, below 4096.
        "learning_rate": 1e-3 * math.sqrt(min(batch_size, 4096) / 4096),
        # Makes negatives as likely at the start as they are. At the published -10, which is for batches of 32,768, the
        # few steps of a short run would begin with unlearning.
        "initial_bias": max(round(-math.log(batch_size), 2), -10.0),
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/siglip.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    size = scaled(IMAGES)
    clip = pathlib.Path(__file__).with_name("clip.py")
    config = config_lib.load_file(f"{clip}:{arg}" if arg else str(clip))
    config.objective = {
        "name": "siglip",
        "image": {**config.objective.image, "pool": "map"},
        # All see all, padding too, and the last position is read: what `siglip` does where nothing is said.
        "text": {key: value for key, value in config.objective.text.items() if key not in ("causal", "pool")},
        "initial_bias": size["initial_bias"],
    }
    if arg != "tiny":
        # Twice CLIP's steps, to which a sum over pairs is less averse than a softmax.
        config.batch_size = size["batch_size"]
    return config
