"""iBOT: a ViT-S/16 pretrained on ImageNet-1k as in the authors' code (Zhou et al. 2022, arXiv:2111.07832).

    python -m vitfm.main --config=configs/ibot_s16_in1k.py

It is configs/dino_s16_in1k.py:paper with masks, for 800 epochs.
Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: the authors' ran on 16 GPUs.
Expected on `validation`: 75.2% top-1 by nearest neighbours, 77.9% under a linear probe, 82.3% fine-tuned (README of the
authors' code). The published probe trains on augmented crops, the one here on one centre crop an image.
Their prototypes have gains that are learned (`norm_last_layer` is false), which here are 1; either view of an image may
be masked there, here it is one of the two.
"""

import pathlib

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe."""
    config_lib.argument(arg)
    config = config_lib.load_file(f"{pathlib.Path(__file__).with_name('dino_s16_in1k.py')}:paper")
    config.total = "800 epochs"
    config.objective.update({"name": "dinov2", "prototypes": 8192, "shared_head": True, "centering": "centre"})
    config.objective.update({"koleo_weight": 0.0, "mask_share": 0.5, "mask_ratio": (0.1, 0.5)})
    config.data.views["global"].crop = {"scale": (0.25, 1.0)}
    config.data.views.local.update({"count": 10, "crop": {"scale": (0.05, 0.25)}})
    return config
