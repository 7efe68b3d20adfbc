"""Distillation: all three terms from a teacher of another size and grid; a ResNet that learns pooled features."""

from tests.objectives.specs import COLOURS, DATA, RESNET, VIT, Spec

TEACHER = {
    "objective": {"name": "supervised", "head_init": "fan_in", "model": {**VIT, "hidden_dim": 96, "patch_size": 6}},
    "data": {**DATA, "label": {"feature": "subgroup"}, "image_size": 30},
}

CASES = {
    "distill": Spec(
        {"name": "distill", "model": {**VIT, "drop_path_rate": 0.2}, "patches": 0.5, "logits": 0.3, "temperature": 2.0},
        {"augment": COLOURS},
        teacher=TEACHER,
    ),
    "distill_resnet": Spec(
        {"name": "distill", "model": RESNET, "distance": "l2"},
        {"augment": COLOURS},
        keeps=("batch_stats",),
        teacher=TEACHER,
    ),
}
