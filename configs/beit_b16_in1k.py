"""BEiT: a ViT-B/16 pretrained on ImageNet-1k as published (Bao et al. 2021, arXiv:2106.08254), as microsoft/unilm.

    python -m vitfm.main --config=configs/beit_b16_in1k.py          by DALL-E's tokenizer, in imported/dall_e
    python -m vitfm.main --config=configs/beit_b16_in1k.py:v2       by VQ-KD's of runs/vqkd_b16_in1k: BEiT v2
    python -m vitfm.main --config=configs/beit_b16_in1k.py:100000 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Tokenizer: `imported/dall_e`, a folder of transformers with FLAVA's image codebook, which is DALL-E's encoder, and sees
112 of the 224 pixels; for `v2`, what configs/vqkd_b16_in1k.py trains.
Hardware: sixteen V100 of 32 GB in the authors' code, which these settings are from.
Expected: 83.2% top-1 on `validation` when fine-tuned (the paper). `v2` is BEiT v2's long schedule (PRETRAINING.md
there) without its shortcut from the class token, with which the paper reaches 85.5%; without, nothing is known here.
Differs from the published code: the tokenizer's view of the crop is resized linearly, with antialiasing, from the 224
pixels, theirs by Lanczos from the original; colours vary after the crop.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
SOURCE = "tfds:imagenet2012:train"
DALL_E = {
    "run": "imported/dall_e",
    # What is in that folder counts; this stands for it where it is not there yet.
    "objective": {"name": "dvae", "decoder": None},
    "data": {"source": SOURCE, "image_size": 112},
}
VIT_B16 = {"name": "vit", "size": "B", "patch_size": 16}
VQKD = {
    "run": "runs/vqkd_b16_in1k",
    "objective": {"name": "vqkd", "model": {**VIT_B16, "class_token": True}, "decoder": {"size": "B", "depth": 3}},
    "data": {"source": SOURCE, "image_size": 224, "augment": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}},
    "teacher": {
        "run": "imported/dino_vitb16",
        "objective": {"name": "backbone", "model": {**VIT_B16, "pool": "cls"}},
        "data": {"source": SOURCE, "image_size": 224},
    },
}


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured. There is no queue and no negative: a batch need only be large enough to be fast. With
    fewer images take a tokenizer with fewer codes, or DALL-E's, which has seen more.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 2048, 5: 1024, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {6: 800, 5: 1600, 4: 4000}[decade],  # 500,000 steps, and 156,000 for fewer images.
        "learning_rate": 1.5e-3 * batch_size / 2048,
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is `v2`, or the number of images, where it is not ImageNet's."""
    given = config_lib.argument(arg, "v2", images=IMAGES)
    second = given == "v2"
    size = scaled(IMAGES if second else given)
    epochs = 1600 if second else size["epochs"]
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{epochs} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "2%", "keep": 2, "keep_every": "25%"}

    config.objective = {
        "name": "beit",
        "model": {
            "name": "vit",
            "size": "B",
            "patch_size": 16,
            "position": "none",
            "relative_position": "shared",
            "pool": "cls",
            "layer_scale": 0.1,
            "qkv_bias": "qv",
            "drop_path_rate": 0.1,
        },
        "codes": 8192,
        "masked_patches": 75,
        "smallest_block": 16,
    }
    config.teacher = VQKD if second else DALL_E
    config.data = {
        "source": SOURCE,
        "image_size": 224,
        "crop": {"scale": (0.2 if second else 0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "augment": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, **IMAGENET},
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "b2": 0.999 if second else 0.98,
        "schedule": {"name": "cosine", "warmup": f"{size['epochs'] // 80} epochs", "end": 1e-5 / size["learning_rate"]},
        "weight_decay": 0.05,
        # As in the authors' code: all that has axes decays, biases by offset and the mask token too.
        "decay_rules": ((r"(kernel|relative_position/table|mask_token)$", True), (".*", False)),
        "clip_norm": 3.0,
    }
    return config
