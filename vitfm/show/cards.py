"""What a page shows of a batch: each row's pictures, text, labels and numbers, as plain data."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vitfm.data.pipeline import Data
from vitfm.data.tokenizer import Tokenizer
from vitfm.metrics import gallery, text
from vitfm.show.batches import Batch

_SIDE = 144  # CSS pixels of an image's longer side; of several, the largest.
_WIDE = 300  # Of a card that shows several pictures.
_ENLARGED = 1.2  # From here on a screen shows single pixels.
_HIDDEN = 128  # Grey, in place of what the encoder does not see.
_LABELS = 5  # Of an example, those with the largest shares.
_GOLDEN = 0.618  # Of the colour circle: neighbouring classes look different.


class Picture(NamedTuple):
    """One picture of a row.

    Attributes:
      pixels: uint8 [H,W,3].
      grid: rows and columns of patches that lines are drawn between; None for none.
      boxes: (left, top, width, height, label), in parts of the picture.
    """

    pixels: np.ndarray
    grid: tuple[int, int] | None = None
    boxes: Sequence[tuple[float, float, float, float, str]] = ()


class Group(NamedTuple):
    """Pictures that belong together, of every row.

    Attributes:
      name: of what they show.
      captions: for each row.
      rows: the pictures of each.
    """

    name: str
    captions: Sequence[str]
    rows: Sequence[Sequence[Picture]]


def batch(shown: Batch, data: Data, long: Tokenizer | None) -> dict[str, Any]:
    """A batch as the template `data.html.jinja` takes it.

    Args:
      shown: its rows.
      data: what made them.
      long: the tokenizer with room for any text; None without text.
    """
    groups = _groups(shown, data)
    rows = range(len(shown.origins))
    several = any(len(pictures) > 1 for group in groups for pictures in group.rows) or len(groups) > 1
    some = f"Rows 1 to {len(rows)} of {shown.size:,}" if len(rows) < shown.size else f"All {len(rows):,} rows"
    mixed = " and mixing" if data.mix is not None else ""
    channels = data.facts.channels
    those = "pixels" if channels in (1, 3) else f"{'3' if channels > 3 else 'the first'} of {channels} channels"
    return {
        "step": shown.step,
        "note": f"{some}, after augmentation{mixed}, denormalised; {those} are shown.",
        "columns": [_column(name, leaf, shown.size) for name, leaf in _leaves(shown.columns)],
        "width": _WIDE if several else _SIDE + 26,
        "examples": [_example(shown, row, data, long, groups) for row in rows],
    }


def _leaves(columns: Mapping[str, Any], prefix: str = "") -> list[tuple[str, np.ndarray]]:
    leaves: list[tuple[str, np.ndarray]] = []
    for name, value in columns.items():
        leaves += _leaves(value, f"{prefix}{name}/") if isinstance(value, Mapping) else [(prefix + name, value)]
    return leaves


def _column(name: str, leaf: np.ndarray, size: int) -> dict[str, str]:
    """What a batch holds under a name."""
    if leaf.dtype == bool:
        values = f"{leaf.mean():.0%} true"
    elif np.issubdtype(leaf.dtype, np.floating):
        values = f"{leaf.min():.3g} to {leaf.max():.3g}, mean {leaf.mean():.3g}, deviation {leaf.std():.3g}"
    else:
        values = f"{leaf.min():,} to {leaf.max():,}"
    shape = " × ".join(f"{length:,}" for length in (size, *leaf.shape[1:]))
    return {"name": name, "shape": shape, "type": str(leaf.dtype), "range": values}


def _groups(shown: Batch, data: Data) -> list[Group]:
    """Every image of the batch, what a mask leaves of it, and what is said of its places."""
    columns, groups = shown.columns, []
    image = columns.get("image")
    if isinstance(image, Mapping):
        groups.append(_unpatched(image, data))
    named = {"image": image[:, None]} if isinstance(image, np.ndarray) else {}
    for name, views in {**named, **columns.get("views", {})}.items():
        pixels = data.to_pixels(views)
        count, height, width = pixels.shape[1:4]
        of = f"{name}, {width} × {height}" if name == "image" else f"{name}, {count} of {width} × {height}"
        boxes = [_boxes(columns, row, width, height) if name == "image" else () for row in range(len(pixels))]
        rows = [[Picture(one, None, own) for one in row] for row, own in zip(pixels, boxes, strict=True)]
        groups.append(Group(name, [of] * len(rows), rows))
        if name in shown.masks:
            groups.append(_masked(name, pixels, shown.masks[name]))
    if "segment" in columns:
        maps = [[Picture(_coloured(classes))] for classes in columns["segment"]]
        groups.append(Group("segment", ["segment"] * len(maps), maps))
    return groups


def _masked(name: str, pixels: np.ndarray, masks: np.ndarray) -> Group:
    """What the encoder sees of views uint8 [R,V,H,W,3] through masks bool [R,h,w] or [R,V,h,w]."""
    masks = masks.reshape(*pixels.shape[:2], *masks.shape[-2:])
    pairs = [zip(*row, strict=True) for row in zip(pixels, masks, strict=True)]
    rows = [[Picture(_seen(one, mask)) for one, mask in row] for row in pairs]
    return Group(f"{name}, masked", [f"{1 - mask.mean():.0%} of it is seen" for mask in masks], rows)


def _seen(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels [H,W,3] without the squares that a mask bool [h,w] hides."""
    rows, columns = (np.arange(side) * parts // side for side, parts in zip(pixels.shape, mask.shape, strict=False))
    return np.where(mask[rows][:, columns, None], np.uint8(_HIDDEN), pixels)


def _unpatched(image: Mapping[str, np.ndarray], data: Data) -> Group:
    """Padded patches as the images that they were cut from."""
    rows, captions = [], []
    for patches, (height, width) in zip(image["patches"], image["grid"].tolist(), strict=True):
        side = round((patches.shape[1] / data.facts.channels) ** 0.5)
        squares = patches[: height * width].reshape(height, width, side, side, -1)
        whole = squares.swapaxes(1, 2).reshape(height * side, width * side, -1)
        rows.append([Picture(data.to_pixels(whole), (height, width))])
        captions.append(f"{height} × {width} = {height * width} of {len(patches)} patches")
    return Group("image", captions, rows)


def _boxes(
    columns: Mapping[str, Any], row: int, width: int, height: int
) -> list[tuple[float, float, float, float, str]]:
    """Those of `image`, which `vitfm.data.dense` carried along."""
    if "box" not in columns:
        return []
    real = columns["box_mask"][row]
    labels = columns["box_label"][row][real] if "box_label" in columns else [""] * int(real.sum())
    return [
        (left / width, top / height, (right - left) / width, (bottom - top) / height, str(label))
        for (left, top, right, bottom), label in zip(columns["box"][row][real].tolist(), labels, strict=True)
    ]


def _coloured(classes: np.ndarray) -> np.ndarray:
    """int [H,W] -> uint8 [H,W,3], a colour a class."""
    known, places = np.unique(classes, return_inverse=True)
    colours = [colorsys.hsv_to_rgb(int(one) * _GOLDEN % 1, 0.6, 0.85) for one in known]
    return np.round(255 * np.array(colours)).astype(np.uint8)[places.reshape(classes.shape)]


def _example(shown: Batch, row: int, data: Data, long: Tokenizer | None, groups: Sequence[Group]) -> dict[str, Any]:
    origin, columns = shown.origins[row], shown.columns
    scale = _SIDE / max(max(one.pixels.shape[:2]) for group in groups for one in group.rows[row])
    alone = len(groups) == 1 and groups[0].name == "image" and groups[0].rows[row][0].grid is None
    return {
        "row": row + 1,
        "key": origin.key,
        "groups": [
            {
                "name": group.name,
                "caption": "" if alone else group.captions[row],
                "pictures": [_picture(one, scale) for one in group.rows[row]],
            }
            for group in groups
        ],
        "text": None if long is None else _text(columns, row, origin.text or "", data.tokenizer, long),
        "labels": _labels(columns["label"][row], data) if "label" in columns else [],
        "numbers": [f"{name} {text.number(value)}" for name, value in _numbers(columns, row)],
        "passed": origin.passed,
    }


def _picture(picture: Picture, scale: float) -> dict[str, Any]:
    height, width = (max(1, round(side * scale)) for side in picture.pixels.shape[:2])
    percents = [([f"{100 * part:.2f}" for part in box[:4]], box[4]) for box in picture.boxes]
    return {
        "uri": gallery.uri(picture.pixels),
        "width": width,
        "height": height,
        "grid": picture.grid,
        "pixels": scale > _ENLARGED,
        "boxes": percents,
    }


def _text(columns: Mapping[str, Any], row: int, drawn: str, tokenizer: Tokenizer, long: Tokenizer) -> dict[str, str]:
    """The text that the ids of a row spell, what the tokenizer cut away of `drawn`, and how many tokens that are."""
    kept = tokenizer.decode(columns["text"][row][columns["text_mask"][row]])
    ids, mask = long(drawn)
    count, limit = int(mask.sum()), tokenizer.length
    if count <= limit:
        return {"kept": kept, "lost": "", "tokens": f"{count} of {limit} tokens"}
    lost = long.decode(ids[0][limit - 1 : count - 1])  # The last token that is kept is the end.
    return {"kept": kept, "lost": lost, "tokens": f"{count} tokens, cut to {limit}"}


def _labels(label: np.ndarray, data: Data) -> list[dict[str, str]]:
    """Names of the classes of a row, the largest share first where there are several."""
    names = data.facts.classes
    if label.ndim == 0:
        return [{"name": names[int(label)], "share": ""}]
    order = [i for i in np.argsort(-label, kind="stable")[:_LABELS] if label[i] > 0]
    more = int((label > 0).sum()) - len(order)
    shares = [{"name": names[i], "share": "" if label[i] == 1 else f"{label[i]:.0%}"} for i in order]
    return shares + ([{"name": f"and {more} more", "share": ""}] if more else [])


def _numbers(columns: Mapping[str, Any], row: int) -> list[tuple[str, float]]:
    """Weight, and further columns that are one number."""
    flat = {name: leaf for name, leaf in columns.items() if isinstance(leaf, np.ndarray) and leaf.ndim == 1}
    return [(name, leaf[row].item()) for name, leaf in flat.items() if name != "label"]
