"""All benchmarks write and show their figures in one way."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
PARTS = {
    "figures",
    "nnunet_cases",
    "sequential_cells",
    "sequential_studies",
    "simulated_studies",
}
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in PARTS)
PICTURES = {
    "augmentations_picture",
    "page_picture",
    "phantom_picture",
}  # these draw and measure nothing


@pytest.fixture(scope="module", autouse=True)
def neighbours() -> Iterator[None]:
    """The scripts import each other by name, as they do where one of them is run."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in {*PARTS, *SCRIPTS} - before:
        sys.modules.pop(name, None)


@pytest.fixture
def figures(neighbours: None) -> ModuleType:
    return importlib.import_module("figures")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_explains_itself_and_its_json(script, monkeypatch, capsys):
    module = importlib.import_module(script)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and f"python benchmarks/{script}.py" in shown
    assert ("--json" in shown) == (script not in PICTURES)


@pytest.mark.parametrize("script", sorted(set(SCRIPTS) - PICTURES))
def test_a_script_leaves_the_writing_to_figures(script):
    tree = ast.parse((FOLDER / f"{script}.py").read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "figures"
        for alias in node.names
    }
    assert {"command_line", "report"} <= imported
    keys = {
        key.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key in node.keys
        if isinstance(key, ast.Constant)
    }
    assert not keys & {"goal", "holds", "machine", "figures"}


def test_the_json_has_figures_with_goals_and_the_machine(figures, tmp_path, capsys):
    measured = {
        "fast": figures.at_most(1.5, 2, "s"),
        "slow": figures.below(3, 2.5, "s"),
        "seen": figures.Figure(7.0, "/s"),
        "never": figures.Figure(None, "s", "<= 9", False),
    }
    figures.report(measured, tmp_path / "out.json", workers=4)
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["figures"] == {
        "fast": {"value": 1.5, "unit": "s", "goal": "<= 2", "holds": True},
        "slow": {"value": 3.0, "unit": "s", "goal": "< 2.5", "holds": False},
        "seen": {"value": 7.0, "unit": "/s", "goal": "", "holds": None},
        "never": {"value": None, "unit": "s", "goal": "<= 9", "holds": False},
    }
    machine = written["machine"]
    assert machine["workers"] == 4
    assert {"platform", "processor", "cpus", "python"} <= set(machine)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[-1] for line in lines] == ["holds", "MISSED", "/s", "MISSED"]
    assert figures.any_missed(measured) and not figures.any_missed({"seen": measured["seen"]})


@pytest.mark.parametrize(
    ("name", "value", "holds"),
    [
        ("at_most", 2, True),
        ("below", 2, False),
        ("at_least", 2, True),
        ("above", 2, False),
        ("at_least", 1.9, False),
        ("above", 2.1, True),
        ("at_most", float("nan"), False),
    ],
)
def test_a_goal_of_2_holds_on_its_side(figures, name, value, holds):
    assert getattr(figures, name)(value, 2).holds is holds
