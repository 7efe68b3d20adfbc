"""The discrete VAE: codes are drawn from each example's key; temperature and weight move with the step."""

from tests.objectives.specs import COLOURS, Spec

SIZES = {"base_dim": 16, "blocks": 1}

CASES = {
    "dvae": Spec(
        {
            "name": "dvae",
            "model": {**SIZES, "groups": 3},
            "codes": 32,
            "decoder": {**SIZES, "code_dim": 16},
            "kl_weight": {"name": "linear", "start": 1.0, "end": 6.6},
        },
        {"augment": COLOURS},
    )
}
