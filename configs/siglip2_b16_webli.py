"""SigLIP 2: a ViT-B/16, a text tower of its size and a decoder (Tschannen et al. 2025, arXiv:2502.14786, section 2).

    python -m vitfm.main --config=configs/siglip2_b16_webli.py --config.data.tokenizer.path=TOKENIZER.json
    python -m vitfm.main --config=configs/siglip2_b16_webli.py:1e6 --config.data.source=... ...    for a million pairs

Data: WebLI is not public. `tfds:webli` stands for pairs of `image` and `caption`, prepared in ArrayRecord.
Tokenizer: Gemma's of 256,000 tokens, as tokenizer.json, which the released models have; texts padded to 64.
Hardware: the paper's up to 2,048 TPU v5e chips. Hours: not estimated.
Expected on ImageNet-1k, zero-shot: 78.2% top-1, the released B/16, which went on at 224 pixels. For that evaluator the
classes need names, which TFDS does not have.
From the paper: image and text length, batch, examples, rate, decay, the length of the warmup, the losses' weights, and
when the last part begins. From memory of it, unconfirmed: the last part's factor, 0.25 for B, and eight local views.
From SILC: how large a share of the image a view is. Not from there, as it is not known here or not public: boxes, so
that the decoder captions only; b2, which is SigLIP's; the crop; the size of local views; the teacher's momentum,
temperatures and heads, which are DINO's; AdamW.
"""

import pathlib
import runpy

import ml_collections

from vitfm import config as config_lib

IMAGES = 10_000_000_000  # Of WebLI, about; from memory.
scaled = runpy.run_path(str(pathlib.Path(__file__).with_name("siglip2.py")))["scaled"]


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
        "name": "siglip2",
        "image": {"name": "vit", "patch_size": 16, "pool": "map", "mask_token": True, **sizes},
        "text": {"name": "text", **sizes},
        "last_part": {"name": "switch", "start": 0.0, "end": 0.25, "length": "80%"},
        "initial_bias": size["initial_bias"],
        "momentum": size["momentum"],
        "prototypes": size["prototypes"],
        "mask_same_concept": False,
    }
    config.data = {
        "source": "tfds:webli:train",
        "image_size": 256,
        # The whole image, squeezed as SigLIP's processor does, is what evaluation sees.
        "evaluation": {"size": 256, "resize": "exact", "interpolation": "bilinear"},
        "crop": {"scale": (0.9, 1.0), "flip": False},
        "captions": {"name": "caption", "tags": None, "templates": ("{}",)},
        "tokenizer": {"path": "emoji_bpe", "length": 64, "lowercase": True},  # Path: see above.
        "keep_image": True,
        "views": {
            "global": {"count": 1, "crop": {"scale": (0.4, 1.0)}},
            "local": {"count": 8, "size": 96, "crop": {"scale": (0.05, 0.4)}},
        },
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        "b2": 0.95,
        "schedule": {"name": "cosine", "warmup": "20000 steps" if images == IMAGES else "2%"},
        # As in SigLIP's code, 1e-4 is multiplied by the schedule, not by its peak of 1e-3.
        "weight_decay": 1e-4 / 1e-3,
        "clip_norm": 1.0,
        # Drawn at random when the last part begins, and their moments with them.
        "freeze": (("^(head|patch_head)/|^image/tower/mask_token$", "80%"),),
    }
    config.evals = {
        name: {
            "name": name,
            "source": "tfds:webli:validation",
            "caption": "caption",
            "prefix": "validation",
            "every": "5%",
        }
        for name in ("captions", "retrieval")
    }
    return config
