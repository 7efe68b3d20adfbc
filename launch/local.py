"""Starts several processes of one run on this machine: a rehearsal, on CPUs, of what several hosts would do.

    python launch/local.py --processes=2 -- --config=configs/clip.py --workdir=runs/two

What follows `--` goes to `python -m vitfm.main`. A machine's own accelerators need none of this: one process sees all
of them. Ctrl-C and SIGTERM are passed on, so that the run saves and stops. The exit code is that of the first process
that failed, and the others are then ended.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
GRACE_SECONDS = 10.0  # Between the first failure and the end of those that have not noticed it.


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2, help="how many")
    parser.add_argument("--devices", type=int, default=1, help="virtual devices of each")
    parser.add_argument("words", nargs="*", metavar="-- ARGUMENTS", help="of vitfm.main")
    arguments = parser.parse_args()
    processes = start(arguments.processes, arguments.devices, arguments.words)
    readers = [threading.Thread(target=_copy, args=(i, process)) for i, process in enumerate(processes)]
    for reader in readers:
        reader.start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: _pass_on(processes, number))
    code = wait(processes)
    for reader in readers:
        reader.join()
    return code


def start(count: int, devices: int, words: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """The processes, joined at a free port, each in a session of its own, so that Ctrl-C comes from here alone."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        # XLA runs collectives on a pool of as many threads as cores; where they fill it, all wait for one another.
        "PJRT_NPROC": os.environ.get("PJRT_NPROC", "32"),
    }
    command = [sys.executable, "-m", "vitfm.main", *words]
    return [
        subprocess.Popen(
            [*command, f"--distributed={address},{count},{i}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for i in range(count)
    ]


def wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Waits for all; after a failure no longer than a grace. The first failure's exit code, as a shell gives it."""
    code, deadline = 0, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        if not code and any(codes):
            code, deadline = next(filter(None, codes)), time.monotonic() + GRACE_SECONDS
        if None not in codes:
            return 128 - code if code < 0 else code
        if time.monotonic() > deadline:
            _pass_on(processes, signal.SIGKILL)
        time.sleep(0.05)


def _copy(index: int, process: subprocess.Popen[bytes]) -> None:
    """Prints what a process prints, each line with its index."""
    for line in process.stdout:
        sys.stdout.buffer.write(b"[%d] %s" % (index, line))
        sys.stdout.buffer.flush()


def _pass_on(processes: Sequence[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
