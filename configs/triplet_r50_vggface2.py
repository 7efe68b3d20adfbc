"""FaceNet: a ResNet-50 whose distances tell persons apart (Schroff et al. 2015, arXiv:1503.03832).

    python -m vitfm.main --config=configs/triplet_r50_vggface2.py
    python -m vitfm.main --config=configs/triplet_r50_vggface2.py:1e5 --config.data.source=...    for 100,000 images

Data: the authors' 100 to 200 million faces of eight million persons are not public. `tfds:vgg_face2` stands for
VGGFace2 (3.1 million of 8,631 persons, and 500 others in `test`; from memory), prepared of its folders, one a person,
by `python -m vitfm.data prepare`; or `--config.data.source=folder:DIR`. Faces are cut out and upright beforehand.
Hardware: eight H100, or sixteen TPU v5e chips. Hours: 100 epochs are 3.1e8 images of 25 GFLOP each: 0.7, or 1.7, at 40%
of the bfloat16 peak, which convolutions seldom reach; computed, not measured. The authors' took 1,000 to 2,000 hours on
a cluster of CPUs.
Expected: the paper's 99.63% of the pairs of LFW is of the authors' faces; of these, nothing is known here. vitfm has no
evaluator for pairs: the nearest neighbours are those of other faces of the 500 persons.
From the paper: margin, 128 numbers, semi-hard negatives, batches of 1,800 with 40 faces of a person, AdaGrad at a rate
of 0.05, lowered to end with; by how much and when is not said. Not from there: the encoder, in place of its Inception,
and with it batch norm; that all of a batch's persons have 40 faces, where theirs has further faces as negatives; crops,
flips and length.
"""

import math

import ml_collections

from vitfm import config as config_lib

IMAGES = 3_141_890


def scaled(images: int) -> dict:
    """What depends on the number of images; reasoned from the paper's 1,800 a batch, not measured.

    AdaGrad divides by the gradients it has seen, of any batch: its rate stays.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    return {
        # Semi-hard negatives come from the batch: the more images, the more of them have to be in it.
        "batch_size": {6: 1800, 5: 720, 4: 240}[decade],
        # Of 45, 36 and 30 persons: of fewer images, fewer are of one.
        "images": {6: 40, 5: 20, 4: 8}[decade],
        "epochs": 100,  # Labels are learned by heart as in supervised training: 175,000 steps, 14,000, 4,200.
        "learning_rate": 0.05,
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `arg` is the number of images, where it is not VGGFace2's."""
    size = scaled(config_lib.argument(arg, images=IMAGES))
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = f"{size['epochs']} epochs"
    config.batch_size = size["batch_size"]
    config.log_every = "100 steps"
    config.checkpoint = {"every": "5%", "keep": 2}

    config.objective = {
        "name": "triplet",
        "model": {"name": "resnet", "size": "50"},
        "embed_dim": 128,
        "margin": 0.2,
        "mining": "semi-hard",
    }
    config.data = {
        "source": "tfds:vgg_face2:train",
        "image_size": 224,
        "label": {"feature": "label"},
        "balance": {"images": size["images"]},
        "crop": {"scale": (0.7, 1.0), "ratio": (0.9, 1.1), "flip": True},
        "augment": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        "threads": 32,
    }
    config.optim = {
        "name": "adagrad",
        "learning_rate": size["learning_rate"],
        "schedule": {"name": "steps", "at": (0.8, 0.95)},
        "clip_norm": None,
    }
    config.evals = {
        "knn": {
            "name": "knn",
            "train": "tfds:vgg_face2:test[:80%]",
            "test": "tfds:vgg_face2:test[80%:]",
            "label": "label",
            "prefix": "test",
            "every": "10%",
        },
    }
    return config
