"""Triplets: semi-hard ones over cached embeddings, and all of a ResNet's; batches are balanced."""

from tests.objectives.specs import COLOURS, RESNET, VIT, Spec

DATA = {"label": {"feature": "group"}, "balance": {"images": 4}, "augment": COLOURS}

CASES = {
    "triplet": Spec({"name": "triplet", "model": {**VIT, "drop_path_rate": 0.2}, "embed_dim": 32}, DATA),
    "triplet_resnet": Spec(
        {"name": "triplet", "model": RESNET, "embed_dim": 32, "mining": "all", "margin": 0.5},
        DATA,
        keeps=("batch_stats",),
    ),
}
