"""DICOM: the modality's values, windows, frames and colours, as the standard has them."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_voi_lut
from pydicom.sequence import Sequence

from tests.data import broken
from vitfm.config import ConfigError
from vitfm.data import formats, inputs
from vitfm.data.bad import BadExample
from vitfm.data.formats import dicom

RNG = np.random.default_rng(0)
HEIGHT, WIDTH = 70, 52
CT = inputs.make(dtype="float32", range=(-1024, 3071), channels=1)
WIDE = inputs.make(dtype="uint16", channels=1)


def written(pixels: np.ndarray, *, syntax: str = uid.ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """[H,W], [F,H,W] or, with SamplesPerPixel=3, [H,W,3] as a file, with further elements."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = uid.CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = "1.2.3"
    colours = elements.get("SamplesPerPixel", 1) == 3
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colours else pixels.shape[-2:]
    if pixels.ndim == 3 and not colours:
        dataset.NumberOfFrames = len(pixels)
    bits = pixels.dtype.itemsize * 8
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    if colours:
        dataset.PlanarConfiguration = 0
    for name, value in elements.items():
        setattr(dataset, name, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    if syntax != uid.ExplicitVRLittleEndian:
        dataset.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def numbers(dtype: str, bits: int | None = None, frames: int | None = None) -> np.ndarray:
    limits = np.iinfo(dtype)
    high = limits.max if bits is None else 2**bits - 1
    shape = (HEIGHT, WIDTH) if frames is None else (frames, HEIGHT, WIDTH)
    return RNG.integers(limits.min, high, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize(
    "syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless, uid.DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16"])
def test_numbers_are_those_that_were_stored(syntax: str, dtype: str):
    values = numbers(dtype)
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        data = pydicom.dcmread(io.BytesIO(written(values)))
        data.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        pydicom.dcmwrite(buffer, data)
        content = buffer.getvalue()
    else:
        content = written(values, syntax=syntax)
    assert formats.kind(content) == "dicom" and formats.size(content) == (HEIGHT, WIDTH)
    np.testing.assert_array_equal(formats.decode(content, CT)[..., 0], values.astype(np.float32))
    if dtype != "int16":
        found = formats.decode(content, inputs.make(dtype=dtype, channels=1))
        assert found.dtype == dtype
        np.testing.assert_array_equal(found[..., 0], values)
    for other in {"uint8", "uint16"} - {dtype}:
        with pytest.raises(BadExample, match=f"Numbers of type {dtype}") as error:
            formats.decode(content, inputs.make(dtype=other, channels=1))
        assert error.value.reason == "depth"


def test_slope_and_intercept_make_the_modalitys_values():
    values = numbers("uint16", bits=12)
    data = written(values, BitsStored=12, RescaleSlope="0.5", RescaleIntercept="-1024")
    np.testing.assert_array_equal(formats.decode(data, CT)[..., 0], values * 0.5 - 1024)
    with pytest.raises(BadExample, match="float32"):
        formats.decode(data, WIDE)
    plain = written(values, BitsStored=12, RescaleSlope="1", RescaleIntercept="0")
    np.testing.assert_array_equal(formats.decode(plain, WIDE)[..., 0], values)


def test_a_table_makes_the_modalitys_values():
    values = numbers("uint8")
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], np.arange(0, 65536, 256, np.uint16).tobytes()
    table.ModalityLUTType = "US"
    data = written(values, ModalityLUTSequence=Sequence([table]))
    np.testing.assert_array_equal(formats.decode(data, CT)[..., 0], values.astype(np.float32) * 256)


def test_low_numbers_may_be_white():
    for dtype, bits, ends in (("uint16", 12, 4095), ("int16", 16, -1), ("uint8", 8, 255)):
        values = numbers(dtype, bits if dtype == "uint16" else None)
        data = written(values, BitsStored=bits, PhotometricInterpretation="MONOCHROME1")
        np.testing.assert_array_equal(formats.decode(data, CT)[..., 0], ends - values.astype(np.float32))


# Windows.


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("white", ["MONOCHROME1", "MONOCHROME2"])
def test_windows_are_the_standards(function: str, white: str):
    values = numbers("int16")
    options = {"WindowCenter": [40, 300], "WindowWidth": [400, 1500], "VOILUTFunction": function}
    data = written(values, RescaleSlope="2", RescaleIntercept="-10", PhotometricInterpretation=white, **options)
    dataset = pydicom.dcmread(io.BytesIO(data))
    out = apply_voi_lut(values * 2.0 - 10, dataset)
    low, high = -(2**15) * 2 - 10, (2**15 - 1) * 2 - 10
    expected = (out - low) / (high - low)
    expected = 1 - expected if white == "MONOCHROME1" else expected
    found = formats.decode(data, inputs.make(channels=1, window="file"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[..., 0], np.round(expected * 255))
    exact = formats.decode(data, inputs.make(dtype="float32", range=(-1, 1), channels=1, window="file"))
    np.testing.assert_allclose(exact[..., 0], expected * 2 - 1, atol=1e-6)
    if function == "LINEAR":
        chosen = formats.decode(data, inputs.make(channels=1, window=(40, 400)))
        np.testing.assert_array_equal(chosen, found)


def test_a_windows_ends():
    values = np.array([[-161, -160, 40, 239, 240]], np.int16)
    found = formats.decode(written(values), inputs.make(dtype="float32", channels=1, window=(40, 400)))
    np.testing.assert_allclose(found[0, :, 0], [0, 0, 200 / 399, 399 / 399, 1], atol=1e-6)


def test_a_window_that_is_a_table():
    values = numbers("uint8")
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 16], (257 * np.arange(256)[::-1]).astype(np.uint16).tobytes()
    data = written(values, VOILUTSequence=Sequence([table]))
    found = formats.decode(data, inputs.make(channels=1, window="file"))
    np.testing.assert_array_equal(found[..., 0], 255 - values)


def test_no_window_is_said():
    with pytest.raises(BadExample, match="No window in the file, and config.data.input.window = 'file'") as error:
        formats.decode(written(numbers("int16")), inputs.make(channels=1, window="file"))
    assert error.value.reason == "other"


# Frames.


def test_frames():
    values = numbers("uint16", frames=5)
    data = written(values)
    for page, index in ((None, 2), (0, 0), (4, 4), (-1, 4)):
        found = formats.decode(data, inputs.make(dtype="uint16", channels=1, page=page))
        np.testing.assert_array_equal(found[..., 0], values[index])
    for page in (5, -6, "all"):
        with pytest.raises(BadExample, match="5 frames, and config.data.input.page = ") as error:
            formats.decode(data, inputs.make(dtype="uint16", channels=1, page=page))
        assert error.value.reason == "other"


def test_what_is_said_of_each_frame():
    values = numbers("uint16", frames=3)

    def said(slope: float, spacing: float) -> Dataset:
        groups, transformation, measures = Dataset(), Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 1
        measures.PixelSpacing = [spacing, spacing]
        groups.PixelValueTransformationSequence = Sequence([transformation])
        groups.PixelMeasuresSequence = Sequence([measures])
        return groups

    shared, each = said(9, 2.0), [said(1 + i, 2.0) for i in range(3)]
    for groups in each:
        del groups.PixelMeasuresSequence
    del shared.PixelValueTransformationSequence
    sequences = {"PerFrameFunctionalGroupsSequence": Sequence(each), "SharedFunctionalGroupsSequence": [shared]}
    data = written(values, **sequences)
    for page in range(3):
        spec = inputs.make(dtype="float32", range=(0, 1e5), channels=1, page=page, spacing=2.0)
        np.testing.assert_array_equal(formats.decode(data, spec)[..., 0], values[page] * np.float32(1 + page) + 1)


# Colours.


def test_colours():
    pixels = broken.picture(RNG, HEIGHT, WIDTH)
    data = written(pixels, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    np.testing.assert_array_equal(formats.decode(data, inputs.make()), pixels)
    ycbcr = pydicom.pixels.convert_color_space(pixels, "RGB", "YBR_FULL")
    data = written(ycbcr, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL")
    assert np.abs(formats.decode(data, inputs.make()).astype(int) - pixels).max() <= 3


def test_palettes():
    values = numbers("uint8")
    tables = [np.array([257 * ((i * k) % 256) for i in range(256)], np.uint16) for k in (1, 3, 5)]
    names = ("Red", "Green", "Blue")
    options: dict[str, Any] = {f"{name}PaletteColorLookupTableDescriptor": [256, 0, 16] for name in names}
    whole = {f"{name}PaletteColorLookupTableData": table.tobytes() for name, table in zip(names, tables, strict=True)}
    data = written(values, PhotometricInterpretation="PALETTE COLOR", **options, **whole)
    expected = np.stack([table[values] // 257 for table in tables], axis=-1)
    np.testing.assert_array_equal(formats.decode(data, inputs.make()), expected)
    finer = {name: (np.frombuffer(table, np.uint16) // 2 + 1).tobytes() for name, table in whole.items()}
    deep = written(values, PhotometricInterpretation="PALETTE COLOR", **options, **finer)
    with pytest.raises(BadExample, match="uint16"):
        formats.decode(deep, inputs.make())


# Spacing.


def test_spacing():
    values = np.repeat(np.repeat(np.arange(50, dtype=np.uint16).reshape(5, 10), 2, 0), 4, 1)
    found = {}
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        data = written(values, **{name: [0.5, 0.25]})
        found[name] = formats.decode(data, inputs.make(dtype="uint16", channels=1, spacing=1.0))
        np.testing.assert_array_equal(found[name][..., 0], values[::2, ::4])
    with pytest.raises(BadExample, match=r"config\.data\.input\.spacing"):
        formats.decode(written(values), inputs.make(dtype="uint16", channels=1, spacing=1.0))


def test_padding_is_no_data():
    values = numbers("uint16", bits=12)
    values[3, 4] = 63536
    data = written(values, PixelPaddingValue=63536, RescaleSlope=1, RescaleIntercept=-1024)
    found = formats.decode(data, inputs.make(dtype="float32", range=(-1024, 3071), channels=1, fill=-1024.0))
    assert found[3, 4, 0] == -1024 and (found[..., 0] == values - 1024.0).sum() >= values.size - 1


# What can't be read.


def test_what_is_no_image_is_said():
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    report.file_meta.MediaStorageSOPClassUID = report.SOPClassUID = uid.BasicTextSRStorage
    report.file_meta.MediaStorageSOPInstanceUID = report.SOPInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, report, enforce_file_format=True)
    with pytest.raises(BadExample, match="of a report, or a directory") as error:
        formats.decode(buffer.getvalue(), CT)
    assert error.value.reason == "format"


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
def test_truncated(syntax: str):
    data = written(numbers("uint16"), syntax=syntax)
    for end in (600, len(data) // 2, len(data) - 30):
        with pytest.raises(BadExample) as error:
            formats.decode(data[:end], WIDE)
        assert error.value.reason == "truncated"


def test_bombs_are_told_from_the_header():
    data = written(np.zeros((4, 4), np.uint16))
    bomb = data.replace(b"\x28\0\x10\0US\x02\0\x04\0", b"\x28\0\x10\0US\x02\0\xff\xff")
    bomb = bomb.replace(b"\x28\0\x11\0US\x02\0\x04\0", b"\x28\0\x11\0US\x02\0\xff\xff")
    with pytest.raises(BadExample, match="65535 x 65535 pixels") as error:
        formats.decode(bomb, WIDE)
    assert error.value.reason == "too_large"


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pylibjpeg", None)
    dicom._pydicom.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'vitfm\[dicom\]'"):
        formats.decode(written(numbers("uint8")), CT)
    dicom._pydicom.cache_clear()
