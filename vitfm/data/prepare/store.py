"""Files that are there whole or not at all, on disks and where fsspec writes: `gs://`, `s3://`, `memory://`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec

from vitfm.config import UserError
from vitfm.data import files
from vitfm.data.bad import BadExample


def remote(path: str) -> bool:
    """Whether it is a URL of something else than a disk."""
    return "://" in path and not path.startswith("file://")


def write(path: str, content: bytes) -> None:
    """Writes a file, in place of one that may be there.

    Raises:
      UserError: it can't be written.
    """
    with scratch(path) as place:
        with open(place, "wb") as file:
            file.write(content)
        put(place, path)


def write_json(path: str, value: Any) -> None:
    """Writes a value as JSON, the same bytes for the same value."""
    write(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))


def read_json(path: str) -> Any:
    """What `write_json` has written; None where there is no such file, or none that is whole."""
    try:
        return json.loads(files.read(path)) if files.exists(path) else None
    except (BadExample, ValueError):
        return None


@contextlib.contextmanager
def scratch(path: str) -> Iterator[str]:
    """A name on this machine's disk for a file that `put` brings to `path`; what lies there in the end is removed.

    Raises:
      UserError: of errors of the system on the way.
    """
    target = files.local(path)
    with contextlib.ExitStack() as stack:
        if remote(path):
            place = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "file")
        else:
            place = f"{target}.{secrets.token_hex(4)}.writing"  # Two machines may be at it.
            stack.callback(_remove, place)
        try:
            if not remote(path):
                os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            yield place
        except OSError as error:
            raise UserError(f"{path} can't be written: {error.strerror or error}.") from error


def put(place: str, path: str) -> None:
    """Brings a file of `scratch` to where it belongs, in one step.

    Raises:
      UserError: an object store does not take it.
    """
    if not remote(path):
        os.replace(place, files.local(path))
        return
    system, inside = fsspec.core.url_to_fs(path)
    try:
        system.makedirs(files.parent(inside), exist_ok=True)
        system.put_file(place, inside)
    except Exception as error:  # Each library has its own.
        raise UserError(f"{path} can't be written: {error or type(error).__name__}.") from error


def digest(path: str) -> str:
    """SHA-256 of a file on a disk."""
    with open(files.local(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_folder(path: str) -> None:
    """Removes a folder with all that is in it, where it is there."""
    if remote(path):
        system, inside = fsspec.core.url_to_fs(path)
        with contextlib.suppress(FileNotFoundError):
            system.rm(inside, recursive=True)
    else:
        shutil.rmtree(files.local(path), ignore_errors=True)


def _remove(place: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(place)
