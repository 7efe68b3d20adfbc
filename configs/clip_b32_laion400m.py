"""CLIP: open_clip's `ViT-B-32-quickgelu` of LAION-400M (Radford et al. 2021, arXiv:2103.00020).

    python -m vitfm.main --config=configs/clip_b32_laion400m.py --config.data.tokenizer.path=TOKENIZER.json
    python -m vitfm.main --config=configs/clip_b32_laion400m.py:1e6 --config.data.source=...    for a million pairs

Data: `tfds:laion400m` stands for pairs of `image` and `caption`, in ArrayRecord, of which some are `validation`.
Tokenizer: CLIP's, as tokenizer.json; texts padded to 77.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 32 epochs are 13 billion pairs of 44 GFLOP each: 51, or 127, at
40% of the bfloat16 peak; computed, not measured. At that speed the hosts have to decode 28,000 to 72,000 images a
second. The authors' run took 36 hours on 128 A100.
Expected on ImageNet-1k, zero-shot: 62.96% top-1 (docs/PRETRAINED.md of open_clip). For that evaluator the classes need
names, which TFDS does not have.
From open_clip: the model, batch and hardware (docs/PRETRAINED.md), and, as the defaults of its trainer (params.py),
epochs, rate, b2, epsilon, decay and warmup: how those weights were trained beyond that is not said there. From memory:
the number of pairs; random crops of 90% and more, without flips.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 407_332_084


def scaled(images: int) -> dict:
    """What depends on the number of pairs: as published from 100 million, rules of thumb for fewer.

    Reasoned, not measured. Negatives are a batch's own: with fewer images more of them would show the same thing. Below
    ten million the towers are too large, too: see configs/clip.py.
    """
    decade = min(max(round(math.log10(images)), 4), 8)
    batch_size = {8: 32768, 7: 16384, 6: 4096, 5: 1024, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {8: 32, 7: 32, 6: 32, 5: 75, 4: 200}[decade],  # 398,000 steps, 20,000, 7,800, 7,300, 7,800.
        # By the square root of the batch, as Adam's steps vary with it, below 4096.
        "learning_rate": 5e-4 * math.sqrt(min(batch_size, 4096) / 4096),
        "warmup": "10000 steps" if decade == 8 else "10%",
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of pairs, where it is not LAION-400M's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "1%", "keep": 2, "keep_every": "10%"}

    config.objective = {
        "name": "clip",
        "image": {
            "name": "vit",
            "size": "B",
            "patch_size": 32,
            "pool": "cls",
            "pre_norm": True,
            "stem_bias": False,
            "epsilon": 1e-5,
            "activation": "quick_gelu",
        },
        "text": {"name": "text", "hidden_dim": 512, "depth": 12, "num_heads": 8, "activation": "quick_gelu"},
        "embed_dim": 512,
        "mask_same_concept": False,
    }
    config.data = {
        "source": "tfds:laion400m:train",
        "image_size": 224,
        "crop": {"scale": (0.9, 1.0), "flip": False},
        "augment": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
        "captions": {"name": "caption", "tags": None, "templates": ("{}",)},
        "tokenizer": {"path": "emoji_bpe", "length": 77},  # Path: see above.
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "b2": 0.98,
        "epsilon": 1e-6,
        "schedule": {"name": "cosine", "warmup": size["warmup"]},
        "weight_decay": 0.2,
        "clip_norm": None,
    }
    config.evals = {
        "retrieval": {
            "name": "retrieval",
            "source": "tfds:laion400m:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "5%",
        },
    }
    return config
