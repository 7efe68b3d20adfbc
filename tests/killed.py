"""`vitfm.main` in a process that dies at a chosen moment: `python -m tests.killed SIGNAL EVENT PATTERN NTH ARGUMENTS`.

It sends itself SIGNAL at the NTH event of the name EVENT whose text PATTERN is found in. Events are those of Python's
audit hooks that change files ("open" for writing, "os.rename", "os.mkdir", "os.remove", "os.rmdir"), with the path as
text; "step", when a step was dispatched and is being computed, with its number; and "evaluate". EVENT "any" is any one
of them below the workdir; "none" never comes. The last line that it prints is the number of those.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import Any

from vitfm import main
from vitfm.evals import embeddings
from vitfm.metrics.window import Window

FILES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


class Trap:
    """An audit hook that sends this process a signal at the nth event that matches."""

    def __init__(self, number: int, event: str, pattern: str, nth: int, workdir: str):
        self.seen = self.matched = 0
        self._arguments = (number, event, pattern, nth, workdir)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        number, wanted, pattern, nth, workdir = self._arguments
        text = str(arguments[0]) if arguments else ""
        if event in FILES and (workdir not in text or (event == "open" and not _writes(*arguments[1:3]))):
            return
        if event not in (*FILES, "step", "evaluate"):
            return
        self.seen += 1
        if wanted in (event, "any") and re.search(pattern, text):
            self.matched += 1
            if self.matched == nth:
                os.kill(os.getpid(), number)


def _writes(mode: str | None, flags: int) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR))


def _announced(function: Any, event: str) -> Any:
    def announced(self: Any, *arguments: Any) -> Any:
        sys.audit(event, arguments[0] if event == "step" else "")
        return function(self, *arguments)

    return announced


if __name__ == "__main__":
    name, event, pattern, nth, *rest = sys.argv[1:]
    workdir = next(word.partition("=")[2] for word in rest if word.startswith("--workdir="))
    Window.add = _announced(Window.add, "step")
    embeddings.of_images = _announced(embeddings.of_images, "evaluate")
    trap = Trap(signal.Signals[name], event, pattern, int(nth), workdir)
    sys.addaudithook(trap)
    code = main.main(rest)
    print(trap.seen)
    sys.exit(code)
