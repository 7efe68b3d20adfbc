"""iBOT: a ViT-S/16 pretrained on ImageNet-1k as in the authors' code (Zhou et al. 2022, arXiv:2111.07832).

    python -m vitfm.main --config=configs/ibot_s16_in1k.py
    python -m vitfm.main --config=configs/ibot_s16_in1k.py:1e5 --config.data.source=...    for 100,000 images

It is configs/dino_s16_in1k.py:paper with masks, for 800 epochs.
Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: the authors' ran on 16 GPUs.
Expected on `validation`: 75.2% top-1 by nearest neighbours, 77.9% under a linear probe, 82.3% fine-tuned (README of the
authors' code). The published probe trains on augmented crops, the one here on one centre crop an image.
Their prototypes have gains that are learned (`norm_last_layer` is false), which here are 1; either view of an image may
be masked there, here it is one of the two.
"""

import math
import pathlib

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 1024, 5: 256, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {6: 800, 5: 800, 4: 1600}[decade],  # 1,000,000 steps, 313,000, 125,000.
        "learning_rate": 5e-4 * batch_size / 256,  # As published, linear in the batch.
        # The teacher averages over 1 / (1 - momentum) steps; a shorter run can't wait as long.
        "momentum": {6: 0.996, 5: 0.995, 4: 0.99}[decade],
        # Of a shorter run a centre needs too many steps, as configs/dinov2_l16_in1k.py says.
        "centering": {6: "centre", 5: "sinkhorn", 4: "sinkhorn"}[decade],
        # A centre, or Sinkhorn-Knopp, can't fill prototypes that outnumber the images.
        "prototypes": {6: 8192, 5: 8192, 4: 1024}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = config_lib.load_file(f"{pathlib.Path(__file__).with_name('dino_s16_in1k.py')}:paper")
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.objective.update({"name": "dinov2", "shared_head": True, "koleo_weight": 0.0})
    config.objective.update({"prototypes": size["prototypes"], "centering": size["centering"]})
    config.objective.update({"mask_share": 0.5, "mask_ratio": (0.1, 0.5)})
    config.objective.momentum.start = size["momentum"]
    config.optim.learning_rate = size["learning_rate"]
    config.optim.schedule.end = 1e-6 / size["learning_rate"]
    config.data.views["global"].crop = {"scale": (0.25, 1.0)}
    config.data.views.local.update({"count": 10, "crop": {"scale": (0.05, 0.25)}})
    return config
