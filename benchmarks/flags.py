"""What the command lines of several benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def names(kind: str, known: Collection[str]) -> Callable[[str], list[str]]:
    """A type for `argparse`: names separated by commas, each one of `known`; `kind` says of what, for messages."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        unknown = [name for name in found if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"no {kind} {unknown[0]!r}; there are {', '.join(known)}")
        return found

    return parse
