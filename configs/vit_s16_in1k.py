"""A ViT-S/16 classifier of ImageNet-1k: the plain baseline of Beyer et al. 2022 (arXiv:2205.01580), big_vision's
`vit_s16_i1k.py`.

    python -m vitfm.main --config=configs/vit_s16_in1k.py
    python -m vitfm.main --config=configs/vit_s16_in1k.py '--config.total=300 epochs'
    python -m vitfm.main --config=configs/vit_s16_in1k.py:1e5 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord; the last percent of `train` is for choosing.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 90 epochs are 1.1e8 images of 28 GFLOP each: 0.3, or 0.7, at 40%
of the bfloat16 peak; computed, not measured. At that speed the hosts have to crop 45,000 to 110,000 images a second;
where they can't, they decide. big_vision took 6 to 7 hours on a TPU v3-8.
Expected on `validation`: 76.5% top-1 after 90 epochs, 78.5% after 150, 80.0% after 300, as published, where images are
resized to 256 pixels before the central 224 are cut; here to 224.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_268_355  # 99% of ImageNet's.


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured. Below a million a pretrained encoder is worth more than any of it: configs/finetune.py.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 1024, 5: 512, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {6: 90, 5: 300, 4: 600}[decade],  # 110,000 steps, 59,000, 47,000.
        # By the square root of the batch, as Adam's steps vary with it.
        "learning_rate": 1e-3 * math.sqrt(batch_size / 1024),
        "mixup": {6: 0.2, 5: 0.5, 4: 0.8}[decade],  # Few labels are known by heart sooner.
        "warmup": {6: "10000 steps", 5: "10%", 4: "10%"}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "50 steps"
    config.checkpoint = {"every": "1000 steps", "keep": 2}

    config.objective = {
        "name": "supervised",
        "model": {
            "name": "vit",
            "patch_size": 16,
            "hidden_dim": 384,
            "depth": 12,
            "num_heads": 6,
            "position": "sincos",
            "pool": "gap",
            "activation": "gelu_tanh",  # What `nn.gelu` of Flax is.
        },
        "head_hidden_dim": 384,
    }
    config.data = {
        "source": "tfds:imagenet2012:train[:99%]",
        "image_size": 224,
        "crop": {"scale": (0.05, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "label": {"feature": "label"},
        "augment": {"randaugment": {"num_layers": 2, "magnitude": 10.0}},
        "mix": {"mixup": size["mixup"]},
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "cosine", "warmup": size["warmup"]},
        # big_vision's 1e-4 is multiplied by the schedule, not by its peak of 1e-3.
        "weight_decay": 1e-4 / 1e-3,
        "decay_rules": ((r"kernel$", True), (".*", False)),
        "clip_norm": 1.0,
    }
    config.evals = {
        "heldout": _classification("train[99%:]"),
        "validation": _classification("validation"),
    }
    return config


def _classification(split: str) -> dict:
    return {
        "name": "classification",
        "source": f"tfds:imagenet2012:{split}",
        "label": "label",
        "prefix": split.replace("train[99%:]", "heldout"),
        "every": "2500 steps",
    }
