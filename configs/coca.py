"""CoCa on `emoji`, the data set inside vitfm: configs/clip.py whose text tower goes on to write the names of drawings.

    python -m vitfm.main --config=configs/coca.py

Hardware: two CPU cores, 3 GB of memory. Time: about five minutes.
Expected: docs/recipes/README.md has what every such recipe reaches.
configs/coca_b32_webli.py has the published settings, and takes the number of pairs.
"""

import math
import pathlib

import ml_collections

from vitfm import config as config_lib

IMAGES = 5_980  # In `emoji`'s training split.


def scaled(images: int) -> dict:
    """What depends on the number of pairs: as published for a billion, rules of thumb for fewer.

    Reasoned, not measured, but for the batch of ten thousand pairs, which is this recipe's. Negatives are a batch's
    own: with fewer images more of them would show the same thing.
    """
    decade = min(max(round(math.log10(images)), 4), 9)
    batch_size = {9: 90112, 8: 32768, 7: 16384, 6: 4096, 5: 1024, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        # A decoder learns few captions by heart: no longer than 14,600 to 15,600 steps up to a million.
        "epochs": {9: 6, 8: 32, 7: 32, 6: 60, 5: 150, 4: 200}[decade],
        # By the square root of the batch, as Adam's steps vary with it, below 4096.
        "learning_rate": 5e-4 * math.sqrt(min(batch_size, 4096) / 4096),
        "warmup": "10000 steps" if decade == 9 else "10%",
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/coca.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    clip = pathlib.Path(__file__).with_name("clip.py")
    config = config_lib.load_file(f"{clip}:{arg}" if arg else str(clip))
    width, heads = config.objective.image.hidden_dim, config.objective.image.num_heads
    config.total = "20 steps" if arg == "tiny" else "13 epochs"
    # Twice the steps of configs/clip.py: it begins to learn later.
    config.batch_size = 64 if arg == "tiny" else scaled(IMAGES)["batch_size"]
    config.objective = {
        "name": "coca",
        "image": config.objective.image.to_dict(),
        # Names are a few words: one block of each kind.
        "text": {"hidden_dim": width, "depth": 1, "num_heads": heads},
        "pooler": {"queries": 8, "num_heads": heads},  # Of 16 patches; published are 256 of 256.
        "captioner": {"depth": 1, "num_heads": heads},
        # Published are 1 and 2. In a few hundred steps names can be told apart by far more than can be worded.
        "contrastive_weight": 4.0,
        "caption_weight": 1.0,
        "generation": {"name": "beam", "beams": 4},
    }
    config.data.captions = {"name": "name", "tags": None, "templates": ("{}",)}  # What it says is a name and no more.
    for spec in config.evals.values():
        if spec.name == "zeroshot":
            spec.templates = ("{}",)
    for split in ("validation", "test_style", "test_concept"):
        often = {"every": "25%"} if split == "validation" else {}
        config.evals[f"{split}_captions"] = {
            "name": "captions",
            "source": f"tfds:emoji:{split}",
            "prefix": split,
            **often,
        }
    return config
