"""SimCLR: a ResNet-50 pretrained on ImageNet-1k as published (Chen et al. 2020, arXiv:2002.05709, section 2.2).

    python -m vitfm.main --config=configs/simclr_r50_in1k.py
    python -m vitfm.main --config=configs/simclr_r50_in1k.py:10000 --config.data.source=...    for 10,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 100 epochs are 1.3e8 images, and both views of each are 49 GFLOP:
0.6, or 1.4, at 40% of the bfloat16 peak, which convolutions seldom reach; computed, not measured. At that speed the
hosts have to decode 25,000 to 60,000 images a second; where they can't, they decide. The authors' run took 1.5 hours on
128 TPU v3 cores.
Expected on `validation`, under a linear probe: 64.5% top-1 after 100 epochs, 69.1% after 1,000 (the authors' code). The
published probe trains on augmented crops, the one here on one centre crop an image.
Differs from the authors' code: the learning rate multiplies the momentum from outside, see `vitfm.optim.lars`.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167


def scaled(images: int) -> dict:
    """What depends on the number of images: as published from a million, rules of thumb for a hundred and ten thousand.

    Rates follow from the paper's appendix B.1; the rest is reasoned, not measured.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    # Negatives come from the batch, but an epoch should be dozens of steps: at most a fortieth of the images.
    batch_size = {6: 4096, 5: 1024, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        # Steps are what learns: 31,000 to 39,000 of them each time.
        "epochs": {6: 100, 5: 400, 4: 1000}[decade],
        # Linear in the batch as published; below 4096 with its square root, which is better there (table B.1).
        "learning_rate": 0.3 * batch_size / 256 if batch_size >= 4096 else 0.075 * batch_size**0.5,
        # Few negatives: a softer softmax, so that more than the nearest one counts.
        "temperature": {6: 0.1, 5: 0.1, 4: 0.2}[decade],
        # There is neither a moving average nor a queue to scale.
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not ImageNet's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "50 steps"
    config.checkpoint = {"every": "5%", "keep": 2}

    config.objective = {
        "name": "simclr",
        "model": {"name": "resnet", "size": "50"},
        "hidden_dim": 2048,
        "out_dim": 128,
        "temperature": size["temperature"],
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.08, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        # Strength 1 (appendix A).
        "augment": {
            "brightness": 0.8,
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
            "jitter_probability": 0.8,
            "grayscale": 0.2,
            "blur": {"probability": 0.5, "sigma": (0.1, 2.0), "kernel_size": 23},
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
        },
        "views": {"global": {"count": 2}},
        "threads": 32,
    }
    config.optim = {
        "name": "lars",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "cosine", "warmup": "10%"},
        "coupled_decay": 1e-6,
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
