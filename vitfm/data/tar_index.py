"""Where each sample of a tar lies: found once, kept in a file, looked up from then on.

    index = tar_index.make("0000.tar")
    index.key(3), index.members(3)      # "000000003", {"jpg": (start, length), "txt": (start, length)}

The file is `0000.tar.index.safetensors` beside the tar, or, where nothing can be written there, one in ~/.cache/vitfm
($VITFM_CACHE). A sample takes some 60 bytes of it and none of memory. A tar that has changed is looked through again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import os
import posixpath
import re
import tarfile
import uuid
import zlib
from array import array
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import numpy as np
import safetensors.numpy

from vitfm.config import ConfigError
from vitfm.data import files

SUFFIX = ".index.safetensors"
_FORMAT = "2"
_SAMPLE = re.compile(r"(?!__[^/]*__/)(?P<key>(?:.*/)?[^./]+)\.(?P<extension>[^/]+)", re.DOTALL)
_UNPACK = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}


class Index:
    """The samples of one tar, in the order in which the first member of each lies there.

    Attributes:
      stamp: what the tar was when it was looked through.
      extensions: those of all members.
      note: what is wrong with the tar; "" for nothing.
    """

    def __init__(self, path: str, check: bool):
        """Opens the file; `check` reads all of it.

        Raises:
          Exception: it is not there, or damaged, in one of many ways.
        """
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - as long as the index lives, replaced or not.
        self._size = os.fstat(self._file.fileno()).st_size
        size = int.from_bytes(self._file.read(8), "little")
        header = json.loads(self._read(8, size))
        facts = header.pop("__metadata__")
        if facts["format"] != _FORMAT:
            raise ValueError(path)
        self._arrays = {
            name: (np.dtype(_DTYPES[own["dtype"]]), own["shape"], 8 + size + own["data_offsets"][0])
            for name, own in header.items()
        }
        self._length = self._arrays["samples"][1][0] - 1
        self.stamp, self.note = facts["stamp"], facts["note"]
        self.extensions: tuple[str, ...] = tuple(json.loads(facts["extensions"]))
        if check and facts != _with_checksum(facts, {name: self._rows(name) for name in self._arrays}):
            raise ValueError(path)

    def __len__(self) -> int:
        return self._length

    def key(self, row: int) -> str:
        """The name of a sample's members, with their folder and up to the first dot."""
        (_, start), (_, end) = self._rows("samples", row, row + 2)
        return self._rows("keys", int(start), int(end)).tobytes().decode()

    def all_keys(self) -> Iterator[str]:
        """Those of all samples."""
        keys, ends = self._rows("keys").tobytes(), self._rows("samples")[:, 1].tolist()
        return (keys[start:end].decode() for start, end in itertools.pairwise(ends))

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Extension -> first byte and number of bytes, of each member of a sample, in the order of the tar."""
        (start, _), (end, _) = self._rows("samples", row, row + 2)
        rows = self._rows("members", int(start), int(end)).tolist()
        return {self.extensions[extension]: (first, length) for first, length, extension in rows}

    def _rows(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        dtype, (count, *width), offset = self._arrays[name]
        row, end = dtype.itemsize * math.prod(width), count if end is None else end
        return np.frombuffer(self._read(offset + row * start, row * (end - start)), dtype).reshape(-1, *width)

    def _read(self, start: int, length: int) -> bytes:
        if start + length > self._size:
            raise ValueError(f"{self._file.name} is too short.")
        return os.pread(self._file.fileno(), length, start)  # Without a position, so that threads can share it.


_DTYPES = {"U8": "uint8", "U32": "<u4", "I64": "<i8"}


def make(tar: str, stamp: str | None = None) -> Index:
    """The index of a tar, looked through if it has none that fits.

    Args:
      tar: path or URL.
      stamp: of an index that was checked before; the file is then trusted.

    Raises:
      ConfigError: it is no tar, or compressed, or has changed since the stamp, or the index can't be kept anywhere.
    """
    wanted = stamp or _stamp(tar)
    remote = _remote(tar)
    places = [_cached(tar)] if remote else [files.local(tar) + SUFFIX, _cached(tar)]
    for place in places:
        if index := _kept(place, wanted, check=stamp is None):
            return index
    if stamp is not None and _stamp(tar) != stamp:
        raise ConfigError(f"{tar!r} has changed since it was opened; start again.")
    if remote and (index := _shared(tar, wanted)):
        return index
    content = _looked_through(tar, wanted)
    if remote:
        with contextlib.suppress(Exception):  # Most buckets can't be written to, each for its own library's reason.
            system, inside = fsspec.core.url_to_fs(tar + SUFFIX)
            system.pipe_file(inside, content)
    for place in places:
        with contextlib.suppress(OSError):
            if not _kept(place, wanted, check=True):  # Another process may have been quicker.
                _write(place, content)
            return Index(place, check=False)
    raise ConfigError(f"The index of {tar!r} can be written to none of {places}: set $VITFM_CACHE to a folder for it.")


def _remote(tar: str) -> bool:
    return "://" in tar and not tar.startswith("file://")


def _stamp(tar: str) -> str:
    """What changes with the tar: its size and time, or what an object store says of it."""
    if _remote(tar):
        system, inside = fsspec.core.url_to_fs(tar)
        return f"{files.size(tar)} {system.checksum(inside)}"
    status = os.stat(files.local(tar))
    return f"{status.st_size} {status.st_mtime_ns}"


def _cached(tar: str) -> str:
    folder = os.environ.get("VITFM_CACHE") or os.path.join("~", ".cache", "vitfm")
    path = tar if _remote(tar) else os.path.abspath(files.local(tar))
    name = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
    return os.path.join(os.path.expanduser(folder), name + SUFFIX)


def _kept(place: str, stamp: str, check: bool) -> Index | None:
    """The index in a file, where it is there, whole, and of this tar."""
    try:
        index = Index(place, check)
    except Exception:  # However it is damaged, it can be made again.
        return None
    return index if index.stamp == stamp else None


def _shared(tar: str, stamp: str) -> Index | None:
    """The index beside a tar in an object store, which another machine has put there."""
    try:
        system, inside = fsspec.core.url_to_fs(tar + SUFFIX)
        content = system.cat_file(inside)
    except Exception:  # There is none; libraries differ in how they say so.
        return None
    with contextlib.suppress(OSError):
        _write(_cached(tar), content)
    return _kept(_cached(tar), stamp, check=True)


def _write(place: str, content: bytes) -> None:
    """Puts a file in its place at once, so that other processes see all of it or nothing."""
    folder, name = os.path.split(place)
    os.makedirs(folder or ".", exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
        os.replace(temporary, place)
    finally:
        with contextlib.suppress(OSError):
            os.remove(temporary)


def _looked_through(tar: str, stamp: str) -> bytes:
    """The content of an index file, from the headers of the tar's members."""
    keys: dict[str, int] = {}
    extensions: dict[str, int] = {}
    found, notes = array("q"), []
    for name, start, length in _members(tar, notes):
        match = _SAMPLE.fullmatch(name.removeprefix("./"))
        if match:
            sample = keys.setdefault(match["key"], len(keys))
            extension = extensions.setdefault(match["extension"].lower(), len(extensions))
            found.extend((start, length, extension, sample))
    rows = np.array(found, np.int64).reshape(-1, 4)
    pairs = rows[:, 3] * max(len(extensions), 1) + rows[:, 2]
    _, last = np.unique(pairs[::-1], return_index=True)
    if len(last) < len(rows):
        notes.append(f"has {len(rows) - len(last)} members again under the same name, of which the last counts")
    rows = rows[np.sort(len(rows) - 1 - last)]
    rows = rows[np.argsort(rows[:, 3], kind="stable")]  # Members of a sample need not lie side by side.
    encoded = [key.encode() for key in keys]
    counts, lengths = np.bincount(rows[:, 3], minlength=len(keys)), [len(key) for key in encoded]
    columns = [np.concatenate([[0], np.cumsum(own)]) for own in (counts, np.array(lengths, np.int64))]
    arrays = {
        "members": _small(rows[:, :3]),
        "samples": _small(np.stack(columns, axis=1)),
        "keys": np.frombuffer(b"".join(encoded), np.uint8),
    }
    facts = {"format": _FORMAT, "stamp": stamp, "note": "; it ".join(notes), "extensions": json.dumps(list(extensions))}
    return safetensors.numpy.save(arrays, _with_checksum(facts, arrays))


def _members(tar: str, notes: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and length of each file whose content is all there, links behind the others.

    What is wrong after them is noted, and how many links lead to no file.
    """
    links: dict[str, str] = {}
    yield from _files(tar, notes, links)
    if not links:
        return
    wanted = set(links.values())  # Again, since names of all files would take much memory.
    spans = {path: span for name, *span in _files(tar, [], {}) if (path := posixpath.normpath(name)) in wanted}
    yield from ((name, *spans[target]) for name, target in links.items() if target in spans)
    lost = sum(target not in spans for target in links.values())
    if lost:
        notes.append(f"has {lost} links that lead to no file in it, and are left out")


def _files(tar: str, notes: list[str], links: dict[str, str]) -> Iterator[tuple[str, int, int]]:
    """What `_members` says of files; `links`, hard or symbolic, are gathered: name -> that of the file."""
    size = files.size(tar)
    with files.stream(tar) as stream:
        try:
            opened = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="backslashreplace")
        except (tarfile.TarError, ValueError, OverflowError):
            raise ConfigError(_no_tar(tar, stream)) from None
        end = 0
        while True:
            try:
                member = opened.next()
            except (tarfile.TarError, ValueError, OverflowError) as error:
                notes.append(f"is damaged or cut off at byte {end} ({error}), and used up to there")
                return
            if member is None:
                break
            opened.members.clear()  # tarfile keeps what it has seen.
            if opened.offset <= end or (member.isreg() and member.offset_data + member.size > size):
                notes.append(f"ends in the middle of {member.name!r}, and is used up to there")
                return
            end = opened.offset
            if member.isreg() and not member.issparse():
                yield member.name, member.offset_data, member.size
            elif member.islnk() or member.issym():
                folder = "" if member.islnk() else posixpath.dirname(member.name)
                target = posixpath.normpath(posixpath.join(folder, member.linkname))
                links[member.name] = target
        stream.seek(opened.offset)
        if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes anything that is no header for the end.
            notes.append(f"is damaged or cut off at byte {opened.offset}, and used up to there")


def _no_tar(tar: str, stream: Any) -> str:
    stream.seek(0)
    start = stream.read(16)
    command = next((command for magic, command in _UNPACK.items() if start.startswith(magic)), None)
    return compressed(tar, command) if command else f"{tar!r} is no tar: it begins with {start!r}."


def compressed(tar: str, command: str) -> str:
    """What to say of a compressed tar."""
    return (
        f"{tar!r} is compressed, so that no sample could be read without all before it; images gain nothing by it. "
        f"Unpack it once: `{command} {tar}`."
    )


def _small(values: np.ndarray) -> np.ndarray:
    """uint32 where that holds all of them."""
    return np.ascontiguousarray(values, np.uint32 if values.max(initial=0) < 2**32 else np.int64)


def _with_checksum(facts: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    facts = {name: own for name, own in sorted(facts.items()) if name != "checksum"}
    checksum = zlib.crc32(json.dumps(facts).encode())
    for name in ("samples", "members", "keys"):
        checksum = zlib.crc32(arrays[name], checksum)
    return {**facts, "checksum": str(checksum)}
