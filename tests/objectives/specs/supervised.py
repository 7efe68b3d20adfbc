"""Supervised: a plain transformer with all that mixes and drops, a windowed one, and one with batch statistics."""

from tests.objectives.specs import COLOURS, RESNET, VIT, Spec

SWIN = {
    "name": "swin",
    "embed_dim": 32,
    "depths": (1, 2),
    "num_heads": (2, 4),
    "window_size": 3,
    "drop_path_rate": 0.3,
}
LABEL = {"label": {"feature": "subgroup"}, "augment": COLOURS}

CASES = {
    "supervised": Spec(
        {
            "name": "supervised",
            "model": {**VIT, "drop_path_rate": 0.3},
            "head_init": "fan_in",
            "label_smoothing": 0.1,
        },
        {
            **LABEL,
            "mix": {"mixup": 0.4, "cutmix": 1.0},
            "augment": {**COLOURS, "randaugment": {"num_layers": 1}, "erase": {"probability": 0.5}},
        },
        optim={"name": "muon"},
    ),
    "swin": Spec({"name": "supervised", "model": SWIN, "head_init": "fan_in"}, LABEL),
    "resnet": Spec({"name": "supervised", "model": RESNET, "head_init": "fan_in"}, LABEL, keeps=("batch_stats",)),
}
