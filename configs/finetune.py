"""Fine-tuning on `emoji`: the encoder of a run, whatever it learned there, learns to name the 98 subgroups.

    python -m vitfm.main --config=configs/mae.py
    python -m vitfm.main --config=configs/finetune.py:runs/mae --workdir=runs/mae_finetuned

The encoder is that of the run after the colon: of any objective that `ENCODERS` names, the teacher's of DINO and
DINOv2, the image tower's of CLIP, SigLIP and CoCa. Where none is named it is that of configs/mae.py, from runs/mae. The
table at the start says what was taken.

From the published recipe for MAE (He et al. 2022, arXiv:2111.06377, table 9): layer-wise learning-rate decay 0.75, drop
path 0.1, label smoothing 0.1, weight decay 0.05; shorter, as the data are small.

    --config.optim.freeze='["encoder"]'               only the head learns
    --config.optim.freeze='[["encoder", "10%"]]'      the head alone for the first tenth of the run
    --config.data.image_size=96                       larger images; learned positions are interpolated to them
    --config.init.take.encoder=ema/encoder            from a run's averaged weights

Hardware: two CPU cores. Time: under five minutes, beside those of the run it starts from.
Expected: see docs/recipes/mae.md.
"""

import json
import pathlib

import ml_collections

from vitfm import config as config_lib
from vitfm.interop import encoders

# Where each objective keeps its encoder: the options in the recipe, the parameters in the checkpoint.
ENCODERS = {
    "supervised": ("model", "encoder"),
    "deit": ("model", "encoder"),
    "distill": ("model", "encoder"),
    "triplet": ("model", "encoder"),
    "mae": ("model", "encoder"),
    "simmim": ("model", "encoder"),
    "beit": ("model", "encoder"),
    "vqkd": ("model", "encoder"),
    "aim": ("model", "encoder"),
    "coca": ("image", "image/tower"),
    "simclr": ("model", "encoder"),
    "rotation": ("model", "encoder"),
    "moco": ("model", "encoder"),
    "dino": ("model", "extra/teacher/encoder"),
    "dinov2": ("model", "extra/teacher/encoder"),
    "siglip2": ("image", "image/tower"),
    "clip": ("image", "image/tower"),
    "siglip": ("image", "image/tower"),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe.

    Args:
      arg: the workdir of the run to start from.
    """
    arg = config_lib.argument(arg, run=True)
    run, source = arg or "runs/mae", _source(arg)
    objective = source["objective"]
    options, parameters = ENCODERS[objective["name"]]
    model = {**encoders.DEFAULTS.get(objective["name"], {}), **objective[options], "drop_path_rate": 0.1}
    model.pop("image_size", None)  # That of the data.

    config = ml_collections.ConfigDict()
    config.seed = 0
    config.total = "10 epochs"
    config.batch_size = 128
    config.log_every = "1%"
    config.checkpoint = {"every": "25%", "keep": 1}

    config.init = {"run": run, "take": {"encoder": parameters}}
    config.objective = {"name": "supervised", "model": model, "label_smoothing": 0.1}
    config.data = {
        "source": "tfds:emoji:train",
        "image_size": source["data"].get("image_size", 224),
        "alpha": True,
        "label": {"feature": "subgroup"},
        # Arrows have a direction: nothing is mirrored.
        "crop": {"scale": (0.5, 1.2), "flip": False},
        "augment": {
            "background": "random",
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            # What the encoder's pixels were normalised by.
            **{key: value for key, value in source["data"].get("augment", {}).items() if key in ("mean", "std")},
        },
        "cache_gb": 0.25,  # All of it: 94 MB of pixels.
        "threads": 1,
    }
    config.optim = {
        "name": "adamw",
        "learning_rate": 2e-3,
        "schedule": {"name": "cosine", "warmup": "10%"},
        "weight_decay": 0.05,
        "layer_decay": 0.75,
    }
    config.evals = {
        split: {"name": "classification", "source": f"tfds:emoji:{split}", "label": "subgroup", "prefix": split}
        for split in ("validation", "test_style", "test_concept")
    }
    config.evals.validation.every = "25%"
    return config


def _source(run: str | None) -> dict:
    """The recipe of the run, or of configs/mae.py where none is given."""
    if run is None:
        return config_lib.load_file(str(pathlib.Path(__file__).with_name("mae.py"))).to_dict()
    source = json.loads((pathlib.Path(run).expanduser() / "config.json").read_text())
    if source["objective"]["name"] not in ENCODERS:
        raise config_lib.ConfigError(
            f"{run} learned {source['objective']['name']!r}, and this recipe knows the encoders of "
            f"{', '.join(ENCODERS)}. Add where it keeps its own to ENCODERS."
        )
    return source
