"""Keeps Orbax from burying the one sentence a person needs: its lines are dropped, and nobody else's."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

_ORBAX = f"{os.sep}orbax{os.sep}checkpoint{os.sep}"


def orbax() -> None:
    """From now on Orbax neither logs nor reports the reads it abandons; what fails still raises. Calling twice is once.

    A save logs dozens of lines, a failed one pages of stacks for an error that `Checkpoints` raises in a sentence. When
    one read fails Orbax closes the loop under the others, and each of those then prints a page at a time of its own.
    """
    for name in ("absl", "asyncio"):
        if _not_from_orbax not in logging.getLogger(name).filters:
            logging.getLogger(name).addFilter(_not_from_orbax)
    if getattr(sys.unraisablehook, "func", None) is not _report_unless_abandoned:
        sys.unraisablehook = functools.partial(_report_unless_abandoned, sys.unraisablehook)


def _not_from_orbax(record: logging.LogRecord) -> bool:
    _, error, stack = record.exc_info or (None, None, None)
    files = [record.pathname, *(frame.filename for frame in traceback.extract_tb(stack))]
    theirs = any(name in str(error) for name in ("tensorstore", "OCDBT")) or any(_ORBAX in file for file in files)
    return not theirs


def _report_unless_abandoned(report: Callable[[Any], object], unraisable: Any) -> None:
    coroutine = getattr(unraisable.object, "cr_code", None)
    abandoned = coroutine is not None and _ORBAX in coroutine.co_filename
    # The same reads end in TensorStore's threads, which know no coroutine.
    loop_closed = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
    if not abandoned and not loop_closed:
        report(unraisable)


def reason(error: BaseException) -> str:
    """What went wrong first, in a line; a full disk by that name."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if "No space left" in text:
        return "the disk is full; free some space and start again"
    return text if len(text) <= 300 else f"{text[:300]} ..."
