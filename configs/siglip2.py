"""SigLIP 2 on `emoji`: configs/siglip.py with a decoder that writes names and, from 80% of the run on, a teacher.

    python -m vitfm.main --config=configs/siglip2.py

Hardware: two CPU cores, 3 GB of memory. Time: five to seven minutes. Expected: docs/recipes/README.md. The decoder and
the last part leave time for half of configs/siglip.py's epochs, and names are found half as often.
configs/siglip2_b16_webli.py has the published settings; `scaled` says what of them to change for fewer images.
"""

import math
import pathlib

import ml_collections

from vitfm import config as config_lib


def scaled(images: int) -> dict:
    """What depends on the number of images: rules of thumb for a million, a hundred thousand and ten thousand.

    Reasoned, not measured. Negatives are a batch's own: with fewer images more of them would show the same thing. And
    the last part has so few steps that the teacher must not lag by hundreds.
    """
    decade = min(max(round(math.log10(images)), 4), 6)
    batch_size = {6: 4096, 5: 1024, 4: 256}[decade]
    return {
        "batch_size": batch_size,
        "epochs": {6: 60, 5: 150, 4: 400}[decade],  # A decoder learns few captions by heart: no longer than this.
        # By the square root of the batch, as Adam's steps vary with it.
        "learning_rate": 1e-3 * math.sqrt(batch_size / 4096),
        "initial_bias": -math.log(batch_size),  # As in configs/siglip.py.
        "momentum": {6: 0.996, 5: 0.99, 4: 0.98}[decade],
        "prototypes": {6: 65536, 5: 8192, 4: 1024}[decade],
    }


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The recipe; `--config=configs/siglip2.py:tiny` is a minute's rehearsal of every part of it."""
    arg = config_lib.argument(arg, "tiny")
    siglip = pathlib.Path(__file__).with_name("siglip.py")
    config = config_lib.load_file(f"{siglip}:{arg}" if arg else str(siglip))
    tiny = arg == "tiny"
    config.total = "20 steps" if tiny else "8 epochs"
    config.objective.name = "siglip2"
    config.objective.image.mask_token = True
    config.objective.update(
        {
            "captioner": {"depth": 1},
            "generation": {"name": "beam", "beams": 4},
            # Hundreds of concepts, as in configs/dino.py.
            "prototypes": 64 if tiny else 512,
            "hidden_dim": 64 if tiny else 512,
            "bottleneck_dim": 32 if tiny else 128,
            # The last part has less than a hundred steps.
            "momentum": 0.98,
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
