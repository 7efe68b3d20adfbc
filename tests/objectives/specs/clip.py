"""CLIP: `couple` after `embed`."""

from tests.objectives.specs import COLOURS, TOWER, VIT, Spec

CASES = {
    "clip": Spec(
        {"name": "clip", "image": VIT, "text": {"name": "text", **TOWER}, "embed_dim": 64},
        {"captions": {}, "tokenizer": {"length": 12}, "columns": {"concept": "codepoint"}, "augment": COLOURS},
    )
}
