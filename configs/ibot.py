"""iBOT on `emoji`: configs/dinov2.py with one head, without registers and KoLeo (Zhou et al. 2022, arXiv:2111.07832).

    python -m vitfm.main --config=configs/ibot.py

Published are centres in place of Sinkhorn-Knopp (`--config.objective.centering=centre`): of so few steps they need too
many, and the features are worse than pixels.

Hardware: two CPU cores. Time: about five minutes with AVX-512. Expected: docs/recipes/README.md.
"""

import pathlib

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/ibot.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    dinov2 = pathlib.Path(__file__).with_name("dinov2.py")
    config = config_lib.load_file(f"{dinov2}:{arg}" if arg else str(dinov2))
    config.objective.model.registers = 0
    config.objective.update({"shared_head": True, "koleo_weight": 0.0, "gram_weight": 0.0})
    return config
