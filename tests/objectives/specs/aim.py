"""AIM: prefixes from each example's key, and a head of one block."""

from tests.objectives.specs import COLOURS, TOWER, Spec

CASES = {
    "aim": Spec(
        {
            "name": "aim",
            "model": {**TOWER, "patch_size": 8, "drop_path_rate": 0.2},
            "head": {"hidden_dim": 32, "depth": 1},
        },
        {"augment": COLOURS},
    )
}
