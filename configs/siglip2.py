"""SigLIP 2 on `emoji`: configs/siglip.py with a decoder that writes names and, from 80% of the run on, a teacher.

    python -m vitfm.main --config=configs/siglip2.py

Hardware: two CPU cores, 3 GB of memory. Time: about five minutes. Expected: docs/recipes/README.md. The decoder and
the last part leave time for half of configs/siglip.py's epochs, and names are found a quarter as often.
configs/siglip2_b16_webli.py has the published settings, and takes the number of pairs.
"""

import math
import pathlib
import runpy

import ml_collections

from vitfm import config as config_lib

SIGLIP = pathlib.Path(__file__).with_name("siglip.py")
IMAGES = 5_980  # In `emoji`'s training split.


def scaled(images: int) -> dict:
    """What depends on the number of pairs, beside what does in configs/siglip.py.

    Reasoned, not measured, but for prototypes and momentum of ten thousand pairs, which are this recipe's.
    """
    decade = min(max(round(math.log10(images)), 4), 7)
    size = runpy.run_path(str(SIGLIP))["scaled"](images)
    return {
        **size,
        # The last part is short, so longer than SigLIP; a decoder learns few captions by heart, so no longer than this.
        "epochs": {7: size["epochs"], 6: 60, 5: 150, 4: 200}[decade],
        # The last part of a short run has so few steps that the teacher must not lag by hundreds.
        "momentum": {7: 0.996, 6: 0.996, 5: 0.99, 4: 0.98}[decade],
        # Hundreds of concepts need no more, as in configs/dino.py.
        "prototypes": {7: 65536, 6: 65536, 5: 8192, 4: 512}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/siglip2.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    size = scaled(IMAGES)
    config = config_lib.load_file(f"{SIGLIP}:{arg}" if arg else str(SIGLIP))
    tiny = arg == "tiny"
    config.total = "20 steps" if tiny else "7.5 epochs"
    config.objective.name = "siglip2"
    config.objective.image.mask_token = True
    config.objective.update(
        {
            "captioner": {"depth": 1},
            "generation": {"name": "beam", "beams": 4},
            "prototypes": 64 if tiny else size["prototypes"],
            "hidden_dim": 64 if tiny else 512,
            "bottleneck_dim": 32 if tiny else 128,
            "momentum": size["momentum"],
        }
    )
    config.data.keep_image = True
    config.data.views = {
        "global": {"count": 1, "crop": {"scale": (0.4, 1.0)}},
        "local": {"count": 2, "size": 32, "crop": {"scale": (0.1, 0.4)}},
    }
    # What the last part learns stands still until then: the heads as they were drawn, and what stands for a patch.
    config.optim.freeze = (("^(head|patch_head)/|^image/tower/mask_token$", "80%"),)
    config.optim.newton_schulz_steps = 3  # As five, a twentieth cheaper.
    config.evals.validation_captions = {"name": "captions", "source": "tfds:emoji:validation", "prefix": "validation"}
    return config
