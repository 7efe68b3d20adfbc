"""BEiT: a tokenizer of another image size and patch size, but the same grid."""

from tests.objectives.specs import COLOURS, DATA, TOWER, Spec, vqkd

TEACHER = {
    "objective": {**vqkd.VQKD, "start": "random", "model": {**vqkd.MODEL, "patch_size": 6, "depth": 1}},
    "data": {**DATA, "image_size": 24, "augment": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}},
    "teacher": {"run": "", **vqkd.TEACHER},
}
BEIT = {"name": "beit", "codes": 24, "masked_patches": 6, "smallest_block": 2}
MODEL = {"patch_size": 8, "scan": True, "drop_path_rate": 0.2, **TOWER}

CASES = {"beit": Spec({**BEIT, "model": MODEL}, {"augment": COLOURS}, teacher=TEACHER)}
