"""SimMIM: a ViT whose squares are two patches wide, and a Swin whose last tokens are wider than a square."""

from tests.objectives.specs import COLOURS, VIT, Spec

SWIN = {"name": "swin", "embed_dim": 32, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4, "drop_path_rate": 0.3}

CASES = {
    "simmim": Spec(
        {"name": "simmim", "model": {**VIT, "patch_size": 4, "scan": True, "drop_path_rate": 0.2}, "mask_size": 8},
        {"augment": COLOURS},
    ),
    "simmim_swin": Spec({"name": "simmim", "model": {**SWIN, "patch_size": 4}, "mask_size": 4}, {"augment": COLOURS}),
}
