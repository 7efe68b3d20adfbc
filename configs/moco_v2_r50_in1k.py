"""MoCo v2: a ResNet-50 pretrained on ImageNet-1k as in the authors' code (Chen et al. 2020, arXiv:2003.04297).

    python -m vitfm.main --config=configs/moco_v2_r50_in1k.py
    python -m vitfm.main --config=configs/moco_v2_r50_in1k.py --config.total="800 epochs"
    python -m vitfm.main --config=configs/moco_v2_r50_in1k.py:v1        He et al. 2020, arXiv:1911.05722
    python -m vitfm.main --config=configs/moco_v2_r50_in1k.py:1e5 --config.data.source=...    for 100,000 images

Data: `tfds:imagenet2012`, prepared in ArrayRecord.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 200 epochs are 2.6e8 images, and two views of each, one with its
gradient, are 33 GFLOP: 0.7, or 1.9, at 40% of the bfloat16 peak, which convolutions in batches of 256 do not reach;
computed, not measured. At that speed the hosts have to decode 38,000 to 96,000 images a second; where they can't, they
decide. The authors' run took 53 hours on eight V100.
Expected on `validation`, under a linear probe: 67.7% top-1 after 200 epochs, 71.1% after 800, of `v1` 60.6% after 200
(the models in the README of the authors' code, which these settings are from; five runs there have 67.5 ± 0.1 and
60.8 ± 0.2). The published probe trains on augmented crops, the one here on one centre crop an image.
Batch statistics are those of 32 images, as on each of eight GPUs there, whose shuffle is a fixed one here
(`vitfm.objectives.moco`). Rates change with the step, theirs with the epoch; what turns grey does so after the jitter,
with `v1` theirs before it.
"""

import pathlib
import runpy

import ml_collections

from vitfm import config as config_lib

IMAGES = 1_281_167
scaled = runpy.run_path(str(pathlib.Path(__file__).with_name("moco.py")))["scaled"]
# Of each view; those of v1 are InstDisc's (Wu et al. 2018, arXiv:1805.01978).
AUGMENT = {
    "v1": {"hue": 0.4, "jitter_probability": 1.0},
    "v2": {"hue": 0.1, "jitter_probability": 0.8, "blur": {"probability": 0.5, "sigma": (0.1, 2.0)}},
}
SCHEDULE = {
    "v1": {"name": "steps", "at": (120 / 200, 160 / 200), "factor": 0.1},
    "v2": {"name": "cosine"},
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `v1` for MoCo v1, or the number of images, where it is not ImageNet's."""
    given = config_lib.argument(arg, "v1", images=IMAGES)
    version, images = ("v1", IMAGES) if given == "v1" else ("v2", given)
    size = scaled(images)
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "2%", "keep": 2, "keep_every": "20%"}

    config.objective = {
        "name": "moco",
        "version": version,  # Says what the head is, and the temperature: 0.07 in v1, 0.2 in v2.
        "model": {"name": "resnet", "size": "50"},
        "queue": size["queue"],
        "momentum": size["momentum"],
        "groups": size["batch_size"] // 32,
    }
    config.data = {
        "source": "tfds:imagenet2012:train",
        "image_size": 224,
        "crop": {"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3), "flip": True},
        "augment": {
            "brightness": 0.4,
            "contrast": 0.4,
            "saturation": 0.4,
            "grayscale": 0.2,
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            **AUGMENT[version],
        },
        "views": {"global": {"count": 2}},
        "threads": 32,
    }
    config.optim = {
        "name": "sgd",
        "learning_rate": size["learning_rate"],
        "schedule": SCHEDULE[version],
        "coupled_decay": 1e-4,  # On all there is, as torch's: norms and biases too.
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
