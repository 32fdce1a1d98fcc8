"""The notebook of the documentation: kept without outputs, and run to its end on a tiny study."""

import ast
import importlib
from pathlib import Path

import pytest

from tests.docs.workspace import DEEP, Workspace

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "read_a_study.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebook_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert len(code_of(notebook)) <= 8, "short"
    for cell in code_of(notebook):
        assert not cell.outputs and cell.execution_count is None


def test_what_the_notebook_imports_exists(notebook):
    for cell in code_of(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, name.name) for name in node.names), node.module


@pytest.mark.slow
def test_the_notebook_shows_verdict_table_and_prediction(notebook, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    workspace = Workspace(tmp_path)
    workspace.run("python", "experiments/ablate_depth.py", *DEEP)
    for name, value in workspace.environment.items():
        monkeypatch.setenv(name, value)
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(notebook, timeout=300, resources=resources).execute()
    outputs = [
        output.get("text", "") + str(output.get("data", {}))
        for cell in code_of(notebook)
        for output in cell.outputs
    ]
    shown = "\n".join(outputs)
    assert "Undecided: " in shown and "depth 4" in shown and "dice_mean" not in outputs[0]
    assert "image/png" in shown
