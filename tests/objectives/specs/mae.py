"""MAE: blocks stacked by a scan, masks from each example's key."""

from tests.objectives.specs import COLOURS, TOWER, Spec

CASES = {
    "mae": Spec(
        {
            "name": "mae",
            "model": {**TOWER, "patch_size": 8, "scan": True},
            "decoder": {"hidden_dim": 32, "depth": 1, "num_heads": 2},
        },
        {"augment": COLOURS},
        optim={"name": "muon"},
    )
}
