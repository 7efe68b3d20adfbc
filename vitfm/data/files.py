"""Files by path or URL: plain reads of local ones, fsspec's of `gs://`, `s3://`, `memory://` and what else it knows.

    listing("/data/{0000..0999}.tar")        the files a pattern names, a folder all below it
    read("s3://bucket/a.jpg")                bytes; BadExample where there are none to be had

`~` is the home directory. Keys and endpoints are fsspec's and its libraries' own: environment variables and files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import fsspec

from vitfm.config import ConfigError
from vitfm.data.bad import BadExample

T = TypeVar("T")
_WAITS = (0.5, 1.0, 2.0, 4.0)  # Seconds before another attempt.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # No file is to blame.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "s3": "s3", "s3a": "s3"}
_LITTER = {"__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini"}
_BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
_AT_ONCE = 16  # Questions to a remote system.


def read(path: str) -> bytes:
    """A whole file.

    Raises:
      BadExample: it is gone or can't be opened, after a few attempts where the reason may pass.
    """
    if _remote(path):
        system, inside = _system(path)
        return _retried(functools.partial(system.cat_file, inside), path, Exception)
    return _retried(functools.partial(_piece, local(path), 0, -1), path, OSError)


def read_range(path: str, start: int, length: int) -> bytes:
    """`length` bytes from `start` on.

    Raises:
      BadExample: as `read`, and where the file ends before.
    """
    if _remote(path):
        system, inside = _system(path)
        action = functools.partial(system.cat_file, inside, start=start, end=start + length)
        content = _retried(action, path, Exception) if length else b""
        content = content if len(content) <= length else content[start : start + length]  # Some servers send it all.
    else:
        content = _retried(functools.partial(_piece, local(path), start, length), path, OSError)
    if len(content) < length:
        raise BadExample("truncated", f"{path} ends before byte {start + length}.")
    return content


def size(path: str) -> int:
    """Bytes of a file.

    Raises:
      BadExample: as `read`.
    """
    if _remote(path):
        system, inside = _system(path)
        return _retried(functools.partial(system.size, inside), path, Exception)
    return _retried(functools.partial(os.path.getsize, local(path)), path, OSError)


def exists(path: str) -> bool:
    """Whether there is a file or folder.

    Raises:
      ConfigError: the system does not say.
    """
    if _remote(path):
        system, inside = _system(path)
        with _asked(path):
            return system.exists(inside)
    return os.path.exists(local(path))


def is_folder(path: str) -> bool:
    """Whether it is a folder; in object stores, the beginning of names.

    Raises:
      ConfigError: the system does not say.
    """
    if _remote(path):
        system, inside = _system(path)
        with _asked(path), contextlib.suppress(FileNotFoundError):
            return system.info(inside)["type"] == "directory"  # By HTTP, `isdir` would load all of a file.
        return False
    return os.path.isdir(local(path))


def stream(path: str) -> BinaryIO:
    """A file to be read from its beginning, for those who need all of it to open a source.

    Raises:
      ConfigError: it can't be opened.
    """
    with _asked(path):
        if not _remote(path):
            return open(local(path), "rb")
        system, inside = _system(path)
        return system.open(inside, "rb")


def join(folder: str, path: str) -> str:
    """`path` as seen from `folder`, unless it is absolute or a URL."""
    return path if _remote(path) or path.startswith(("/", "~")) else under(folder, path)


def under(folder: str, path: str) -> str:
    """What `below` calls `path`, whatever that begins with."""
    return f"{folder}{'' if folder.endswith('/') else '/'}{path}" if folder else path


def parent(path: str) -> str:
    """The folder that a file lies in, for `join`; "" for the current one."""
    return path[: path.rfind("/") + 1]


def local(path: str) -> str:
    """A local path as the system has it, `~` and `file://` resolved."""
    return os.path.expanduser(path.removeprefix("file://")) if path.startswith(("~", "file://")) else path


def listing(pattern: str) -> list[str]:
    """The files that a pattern names: braces in their order, then globs and folders, sorted.

    Args:
      pattern: a path or URL. `{0000..0999}` and `{a,b}` name several, each of which has to exist; `*`, `?`, `[...]` and
        `**` those that match; a folder all files below it, without hidden ones. A name that exists is no pattern.

    Raises:
      ConfigError: a file that is named is not there, nothing matches, or a folder can't be listed.
    """
    named = [pattern] if exists(pattern) else expand(pattern)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [path for found in pool.map(_named, named) for path in found]


def expand(pattern: str) -> list[str]:
    """Every name that a pattern with braces, `{0000..0999}` or `{a,b}`, stands for, whether it exists or not."""
    match = _BRACES.search(pattern)
    if not match:
        return [pattern]
    first, last, choices = match.groups()
    if choices is None:
        step = 1 if int(first) <= int(last) else -1
        middles = [str(n).zfill(len(first)) for n in range(int(first), int(last) + step, step)]
    else:
        middles = choices.split(",")
    tails = expand(pattern[match.end() :])
    return [pattern[: match.start()] + middle + tail for middle in middles for tail in tails]


def below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, in the order of their parts: the same wherever they lie.

    Hidden files and folders are left out, and what operating systems strew about. Links are followed, except to a
    folder that they lie in.

    Raises:
      ConfigError: it can't be listed.
    """
    with _asked(folder):
        if _remote(folder):
            system, inside = _system(folder)
            found = (path[len(inside.rstrip("/")) :].lstrip("/").split("/") for path in system.find(inside))
            yield from ("/".join(parts) for parts in sorted(found) if parts[-1] and not any(map(_litter, parts)))
        else:
            yield from _walk(local(folder), "", frozenset())


@contextlib.contextmanager
def _asked(path: str) -> Iterator[None]:
    """Errors of a file system as one of the recipe that names the path; libraries of object stores have their own."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{path!r} can't be opened: {error or type(error).__name__}.") from None


def _walk(folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(folder) as entries:
        found = sorted((entry.name, _kind(entry)) for entry in entries if not _litter(entry.name))
    for name, kind in found:
        if kind == "folder":
            yield from _walk(f"{folder}/{name}", f"{prefix}{name}/", above | {here})
        elif kind == "file":
            yield prefix + name


def _kind(entry: os.DirEntry[str]) -> str:
    """ "folder"; "file", which a link to nothing is, too, so that it is missed; "" of a pipe, where reading waits."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)) else ""
    except OSError:  # A link to itself.
        return "file"


def _litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _named(path: str) -> list[str]:
    """The files that one path, without braces, names."""
    if is_folder(path):
        return [under(path, own) for own in below(path)]
    if exists(path):
        return [path]
    if glob.has_magic(path) and (found := _globbed(path)):
        return found
    raise ConfigError(f"There is no file {path!r}.")


def _globbed(pattern: str) -> list[str]:
    folder = parent(pattern[: glob.escape(pattern).index("[")])  # All up to the first sign of a pattern.
    if _remote(pattern):
        system, inside = _system(pattern)
        start = len(_system(folder)[1].rstrip("/"))
        with _asked(pattern):
            matched = system.glob(inside, detail=True).items()
        found = [path[start:].lstrip("/") for path, info in matched if info["type"] == "file"]
    else:
        matched = glob.glob(pattern[len(folder) :], root_dir=local(folder) or None, recursive=True)
        found = [path for path in matched if os.path.isfile(under(local(folder), path))]
    parts = (path.split("/") for path in found)
    return [under(folder, "/".join(own)) for own in sorted(parts) if not any(map(_litter, own))]


def _remote(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _system(path: str) -> tuple[Any, str]:
    """The file system of a URL, which fsspec keeps, and the path in it.

    Raises:
      ConfigError: its library is not installed, or there is none.
    """
    try:
        return fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        protocol = path.partition("://")[0]
        extra = _EXTRAS.get(protocol)
        hint = f"`pip install 'vitfm[{extra}]'`." if extra else f"{error}."
        raise ConfigError(f"Nothing here reads {protocol}:// of {path!r}: {hint}") from None


def _retried(action: Callable[[], T], path: str, errors: type[Exception], waits: Sequence[float] = _WAITS) -> T:
    """What `action` returns, after a few more attempts where it raises one of `errors` that may not last."""
    try:
        return action()
    except errors as error:
        if not waits or _lasts(error):
            if getattr(error, "errno", None) in _OURS:
                raise
            reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
            raise BadExample("missing", f"{path} can't be read: {reason}.") from None
    time.sleep(waits[0])
    return _retried(action, path, errors, waits[1:])


def _lasts(error: Exception) -> bool:
    """Whether another attempt would end alike."""
    status = getattr(error, "status", getattr(error, "code", None))  # Of HTTP; these two pass.
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(error, _LASTING) or getattr(error, "errno", None) in (errno.ENAMETOOLONG, errno.ELOOP)


def _piece(path: str, start: int, length: int) -> bytes:
    """`length` bytes, or with -1 all, in one read of the size that the file has."""
    with open(path, "rb", buffering=0) as file:
        file.seek(start)
        return file.read(length)
