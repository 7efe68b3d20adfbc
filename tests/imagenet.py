"""A source that stands in for the data of the full-size recipes: lengths, features, classes; one picture for all."""

from __future__ import annotations

import re
from typing import Any

import cv2
import numpy as np

from vitfm import config

LENGTHS = {"imagenet2012:train": 1_281_167, "imagenet2012:validation": 50_000}
LENGTHS |= {"webli:train": 10_000_000, "webli:validation": 10_000}
LENGTHS |= {"laion400m:train": 407_332_084, "laion400m:validation": 10_000}
LENGTHS |= {"vgg_face2:train": 3_141_890, "vgg_face2:test": 169_396}
CLASSES = 1000
_NAMES = "|".join(dict.fromkeys(name.split(":")[0] for name in LENGTHS))


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
        label = {} if self.name.startswith(("webli", "laion400m")) else {"label": np.int64(index % CLASSES)}
        return {"image": self._image, **label, "caption": f"picture {index}", "file_name": f"{index}.JPEG"}

    def column(self, feature: str) -> list[Any]:
        if feature == "label":  # A million of them, which one by one take seconds.
            return (np.arange(len(self)) % CLASSES).tolist()
        return [self[index][feature] for index in range(len(self))]

    def classes(self, feature: str) -> tuple[str, ...] | None:
        return tuple(f"n{number:08d}" for number in range(CLASSES)) if feature == "label" else None


def make(rest: str) -> Source:
    """Opens `NAME:SPLIT` of `LENGTHS`, or a part of it as `SPLIT[:99%]`."""
    split, start, end = re.fullmatch(r"(\w+:\w+)(?:\[(?:(\d+)%)?:(?:(\d+)%)?\])?", rest).groups()
    percent = int(end or 100) - int(start or 0)
    return Source(rest, round(LENGTHS[split] * percent / 100))


def in_place(value: Any) -> Any:
    """A recipe, or a part of it, that reads this source where it read one that it stands in for."""
    if isinstance(value, dict):
        return {key: in_place(item) for key, item in value.items()}
    return re.sub(rf"tfds:({_NAMES}):", rf"{__name__}:\1:", value) if isinstance(value, str) else value


def load(path: str) -> dict[str, Any]:
    """The recipe of a config file, reading this source."""
    return in_place(config.load_file(path).to_dict())
