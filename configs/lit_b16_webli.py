"""LiT: a ViT-B/16 that was trained before stays as it is, a text tower of its size learns (Zhai et al. 2022,
arXiv:2111.07991).

    python -m vitfm.main --config=configs/lit_b16_webli.py --config.data.tokenizer.path=TOKENIZER.json
    python -m vitfm.main --config=configs/lit_b16_webli.py --config.init.run=DIR ...    another encoder of this shape
    python -m vitfm.main --config=configs/lit_b16_webli.py:1e6 --config.data.source=... ...    for a million pairs

Data: the released B/16s are of CC12M and YFCC100M. `tfds:webli` stands for pairs of `image` and `caption`, in
ArrayRecord.
Encoder: in `imported/vit_b16_augreg_in21k`, a folder of timm with AugReg's ViT-B/16 of ImageNet-21k, pooled by its
class token; of another shape, `config.objective.image` has to say so.
Tokenizer: BERT's of 30,522 tokens, as tokenizer.json; texts padded to 16.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 60,000 steps are 9.8e8 pairs of 43 GFLOP each, five sixths of it
the frozen tower's: 3.7, or 9.3, at 40% of the bfloat16 peak; computed, not measured. At that speed the hosts have to
decode 30,000 to 75,000 images a second.
Expected on ImageNet-1k, zero-shot: 73.9% top-1, of the released LiT-B16B_2 with BERT's weights in its text tower
(README_lit.md of google-research/big_vision). For that evaluator the classes need names, which TFDS does not have.
From big_vision (configs/proj/image_text/lit_coco.py, README_lit.md): steps, rate, length of the warmup, clipping, the
scale at the start, text length, RandAugment(2, 10) and flips, and that only the text tower ends in a map to the common
space. From memory: the batch, which is 4,096 in that example. Differs: the text tower begins at random, not as BERT,
and gives the mean of its tokens, not the first; AdamW with SigLIP's decay, where the code has Adafactor for large
towers and 0.01 times the schedule; whole images are 90% and more of them.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 27_000_000  # Of CC12M and of CLIP's part of YFCC100M, about.


def scaled(images: int) -> dict:
    """What depends on the number of pairs: as published from ten million, rules of thumb for fewer.

    Reasoned, not measured. Negatives are a batch's own, and the encoder is given: batches stay larger than CLIP's.
    """
    decade = min(max(round(math.log10(images)), 4), 7)
    batch_size = {7: 16384, 6: 8192, 5: 2048, 4: 512}[decade]
    return {
        "batch_size": batch_size,
        # 60,000 steps, and 3,700 to 3,900: few captions are soon known by heart.
        "epochs": {7: 36, 6: 30, 5: 75, 4: 200}[decade],
        # By the square root of the batch, as Adam's steps vary with it.
        "learning_rate": 1e-3 * math.sqrt(batch_size / 16384),
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of pairs, where they are fewer than ten million."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "60000 steps" if size["batch_size"] == 16384 else f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "5%", "keep": 2}

    config.init = {
        "run": "imported/vit_b16_augreg_in21k",
        "take": {"image/tower": "encoder"},
        "fresh": ["^text/", "^logit_"],
    }
    config.objective = {
        "name": "clip",
        "image": {"name": "vit", "size": "B", "patch_size": 16, "pool": "cls", "class_position": True},
        "text": {
            "name": "text",
            "hidden_dim": 768,
            "num_heads": 12,
            "causal": False,
            "pool": "mean",
            "projection_dim": 768,
        },
        "embed_dim": None,
        "initial_scale": 10.0,
        "mask_same_concept": False,
    }
    config.data = {
        "source": "tfds:webli:train",
        "image_size": 224,
        "crop": {"scale": (0.9, 1.0), "flip": True},
        "augment": {
            "randaugment": {"num_layers": 2, "magnitude": 10.0},
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        },
        "captions": {"name": "caption", "tags": None, "templates": ("{}",)},
        "tokenizer": {"path": "emoji_bpe", "length": 16, "lowercase": True},  # Path: see above.
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "cosine", "warmup": "3%"},
        "weight_decay": 0.1,
        "clip_norm": 1.0,
        "freeze": ("^image/",),
    }
    config.evals = {
        "retrieval": {
            "name": "retrieval",
            "source": "tfds:webli:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "10%",
        },
    }
    return config
