"""SigLIP 2: `image`, `text` and views in one batch; the last part from the first step, and one that begins later."""

from tests.objectives.specs import CAPTIONS, COLOURS, TOWER, VIT, Spec

OBJECTIVE = {
    "name": "siglip2",
    "image": {**VIT, "pool": "map", "drop_path_rate": 0.3},
    "text": {"name": "text", **TOWER},
    "prototypes": 64,
    "hidden_dim": 64,
    "bottleneck_dim": 32,
    "momentum": 0.9,
}
DATA = {
    "captions": CAPTIONS,
    "tokenizer": {"length": 12},
    "columns": {"concept": "codepoint"},
    "augment": COLOURS,
    "views": {"global": {"count": 1}, "local": {"count": 2, "size": 16}},
    "keep_image": True,
}
KEEPS = ("teacher", "center", "patch_center")

CASES = {
    "siglip2": Spec({**OBJECTIVE, "last_part": 1.0}, DATA, keeps=KEEPS),
    # Off in the first step, and all the more on in those after it.
    "siglip2_later": Spec({**OBJECTIVE, "last_part": {"name": "linear", "start": 0.0, "end": 1.0}}, DATA, keeps=KEEPS),
}
