"""The smallest run that does everything a run does, and ways to start it and to look at what it left.

`--config=tests/tiny.py` writes rows every 3 steps, checkpoints and evaluations every 4.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from vitfm import config as config_lib

ROOT = pathlib.Path(__file__).parents[1]
TOTAL = 10
# Tests compile for longer than they compute: without LLVM's optimisations they take half the time, without XLA's own
# emitters of fusions half of that. And XLA ends a process where a device is 40 s late for a collective: on a crowded
# machine that is nobody's fault.
FLAGS = (
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 --xla_cpu_collective_timeout_seconds=600"
)
FASTER = "--xla_cpu_use_fusion_emitters=false"
TIMED = ("seconds", "images_per_second", "data/wait")  # Numbers of a row that no two runs share.


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """A CLIP recipe that is not tuned with configs/clip.py, but has all of its parts; "spoiled" has bad images, too."""
    config = ml_collections.ConfigDict(
        {
            "seed": 0,
            "total": f"{TOTAL} steps",
            "batch_size": 16,
            "objective": {
                "name": "clip",
                "image": {"name": "vit", "patch_size": 16, "hidden_dim": 32, "depth": 1, "num_heads": 2},
                "text": {"name": "text", "hidden_dim": 32, "depth": 1, "num_heads": 2},
                "embed_dim": 32,
            },
            "data": {
                "source": "tfds:emoji:train",
                "image_size": 32,
                "alpha": True,
                "crop": {"scale": (0.6, 1.2), "rotation": 10.0, "flip": False},
                "captions": {"name": "name", "tags": "tags"},
                "tokenizer": {"path": "emoji_bpe", "length": 16},
                "columns": {"concept": "codepoint"},
                "augment": {"background": "random", "brightness": 0.3},
            },
            "optim": {
                "name": "adamw",
                "learning_rate": 1e-3,
                "b2": 0.98,
                "weight_decay": 0.2,
                "schedule": {"name": "cosine", "warmup": "20%"},
            },
            "log_every": 3,
            "checkpoint": {"every": 4},
            "evals": {
                "validation": {
                    "name": "retrieval",
                    "every": 4,
                    "source": "tfds:emoji:validation[:30]",
                    "prefix": "validation",
                    "batch_size": 16,
                    "pictures": 2,
                }
            },
        }
    )
    if arg == "spoiled":
        config.data.update({"source": "tests.spoiled:train", "max_bad": 0.5})
        config.evals.validation.source = "tests.spoiled:validation[:30]"
    return config


def arguments(workdir: pathlib.Path, *overrides: str) -> list[str]:
    """The command line, after the program's name; the runs of a whole test session share their compiled programs."""
    cache = workdir.parents[1] / "compiled"
    return [f"--config={ROOT / 'tests/tiny.py'}", f"--workdir={workdir}", f"--config.compile_cache={cache}", *overrides]


def flags(devices: int) -> str:
    """XLA's options for so many virtual devices; it ends a process that gives it one that it does not know."""
    count = f"--xla_force_host_platform_device_count={devices}"
    given = f"{count} {FLAGS} {FASTER}"
    environment = {**os.environ, "XLA_FLAGS": given, "JAX_PLATFORMS": "cpu"}
    known = subprocess.run([sys.executable, "-c", "import jax; jax.devices()"], env=environment, capture_output=True)
    return given if known.returncode == 0 else f"{count} {FLAGS}"


def environment(devices: int = 2) -> dict[str, str]:
    """For a process with so many virtual devices, and the test session's other options."""
    given = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"  # The last one counts.
    return {**os.environ, "XLA_FLAGS": given, "JAX_PLATFORMS": "cpu", "PJRT_NPROC": "32"}


def run(
    program: Sequence[str], workdir: pathlib.Path, *overrides: str, devices: int = 2
) -> subprocess.CompletedProcess[str]:
    """`python -m PROGRAM` with the arguments of a tiny run."""
    command = [sys.executable, "-m", *program, *arguments(workdir, *overrides)]
    return subprocess.run(command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=900)


def rows(workdir: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of metrics without what no two runs share."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMED} for line in lines]


def state(workdir: pathlib.Path, step: int = TOTAL) -> dict[str, np.ndarray]:
    """Every leaf of a checkpoint by its name."""
    from vitfm.checkpoint.manager import Checkpoints

    return dict(config_lib.flatten(Checkpoints(workdir / "checkpoints").restore_subtree("", step)))


def assert_equal_bits(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    """Both hold the same leaves, bit for bit."""
    assert one.keys() == other.keys()
    different = [name for name in one if np.asarray(one[name]).tobytes() != np.asarray(other[name]).tobytes()]
    assert not different
