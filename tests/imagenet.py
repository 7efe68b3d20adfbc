"""A source that stands in for `tfds:imagenet2012`: its lengths, features and classes; all images are one picture."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from vitfm import config

LENGTHS = {"train": 1_281_167, "validation": 50_000}
CLASSES = 1000


class Source:
    """A split, or a part of it in percent."""

    def __init__(self, name: str, length: int):
        self.name = name
        self._length = length
        _, encoded = cv2.imencode(".jpg", np.full((60, 80, 3), 128, np.uint8))
        self._image = encoded.tobytes()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._image, "label": np.int64(index % CLASSES), "file_name": f"{index}.JPEG"}

    def classes(self, feature: str) -> tuple[str, ...] | None:
        return tuple(f"n{number:08d}" for number in range(CLASSES)) if feature == "label" else None


def make(rest: str) -> Source:
    """Opens `imagenet2012:SPLIT`, or a part of it as `SPLIT[:99%]`."""
    split, start, end = re.fullmatch(r"imagenet2012:(\w+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", rest).groups()
    percent = int(end or 100) - int(start or 0)
    return Source(rest, round(LENGTHS[split] * percent / 100))


def in_place(value: Any) -> Any:
    """A recipe, or a part of it, that reads this source where it read `tfds:imagenet2012`."""
    if isinstance(value, dict):
        return {key: in_place(item) for key, item in value.items()}
    return value.replace("tfds:imagenet2012", f"{__name__}:imagenet2012") if isinstance(value, str) else value


def load(path: str) -> dict[str, Any]:
    """The recipe of a config file, reading this source."""
    return in_place(config.load_file(path).to_dict())
