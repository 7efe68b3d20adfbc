"""tensorboardX without torch, which it would import where there is one, for an annotation: half of the import time."""

from __future__ import annotations

import sys

_HIDE = "torch" not in sys.modules
if _HIDE:
    sys.modules["torch"] = None
try:
    from tensorboardX import SummaryWriter
finally:
    if _HIDE:
        del sys.modules["torch"]

__all__ = ["SummaryWriter"]
