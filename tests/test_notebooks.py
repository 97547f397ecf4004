"""The notebooks of examples run, with settings that take seconds, and say nothing of the machine that they ran on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "examples"
# What the cell with the tag `parameters` sets.
TINY = {
    "tour": "test_images, candidates, shots, steps, seeds = 50, 2, 10, 2, 1",
    "property_prediction": "labels, others, choices = 20, 10, 1",
}
NAMES = re.compile(r"^([\w, ]+) = ")


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(TINY)


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelManager]:
    """One for all notebooks, which takes seconds to start. Nothing can be fetched."""
    manager = KernelManager(kernel_name="python3")
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    manager.start_kernel(cwd=str(FOLDER), env={**os.environ, **proxies, "OMP_NUM_THREADS": "1"})
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", TINY)
def test_notebooks_run(name: str, kernel: KernelManager) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (parameters,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    names = NAMES.match(parameters.source)
    assert names is not None
    assert TINY[name].startswith(f"{names[1]} = ")
    parameters.source = TINY[name]
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, timeout=120, km=kernel).execute()
    assert all(cell.outputs for cell in notebook.cells[1:] if cell.cell_type == "code" and cell is not parameters)


@pytest.mark.parametrize("name", TINY)
def test_notebooks_are_small_and_tell_nothing_of_a_machine(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < 200_000
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/|site-packages", path.read_text())
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells[1:] if cell.cell_type == "code"]
    assert any(cell.outputs for cell in code)  # what a reader sees who does not run it
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]
    assert not [output for cell in code for output in cell.outputs if output.get("name") == "stderr"]
