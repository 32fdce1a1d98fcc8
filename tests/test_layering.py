"""Which room may know what."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import segmamba

PACKAGE = Path(segmamba.__file__).parent
FLOW = (
    "config",
    "data",
    "models",
    "inference",
    "evaluation",
    "training",
    "studies",
    "reports",
    "orchestration",
    "commands",
)  # an import never points back up this list
ROOMS = ("tracking", "engine")  # nor up this one, inside orchestration


def imports(path, *, top_level_only=False):
    """Names of all modules that a file imports."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield node.module


def modules():
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_orchestration_and_the_command_line_know_ray_and_mlflow(path):
    if path.is_relative_to(PACKAGE / "orchestration"):
        return
    is_cli = path == PACKAGE / "cli.py" or path.is_relative_to(PACKAGE / "commands")
    named = {name.partition(".")[0] for name in imports(path, top_level_only=is_cli)}
    assert not named & {"ray", "mlflow"}
    if not is_cli:
        assert not any(name.startswith("segmamba.orchestration") for name in imports(path))


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_never_point_back_up_the_flow(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room not in FLOW:
        return
    later = FLOW[FLOW.index(room) + 1 :]
    assert not [
        name for name in imports(path) for other in later if name.startswith(f"segmamba.{other}")
    ]


@pytest.mark.parametrize(
    "path",
    sorted((PACKAGE / "orchestration").glob("*/*.py")),
    ids=lambda p: f"{p.parent.name}/{p.name}",
)
def test_imports_inside_orchestration_never_point_back_up_either(path):
    room = path.parent.name
    known = ROOMS[: ROOMS.index(room)]
    ours = {
        name.split(".")[2] for name in imports(path) if name.startswith("segmamba.orchestration.")
    }
    assert ours <= {room, *known}


def test_the_configuration_and_the_help_need_no_heavy_library():
    code = (
        "import sys, segmamba, segmamba.config, segmamba.commands.study, search_spaces.ablate_depth\n"
        "heavy = {'torch', 'ray', 'mlflow', 'monai', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
