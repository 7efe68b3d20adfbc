"""DeiT: a distillation token under labels that mixing shares out; a ResNet without one, which learns softly."""

from tests.objectives.specs import COLOURS, DATA, RESNET, VIT, Spec

LABEL = {"label": {"feature": "subgroup"}, "augment": COLOURS}
CLASSIFIER = {"name": "supervised", "head_init": "fan_in"}
TEACHER = {
    "objective": {**CLASSIFIER, "model": {**RESNET, "drop_path_rate": 0.0}},
    "data": {**DATA, **LABEL, "image_size": 24, "augment": {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}},
}

CASES = {
    "deit": Spec(
        {
            "name": "deit",
            "model": {**VIT, "distillation_token": True, "pool": "cls_dist", "drop_path_rate": 0.3},
            "head_init": "fan_in",
        },
        {**LABEL, "mix": {"mixup": 0.4, "cutmix": 1.0}},
        teacher=TEACHER,
    ),
    "deit_resnet": Spec(
        {"name": "deit", "model": RESNET, "distillation": "soft", "head_init": "fan_in"},
        LABEL,
        keeps=("batch_stats",),
        teacher=TEACHER,
    ),
}
