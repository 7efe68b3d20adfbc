"""Examples that can't be used, and why: counted by reason, listed, replaced."""

from __future__ import annotations

from typing import Literal, get_args

Reason = Literal[
    "missing", "empty", "format", "truncated", "corrupt", "too_large", "depth", "channels", "caption", "other"
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class BadExample(ValueError):
    """This example can't be used; others can.

    Attributes:
      reason: missing (its file is gone or can't be opened), empty (no bytes), format (none that is known: HTML, a
        video), truncated, corrupt, too_large (more pixels than config.data.input allows), depth (values that the input
        can't hold, such as 16 bits for 8), channels (another number), caption (none), other.
    """

    def __init__(self, reason: Reason, message: str):
        super().__init__(message)
        self.reason: Reason = reason

    def __reduce__(self) -> tuple[type[BadExample], tuple[Reason, str]]:
        return BadExample, (self.reason, str(self))
