"""Hostile files: each is an image or a bad example for the right reason; never a crash, a hang, or a word on stderr."""

from __future__ import annotations

import functools
import io
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid

from tests.data import broken, test_formats_dicom, test_formats_tiff
from tests.data.broken import encoded
from vitfm.data import formats, inputs
from vitfm.data.bad import REASONS, BadExample
from vitfm.data.picture import Picture

RGB = inputs.make()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Of libraries, which pytest shows all the same.
SPECS = (RGB, inputs.make(alpha=True), inputs.make(channels=1, dtype="float32", range=(0, 65535), fill=0.0))


def outcome(content: bytes, spec: inputs.Input = RGB) -> str | None:
    """Why it is bad; None for an image, which is as the specification says."""
    try:
        pixels = formats.decode(content, spec)
    except BadExample as error:
        return error.reason if str(error) and error.reason in REASONS else "none"
    assert pixels.ndim == 3 and pixels.shape[2] == spec.samples and pixels.dtype == spec.dtype and pixels.size
    return None


@pytest.mark.parametrize("seed", range(3))
def test_each_of_two_hundred_files_is_bad_for_its_reason(
    tmp_path: pathlib.Path, seed: int, capfd: pytest.CaptureFixture[str]
):
    expected = broken.write(tmp_path, seed)
    assert len(expected) == broken.COUNT == len(list(tmp_path.iterdir()))
    assert {name: outcome((tmp_path / name).read_bytes()) for name in expected} == expected
    assert capfd.readouterr() == ("", "")


def test_the_files_are_the_same_again_and_others_for_another_seed():
    one, again, other = ([file[2] for file in broken.files(np.random.default_rng(seed))] for seed in (5, 5, 6))
    assert one == again
    assert sum(a != b for a, b in zip(one, other, strict=True)) > 140


def test_what_is_told_from_the_header_is_told_by_check():
    """All but what shows in the pixels, and their type."""
    for _, _, content, reason in broken.files(np.random.default_rng(1)):
        try:
            formats.check(content, RGB)
            found = None
        except BadExample as error:
            found = error.reason
        assert found == reason or (found is None and reason in ("truncated", "depth"))


@functools.cache
def samples() -> dict[str, bytes]:
    """A small file of each format."""
    rng = np.random.default_rng(0)
    colours = broken.picture(rng, 24, 33)
    image, pages = Image.fromarray(colours), np.random.default_rng(0).integers(0, 4096, (70, 52), dtype=np.uint16)
    found = {form: encoded(colours, form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "JPEG2000", "PPM", "TIFF")}
    found |= {
        "progressive": encoded(colours, "JPEG", progressive=True),
        "CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "palette": encoded(image.convert("P"), "PNG", transparency=3),
        "deep PNG": broken.deep_png(pages),
        "lossless WebP": encoded(colours, "WEBP", lossless=True),
        "animation": encoded(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "zlib in TIFF": test_formats_tiff.written(colours, compression="zlib", predictor=True),
        "tiles": test_formats_tiff.written(pages, tile=(16, 16), compression="lzw"),
        "JPEG in TIFF": encoded(colours, "TIFF", compression="jpeg"),
        "DICOM": test_formats_dicom.written(pages, WindowCenter=3, WindowWidth=9, RescaleSlope=2, RescaleIntercept=1),
        "JPEG 2000 in DICOM": test_formats_dicom.written(pages, syntax=uid.JPEG2000Lossless),
        "RLE in DICOM": test_formats_dicom.written(pages, syntax=uid.RLELossless),
    }
    return found


CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1), st.booleans(), st.sampled_from(["flip", "set", "cut", "insert", "large"]), st.integers(0, 255)
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("name", samples())
@given(changes=CHANGES, spec=st.sampled_from(SPECS), end=st.floats(0.02, 1))
@settings(max_examples=60)
def test_damage_of_any_kind_gives_an_image_or_a_reason(
    name: str, changes: list[tuple[float, bool, str, int]], spec: inputs.Input, end: float
):
    """Mostly in the header, where it does the most."""
    content = bytearray(samples()[name])
    for where, early, how, value in changes:
        position = int(where * (min(400, len(content)) - 1 if early else len(content) - 1))
        if how == "flip":
            content[position] ^= value
        elif how == "set":
            content[position] = value
        elif how == "cut":
            del content[position : position + 1 + value // 32]
        else:
            content[position:position] = b"\xff\xff\xff\x7f" if how == "large" else bytes([value])
    outcome(bytes(content[: int(end * len(content))] if end < 0.5 else content), spec)


@pytest.mark.parametrize("name", samples())
def test_whole_files_are_images_and_those_cut_short_are_truncated(name: str):
    content = samples()[name]
    spec = SPECS[2]
    assert outcome(content, spec) is None
    ends = np.random.default_rng(0).integers(min(600, len(content) // 2), len(content) - 80, 8)
    assert {outcome(content[:end], spec) for end in ends} == {"truncated"}


def test_nothing_is_decoded_of_what_is_too_large(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object) -> None:
        raise AssertionError("decoded")

    bombs = [file for file in broken.files(np.random.default_rng(0)) if file[3] == "too_large"]
    assert len(bombs) == 12 and max(len(content) for _, _, content, _ in bombs) < 100_000
    for module in (formats.raster, formats.tiff, formats.dicom):
        monkeypatch.setattr(module, "decode", refuse)
    for _, _, content, _ in bombs:
        assert outcome(content) == "too_large"


def test_a_truncated_jpeg_is_refused_whichever_part_is_asked_for():
    content = encoded(broken.picture(np.random.default_rng(0), 256, 256), "JPEG")
    assert Picture(content, RGB).upper(16, 1)[0].shape[0] < 256  # Which would be there.
    with pytest.raises(BadExample) as error:
        Picture(content[: len(content) * 3 // 4], RGB).upper(16, 1)
    assert error.value.reason == "truncated"


def test_a_jpeg_is_not_refined_for_ever():
    content = encoded(broken.picture(np.random.default_rng(0), 64, 64), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    formats.check(content[:-2] + content[last:-2] * 50 + content[-2:], RGB)
    with pytest.raises(BadExample, match="are damaged"):
        formats.check(content[:-2] + content[last:-2] * 200 + content[-2:], RGB)


def test_a_part_larger_than_its_file_says_is_not_decoded():
    """Within a TIFF and a DICOM: JPEGs of 65,500 pixels each way, said to be of 16."""
    small, large = (broken.picture(np.random.default_rng(0), side, side) for side in (16, 64))
    jpeg = encoded(large, "JPEG", subsampling=0)
    jpeg = broken.changed(jpeg, broken.frame(jpeg) + 1, b"\xff\xdc\xff\xdc")
    whole = encoded(small, "TIFF", compression="jpeg")
    start, length = _strip(whole)
    inside = broken.changed(whole + jpeg, start[0], len(whole).to_bytes(4, "little"))
    inside = broken.changed(inside, length[0], len(jpeg).to_bytes(4, "little"))
    with pytest.raises(BadExample, match="a part of more than its 16 x 16 pixels"):
        formats.decode(inside, RGB)


def _strip(tiff: bytes) -> tuple[tuple[int, int], tuple[int, int]]:
    """Where a TIFF says where its only strip begins, and how long it is, with what is said."""
    import tifffile

    tags = tifffile.TiffFile(io.BytesIO(tiff)).pages[0].tags
    return tuple((tags[code].valueoffset, tags[code].value[0]) for code in (273, 279))
