"""DALL-E's discrete VAE, trained on ImageNet-1k (Ramesh et al. 2021, arXiv:2102.12092, section 2.1 and appendix A).

    python -m vitfm.main --config=configs/dvae_in1k.py
    python -m vitfm.main --config=configs/dvae_in1k.py:100000 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord; the authors had 250 million pictures from the internet.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 1,200 epochs are 1.5e9 images of 1,740 GFLOP each: 235, or 590,
at 40% of the bfloat16 peak, which so narrow convolutions may not reach; computed, not measured.
Expected: nothing is published for ImageNet. BEiT needs no such run: `config.teacher.run` may be a folder with DALL-E's
own encoder (transformers' `FlavaImageCodebook`).
The networks are the published ones; updates, batch, AdamW, averaging of the parameters, and the courses of step size,
temperature and weight of the KL, all of them cosines, are those of appendix A.2.
Differs: weight decay is on kernels alone, where the paper names no exception. Listing 1 cuts a random square of the
shorter side, resizes it to 9/8 to 12/8 of 256 pixels by area and cuts a random 256 from it, mirrored or not (that, from
memory): 2/3 to 8/9 of the shorter side. Here that is drawn as an area, as an image of 4:3 has it, evenly in the area.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Reasoned, not measured: codes are of 8 x 8 pixels, of which few images have many, so that it takes fewer steps.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    return {
        "batch_size": {6: 512, 5: 256, 4: 128}[decade],
        "epochs": {6: 1200, 5: 2400, 4: 6000}[decade],  # 3,000,000, 940,000 and 470,000 steps.
        "learning_rate": 1e-4,
        "codes": {6: 8192, 5: 4096, 4: 1024}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.ema_decay = 0.999
    config.log_every = "100 steps"
    config.checkpoint = {"every": "1%", "keep": 2, "keep_every": "25%"}

    config.objective = {
        "name": "dvae",
        "model": {"base_dim": 256, "groups": 4, "blocks": 2, "remat": True},
        "codes": size["codes"],
        "decoder": {"base_dim": 256, "blocks": 2, "code_dim": 128, "remat": True},
        "temperature": {"name": "cosine", "start": 1.0, "end": 1 / 16, "length": "5%"},
        "kl_weight": {"name": "cosine", "start": 0.0, "end": 6.6, "length": "5000 steps"},
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 256,
        "crop": {"scale": (3 / 4 * (2 / 3) ** 2, 3 / 4 * (8 / 9) ** 2), "ratio": (1.0, 1.0), "flip": True},
        "augment": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
        "threads": 32,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": size["learning_rate"],
        # Down to 1.25e-6 within 1,200,000 of 3,000,000 updates.
        "schedule": {"name": "cosine", "end": 1.25e-2, "length": "40%"},
        "weight_decay": 1e-4,
        "clip_norm": None,
    }
    config.evals = {
        "pictures": {
            "name": "reconstruction",
            "source": "tfds:imagenet2012:validation",
            "prefix": "validation",
            "every": "5%",
        },
    }
    return config
