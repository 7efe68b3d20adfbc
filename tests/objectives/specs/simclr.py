"""SimCLR: batch norm in the head after cached embeddings, and a ResNet, whose own batch norm refuses accumulation."""

from tests.objectives.specs import COLOURS, RESNET, VIT, Spec

HEAD = {"hidden_dim": 64, "out_dim": 32}
VIEWS = {"views": {"global": {"count": 2}}, "augment": {**COLOURS, "blur": {"sigma": (0.1, 1.0)}}}

SHIFT = ("encoder/transformer/norm/bias",)  # The head's batch norm takes it away.

CASES = {
    "simclr": Spec(
        {"name": "simclr", "model": {**VIT, "drop_path_rate": 0.2}, **HEAD, "head_layers": 3}, VIEWS, idle=SHIFT
    ),
    "simclr_resnet": Spec({"name": "simclr", "model": RESNET, **HEAD}, VIEWS, keeps=("batch_stats",)),
}
