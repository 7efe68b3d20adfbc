"""CoCa: a ViT-B/32 with text decoders of its kind, as open_clip's `coca_ViT-B-32` (Yu et al. 2022, arXiv:2205.01917).

    python -m vitfm.main --config=configs/coca_b32_webli.py --config.data.tokenizer.path=TOKENIZER.json
    python -m vitfm.main --config=configs/coca_b32_webli.py:1e6 --config.data.source=... ...    for a million pairs

Data: open_clip's weights are of LAION-2B. `tfds:webli` stands for pairs of `image` and `caption`, in ArrayRecord.
Tokenizer: CLIP's, as tokenizer.json; texts padded to 76.
Hardware: 32 H100, or 128 TPU v5e chips. Hours: 13 billion pairs of 100 GFLOP each: 28, or 36, at 40% of the bfloat16
peak; computed, not measured. Logits are float32, 15 MB an example with CLIP's vocabulary: `accumulate` where these do
not fit.
Expected on ImageNet-1k, zero-shot: 63.3% top-1 (open_clip's weights, 13 billion pairs in batches of about 90,000).
From open_clip: the model, with the class token's mask as in the paper; the losses' weights; batch and pairs. How those
weights were optimised is not known here: AdamW's settings, the crop and the warmup are the defaults of its trainer.
"""

import pathlib
import runpy

import ml_collections

from vitfm import config as config_lib

IMAGES = 2_300_000_000  # Of LAION-2B, about; from memory.
scaled = runpy.run_path(str(pathlib.Path(__file__).with_name("coca.py")))["scaled"]


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of pairs, where it is not LAION-2B's."""
    images = config_lib.argument(arg, images=IMAGES)
    size = scaled(images)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "13e9 examples" if images == IMAGES else f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "1000 steps", "keep": 2, "keep_every": "5%"}

    sizes = {"depth": 12, "num_heads": 8}
    config.objective = {
        "name": "coca",
        "image": {
            "name": "vit",
            "size": "B",
            "patch_size": 32,
            "pool": "cls",
            "pre_norm": True,
            "stem_bias": False,
            "final_norm": False,
            "epsilon": 1e-5,
        },
        "text": {"hidden_dim": 512, **sizes},
        # The published form; that of the paper is {"kind": "cascade"}, and a captioner of blocks with one MLP.
        "pooler": {"kind": "first", "queries": 256, "num_heads": 8},
        "captioner": {"two_mlps": True, **sizes},
        "caption_weight": 2.0,
        "contrastive_weight": 1.0,
        "mask_same_concept": False,
        "generation": {"name": "beam", "beams": 6},
    }
    config.data = {
        "source": "tfds:webli:train",
        "image_size": 224,
        "crop": {"scale": (0.9, 1.0), "flip": False},
        "augment": {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)},
        "captions": {"name": "caption", "tags": None, "templates": ("{}",)},
        "tokenizer": {"path": "emoji_bpe", "length": 76},  # Path: see above.
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
        "captions": {
            "name": "captions",
            "source": "tfds:webli:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "5%",
        },
        "retrieval": {
            "name": "retrieval",
            "source": "tfds:webli:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "5%",
        },
    }
    return config
