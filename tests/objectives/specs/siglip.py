"""SigLIP: towers as published, of one width."""

from tests.objectives.specs import CAPTIONS, COLOURS, TOWER, VIT, Spec

CASES = {
    "siglip": Spec(
        {"name": "siglip", "image": {**VIT, "pool": "map", "drop_path_rate": 0.3}, "text": {"name": "text", **TOWER}},
        {"captions": CAPTIONS, "tokenizer": {"length": 12}, "columns": {"concept": "codepoint"}, "augment": COLOURS},
    )
}
