"""CLIP on `emoji`, the data set inside vitfm: image and name of some 1,700 emoji, each drawn by up to four hands.

    python -m vitfm.main --config=configs/clip.py

Hardware: two CPU cores, 3 GB of memory. Time: under five minutes, of which about four train.
Expected: zero-shot over all 1,906 names, on drawings of a fifth hand: 22.3 ± 1.4% top-1, 45.9 ± 0.9% top-5 over three
seeds. docs/recipes/clip.md has the rest, with the table of what was tried. configs/clip_b32_laion400m.py has the
published settings, and what of them to change for fewer pairs.
"""

import ml_collections

from vitfm import config as config_lib

ALL_NAMES = "tfds:emoji:train+test_concept"
TEMPLATES = ("{}", "an emoji of {}")
CAPTIONS = ("{}", "{} emoji", "an emoji of {}", "a drawing of {}", "a picture of {}", "an icon of {}")


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/clip.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "18 epochs"
    config.batch_size = 256
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 2}

    config.objective = {
        "name": "clip",
        "image": {"name": "vit", "stem": "conv", "patch_size": 16, "hidden_dim": 192, "depth": 2, "num_heads": 3},
        # Names are a few words: one block that sees all of them, and their mean, learn faster than a deep causal tower.
        "text": {"name": "text", "hidden_dim": 192, "depth": 1, "num_heads": 3, "causal": False, "pool": "mean"},
        "embed_dim": 192,
    }
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": 64,
        "alpha": True,
        # Arrows have a direction: nothing is mirrored.
        "crop": {
            "scale": (0.75, 1.15),
            "ratio": (0.8, 1.25),
            "rotation": 6.0,
            "flip": False,
        },
        "captions": {"name": "name", "tags": "tags", "templates": CAPTIONS, "tag_probability": 0.2},
        "tokenizer": {"path": "emoji_bpe", "length": 12},
        "columns": {"concept": "codepoint"},
        "augment": {"background": "random", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "grayscale": 0.1},
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "muon",
        "learning_rate": 4e-3,
        "schedule": {"name": "cosine", "warmup": "5%"},
        "weight_decay": 0.2,
        "clip_norm": 1.0,
    }
    config.evals = {
        "validation": _zeroshot("validation", every="25%"),
        "test_style": _zeroshot("test_style", group={"label": "group"}, subgroup={"label": "subgroup"}),
        "test_concept": _zeroshot(
            "test_concept", heldout={"label": "name"}, group={"label": "group"}, subgroup={"label": "subgroup"}
        ),
        "validation_retrieval": _retrieval("validation"),
        "test_style_retrieval": _retrieval("test_style", pictures=12),
        "test_concept_retrieval": _retrieval("test_concept"),
    }
    if arg == "tiny":
        config.total = "20 steps"
        config.batch_size = 64
        config.objective.image.update({"hidden_dim": 64, "depth": 2, "num_heads": 2})
        config.objective.text.update({"hidden_dim": 64, "num_heads": 2})
    return config


def _zeroshot(split: str, every: str | None = None, **tasks: dict[str, str]) -> dict:
    """Zero-shot over all names, and the further tasks as `zeroshot_<task>`."""
    tasks = {f"zeroshot_{name}": task for name, task in tasks.items()}
    spec = {
        "name": "zeroshot",
        "source": f"tfds:emoji:{split}",
        "prefix": split,
        "templates": TEMPLATES,
        "tasks": {"zeroshot": {"label": "name", "classes": ALL_NAMES}, **tasks},
    }
    return spec if every is None else {**spec, "every": every}


def _retrieval(split: str, pictures: int = 0) -> dict:
    return {"name": "retrieval", "source": f"tfds:emoji:{split}", "prefix": split, "pictures": pictures}
