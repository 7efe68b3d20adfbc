"""Attention laid over images, as uint8 [H,W,3]."""

from __future__ import annotations

import cv2
import numpy as np

_SIDE = 224  # pixels, at least: patches of a small image would be a few pixels each.


def centre(image: np.ndarray) -> np.ndarray:
    """The square in the middle of uint8 [H,W,3], which is what a model sees of it, enlarged where it is small."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = np.ascontiguousarray(image[top : top + side, left : left + side])
    return square if side >= _SIDE else cv2.resize(square, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)


def overlay(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """`attention` [h,w] in colour over a grey copy of `image` uint8 [H,W,3]: dark blue for none, yellow for the most.

    Every map has its own scale, from 0 to its maximum. Patches stay visible as squares: nothing is smoothed.
    """
    height, width = image.shape[:2]
    share = attention / max(float(attention.max()), 1e-12)
    levels = cv2.resize(np.uint8(255 * share), (width, height), interpolation=cv2.INTER_NEAREST)
    colour = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(colour, 0.65, grey, 0.35, 0)
