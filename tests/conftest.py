"""Every test sees eight devices, on any machine."""

from __future__ import annotations

import os

from tests.tiny import FLAGS

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {FLAGS}")
# XLA's CPU devices share a pool of as many threads as there are cores or devices. Collectives that do not depend on one
# another may start in another order on each device; where they fill the pool, all wait for those that found no thread.
os.environ.setdefault("PJRT_NPROC", "64")
