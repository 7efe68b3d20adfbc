"""CoCa: `couple` after `embed`; tokens of captions are summed by example and counted over the batch."""

from tests.objectives.specs import CAPTIONS, COLOURS, TOWER, VIT, Spec

CASES = {
    "coca": Spec(
        {
            "name": "coca",
            "image": {**VIT, "pool": "gap", "drop_path_rate": 0.3},
            "text": TOWER,
            "pooler": {"queries": 6, "num_heads": 2},
            "captioner": {"depth": 1, "num_heads": 2},
        },
        {"captions": CAPTIONS, "tokenizer": {"length": 12}, "columns": {"concept": "codepoint"}, "augment": COLOURS},
    )
}
