"""SigLIP: a ViT-B/16 and a text tower of its size, as published (Zhai et al. 2023, arXiv:2303.15343, section 4.2).

    python -m vitfm.main --config=configs/siglip_b16_webli.py --config.data.tokenizer.path=TOKENIZER.json
    python -m vitfm.main --config=configs/siglip_b16_webli.py:1e6 --config.data.source=... ...    for a million pairs

Data: WebLI is not public. `tfds:webli` stands for pairs of `image` and `caption`, prepared in ArrayRecord.
Tokenizer: a SentencePiece of 32,000 tokens from C4, as tokenizer.json; texts in lower case, padded to 64.
Hardware: 64 H100, or 256 TPU v5e chips. Hours: 40 billion pairs of 140 GFLOP each: 60, or 80, at 40% of the bfloat16
peak; computed, not measured. At that speed the hosts have to decode 140,000 to 185,000 images a second.
Expected on ImageNet-1k, zero-shot: 76.0% top-1 (the released B/16 at 224 pixels). For that evaluator the classes need
names, which TFDS does not have.
From the paper and its code: the loss with its start, batch, towers, rate, b2 and decay. Not from there: AdamW, where
the code has Adafactor with a first moment; the crop; the length of the warmup.
"""

import pathlib
import runpy

import ml_collections

from vitfm import config as config_lib

IMAGES = 10_000_000_000  # Of WebLI, about; from memory.
scaled = runpy.run_path(str(pathlib.Path(__file__).with_name("siglip.py")))["scaled"]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of pairs, where it is not WebLI's."""
    images = config_lib.argument(arg, images=IMAGES)
    size = scaled(images)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "40e9 examples" if images == IMAGES else f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "1000 steps", "keep": 2, "keep_every": "5%"}

    sizes = {"hidden_dim": 768, "depth": 12, "num_heads": 12, "activation": "gelu_tanh", "epsilon": 1e-6}
    config.objective = {
        "name": "siglip",
        "image": {"name": "vit", "patch_size": 16, "pool": "map", **sizes},
        "text": {"name": "text", **sizes},
        "initial_bias": size["initial_bias"],
        "mask_same_concept": False,
    }
    config.data = {
        "source": "tfds:webli:train",
        "image_size": 224,
        # The whole image, squeezed as SigLIP's processor does, is what evaluation sees.
        "evaluation": {"size": 224, "resize": "exact", "interpolation": "bilinear"},
        "crop": {"scale": (0.9, 1.0), "flip": False},
        "captions": {"name": "caption", "tags": None, "templates": ("{}",)},
        "tokenizer": {"path": "emoji_bpe", "length": 64, "lowercase": True},  # Path: see above.
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "b2": 0.95,
        "schedule": {"name": "cosine", "warmup": "2%"},
        # The code's 1e-4 is multiplied by the schedule, not by its peak of 1e-3.
        "weight_decay": 1e-4 / 1e-3,
        "clip_norm": 1.0,
    }
    config.evals = {
        "retrieval": {
            "name": "retrieval",
            "source": "tfds:webli:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "5%",
        },
    }
    return config
