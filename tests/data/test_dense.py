"""Boxes and masks in batches: cut and mirrored with their image, padded, and refused where they could not follow."""

from __future__ import annotations

import io
import itertools
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitfm.config import ConfigError
from vitfm.data import dense, pipeline
from vitfm.data.bad import BadExample
from vitfm.data.geometry import Geometry

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
WHOLE = Geometry(100, 200, 100, 50, 200, 100)


def file(pixels: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


class Rectangles:
    """Images of three rectangles, each of a colour of its own, on white, with their boxes and a mask of them."""

    name = "rectangles"

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(index)
        pixels, mask, boxes = np.full((150, 210, 3), 255, np.uint8), np.zeros((150, 210), np.uint8), []
        for number, colour in enumerate(COLOURS):
            left, top = (
                70 * number + rng.integers(2, 20),
                rng.integers(0, 90),
            )  # Side by side, so that none hides another.
            right, bottom = left + rng.integers(20, 48), top + rng.integers(20, 60)
            pixels[top:bottom, left:right] = colour
            mask[top:bottom, left:right] = 10 + number
            boxes.append((left, top, right, bottom))
        boxes = np.array(boxes)
        return {
            "image": file(pixels),
            "mask": file(mask),
            "objects": {"bbox": boxes / (210, 150, 210, 150), "label": np.array([3, 4, 5])},
        }


def make(rest: str) -> Rectangles:
    return Rectangles()


def batches(steps: int, **options: Any) -> list[dict[str, np.ndarray]]:
    boxes = {"feature": "objects/bbox", "labels": "objects/label", "relative": True, "count": 5, "visible": 0.2}
    defaults = {"image_size": 64, "threads": 1, "boxes": boxes, "mask": {"feature": "mask"}}
    data = pipeline.make(source=f"{__name__}:", **{**defaults, **options})
    stream = data.train_loader(batch_size=6, seed=1).batches()
    found = list(itertools.islice(stream, steps))
    stream.close()
    return found


@pytest.mark.parametrize("crop", [{}, {"scale": (0.8, 1.5)}, {"rotation": 15, "scale": (0.6, 1.0)}, None, "pad"])
def test_boxes_and_masks_lie_on_what_they_are_of(crop: Any):
    seen = 0
    for batch in batches(4, crop=crop):
        assert batch["box"].shape == (6, 5, 4) and batch["box"].dtype == np.float32
        assert batch["segment"].shape == (6, 64, 64) and batch["segment"].dtype == np.int32
        for image, boxes, real, labels, mask in zip(
            batch["image"], batch["box"], batch["box_mask"], batch["box_label"], batch["segment"], strict=True
        ):
            assert (boxes[~real] == 0).all() and (labels[~real] == 0).all() and real[: real.sum()].all()
            for box, label in zip(boxes[real], labels[real], strict=True):
                left, top, right, bottom = box
                assert 0 <= left < right <= 64 and 0 <= top < bottom <= 64
                painted = np.abs(image.astype(int) - COLOURS[label - 3]).max(-1) < 90
                rows, columns = np.flatnonzero(painted.any(1)), np.flatnonzero(painted.any(0))
                if right - left > 3 and bottom - top > 3:
                    ends = np.array([columns[0] - left, rows[0] - top, right - columns[-1] - 1, bottom - rows[-1] - 1])
                    assert ends.min() > -2
                    if crop is None or "rotation" not in crop:  # Else the border may cut corners off.
                        assert ends.max() < 2
                    assert (painted != (mask == 10 + label - 3)).mean() < 0.03
                    seen += 1
    assert seen > 15


def test_labels_stay_with_their_boxes_and_the_unseen_are_dropped():
    boxes = np.array([[10, 10, 30, 30], [500, 0, 600, 50], [190, 90, 230, 130], [0, 0, 4, 4]], float)
    example = {"boxes": boxes, "labels": [1, 2, 3, 4]}
    carry = dense.boxes(feature="boxes", labels="labels", count=6)
    found = carry(example, (100, 200), WHOLE)
    np.testing.assert_array_equal(found["box_label"], [1, 3, 4, 0, 0, 0])
    np.testing.assert_array_equal(found["box_mask"], [True] * 3 + [False] * 3)
    np.testing.assert_array_equal(found["box"][:3], [[10, 10, 30, 30], [190, 90, 200, 100], [0, 0, 4, 4]])
    half = dense.boxes(feature="boxes", labels="labels", count=6, visible=0.5)(example, (100, 200), WHOLE)
    np.testing.assert_array_equal(half["box_label"], [1, 4, 0, 0, 0, 0])
    two = dense.boxes(feature="boxes", labels="labels", count=2)(example, (100, 200), WHOLE)
    np.testing.assert_array_equal(two["box_label"], [1, 3])
    none = carry({"boxes": np.zeros((0, 4)), "labels": []}, (100, 200), WHOLE)
    assert not none["box_mask"].any() and none["box"].shape == (6, 4)


@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        ((20, 10, 60, 40), {}),
        ((10, 20, 40, 60), {"order": "yxyx"}),
        ((20, 10, 40, 30), {"order": "xywh"}),
        ((0.1, 0.1, 0.3, 0.4), {"relative": True}),
        ((0.1, 0.1, 0.4, 0.3), {"relative": True, "order": "yxyx"}),
    ],
)
def test_boxes_are_written_in_several_ways(numbers: tuple[float, ...], options: dict[str, Any]):
    found = dense.boxes(feature="boxes", count=1, **options)({"boxes": [numbers]}, (100, 200), WHOLE)
    np.testing.assert_allclose(found["box"], [[20, 10, 60, 40]], rtol=1e-6)


def test_masks_hold_numbers_of_any_file_of_one_channel():
    classes = np.arange(100 * 200).reshape(100, 200)
    paletted = Image.fromarray((classes % 7).astype(np.uint8), "P")
    paletted.putpalette(list(range(255, 0, -1)))
    buffer = io.BytesIO()
    paletted.save(buffer, "PNG")
    cases = [(file(classes.astype(np.uint16)), classes), (buffer.getvalue(), classes % 7)]
    for encoded, expected in cases:
        found = dense.mask(feature="m")({"m": encoded}, (100, 200), WHOLE)["segment"]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (file(np.zeros((100, 200, 3), np.uint8)), "channels"),
        (file(np.zeros((100, 100), np.uint8)), "other"),
        (file(np.zeros((100, 200), np.uint8))[:60], "corrupt"),
        (b"", "corrupt"),
    ],
)
def test_masks_that_are_none_are_bad_examples(mask: bytes, reason: str):
    with pytest.raises(BadExample) as caught:
        dense.mask(feature="m")({"m": mask}, (100, 200), WHOLE)
    assert caught.value.reason == reason


def test_as_many_labels_as_boxes():
    with pytest.raises(BadExample, match="1 boxes and 2 labels"):
        dense.boxes(feature="b", labels="l")({"b": [[0, 0, 1, 1]], "l": [1, 2]}, (100, 200), WHOLE)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"views": {"a": {}}}, r"data\.boxes and config\.data\.mask can only follow .* leave out config\.data\.views"),
        ({"augment": {"flip": 0.5}}, r"leave out config\.data\.augment\.flip"),
        ({"augment": {"randaugment": {}}}, r"leave out config\.data\.augment\.randaugment"),
        ({"boxes": {"feature": "b", "count": 0}}, r"config\.data\.boxes: count = 0"),
        ({"boxes": {"feature": "b", "visible": 2.0}}, r"visible = 2\.0"),
        ({"boxes": {"feature": "b", "cuont": 3}}, r"data\.boxes\.cuont: did you mean 'count'"),
        ({"boxes": {"feature": "b", "order": "cxcywh"}}, r"data\.boxes\.order"),
    ],
)
def test_what_can_not_be_is_refused(options: dict[str, Any], words: str):
    with pytest.raises(ConfigError, match=words):
        pipeline.make(**{"source": None, "boxes": {"feature": "b"}, "mask": {"feature": "m"}, **options})


@pytest.mark.parametrize(
    ("feature", "words"),
    [("objects/bobx", r"data\.boxes\.feature = 'bobx'.*bbox"), ("boxes", r"'boxes' is no feature")],
)
def test_features_that_are_not_there_are_named(feature: str, words: str):
    with pytest.raises(ConfigError, match=words):
        batches(1, boxes={"feature": feature})


def test_boxes_follow_the_image_beside_views():
    (batch,) = batches(1, views={"small": {"size": 16, "count": 2}}, keep_image=True)
    (alone,) = batches(1)
    np.testing.assert_array_equal(batch["box"], alone["box"])
    np.testing.assert_array_equal(batch["image"], alone["image"])
    assert batch["views"]["small"].shape == (6, 2, 16, 16, 3)
