"""DICOM, read by pydicom: a frame in the values of its modality, or through a window."""

from __future__ import annotations

import functools
import io
import logging
import warnings
from types import ModuleType
from typing import Any

import numpy as np

from vitfm.config import ConfigError
from vitfm.data.bad import BadExample
from vitfm.data.formats.fitting import Raw, eight_bits
from vitfm.data.formats.header import Header, bad, codestream_size
from vitfm.data.inputs import Input

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")


@functools.cache
def _pydicom() -> ModuleType:
    try:
        import pydicom.encaps
        import pydicom.pixels
        import pylibjpeg  # noqa: F401  # What pydicom decodes with.
    except ImportError:
        raise ConfigError("DICOM files are read by pydicom and pylibjpeg: pip install 'vitfm[dicom]'.") from None
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # What it says of damaged files is in BadExample, too.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    return pydicom


def header(encoded: bytes, kind: str, page: int | str | None) -> Header:
    """The size, and whether the pixels are there.

    Raises:
      BadExample: the header is damaged, or there is no image.
    """
    del page  # All frames are of one size.
    library = _pydicom()
    try:
        file = library.dcmread(io.BytesIO(encoded))
        sides = file.get("Rows"), file.get("Columns")
        channels = (
            3 if file.get("PhotometricInterpretation") == "PALETTE COLOR" else int(file.get("SamplesPerPixel", 1))
        )
        pixels = next((file[name].value for name in _PIXELS if name in file), None)
        image = "Image" in file.file_meta.get("MediaStorageSOPClassUID", library.uid.UID("")).name
        short = pixels is not None and not file.file_meta.TransferSyntaxUID.is_compressed
        short = short and len(pixels) < library.pixels.utils.get_expected_length(file)
    except Exception as error:  # pydicom promises no kind of error for files that are damaged.
        raise bad(encoded, kind, error) from None
    if None in sides or pixels is None:
        what = ("truncated", "that ends before its pixels") if image else ("format", "of a report, or a directory")
        raise BadExample(what[0], f"{len(encoded)} bytes of DICOM {what[1]}.")
    return Header(*map(int, sides), channels, "truncated" if short else None, file)


def decode(encoded: bytes, kind: str, spec: Input, file: Any) -> Raw:
    """One frame.

    Raises:
      BadExample: it can't be decoded, there is no such frame, or no window.
    """
    try:
        frames = int(file.get("NumberOfFrames") or 1)
        index = _index(frames, spec.page)
        spacing = next(
            (found for name in _SPACINGS if (found := _of(file, index, "PixelMeasuresSequence", name))), None
        )
        spacing = None if spacing is None else (float(spacing[0]), float(spacing[1]))
        stored = _stored(file, index, frames)
        if file.PhotometricInterpretation == "PALETTE COLOR":
            return Raw(eight_bits(_pydicom().pixels.apply_color_lut(stored, file)), spacing=spacing)
        if stored.ndim == 3:
            return Raw(stored, spacing=spacing)
        return _gray(file, index, stored, spec)._replace(spacing=spacing)
    except BadExample:
        raise
    except Exception as error:
        unknown = isinstance(error, NotImplementedError | RuntimeError) and "decod" in str(error)
        raise BadExample("format", f"A DICOM: {error}") if unknown else bad(encoded, kind, error) from None


def _stored(file: Any, index: int, frames: int) -> np.ndarray:
    """Numbers of a frame, [H,W] or [H,W,3]."""
    library, syntax = _pydicom(), file.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        size = codestream_size(library.encaps.get_frame(file.PixelData, index, number_of_frames=frames))
        if size is not None and (size[0] > file.Rows or size[1] > file.Columns):
            raise BadExample("corrupt", f"A DICOM of {file.Rows} x {file.Columns} pixels with a frame of {size}.")
    own = "pydicom" if syntax == library.uid.RLELossless else ""  # Another panics where such a frame is damaged.
    return library.pixels.pixel_array(file, index=index, decoding_plugin=own)


def _index(frames: int, page: int | str | None) -> int:
    if page is None:
        return frames // 2
    if page == "all" or not -frames <= page < frames:
        raise BadExample("other", f"{frames} frames, and config.data.input.page = {page!r}.")
    return page % frames


def _gray(file: Any, index: int, stored: np.ndarray, spec: Input) -> Raw:
    """Stored numbers as the modality's values: whole ones where they are the same."""
    value = functools.partial(_of, file, index)
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    slope, intercept = float(1 if slope is None else slope), float(intercept or 0)
    inverted = file.PhotometricInterpretation == "MONOCHROME1"  # Low numbers are white.
    padding = file.get("PixelPaddingValue")
    if inverted and spec.window is None and stored.dtype.kind in "iu":
        bits = int(file.BitsStored)
        ends = 2**bits - 1 if stored.dtype.kind == "u" else -1  # The sum of the lowest and the highest number.
        stored, padding = (ends - stored.astype(np.int64)).astype(stored.dtype), padding and ends - padding
    if "ModalityLUTSequence" in file:
        values, padding = _pydicom().pixels.apply_modality_lut(stored, file).astype(np.float32), None
    elif (slope, intercept) == (1.0, 0.0):
        values = stored
    else:
        values = (stored * slope + intercept).astype(np.float32)
        padding = None if padding is None else np.float32(padding * slope + intercept)
    if spec.window is None:
        return Raw(values[..., None], missing=padding)
    seen = _windowed(file, index, values, spec.window)
    low, high = spec.range
    seen = low + (1 - seen if inverted else seen) * (high - low)
    return Raw((seen if spec.dtype == "float32" else np.round(seen)).astype(spec.dtype)[..., None])


def _windowed(file: Any, index: int, values: np.ndarray, window: tuple[float, float] | str) -> np.ndarray:
    """float64 in [0, 1] (PS3.3, C.11.2.1.2)."""
    function, values = "LINEAR", values.astype(np.float64)
    if window == "file":
        if "VOILUTSequence" in file and "WindowCenter" not in file:
            table = file.VOILUTSequence[0]
            return _pydicom().pixels.apply_voi(values.astype(np.int64), file) / (2 ** int(table.LUTDescriptor[2]) - 1)
        value = functools.partial(_of, file, index, "FrameVOILUTSequence")
        window = tuple(_first(value(name)) for name in ("WindowCenter", "WindowWidth"))
        if None in window:
            raise BadExample("other", "No window in the file, and config.data.input.window = 'file'.")
        function = value("VOILUTFunction") or "LINEAR"
    centre, width = window
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _first(value: Any) -> float | None:
    """The first of several windows."""
    if value is None or value == "":
        return None
    return float(value if np.isscalar(value) else value[0])


def _of(file: Any, index: int, sequence: str, name: str) -> Any:
    """A value that stands in the file itself or, of several frames, in what is said of this one or of all."""
    places = [file]
    for groups, number in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        if groups in file and sequence in file[groups][number]:
            places.append(file[groups][number][sequence][0])
    return next((place.get(name) for place in places if place.get(name) is not None), None)
