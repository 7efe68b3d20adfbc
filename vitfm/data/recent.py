"""What was used last, as much as fits: for pieces of files that are read whole, but used one example at a time."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any


class Recent:
    """Values with `nbytes`, up to a size in all, or one that is larger. Threads that ask for the same wait for one."""

    def __init__(self, most_bytes: int):
        self._room, self._lock = most_bytes, threading.Lock()
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._coming: dict[Hashable, Future[Any]] = {}

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The value of a key, made where it is not kept. What `make` raises is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            new = key not in self._coming
            future = self._coming.setdefault(key, Future())
        if new:
            self._make(key, make, future)
        return future.result()

    def _make(self, key: Hashable, make: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)
        with self._lock:
            del self._coming[key]
            if future.exception() is None:
                self._kept[key] = future.result()
                self._room -= future.result().nbytes
            while self._room < 0 and len(self._kept) > 1:
                self._room += self._kept.popitem(last=False)[1].nbytes
