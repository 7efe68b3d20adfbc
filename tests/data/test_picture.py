"""Part of a JPEG is what the whole of it would have been, and no transform can tell what is in a cache."""

from __future__ import annotations

import io
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from vitfm.data import formats, image, inputs, jpeg, pipeline
from vitfm.data.bad import BadExample
from vitfm.data.decoded import Decoded
from vitfm.data.picture import Picture

RGB = inputs.make(channels=3)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of all scales, the finer the weaker, and fine colours the weakest, as in photographs."""
    rng, pixels = np.random.default_rng(seed), np.zeros((height, width, 3), np.float32)
    for scale in (64, 32, 16, 8, 4, 2, 1):
        shape = (-(-height // scale) + 1, -(-width // scale) + 1)
        noise = rng.standard_normal((*shape, 1)) + rng.standard_normal((*shape, 3)) * min(0.5, scale / 16)
        resized = cv2.resize(noise.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
        pixels += 6 * scale**0.45 * resized
    return np.clip(128 + pixels, 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **{"quality": 95, **options})
    return buffer.getvalue()


def turned(pixels: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, exif=exif)


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def one_scan_a_channel(pixels: np.ndarray) -> bytes:
    """A sequential JPEG in three scans: each channel's is that of a gray JPEG of it."""
    ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    grays = [encoded(np.ascontiguousarray(ycc[..., i])) for i in range(3)]
    frame, scan = (grays[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    size = grays[0][frame + 5 : frame + 9]
    three = b"\xff\xc0\0\x11\x08" + size + b"\3" + b"".join(bytes((i, 0x11, 0)) for i in (1, 2, 3))
    head = grays[0][:frame] + three + grays[0][frame + 13 : scan]
    scans = [bytes((0xFF, 0xDA, 0, 8, 1, i + 1, 0, 0, 63, 0)) + gray[scan + 10 : -2] for i, gray in enumerate(grays)]
    return head + b"".join(scans) + b"\xff\xd9"


KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": 2},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0},
    "with restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "with metadata": {"exif": Image.Exif(), "icc_profile": b"\xff\xc0" * 40, "comment": b"\xff\xda"},
}
WHOLE = photograph(203, 317)
JPEGS = {name: encoded(WHOLE, **options) for name, options in KINDS.items()}
JPEGS["gray"] = encoded(WHOLE[..., 0].copy())
JPEGS["one scan a channel"] = one_scan_a_channel(WHOLE)


@pytest.mark.parametrize("name", JPEGS)
def test_upper_rows_are_those_of_the_whole(name: str):
    data = JPEGS[name]
    whole = by_pillow(data)
    np.testing.assert_array_equal(np.asarray(Picture(data, RGB)), whole)
    for rows in (1, 15, 16, 17, 100, 202, 203):
        picture = Picture(data, RGB)
        assert (picture.height, picture.width) == whole.shape[:2]
        pixels, reduction = picture.upper(rows, 1)
        assert reduction == 1
        np.testing.assert_array_equal(pixels[:rows], whole[:rows])
        if name not in ("progressive", "one scan a channel"):
            assert len(pixels) <= min(203, rows + 33)  # Others are not decoded.


@pytest.mark.parametrize("name", JPEGS)
@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_pixels_are_means(name: str, reduction: int):
    whole = formats.decode(JPEGS[name], RGB)
    padded = np.pad(whole, [(0, -side % reduction) for side in whole.shape[:2]] + [(0, 0)], mode="edge")
    rows, columns = (side // reduction for side in padded.shape[:2])
    means = padded.reshape(rows, reduction, columns, reduction, 3).mean((1, 3))
    pixels, found = Picture(JPEGS[name], RGB).upper(203, reduction)
    assert (found, pixels.shape) == (reduction, (rows, columns, 3))
    assert np.abs(pixels - means).mean() < (4.0 if name == "4:2:2" else 1.0)  # Its colours are coarser one way.
    upper, _ = Picture(JPEGS[name], RGB).upper(101, reduction)
    shown = 101 // reduction
    np.testing.assert_array_equal(upper[:shown], pixels[:shown])


def test_a_reduction_is_as_far_as_a_jpeg_goes():
    pixels, reduction = Picture(encoded(WHOLE), RGB).upper(203, 32)
    assert (reduction, pixels.shape) == (8, (26, 40, 3))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", [(160, 240), (161, 243)])
def test_turned_pictures_come_upright(orientation: int, shape: tuple[int, int]):
    data = turned(photograph(*shape), orientation)
    whole = by_pillow(data)
    for rows, asked in ((40, 1), (whole.shape[0], 2), (whole.shape[0], 4)):
        picture = Picture(data, RGB)
        assert (picture.height, picture.width) == whole.shape[:2]
        pixels, reduction = picture.upper(rows, asked)
        assert reduction == (asked if orientation == 1 or shape == (160, 240) else 1)
        if reduction == 1:
            np.testing.assert_array_equal(pixels[:rows], whole[:rows])
        elif shape == (160, 240):
            means = whole.reshape(whole.shape[0] // asked, asked, whole.shape[1] // asked, asked, 3).mean((1, 3))
            assert np.abs(pixels - means).mean() < 1.0


def test_other_ways_of_being_turned_are_seen_too():
    """XMP, and EXIF in the other order of bytes, or damaged."""
    plain = encoded(photograph(40, 60))
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="6"/>'
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    damaged = exif[:16] + b"\xff\xff" + exif[18:]
    for segment in (xmp, exif, damaged):
        data = plain[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + plain[2:]
        whole, picture = by_pillow(data), Picture(data, RGB)
        assert (picture.height, picture.width) == whole.shape[:2]
        np.testing.assert_array_equal(picture.upper(10, 1)[0][:10], whole[:10])


# Crops.


@pytest.mark.parametrize(
    ("size", "crop"),
    [(96, {}), (64, {"scale": (0.9, 1)}), (32, {"scale": (0.5, 1)}), (24, {"rotation": 20}), (36, "pad"), (36, None)],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_crop_of_a_picture_is_nearly_that_of_all_its_pixels(size: int, crop: Any, orientation: int):
    transform, reduced = image.cutter(size, crop, path="crop"), 0
    for seed in range(12):
        data = turned(photograph(240, 320, seed), orientation)
        whole, draw = formats.decode(data, RGB), lambda seed=seed: np.random.default_rng(seed)
        geometry = transform.draw(*whole.shape[:2], draw())
        found, expected = transform(Picture(data, RGB), draw()), transform(whole, draw())
        if geometry.reduction == 1:
            np.testing.assert_array_equal(found, expected)
        else:
            reduced += 1
            assert np.abs(found.astype(int) - expected).mean() < 1.5
    assert reduced > 0 or crop in ({}, {"scale": (0.9, 1)})


@pytest.mark.parametrize("size", [230, 200, 160, 125, 119, 100, 80, 61, 59, 40, 24])
def test_crops_are_nearly_means_of_areas(size: int):
    """Whatever is decoded at a reduced scale, averaged or interpolated."""
    for seed in range(4):
        data = encoded(photograph(240, 240, seed))
        (crop,) = (image.cutter(size, {"scale": (1, 1), "ratio": (1, 1), "flip": False}, path="crop"),)
        found = crop(Picture(data, RGB), np.random.default_rng(0))
        expected = cv2.resize(formats.decode(data, RGB), (size, size), interpolation=cv2.INTER_AREA)
        assert np.abs(found.astype(int) - expected).mean() < 2.0


@given(st.integers(0, 10**6), st.integers(30, 4000), st.integers(30, 4000), st.sampled_from([24, 96, 224]))
@settings(deadline=None)
def test_a_crop_never_has_fewer_pixels_than_its_result(seed: int, height: int, width: int, size: int):
    for crop in ({}, {"rotation": 30}, {"scale": (0.5, 2.0)}, "pad", None):
        geometry = image.cutter(size, crop, path="crop").draw(height, width, np.random.default_rng(seed))
        reduction = geometry.reduction
        assert reduction == 1 or min(geometry.width, geometry.height) / reduction >= 2 * size * (1 - 1e-9)


def test_opacity_is_added_where_it_is_asked_for():
    spec, data = inputs.make(channels=3, alpha=True), encoded(photograph(180, 240))
    whole = formats.decode(data, spec)
    for crop in ({"scale": (0.3, 0.9)}, {"rotation": 30, "scale": (0.9, 1.0)}, {"scale": (2, 2)}, "pad", None):
        transform = image.cutter(32, crop, path="crop", **spec.sampling)
        found, expected = (transform(of, np.random.default_rng(1)) for of in (Picture(data, spec), whole))
        assert found.shape == (32, 32, 4)
        assert np.abs(found.astype(int) - expected).mean() < 2.0
        assert (
            (expected[..., 3] < 255).any() == (found[..., 3] < 255).any() == (crop not in ({"scale": (0.3, 0.9)}, None))
        )


def test_views_share_a_decoding_that_is_fine_enough_for_each(monkeypatch: pytest.MonkeyPatch):
    calls, decode = [], jpeg.decode
    monkeypatch.setattr(jpeg, "decode", lambda *a: calls.append(a[2:]) or decode(*a))
    picture = Picture(encoded(photograph(400, 400)), RGB)
    small, large = (image.cutter(size, {"scale": (0.9, 1.0)}, path="crop") for size in (20, 75))
    cuts = [(cut, cut.draw(400, 400, np.random.default_rng(seed))) for seed, cut in enumerate((small, large, small))]
    assert [one.shape for one in image.taken(picture, cuts)] == [(20, 20, 3), (75, 75, 3), (20, 20, 3)]
    assert [reduction for _, reduction in calls] == [2]
    image.taken(picture, cuts[:1])
    assert [reduction for _, reduction in calls] == [2, 8]


# Damage.


def reason(make: Any) -> str | None:
    try:
        make()
    except BadExample as error:
        return error.reason
    return None


def test_what_is_cut_off_is_missed_though_it_is_not_asked_for():
    data = encoded(WHOLE)
    for end in (*range(3, 700, 23), *range(700, len(data) - 1, 997), len(data) - 1):
        part = lambda data=data[:end]: Picture(data, RGB).upper(20, 1)
        assert reason(part) == reason(lambda data=data[:end]: formats.decode(data, RGB)) == "truncated", end


def test_damage_is_judged_as_of_the_whole():
    rng, data = np.random.default_rng(0), np.frombuffer(encoded(WHOLE), np.uint8)
    for _ in range(100):
        hurt = data.copy()
        hurt[rng.integers(2, len(data), 3)] = rng.integers(0, 256, 3)
        all_of_it = lambda hurt=hurt: Picture(hurt.tobytes(), RGB).upper(203, 1)
        assert reason(all_of_it) == reason(lambda hurt=hurt: formats.decode(hurt.tobytes(), RGB))


def test_too_many_pixels_are_refused_before_any_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simplejpeg, "decode_jpeg", None)
    bomb = bytearray(encoded(WHOLE))
    header = jpeg.header(bytes(bomb))
    bomb[header.position : header.position + 4] = b"\xff\xff\xff\xff"
    assert reason(lambda: Picture(bytes(bomb), RGB)) == "too_large"
    assert reason(lambda: Picture(bytes(bomb), inputs.make(max_pixels=2**40))) is None


# What a cache holds.


class Pictures:
    """A source of JPEGs."""

    name = "pictures"

    def __init__(self, count: int):
        self._encoded = [encoded(photograph(200, 280, seed)) for seed in range(count)]

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self._encoded[index]}


def first(steps: int, **options: Any) -> list[np.ndarray]:
    data = pipeline.make(source=f"{__name__}:", image_size=40, threads=1, **options)
    stream = data.train_loader(batch_size=4, seed=0).batches()
    batches = [batch["image"] for batch in itertools.islice(stream, steps)]
    stream.close()
    return batches


def make(rest: str) -> Pictures:
    return Pictures(6)


def test_what_fits_into_the_cache_changes_nothing():
    tiny, large, none = (first(6, cache_gb=size) for size in (1e-9, 1.0, 0.0))
    np.testing.assert_array_equal(tiny, large)
    assert 0 < np.abs(np.array(none, int) - large).mean() < 1.5  # There, some are decoded at half of their size.


def test_evaluation_decodes_all():
    data = pipeline.make(source=None, image_size=20)
    (batch,) = data.eval_batches(Pictures(3), 3)
    wholes = [formats.decode(example["image"], RGB) for example in Pictures(3)]
    np.testing.assert_array_equal(batch["image"], [image.resize(whole, 20) for whole in wholes])
    assert isinstance(Decoded(Pictures(1), "image", RGB)[0]["image"], np.ndarray)
    assert isinstance(Decoded(Pictures(1), "image", RGB, lazy=True, cache_bytes=1)[0]["image"], np.ndarray)
