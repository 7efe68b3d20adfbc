"""Examples that can't be used, and why: counted by reason, listed, replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

Reason = Literal[
    "missing", "empty", "format", "truncated", "corrupt", "too_large", "depth", "channels", "caption", "other"
]
REASONS: tuple[Reason, ...] = get_args(Reason)
SHOWN = 3  # Examples in a message.
_MENDS: Mapping[Reason, str] = {
    "missing": "they are gone, or can't be opened: is the source where it was, and may it be read?",
    "empty": "files of 0 bytes; copy them again, or delete them",
    "format": "they are no images, whatever their names say; move them elsewhere",
    "truncated": "files that end early; copy them again, or delete them",
    "corrupt": "damaged files; copy them again, or delete them",
    "too_large": "config.data.input.max_pixels = N reads images of up to N pixels",
    "depth": "config.data.input.dtype = 'uint16' or 'float32' reads what 8 bits can't hold",
    "channels": "config.data.channels is how many a model sees, config.data.input.bands which of a file's",
    "caption": "they have no text; config.data.captions.name says which feature has it",
    "other": "the messages say why",
}


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


class Found(NamedTuple):
    """An example that was found to be bad; texts are printable, whatever files are called.

    Attributes:
      id: its index in the source.
      key: what it is called where it lies.
      reason: one of `REASONS`.
      message: what its `BadExample` said.
    """

    id: int
    key: str
    reason: Reason
    message: str


def found(index: int, key: str, error: ValueError) -> Found:
    """What an example's error says; the reason is "other" of what a transform may raise besides `BadExample`."""
    reason = error.reason if isinstance(error, BadExample) else "other"
    return Found(int(index), printable(key), reason, printable(str(error)))


def printable(text: str) -> str:
    """A text that UTF-8 has: without the odd bytes of a file's name."""
    return text.encode(errors="backslashreplace").decode()


def counted(counts: Mapping[Reason, int]) -> str:
    """ "3 truncated, 1 depth": the most first."""
    order = sorted(counts, key=lambda name: (-counts[name], name))
    return ", ".join(f"{counts[name]:,} {name}" for name in order)


def explained(counts: Mapping[Reason, int], first: Sequence[Found]) -> str:
    """Lines that name a few of the examples and say, for each reason, what helps."""
    shown = [f"  {found.key}: {found.message}" for found in first[:SHOWN]]
    mends = [f"  {name}: {_MENDS[name]}." for name in REASONS if counts.get(name)]
    return "\n".join([*shown, "What helps:", *mends])
