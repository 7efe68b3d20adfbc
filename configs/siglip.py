"""SigLIP on `emoji`: configs/clip.py with a sigmoid for each pair, and image and text tower pooled as SigLIP's.

    python -m vitfm.main --config=configs/siglip.py

Hardware: two CPU cores, 3 GB of memory. Time: about that of configs/clip.py, five minutes.
Expected: docs/recipes/README.md. For other numbers of pairs: the `scaled` of configs/clip.py, and -ln(batch size) as
`initial_bias`.
"""

import pathlib

import ml_collections

from vitfm import config as config_lib


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
        # Of 256 pairs of an image 255 are negatives: a bias of -ln 255 makes them as likely at the start as they are.
        # At the published -10, which is for batches of 32,768, the few steps of this run would begin with unlearning.
        "initial_bias": -5.5,
    }
    return config
