"""What a warm start resizes equals what timm, transformers and torch do with their own checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.parity.reference import relative_error, timm, torch
from vitfm.config import ConfigError
from vitfm.models import resizing

FORWARD = 1e-5
rel = timm.layers.pos_embed_rel
resized = torch.nn.functional.interpolate


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def taken(name: str, ours: np.ndarray, after: tuple[int, ...], **options: Any) -> np.ndarray:
    """`ours` in a model where it has the shape `after`."""
    change, how = resizing.make(**options)(name, ours.shape, after)
    found = np.asarray(change(ours))
    assert found.shape == after and found.dtype == ours.dtype and how
    return found


def square(side: int) -> int:
    return (2 * side - 1) ** 2


@pytest.mark.parametrize(("old", "new"), [(7, 12), (5, 3), (14, 24), (4, 5), (1, 3), (3, 30)])
def test_swins_tables_are_timms_and_swins_own(old: int, new: int):
    table, shape = some(2 * old - 1, 2 * old - 1, 3), (2 * new - 1, 2 * new - 1, 3)
    flat, name = torch.tensor(table.reshape(-1, 3)), "stage_1/block_00/attention/position_table"
    found = lambda method: taken(name, table, shape, swin=method).reshape(-1, 3)
    sizes = ((new, new), (square(new), 3))
    assert relative_error(found("bicubic"), rel.resize_rel_pos_bias_table_simple(flat, *sizes)) < FORWARD
    np.testing.assert_array_equal(found("bicubic"), taken(name, table, shape).reshape(-1, 3))  # The default.
    assert relative_error(found("geometric"), rel.resize_rel_pos_bias_table(flat, *sizes)) < FORWARD


@pytest.mark.parametrize("special", [0, 3])
@pytest.mark.parametrize(("old", "new"), [(7, 12), (5, 3), (14, 24)])
def test_beits_tables_are_timms_and_transformers(old: int, new: int, special: int):
    table, shape = some(square(old) + special, 3), (square(new) + special, 3)
    name = "encoder/transformer/block_00/relative_position/table"
    expected = rel.resize_rel_pos_bias_table(torch.tensor(table), (new, new), shape)
    assert relative_error(taken(name, table, shape), expected) < FORWARD
    expected = rel.resize_rel_pos_bias_table_simple(torch.tensor(table), (new, new), shape)
    assert relative_error(taken(name, table, shape, beit="bicubic"), expected) < FORWARD
    # transformers' BeitRelativePositionBias.
    offsets = torch.tensor(table[: square(old)]).reshape(1, 2 * old - 1, 2 * old - 1, 3).permute(0, 3, 1, 2)
    offsets = resized(offsets, (2 * new - 1, 2 * new - 1), mode="bilinear").permute(0, 2, 3, 1).reshape(-1, 3)
    found = taken(name, table, shape, beit="bilinear")
    assert relative_error(found[: square(new)], offsets) < FORWARD
    np.testing.assert_array_equal(found[square(new) :], table[square(old) :])


def test_stacked_blocks_are_resized_slice_by_slice():
    tables, name = some(2, square(4) + 3, 3), "transformer/blocks/relative_position/table"
    found = taken(name, tables, (2, square(6) + 3, 3))
    for one, table in zip(found, tables, strict=True):
        np.testing.assert_array_equal(one, taken(name, table, (square(6) + 3, 3)))


@pytest.mark.parametrize(
    ("method", "options"), [("bicubic", {"mode": "bicubic"}), ("antialiased", {"mode": "bicubic"})]
)
def test_positions_are_torchs(method: str, options: dict[str, Any]):
    ours = some(6, 6, 4)
    options |= {"antialias": method == "antialiased"}
    theirs = resized(torch.tensor(ours).permute(2, 0, 1)[None], (9, 4), **options)[0].permute(1, 2, 0)
    assert relative_error(taken("encoder/position", ours, (9, 4, 4), position=method), theirs) < FORWARD
    assert relative_error(taken("encoder/position", ours, (9, 4, 4), own=method), theirs) < FORWARD


@pytest.mark.parametrize("name", ["encoder/stem/patch/kernel", "encoder/stem/kernel", "stem/patches_0/patch/kernel"])
@pytest.mark.parametrize(("channels", "old", "new"), [(3, 8, 12), (3, 16, 8), (1, 8, 8), (4, 8, 8), (6, 8, 5)])
def test_patch_embeddings_are_timms(name: str, channels: int, old: int, new: int):
    kernel = some(8, 3, old, old)
    theirs = timm.models.adapt_input_conv(channels, torch.tensor(kernel))
    if old != new:
        theirs = timm.layers.resample_patch_embed(theirs, [new, new], interpolation="bilinear", antialias=True)
    ours = kernel.transpose(2, 3, 1, 0).reshape(-1, 8)
    found = taken(name, ours, (new * new * channels, 8), image_channels=channels)
    assert relative_error(found.reshape(new, new, channels, 8).transpose(3, 2, 0, 1), theirs) < FORWARD


def test_filters_are_inflated_as_in_timm():
    kernel = some(8, 3, 7, 7)
    ours = taken("encoder/stem/kernel", kernel.transpose(2, 3, 1, 0), (7, 7, 5, 8), image_channels=5)
    theirs = timm.models.adapt_input_conv(5, torch.tensor(kernel))
    assert relative_error(ours.transpose(3, 2, 0, 1), theirs) < FORWARD


def test_a_map_of_bands_is_used_where_shapes_agree_too():
    kernel = some(4 * 4 * 3, 8)
    found = taken("stem/patch/kernel", kernel, kernel.shape, bands=(2, 1, 0))
    np.testing.assert_array_equal(found.reshape(16, 3, 8), kernel.reshape(16, 3, 8)[:, ::-1])
    with pytest.raises(ConfigError, match=r"bands = \[0, 1\] has 2 entries, and the images have 3 channels"):
        resizing.make(bands=(0, 1))


@pytest.mark.parametrize(
    ("name", "before", "after", "words"),
    [
        ("encoder/stem/patch/kernel", (48, 8), (48, 9), "of another width"),
        (
            "encoder/stem/patch/kernel",
            (64, 8),
            (48, 8),
            "64 are no pixels of a square patch of 3 channels: set",
        ),
        ("encoder/stem/patch/kernel", (48, 8), (64, 8), "64 are no pixels of a square patch of 3 channels"),
        ("encoder/stem/kernel", (7, 7, 3, 8), (5, 5, 3, 8), "filters of another size"),
        ("encoder/position", (4, 4, 8), (4, 4, 9), "of another width"),
        ("relative_position/table", (9, 2), (9 + 3, 2), "with or without a class token"),
        ("relative_position/table", (9, 2), (25, 3), "other blocks or heads"),
        ("attention/position_table", (5, 5, 2), (7, 7, 3), "other heads"),
    ],
)
def test_what_cannot_be_resized_says_why(name: str, before: tuple[int, ...], after: tuple[int, ...], words: str):
    change, why = resizing.make()(name, before, after)
    assert change is None and words in why


def test_other_leaves_have_no_rule():
    rule = resizing.make()
    assert rule("encoder/norm/scale", (8,), (9,)) is None
    assert rule("text/position", (8, 4), (9, 4)) is None
    assert rule("encoder/stem/patch/kernel", (48, 8), (48, 8)) is None
