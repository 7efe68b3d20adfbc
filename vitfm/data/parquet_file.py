"""What a Parquet file says of itself: its row groups, and which of its columns has what."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from vitfm.config import ConfigError
from vitfm.data import files, rows

IMAGE = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes")
CAPTION = ("caption", "captions", "text", "txt", "alt_text", "description")
LABEL = ("label", "class", "labels", "fine_label", "class_id")


class Footer(NamedTuple):
    """Rows and bytes of each row group, and Arrow's schema."""

    rows: list[int]
    bytes: list[int]
    schema: Any


def footer(path: str) -> Footer:
    """Reads the end of a file.

    Raises:
      ConfigError: it is damaged, or no Parquet.
    """
    import pyarrow

    try:
        with opened(path) as file:
            groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
            return Footer([own.num_rows for own in groups], [own.total_byte_size for own in groups], file.schema_arrow)
    except ConfigError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{path!r} is no whole Parquet file: {str(error).splitlines()[0]}") from None


def opened(path: str, metadata: Any = None) -> Any:
    """A `pyarrow.parquet.ParquetFile`, its footer being read where it is not given."""
    import pyarrow.parquet

    source = files.stream(path) if "://" in path and not path.startswith("file://") else files.local(path)
    return pyarrow.parquet.ParquetFile(source, metadata=metadata, pre_buffer=True, page_checksum_verification=True)


def image(schema: Any, names: Sequence[str]) -> str | None:
    """The column, of those named, that has the images, or else paths of them."""
    able = [name for name in names if of_images(schema.field(name).type)]
    said = [name for name in able if described(schema, name).get("_type") == "Image"]
    paths = [name for name in names if of_texts(schema.field(name).type)]
    for found in (_likely(IMAGE, said), *said[:1], _likely(IMAGE, able), *(able if len(able) == 1 else ())):
        if found:
            return found
    return _likely(rows.IMAGE, paths)


def caption(schema: Any, names: Sequence[str]) -> str | None:
    """The column of captions."""
    return _likely(CAPTION, [name for name in names if not of_images(schema.field(name).type)])


def label(schema: Any, names: Sequence[str]) -> str | None:
    """The column of class labels."""
    said = [name for name in names if described(schema, name).get("_type") == "ClassLabel"]
    return _likely(LABEL, said) or next(iter(said), None) or _likely(LABEL, names)


def described(schema: Any, name: str) -> dict[str, Any]:
    """What Hugging Face's `datasets` wrote of a column, or of the elements of its lists; {} where others wrote it."""
    try:
        own = json.loads(schema.metadata[b"huggingface"])["info"]["features"].get(name)
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}
    while isinstance(own, list) or (isinstance(own, dict) and own.get("_type") in ("Sequence", "List", "LargeList")):
        own = next(iter(own), None) if isinstance(own, list) else own.get("feature")
    return own if isinstance(own, dict) else {}


def of_images(kind: Any) -> bool:
    """Whether a column of this type may hold images: bytes, or structs with some."""
    import pyarrow.types as types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and of_images(kind.field("bytes").type)
    return any(test(kind) for test in (types.is_binary, types.is_large_binary, types.is_binary_view))


def of_texts(kind: Any) -> bool:
    """Whether a column of this type holds texts."""
    import pyarrow.types as types

    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view))


def _likely(likely: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of the likely names that is there, in any case."""
    return next((own for name in likely for own in names if own.lower() == name), None)
