"""The notebooks run from top to bottom, but for a shorter training."""

from __future__ import annotations

import os
import pathlib
import shutil

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parents[1] / "colabs"


@pytest.mark.parametrize("name", sorted(path.name for path in COLABS.glob("*.ipynb")))
def test_notebook_runs(name: str, tmp_path: pathlib.Path) -> None:
    shutil.copytree(COLABS, tmp_path / "colabs")
    shutil.copytree(COLABS.parent / "configs", tmp_path / "configs")
    notebook = nbformat.read(tmp_path / "colabs" / name, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("'60 steps'", "'8 steps'")
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path / "colabs")}}
    )
    client.execute(env={**os.environ, "XLA_FLAGS": ""})  # As a reader has it: one device.
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the hits are shown as a picture"
    assert any("red heart: " in output.get("text", "") for output in outputs)
