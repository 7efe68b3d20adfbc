"""Any folder of images, as they lie: `folder:PATH`.

    folder:/images              cat/1.jpg, dog/old/2.jpg: the class of an image is the first folder it lies in
    folder:s3://bucket/scans    1.dcm, 2.dcm: unlabelled, since images lie in the folder itself

Features of an image are `image`, its bytes; `key`, its path below the folder; `label`, its class; `caption`, the text
of `x.txt` beside `x.jpg`, or what is called "caption" or "text" in `x.json`, whose other keys are features, too; and
the columns of `metadata.csv` or `metadata.jsonl`, in this or a folder below, that has the path of the image from there
in `file_name`. A feature that an image lacks is None; one called `label` takes the place of the folders' names.
"""

from __future__ import annotations

import functools
import itertools
import logging
import posixpath
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from vitfm.config import ConfigError
from vitfm.data import beside, files, formats
from vitfm.data.bad import BadExample
from vitfm.data.texts import Texts

_NAMES = "jpg jpeg jpe jfif png webp avif gif bmp dib tif tiff dcm dicom ppm pgm pbm pnm jp2 j2k"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
_CAMERAS = "cr2 cr3 nef nrw arw srf sr2 orf rw2 raf dng pef srw"
_OTHERS = f"heic heif hif jxl psd exr ico svg {_CAMERAS}"
_UNREAD = frozenset(f".{name}" for name in _OTHERS.split())  # Images for which there is no decoder here.
_TABLES = ("metadata.csv", "metadata.jsonl")
_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
_TRIED = 16  # Files without a suffix, of which one has to be an image.


class Source:
    """The images below a folder, in the order of the parts of their paths."""

    def __init__(self, root: str, paths: Texts, columns: Sequence[beside.Columns]):
        """Where a feature is in several of `columns`, the last has it."""
        self.name = root
        self._root, self._paths, self._columns = root, paths, tuple(columns)
        names = {name for own in columns for name in own.names}
        captions = [name for name in ("caption", "text") if name in names]
        self.roles = {"image": "image"} | ({"label": "label"} if "label" in names else {})
        self.roles |= {"caption": captions[0]} if captions else {}

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        example: dict[str, Any] = {}
        for own in self._columns:
            example |= own.row(index)
        path = self._paths[index]
        return {**example, "image": files.read(files.under(self._root, path)), "key": path}

    def classes(self, feature: str) -> tuple[str, ...] | None:
        """The names of the folders, where these are the labels; sorted."""
        own = self._with(feature)
        return own.classes if isinstance(own, beside.Folders) else None

    def column(self, feature: str) -> Sequence[Any]:
        """A feature of every image; None where what lies beside it can't be read."""
        own = self._with(feature)
        if own is None and feature != "key":
            raise ConfigError(f"{self.name}: {feature!r} of all images is no column.")
        return self._paths if own is None else own.column(feature)

    def some(self, feature: str, indices: Sequence[int]) -> Sequence[Any]:
        """A feature of these images, as `column` has it; texts and objects beside others are not read."""
        own = self._with(feature)
        if isinstance(own, beside.Sidecars):
            return own.some(feature, indices)
        values = self.column(feature)
        return [values[index] for index in indices]

    def key(self, index: int) -> str:
        """The path below the folder."""
        return self._paths[index]

    def keys(self) -> Sequence[str]:
        """The paths of all images."""
        return self._paths

    def _with(self, feature: str) -> beside.Columns | None:
        return next((own for own in reversed(self._columns) if feature in own.names), None)


def make(rest: str) -> Source:
    """Opens a folder, which lists it.

    Raises:
      ConfigError: there is no such folder, no image in it, or it holds splits, of which one should be named.
    """
    if not files.is_folder(rest):
        kind = "is a file" if files.exists(rest) else "is not there"
        raise ConfigError(
            f"folder:{rest}: this folder {kind}. Tables are 'csv:PATH' and 'jsonl:PATH', tars 'webdataset:PATH'."
        )
    stems: dict[str, dict[str, str]] = {".txt": {}, ".json": {}}
    metadata: list[str] = []
    unread: Counter[str] = Counter()
    paths = Texts(_images(rest, stems, metadata, unread))
    if not len(paths):
        paths = _without_suffix(rest)
    if unread:
        _warn(rest, ", ".join(f"{count:,} {suffix}" for suffix, count in unread.most_common()))
    columns: list[beside.Columns] = []
    folders = {path.partition("/")[0] if "/" in path else "" for path in paths}
    if "" not in folders:
        _check_splits(rest, folders)
        columns.append(beside.Folders(paths, sorted(folders)))
    if any(stems.values()):
        columns.append(beside.Sidecars(rest, paths, stems[".txt"], stems[".json"]))
    if metadata:
        columns.append(beside.Metadata(rest, paths, metadata))
    return Source(rest, paths, columns)


def _images(root: str, stems: dict[str, dict[str, str]], metadata: list[str], unread: Counter[str]) -> Iterator[str]:
    """Paths of the images; those of `metadata`, and of `stems` with their suffix as it is written, are gathered.

    Images that can't be read are counted in `unread`, by their suffix.
    """
    for path in files.below(root):
        suffix = _suffix(path)
        if suffix in SUFFIXES:
            yield path
        elif suffix in stems:
            stem = path[: -len(suffix)]
            stems[suffix][stem] = sys.intern(path[len(stem) :])
        elif posixpath.basename(path) in _TABLES:
            metadata.append(path)
        elif suffix in _UNREAD:
            unread[suffix] += 1


@functools.cache
def _warn(root: str, counts: str) -> None:
    """Says what is left out; once of a folder, which may be opened again and again."""
    logging.getLogger(__name__).warning(
        "folder:%s: %s files are left out: nothing here reads them. Convert them to JPEG or PNG.", root, counts
    )


def _without_suffix(root: str) -> Texts:
    """Files without a suffix, or a number for one, as scanners write DICOM, where no other file is an image.

    Raises:
      ConfigError: none of the first few is an image, either.
    """
    bare = lambda path: _suffix(path)[1:].isdigit() or not _suffix(path)
    paths = Texts(path for path in files.below(root) if bare(path) and posixpath.basename(path) != "DICOMDIR")
    for path in itertools.islice(paths, _TRIED):
        try:
            formats.kind(files.read(files.under(root, path)))
        except BadExample:
            continue
        return paths
    counts = Counter(_suffix(path) or "without a suffix" for path in files.below(root))
    found = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(5)) or "nothing at all"
    raise ConfigError(f"folder:{root} holds no image, but {found}. Images end in {', '.join(sorted(SUFFIXES))}.")


def _check_splits(root: str, folders: set[str]) -> None:
    """Refuses to train on test images, and to take the names of splits for classes."""
    if {name.lower() for name in folders} <= _SPLITS:
        example = next((name for name in sorted(folders) if name.lower().startswith("train")), min(folders))
        raise ConfigError(
            f"folder:{root} holds {' and '.join(sorted(folders))}: name one of them, such as "
            f"'folder:{root.rstrip('/')}/{example}', or a mixture of them."
        )


def _suffix(path: str) -> str:
    return posixpath.splitext(path)[1].lower()
