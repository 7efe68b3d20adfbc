"""A JSON object an image, one a line: `jsonl:PATH[?image=KEY&caption=KEY&label=KEY]`.

    jsonl:/data/train.jsonl            {"image": "a/1.jpg", "caption": "a red apple", "tags": ["fruit"]}

Paths of images are relative to the folder of the file. Keys are found by their names where they are not given:
`image`, `file_name`, `path` ... for the image, `caption` or `text`, `label` or `class`. All keys are features.
"""

from __future__ import annotations

from vitfm.data import rows, tables


def make(rest: str) -> rows.Source:
    """Opens a .jsonl file.

    Raises:
      ConfigError: no such file or key, or none of its images is there.
    """
    return rows.make(tables.Jsonl, rest)
