"""Pictures of what a model does: retrieval results and similarity matrices, as uint8 [H,W,3].

Images are laid out in numpy on a white canvas; one matplotlib figure over it draws all the text. Right and wrong differ
in mark, line and colour, so that no one depends on colour alone. matplotlib costs a second to import and most runs draw
nothing, so it is imported where it draws.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THUMBNAIL = 112  # pixels, as are all lengths here
_GAP = 14
_TEXT_WIDTH = 230
_DPI = 100
_INK = "#1c2024"
_MUTED = "#60646c"
_RIGHT = "#0b7a4b"
_WRONG = "#c4321c"


@dataclasses.dataclass(frozen=True)
class _Text:
    """Text at pixel (x, y) of the canvas, measured from its top left corner."""

    x: float
    y: float
    text: str
    color: str = _INK
    size: float = 13
    weight: str = "normal"
    horizontal: str = "left"
    vertical: str = "center"


def retrieval_grid(queries: Sequence[str], results: Sequence[Sequence[tuple[np.ndarray, bool]]]) -> np.ndarray:
    """Text to images: one row a query, its text on the left, then the images found, best first.

    Args:
      queries: the texts.
      results: for each query its top images, each with whether it is right.

    Returns:
      uint8 [H,W,3].
    """
    _same_length(queries=queries, results=results)
    step = _THUMBNAIL + _GAP
    left = 2 * _GAP + _TEXT_WIDTH
    canvas = _blank(_GAP + step * len(queries), left + step * max(map(len, results)))
    texts = []
    for row, (query, found) in enumerate(zip(queries, results, strict=True)):
        top = _GAP + row * step
        texts.append(_Text(_GAP, top + _THUMBNAIL / 2, _wrapped(query, lines=5), size=14))
        for column, (image, right) in enumerate(found):
            texts.append(_framed(canvas, image, top, left + column * step, right))
    return _written(canvas, texts)


def image_to_text_grid(
    images: Sequence[np.ndarray],
    texts: Sequence[Sequence[str]],
    correct: Sequence[Sequence[bool]],
    truth: Sequence[str],
) -> np.ndarray:
    """Image to texts: one row an image, the texts found as lines, best first, above them the true one.

    Args:
      images: uint8 [h,w,C], of any sizes.
      texts: for each image its top texts.
      correct: for each of them whether it is right.
      truth: each image's own text.

    Returns:
      uint8 [H,W,3].
    """
    _same_length(images=images, texts=texts, correct=correct, truth=truth)
    line = 20
    height = max(_THUMBNAIL, line * (1 + max(map(len, texts))) + 4)
    step, left = height + _GAP, _THUMBNAIL + 2 * _GAP
    canvas = _blank(_GAP + step * len(images), left + 2 * _TEXT_WIDTH + _GAP)
    drawn = []
    for row, (image, found, right, own) in enumerate(zip(images, texts, correct, truth, strict=True)):
        top = _GAP + row * step
        _paste(canvas, image, top, _GAP)
        drawn.append(_Text(left, top + line * 0.7, _one_line(own), weight="bold", vertical="baseline"))
        for place, (words, ok) in enumerate(zip(found, right, strict=True)):
            y = top + 8 + line * (place + 1.5)
            color = _RIGHT if ok else _WRONG
            drawn.append(_Text(left, y, _mark(ok), color=color, weight="bold", vertical="baseline"))
            drawn.append(_Text(left + 20, y, _one_line(words), color=_INK if ok else _MUTED, vertical="baseline"))
    return _written(canvas, drawn)


def image_rows(titles: Sequence[str], rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images under the titles of their columns.

    Args:
      titles: one a column.
      rows: each with one image a column, uint8 [h,w,C], of any sizes.

    Returns:
      uint8 [H,W,3].
    """
    for row in rows:
        _same_length(titles=titles, row=row)
    step, top = _THUMBNAIL + _GAP, 3 * _GAP
    canvas = _blank(top + step * len(rows), _GAP + step * len(titles))
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            _paste(canvas, image, top + step * row, _GAP + step * column)
    return _written(canvas, [_Text(_GAP + step * column, 1.5 * _GAP, title) for column, title in enumerate(titles)])


def similarity_matrix(similarity: np.ndarray, labels: Sequence[str], images: Sequence[np.ndarray]) -> np.ndarray:
    """Heat map of `similarity` [n,n]: image i is row i, label j is column j. A frame marks the best cell of each row.

    Returns:
      uint8 [H,W,3].
    """
    n = len(labels)
    if similarity.shape != (n, n) or len(images) != n:
        raise ValueError(f"{n} labels and {len(images)} images need similarity [{n},{n}], not {similarity.shape}.")
    from matplotlib import patches

    cell = int(np.clip(640 / n, 28, 64))
    left, top, side, bar = cell + 2 * _GAP, 130, cell * n, 18
    names = [textwrap.shorten(label, 24, placeholder="…") for label in labels]
    canvas = _blank(top + side + _GAP, left + side + max(100, _GAP + bar + 60))
    for row, image in enumerate(images):
        _paste(canvas, image, top + row * cell + 1, _GAP, cell - 2)
    figure = _figure(canvas)
    height, width = canvas.shape[:2]
    axes = figure.add_axes((left / width, _GAP / height, side / width, side / height))
    heat = axes.imshow(similarity, cmap="viridis", aspect="auto")
    axes.set_xticks(range(n), names, rotation=45, ha="left", rotation_mode="anchor", parse_math=False, fontsize=8.5)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False, labelleft=False, length=0)
    axes.spines[:].set_visible(False)
    inks = np.where(similarity > np.min(similarity) + 0.6 * np.ptp(similarity), _INK, "white")
    for row, column in enumerate(np.argmax(similarity, axis=1)):
        place, ink = (column - 0.45, row - 0.45), inks[row, column]
        axes.add_patch(patches.Rectangle(place, 0.9, 0.9, fill=False, edgecolor=ink, linewidth=1.6))
    for (row, column), value in np.ndenumerate(similarity) if cell >= 40 else ():
        axes.text(column, row, f"{value:.2f}", color=inks[row, column], fontsize=8, ha="center", va="center")
    bar_axes = figure.add_axes(((left + side + _GAP) / width, _GAP / height, bar / width, side / height))
    figure.colorbar(heat, cax=bar_axes).outline.set_visible(False)
    bar_axes.tick_params(labelsize=8.5, color=_MUTED, labelcolor=_MUTED)
    return _rendered(figure)


def _framed(canvas: np.ndarray, image: np.ndarray, top: int, left: int, right: bool) -> _Text:
    """Pastes `image` with a frame: solid where it is right, dashed where it is wrong. Returns its mark."""
    _paste(canvas, image, top, left)
    color = _RIGHT if right else _WRONG
    rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
    _frame(canvas, top, left, rgb, dashed=not right)
    canvas[top : top + 24, left : left + 24] = rgb
    return _Text(left + 12, top + 12, _mark(right), color="white", weight="bold", horizontal="center")


def _frame(canvas: np.ndarray, top: int, left: int, rgb: tuple[int, ...], dashed: bool, width: int = 4) -> None:
    """A frame just inside the square at (top, left)."""
    square = canvas[top : top + _THUMBNAIL, left : left + _THUMBNAIL]
    places = np.arange(_THUMBNAIL)
    inside = (places >= width) & (places < _THUMBNAIL - width)
    border = ~(inside[:, None] & inside[None, :])
    if dashed:
        border &= (places[:, None] + places[None, :]) % 14 < 9
    square[border] = rgb


def _paste(canvas: np.ndarray, image: np.ndarray, top: int, left: int, size: int = _THUMBNAIL) -> None:
    """Puts `image` [h,w,C] into a square of `size`, whole and centred, its proportions kept."""
    scale = size / max(image.shape[:2])
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(np.ascontiguousarray(image), (width, height), interpolation=method).reshape(height, width, -1)
    canvas[top : top + size, left : left + size] = 240
    top, left = top + (size - height) // 2, left + (size - width) // 2
    canvas[top : top + height, left : left + width] = small[..., :3]


def _written(canvas: np.ndarray, texts: Sequence[_Text]) -> np.ndarray:
    """`canvas` with `texts` on it."""
    figure = _figure(canvas)
    height, width = canvas.shape[:2]
    for item in texts:
        figure.text(
            item.x / width,
            1 - item.y / height,
            item.text,
            color=item.color,
            fontsize=item.size * 72 / _DPI,
            weight=item.weight,
            ha=item.horizontal,
            va=item.vertical,
            linespacing=1.35,
            parse_math=False,  # a caption may well hold a dollar sign
        )
    return _rendered(figure)


def _figure(canvas: np.ndarray) -> Figure:
    """A figure of exactly the canvas's pixels, over the canvas."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = canvas.shape[:2]
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(canvas, origin="upper", zorder=-1)
    return figure


def _rendered(figure: Figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _mark(right: bool) -> str:
    return "✓" if right else "✗"


def _wrapped(text: str, lines: int) -> str:
    """`text` in at most `lines` lines of the text column."""
    return "\n".join(textwrap.wrap(text, width=28, max_lines=lines, placeholder=" …"))


def _one_line(text: str) -> str:
    return textwrap.shorten(text, 56, placeholder=" …")


def _same_length(**sequences: Sequence) -> None:
    """Refuses sequences that are empty or differ in length."""
    lengths = {name: len(sequence) for name, sequence in sequences.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ValueError(f"These need one entry each for the same rows, at least one: {lengths}.")
