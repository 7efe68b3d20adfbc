"""DINOv2: two heads, Sinkhorn-Knopp and KoLeo, registers; iBOT: one head and centres; an anchor that moves."""

from tests.objectives.specs import COLOURS, VIT, Spec

HEAD = {"prototypes": 64, "hidden_dim": 64, "bottleneck_dim": 32}
MOVING = {"momentum": {"name": "cosine", "start": 0.9, "end": 1.0}}
VIEWS = {"views": {"global": {"count": 2}, "local": {"count": 2, "size": 16}}, "augment": COLOURS}
MODEL = {**VIT, "layer_scale": 0.1, "drop_path_rate": 0.2, "scan": True}

CASES = {
    "dinov2": Spec(
        {
            "name": "dinov2",
            "model": {**MODEL, "registers": 2},
            **HEAD,
            **MOVING,
            "patch_prototypes": 48,
            "gram_weight": 1.0,
            "gram_every": 2,
        },
        VIEWS,
        keeps=("teacher", "gram"),
    ),
    "ibot": Spec(
        {
            "name": "dinov2",
            "model": MODEL,
            **HEAD,
            **MOVING,
            "shared_head": True,
            "centering": "centre",
            "koleo_weight": 0.0,
            "patch_temperature": 0.07,
        },
        VIEWS,
        keeps=("teacher", "center", "patch_center"),
    ),
}
