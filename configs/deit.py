"""Distillation on `emoji`, the data set inside vitfm: a small ViT learns labels, and what a ConvNet says of its images.

    python -m vitfm.main --config=configs/deit.py:teacher --workdir=runs/deit_teacher
    python -m vitfm.main --config=configs/deit.py

The first trains the teacher, a ResNet, as configs/supervised.py trains its ViT; any classifier of the same classes may
be one: `--config.teacher.run=DIR`, a run's workdir or a folder of another library's model. The second is DeiT (Touvron
et al. 2021, arXiv:2012.12877) with hard distillation. configs/deit_s16_in1k.py has the published settings, and what of
them to change for fewer images.

    --config.objective.distillation=soft --config.objective.balance=0.1
    --config.objective.model.distillation_token=False --config.objective.model.pool=cls    through the class token

Hardware: two CPU cores. Time: about five minutes, beside five of the teacher.
Expected: docs/recipes/README.md has what every such recipe reaches.
"""

import pathlib

import ml_collections

from vitfm import config as config_lib

RESNET = {"name": "resnet", "stem_dim": 24, "depths": (1, 1, 1), "hidden_dims": (48, 96, 192), "block": "basic"}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `:teacher` is the teacher's, `:tiny` and `:teacher_tiny` are a minute's rehearsal of every part."""
    arg = config_lib.argument(arg, "teacher", "tiny", "teacher_tiny") or ""
    tiny = arg.endswith("tiny")
    config = config_lib.load_file(str(pathlib.Path(__file__).with_name("supervised.py")) + (":tiny" if tiny else ""))
    if arg.startswith("teacher"):
        config.objective.model = {**RESNET, "stem_dim": 16, "depths": (1,), "hidden_dims": (32,)} if tiny else RESNET
        if not tiny:
            config.total = "15 epochs"  # A step takes longer than one of the ViT's.
        return config
    config.objective = {
        **config.objective,
        "name": "deit",
        "distillation": "hard",
        "model": {**config.objective.model, "pool": "cls_dist", "distillation_token": True},
    }
    config.teacher = {"run": "runs/deit_teacher_tiny" if tiny else "runs/deit_teacher"}
    return config
