"""DeiT-S with a distillation token on ImageNet-1k (Touvron et al. 2021, arXiv:2012.12877), as facebookresearch/deit.

    python -m vitfm.main --config=configs/deit_s16_in1k.py
    python -m vitfm.main --config=configs/deit_s16_in1k.py --config.teacher.run=DIR     taught by another classifier
    python -m vitfm.main --config=configs/deit_s16_in1k.py:10000 --config.data.source=...    for 10,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Teacher: in `imported/convnext_base`, a folder of transformers or timm that holds a ConvNeXt-B; any run or folder whose
classes are those of the data, in their order, may be one.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 300 epochs are 3.8e8 images of 28 GFLOP, and 31 more of the
teacher: 2, or 5, at 40% of the bfloat16 peak; computed, not measured.
Expected on `validation`: 81.2% top-1 as published with a RegNetY-16GF as teacher, 79.9% without one.
Differs from the published code: another teacher, since vitfm has no RegNet; no repeated augmentation; each example is
mixed by a share of its own; the warmup begins at a step's share of the rate, theirs at 1e-6.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    The published rate is linear in the batch; the rest is reasoned, not measured.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 1024, 5: 512, 4: 256}[decade]
    # A patient student of a good teacher gains for longer than one of labels: 375,000 steps, 117,000, 39,000.
    epochs = {6: 300, 5: 600, 4: 1000}[decade]
    return {
        "batch_size": batch_size,
        "epochs": epochs,
        "learning_rate": 5e-4 * batch_size / 512,
        # As published from a million: averaged over the last fifteenth of the run.
        "ema_decay": {6: 0.99996, 5: 0.9998, 4: 0.9994}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.ema_decay = size["ema_decay"]
    config.log_every = "50 steps"
    config.checkpoint = {"every": "2%", "keep": 2}

    config.objective = {
        "name": "deit",
        "distillation": "hard",
        "label_smoothing": 0.1,
        "model": {
            "name": "vit",
            "patch_size": 16,
            "hidden_dim": 384,
            "depth": 12,
            "num_heads": 6,
            "distillation_token": True,
            "pool": "cls_dist",
            "drop_path_rate": 0.1,
        },
    }
    config.teacher = {
        "run": "imported/convnext_base",
        # What is in that folder counts; this stands for it where it is not there yet.
        "objective": {"name": "supervised", "model": {"name": "convnext", "size": "B"}},
        "data": {
            "source": "tfds:imagenet2012:train",
            "image_size": 224,
            "label": {"feature": "label"},
            "augment": IMAGENET,
        },
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "label": {"feature": "label"},
        "augment": {
            "randaugment": {"magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5, "increasing": True},
            "erase": {"probability": 0.25, "fill": "noise"},
            **IMAGENET,
        },
        "mix": {"mixup": 0.8, "cutmix": 1.0},
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "cosine", "warmup": f"{5 / 300:.2%}", "end": 1e-5 / size["learning_rate"]},
        "weight_decay": 0.05,
        # As timm's `no_weight_decay` of DeiT: neither positions nor tokens decay, nor what has one axis.
        "decay_rules": ((r"kernel$", True), (".*", False)),
        "clip_norm": None,
    }
    config.evals = {
        "validation": {
            "name": "classification",
            "source": "tfds:imagenet2012:validation",
            "label": "label",
            "prefix": "validation",
            "every": "5%",
        }
    }
    return config
