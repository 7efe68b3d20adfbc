"""Rotation: a transformer, which accumulates, and a ResNet, as it is published."""

from tests.objectives.specs import COLOURS, RESNET, VIT, Spec

CASES = {
    "rotation": Spec({"name": "rotation", "model": {**VIT, "drop_path_rate": 0.2}}, {"augment": COLOURS}),
    "rotation_resnet": Spec({"name": "rotation", "model": RESNET}, {"augment": COLOURS}, keeps=("batch_stats",)),
}
