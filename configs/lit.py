"""LiT on `emoji`: the encoder of a run stays as it is, and a text tower learns to name what it sees.

    python -m vitfm.main --config=configs/supervised.py
    python -m vitfm.main --config=configs/lit.py:runs/supervised --workdir=runs/lit

Locked-image tuning (Zhai et al. 2022, arXiv:2111.07991) with the loss of configs/siglip.py (SigLiT, arXiv:2303.15343,
section 4.1): the image tower is taken from the run after the colon, of any objective that configs/finetune.py knows,
and frozen, without a projection; the text tower ends in a linear map to its width. With `objective.name = "clip"`,
`embed_dim = None` and the same `init` and `optim.freeze` it is LiT with its softmax.

Hardware: two CPU cores. Time: about four minutes, beside those of the run it starts from.
Expected: from runs/supervised 25.8% of `test_style` by name, where CLIP has 22.4%; docs/recipes/README.md.
"""

import pathlib

import ml_collections

from vitfm import config as config_lib


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe.

    Args:
      arg: the workdir of the run to start from; as in configs/finetune.py where none is given.
    """
    arg = config_lib.argument(arg, run=True)
    room = pathlib.Path(__file__).parent
    tuned = config_lib.load_file(f"{room / 'finetune.py'}:{arg}" if arg else str(room / "finetune.py"))
    config = config_lib.load_file(str(room / "siglip.py"))
    config.init = {
        "run": tuned.init.run,
        "take": {"image/tower": tuned.init.take.encoder},
        "fresh": ["^text/", "^logit_"],
    }
    # What the encoder was; nothing is dropped in a tower that does not learn.
    config.objective.image = {"name": "vit", "pool": "gap", **tuned.objective.model, "drop_path_rate": 0.0}
    config.data.image_size = tuned.data.image_size
    # What the encoder's pixels were normalised by.
    config.data.augment.update({key: value for key, value in tuned.data.augment.items() if key in ("mean", "std")})
    config.optim.freeze = ["^image/"]
    return config
