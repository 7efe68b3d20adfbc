"""Distillation: DINOv2's ViT-L/14 into a ViT-B/14 by its features on ImageNet-1k (Proteus, Zhang et al. 2024,
arXiv:2407.10366).

    python -m vitfm.main --config=configs/distill_b14_in1k.py
    python -m vitfm.main --config=configs/distill_b14_in1k.py --config.teacher.run=DIR        another teacher's features
    python -m vitfm.main --config=configs/distill_b14_in1k.py:1e5 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord; no labels are used but by the probes.
Teacher: in `imported/dinov2_large`, a folder of transformers with DINOv2's ViT-L/14, which sees 224 pixels.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 300 epochs are 3.8e8 images of 140 GFLOP, and 160 more of the
teacher: 10, or 25, at 40% of the bfloat16 peak; computed, not measured.
Expected on `validation`, under a linear probe: 84.9% top-1 (README of BeSpontaneous/Proteus-pytorch), where the teacher
has 86.3% (README of DINOv2). The published probe trains on augmented crops, the one here on one centre crop an image.
From the authors' code (pretrain/run_pretrain.sh, main.py, models_proteus_dinov2.py): squared differences of the class
token and of all patches after linear maps, student, batch of four GPUs of 128, epochs, rate, decay, averaging, crops,
RandAugment and erasing.
Differs: their third term, of patches that the student does not see, is left out; their maps have a norm before them;
their mean over the patches has the class token in it, too; no repeated augmentation.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured. There is neither a queue nor a negative: a batch need only be large enough to be fast.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 512, 5: 512, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        # A teacher does not tire: the longer, the nearer. 750,000 steps, 156,000, 78,000.
        "epochs": {6: 300, 5: 800, 4: 2000}[decade],
        "learning_rate": 5e-4 * batch_size / 512,  # As published, linear in the batch.
        # As published from a million: averaged over the last thirtieth of the run.
        "ema_decay": {6: 0.99996, 5: 0.9998, 4: 0.9996}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.ema_decay = size["ema_decay"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "2%", "keep": 2}

    config.objective = {
        "name": "distill",
        "model": {"name": "vit", "size": "B", "patch_size": 14, "pool": "cls", "layer_scale": 1.0},
        "pooled": 1.0,
        "patches": 1.0,
        "distance": "l2",
    }
    config.teacher = {
        "run": "imported/dinov2_large",
        # What is in that folder counts; this stands for it where it is not there yet.
        "objective": {
            "name": "backbone",
            "model": {
                "name": "vit",
                "size": "L",
                "patch_size": 14,
                "image_size": 518,
                "position_resize": "bicubic",
                "layer_scale": 1.0,
                "pool": "cls",
            },
        },
        "data": {"source": "tfds:imagenet2012:train", "image_size": 224, "augment": IMAGENET},
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "augment": {
            "randaugment": {"magnitude": 9.0, "magnitude_std": 0.5, "probability": 0.5, "increasing": True},
            "erase": {"probability": 0.25, "fill": "noise"},
            **IMAGENET,
        },
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "cosine", "warmup": f"{5 / 300:.2%}", "end": 1e-5 / size["learning_rate"]},
        "weight_decay": 0.05,
        # As in the authors' code: all that has axes decays, positions and class token too; layer scales do not.
        "decay_rules": ((r"(kernel|position|token)$", True), (".*", False)),
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
