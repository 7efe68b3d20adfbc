"""CLIP: `couple` after `embed`."""

from tests.objectives.specs import CAPTIONS, COLOURS, TOWER, VIT, Spec

CASES = {
    "clip": Spec(
        {"name": "clip", "image": VIT, "text": {"name": "text", **TOWER}, "embed_dim": 64},
        {"captions": CAPTIONS, "tokenizer": {"length": 12}, "columns": {"concept": "codepoint"}, "augment": COLOURS},
    )
}
