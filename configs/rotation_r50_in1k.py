"""RotNet: a ResNet-50 that tells which way up ImageNet-1k's images are (Gidaris et al. 2018, arXiv:1803.07728).

    python -m vitfm.main --config=configs/rotation_r50_in1k.py
    python -m vitfm.main --config=configs/rotation_r50_in1k.py:10000 --config.data.source=...    for 10,000 images

The paper trains AlexNet; these are VISSL's settings for a ResNet-50 (configs/config/pretrain/rotnet of
facebookresearch/vissl): 105 epochs, of which rates fall after 30, 60, 90 and 100, crops and flips only. VISSL draws one
turn an image, 256 turned images a batch at a rate of 0.1; here a batch has all four turns of 256 images, so that by the
linear rule the rate is 0.4, after a warmup of five epochs (Goyal et al. 2017, arXiv:1706.02677, section 2), which VISSL
needs not. An epoch sees each image four times as often. VISSL turns images before it crops them, here crops are turned.
Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 105 epochs are 1.3e8 images, and four turns of each are 98 GFLOP:
1.2, or 2.9, at 40% of the bfloat16 peak, which convolutions seldom reach; computed, not measured.
Expected on `validation`, under a linear probe: 48.2% top-1, of VISSL's own run (MODEL_ZOO.md there), which saw one turn
an image and epoch. Earlier stages probe better with pretext tasks like this one.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured. There is neither a moving average nor a queue to scale.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    # No negatives need a large batch: it shrinks only so that an epoch is dozens of steps.
    batch_size = {6: 256, 5: 256, 4: 64}[decade]
    return {
        "batch_size": batch_size,
        # The task is supervised by itself, and overfits as supervised training does: 525,000 steps, 78,000, 31,000.
        "epochs": {6: 105, 5: 200, 4: 200}[decade],
        # Linear in the batch of turned images, as published.
        "learning_rate": 0.1 * 4 * batch_size / 256,
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "5%", "keep": 2}

    config.objective = {"name": "rotation", "model": {"name": "resnet", "size": "50"}}
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "augment": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        "threads": 32,
    }
    config.optim = {
        "name": "sgd",
        "learning_rate": size["learning_rate"],
        "schedule": {
            "name": "steps",
            "warmup": "5 epochs",
            "at": (30 / 105, 60 / 105, 90 / 105, 100 / 105),
            "factor": 0.1,
        },
        "coupled_decay": 1e-4,
        "decayed": r"(kernel|logits/bias)$",
        "clip_norm": None,
    }
    config.evals = {
        "knn": {**_probe("knn"), "every": "10%"},
        "linear_probe": _probe("linear_probe"),
    }
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:imagenet2012:train",
        "test": "tfds:imagenet2012:validation",
        "label": "label",
        "prefix": "validation",
    }
