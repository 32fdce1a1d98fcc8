"""What SECURITY.md says, where no other test holds it."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import segmamba

ROOT = Path(__file__).parents[1]
PACKAGE = Path(segmamba.__file__).parent
READS_OBJECTS = {("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("numpy", "load")}


def test_every_test_that_holds_a_claim_exists():
    text = (ROOT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[\w/.]+)`", text)
    assert named and all((ROOT / path).is_file() for path in named)


def calls(path: Path):
    """The calls of a file: (module or object, function), and the call."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name):
                name = {"np": "numpy"}.get(owner.id, owner.id)
                yield (name, node.func.attr), node


def refuses_objects(call: ast.Call) -> bool:
    """Whether torch.load is told weights_only=True, and numpy.load keeps from objects."""
    given = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
    owner = call.func.value.id
    if owner == "torch":
        return given.get("weights_only") is True
    return owner in ("np", "numpy") and not given.get("allow_pickle", False)


def test_nothing_that_is_read_may_run_code():
    found = [
        (path, call)
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, call in calls(path)
        if name in READS_OBJECTS
    ]
    assert found, "the search finds how checkpoints are read"
    for path, call in found:
        assert refuses_objects(call), f"{path}, line {call.lineno}"


@pytest.mark.parametrize("users", ["", "false"])
def test_usage_statistics_of_mlflow_are_off_unless_the_user_wants_them(users):
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("CI", "PYTEST"))
    }
    variables |= {"MLFLOW_DISABLE_TELEMETRY": users} if users else {}
    code = "import segmamba.orchestration, os; print(os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    printed = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == (users or "true")


def test_every_module_of_mlflow_is_imported_behind_that_choice():
    """MLflow decides at its import: it must not be imported before segmamba.orchestration."""
    code = """
import sys
import segmamba.orchestration.tracking.store
from mlflow.telemetry.utils import is_telemetry_disabled
import mlflow.telemetry.utils as utils
utils._IS_IN_CI_ENV_OR_TESTING = False
print(is_telemetry_disabled())
"""
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == "True"
