"""Pictures: their shapes, and that right and wrong look different, not in colour alone."""

import cv2
import numpy as np
import pytest

from tests.metrics import fake
from vitfm.metrics import pictures

IMAGES = fake.shapes(4)
TEXTS = ["a fox", "two bicycles for $200 and $300, side by side, leaning on a wall " * 4, "", "a harbour"]


def retrieval(right):
    return pictures.retrieval_grid(TEXTS, [[(image, right) for image in IMAGES[:3]]] * 4)


def test_every_builder_gives_a_picture():
    for picture in (
        retrieval(True),
        pictures.image_to_text_grid(IMAGES, [TEXTS[:2]] * 4, [[True, False]] * 4, TEXTS),
        pictures.similarity_matrix(np.eye(4), TEXTS, IMAGES),
        pictures.similarity_matrix(np.zeros((4, 4)), TEXTS, IMAGES),
    ):
        assert picture.dtype == np.uint8
        assert picture.ndim == 3 and picture.shape[-1] == 3
        assert picture.std() > 10


def test_right_and_wrong_differ_without_colour():
    right, wrong = (cv2.cvtColor(retrieval(value), cv2.COLOR_RGB2GRAY).astype(int) for value in (True, False))
    assert right.shape == wrong.shape
    changed = np.abs(right - wrong) > 60
    assert changed.sum() > 1000


def test_right_and_wrong_texts_differ():
    right, wrong = (pictures.image_to_text_grid(IMAGES[:1], [["a fox"]], [[ok]], ["a fox"]) for ok in (True, False))
    assert (right != wrong).any()


def test_images_keep_their_proportions_and_may_be_grey():
    wide = np.full((16, 64, 1), 7, np.uint8)
    picture = pictures.retrieval_grid(["wide"], [[(wide, True)]])
    inside = (picture == 7).all(-1)
    assert inside.any(0).sum() > 3 * inside.any(1).sum()


def test_heat_follows_the_matrix():
    matrix = np.zeros((4, 4))
    matrix[1, 2] = 1.0
    picture = pictures.similarity_matrix(matrix, ["a", "b", "c", "d"], IMAGES).astype(int)
    yellow = np.argwhere((picture[..., 0] > 240) & (picture[..., 1] > 220) & (picture[..., 2] < 60))
    bar = yellow[:, 1] > picture.shape[1] * 0.85
    row, column = yellow[~bar].mean(0)
    cell, left, top = 64, 92, 130
    assert (row - top) // cell == 1
    assert (column - left) // cell == 2


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="queries"):
        pictures.retrieval_grid(["one"], [])
    with pytest.raises(ValueError, match="similarity"):
        pictures.similarity_matrix(np.eye(3), TEXTS, IMAGES)
