"""VQ-KD on ImageNet-1k: BEiT v2's tokenizer as published (Peng et al. 2022, arXiv:2208.06366), for beit_b16_in1k.py.

    python -m vitfm.main --config=configs/vqkd_b16_in1k.py
    python -m vitfm.main --config=configs/vqkd_b16_in1k.py --config.teacher.run=DIR      taught by another model
    python -m vitfm.main --config=configs/vqkd_b16_in1k.py:100000 --config.data.source=...   for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Teacher: in `imported/dino_vitb16`, a folder of transformers or timm that holds DINO's ViT-B/16; or CLIP's, whose
patches here are those before the projection to the space of texts, where the authors' are projected.
Hardware: eight V100 in the authors' code (TOKENIZER.md, which these settings are from, as run_vqkd_training.py).
Expected: 97% of the codes in use, taught by CLIP with 3 blocks in the decoder; all of them with 1, which
`--config.objective.decoder.depth=1` is, also where DINO teaches (there). BEiT v2-B on it reaches 85.0% top-1 when
fine-tuned on ImageNet-1k after 22k.
Differs from the published code: k-means starts from the whole first batch, theirs from a device's 64 images.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
INCEPTION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
VIT_B16 = {"name": "vit", "size": "B", "patch_size": 16, "pool": "cls"}


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured, but for the published rate, which is linear in the batch.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 512, 5: 256, 4: 128}[decade]
    return {
        "batch_size": batch_size,
        "codes": {6: 8192, 5: 4096, 4: 1024}[decade],
        "epochs": {6: 100, 5: 300, 4: 600}[decade],  # 250,000 steps, 117,000, 47,000.
        "learning_rate": 5e-5 * batch_size / 128,
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "2%", "keep": 2}

    config.objective = {
        "name": "vqkd",
        "model": {**VIT_B16, "pool": "gap", "class_token": True},
        "decoder": {"size": "B", "depth": 3, "class_token": True},
        "codes": size["codes"],
        "code_dim": 32,
        "decay": 0.99,
        "commitment": 1.0,
        "start": "kmeans",
    }
    config.teacher = {
        "run": "imported/dino_vitb16",
        # What is in that folder counts; this stands for it where it is not there yet.
        "objective": {"name": "backbone", "model": VIT_B16},
        "data": {"source": "tfds:imagenet2012:train", "image_size": 224, "augment": IMAGENET},
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "augment": INCEPTION,
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "b2": 0.99,
        "schedule": {"name": "cosine", "warmup": "10%", "end": 1e-5 / size["learning_rate"]},
        "weight_decay": 1e-4,
        "clip_norm": None,
    }
    return config
