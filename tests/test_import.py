"""Importing vitfm costs nothing until something is asked of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["jax", "numpy", "flax", "optax", "grain", "orbax", "cv2", "matplotlib", "tensorflow_datasets", "torch"]


@pytest.mark.parametrize("module", ["vitfm", "vitfm.main"])
def test_import_brings_nothing_heavy(module: str):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
