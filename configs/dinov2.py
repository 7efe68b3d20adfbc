"""DINOv2 on `emoji`, the data set inside vitfm: drawings by four hands, without their names.

    python -m vitfm.main --config=configs/dinov2.py
    python -m vitfm.main --config=configs/dinov2.py:gram      with DINOv3's Gram anchoring in the second half

To go on from weights of DINOv2's: docs/warm_start.md.

Hardware: two CPU cores. Time: about five minutes with AVX-512.
Expected: on drawings of a fifth hand, 98 subgroups, 33% under the linear probe, where raw pixels have 27%;
docs/recipes/README.md has more. configs/dinov2_l16_in1k.py has the published settings, and what of them to change for
fewer images.
"""

import ml_collections

from vitfm import config as config_lib

COLOURS = {
    "background": "random",
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "jitter_probability": 0.8,
    "grayscale": 0.2,
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `gram` anchors; `--config=configs/dinov2.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny", "gram")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "5 epochs"
    config.batch_size = 64  # Twice the steps that 128 would allow.
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "dinov2",
        "model": {
            "name": "vit",
            "stem": "conv",
            "patch_size": 16,  # The steps are four times as cheap as with 8.
            "hidden_dim": 192,
            "depth": 2,
            "num_heads": 3,
            "position": "sincos",  # Where it is, is all that a masked patch knows; see configs/simmim.py.
            "registers": 1,  # Four are a sixth of the step, for a local view has but five other tokens.
        },
        "prototypes": 512,  # As for any ten thousand images.
        "hidden_dim": 512,
        "bottleneck_dim": 128,
        "teacher_temperature": 0.04,
        "momentum": {"name": "cosine", "start": 0.9, "end": 1.0},  # Of so few steps it must not lag by fifty.
        # Drawings of one thing by several hands are neighbours, which the published 0.1 drives apart.
        "koleo_weight": 0.01,
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {"flip": False, "ratio": (0.8, 1.25)},
        "augment": COLOURS,
        "views": {
            "global": {"count": 2, "crop": {"scale": (0.4, 1.0)}},
            "local": {"count": 4, "size": 32, "crop": {"scale": (0.1, 0.4)}},
        },
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "newton_schulz_steps": 3,  # See configs/aim.py.
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup": "10%"},
        "weight_decay": {"name": "cosine", "start": 0.04, "end": 0.4},
        "clip_norm": None,
        "clip_module_norm": 3.0,
        "freeze": (("head/prototypes", "5%"),),
    }
    config.evals = {
        "knn": {**_probe("knn"), "every": "50%"},
        "knn_whitened": {**_probe("knn"), "whiten": True},
        "linear_probe": _probe("linear_probe"),
        "fewshot": _probe("fewshot"),
        "attention": {"name": "attention", "source": "tfds:emoji:test_style", "prefix": "test_style", "every": "50%"},
    }
    if arg == "gram":
        config.objective.update({"gram_weight": 2.0, "gram_from": 160, "gram_start": 233, "gram_every": 80})
    if arg == "tiny":
        config.total = "20 steps"
        config.objective.model.update({"hidden_dim": 64, "num_heads": 2})
        config.objective.update({"hidden_dim": 64, "bottleneck_dim": 32, "prototypes": 64})
        config.objective.update({"gram_weight": 2.0, "gram_start": 5, "gram_every": 5})
    return config


def _probe(name: str) -> dict:
    return {
        "name": name,
        "train": "tfds:emoji:train",
        "test": "tfds:emoji:test_style",
        "label": "subgroup",
        "prefix": "test_style",
    }
