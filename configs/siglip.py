"""SigLIP on `emoji`: configs/clip.py with a sigmoid for each pair, and image and text tower pooled as SigLIP's.

    python -m vitfm.main --config=configs/siglip.py

Hardware: two CPU cores, 3 GB of memory. Time: about that of configs/clip.py, five minutes.
Expected: docs/recipes/README.md has what every such recipe reaches. configs/siglip_b16_webli.py has the published
settings; `scaled` says what of them to change for fewer pairs.
"""

import math
import pathlib

import ml_collections

from vitfm import config as config_lib


def scaled(images: int) -> dict:
    """What depends on the number of pairs: rules of thumb for a million, a hundred thousand and ten thousand.

    Reasoned, not measured. Negatives are a batch's own: with fewer images more of them would show the same thing.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 4096, 5: 1024, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {6: 30, 5: 75, 4: 200}[decade],  # 9,400 steps, 7,300, 7,800.
        # By the square root of the batch, as Adam's steps vary with it.
        "learning_rate": 1e-3 * math.sqrt(batch_size / 4096),
        # Makes negatives as likely at the start as they are; about the published -10 for batches of 32,768.
        "initial_bias": -math.log(batch_size),
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/siglip.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    clip = pathlib.Path(__file__).with_name("clip.py")
    config = config_lib.load_file(f"{clip}:{arg}" if arg else str(clip))
    config.objective = {
        "name": "siglip",
        "image": {**config.objective.image, "pool": "map"},
        # All see all, padding too, and the last position is read: what `siglip` does where nothing is said.
        "text": {key: value for key, value in config.objective.text.items() if key not in ("causal", "pool")},
        # Of 128 pairs of an image 127 are negatives: a bias of -ln 127 makes them as likely at the start as they are.
        # At the published -10, which is for batches of 32,768, the few steps of this run would begin with unlearning.
        "initial_bias": -4.85,
    }
    if arg != "tiny":
        config.batch_size = 128  # Twice CLIP's steps, to which a sum over pairs is less averse than a softmax.
    return config
