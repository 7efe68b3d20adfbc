"""VQ-KD: a codebook that k-means starts, taught on another grid; one that starts at random, and so accumulates."""

from tests.objectives.specs import COLOURS, DATA, VIT, Spec

TEACHER = {
    "objective": {
        "name": "supervised",
        "head_init": "fan_in",
        "model": {**VIT, "hidden_dim": 48, "depth": 1, "patch_size": 6},
    },
    "data": {**DATA, "label": {"feature": "subgroup"}, "image_size": 30},
}
MODEL = {**VIT, "pool": "gap", "scan": True, "drop_path_rate": 0.2}
DECODER = {"hidden_dim": 32, "depth": 1, "num_heads": 2}
VQKD = {"name": "vqkd", "model": MODEL, "decoder": DECODER, "codes": 24, "code_dim": 8, "decay": 0.8}

CASES = {
    "vqkd": Spec(VQKD, {"augment": COLOURS}, keeps=("codebook", "pull"), teacher=TEACHER),
    "vqkd_random": Spec(
        {**VQKD, "start": "random", "commitment": 0.5},
        {"augment": COLOURS},
        keeps=("codebook", "pull"),
        teacher={**TEACHER, "data": {**TEACHER["data"], "image_size": 24}},
    ),
}
