"""Subprocesses that keep one learner each, so that neither side's threads or memory touch the other's.

A worker is `python -m MODULE`, whose `__main__` is `serve(start)`. It reads one JSON object a line: the settings, for
`start`, then requests, for the function that `start` returned; each is answered by one JSON object a line.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Worker:
    """A subprocess of `module`; a context manager."""

    def __init__(self, module: str, settings: Mapping[str, Any], python: str = sys.executable):
        command = [python, "-m", module]
        self._module = module
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.greeting = self.ask(settings)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer.

        Raises:
          RuntimeError: the worker died; what it had to say is on stderr.
        """
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # Read on: the end of its output tells the same.
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._module} ended with exit code {self._process.wait()}.")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.stdin.close()
        if error[0] is not None:
            self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def serve(start: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], Answer]]) -> None:
    """The worker's side: `start` takes the settings and returns the greeting and the answering function."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What libraries print is not an answer.
    greeting, answer = start(json.loads(sys.stdin.readline()))
    replies.write(json.dumps(greeting) + "\n")
    for line in sys.stdin:
        replies.write(json.dumps(answer(json.loads(line))) + "\n")


def use_cores(count: int) -> int:
    """Keeps this process and the workers it starts to `count` cores; returns how many there are."""
    if not hasattr(os, "sched_setaffinity"):
        return count
    cores = sorted(os.sched_getaffinity(0))[:count]
    os.sched_setaffinity(0, cores)
    return len(cores)
