"""DINO: views of two sizes, a teacher and a centre."""

from tests.objectives.specs import COLOURS, VIT, Spec

CASES = {
    "dino": Spec(
        {
            "name": "dino",
            "model": VIT,
            "prototypes": 64,
            "hidden_dim": 64,
            "bottleneck_dim": 32,
            "momentum": {"name": "cosine", "start": 0.9, "end": 1.0},
        },
        {
            "views": {"global": {"count": 2}, "local": {"count": 2, "size": 16}},
            "augment": {**COLOURS, "blur": {"sigma": (0.1, 1.0)}, "solarize": {}},
        },
        keeps=("teacher", "center"),
        optim={"name": "muon"},
    )
}
