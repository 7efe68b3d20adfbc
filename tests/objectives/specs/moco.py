"""MoCo: v2 with its queue, over cached embeddings and with a ResNet's statistics in groups; v3 within the batch."""

from tests.objectives.specs import COLOURS, RESNET, VIT, Spec

HEAD = {"hidden_dim": 64, "out_dim": 32}
MOVING = {"momentum": {"name": "cosine", "start": 0.9, "end": 1.0}}
VIEWS = {
    "views": {"global": {"count": 2, "augment": ({"blur": {"sigma": (0.1, 1.0)}}, {"solarize": {}})}},
    "augment": COLOURS,
}

SHIFT = ("encoder/transformer/norm/bias",)  # The head's batch norm takes it away.

CASES = {
    "moco": Spec(
        {"name": "moco", "model": {**VIT, "drop_path_rate": 0.2}, "queue": 80, **HEAD, **MOVING},
        VIEWS,
        keeps=("teacher", "queue"),
    ),
    "moco_resnet": Spec(
        {"name": "moco", "model": {**RESNET, "drop_path_rate": 0.0}, "queue": 80, "groups": 4, **HEAD, **MOVING},
        VIEWS,
        keeps=("teacher", "queue", "batch_stats"),
        optim={"name": "sgd", "coupled_decay": 1e-4},
    ),
    "moco_v3": Spec(
        {"name": "moco", "model": VIT, "version": "v3", **HEAD, **MOVING}, VIEWS, keeps=("teacher",), idle=SHIFT
    ),
}
