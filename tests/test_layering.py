"""Which room may know what."""

import ast
import importlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import segmamba

PACKAGE = Path(segmamba.__file__).parent
FLOW = (
    "config",
    "data",
    "pictures",
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
HEAVY = {"torch", "ray", "mlflow", "monai", "scipy", "matplotlib", "pandas"}


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
        "import sys\n"
        "import segmamba, segmamba.config, segmamba.commands.study, search_spaces.ablate_depth\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_top_level_imports_nothing_else_and_takes_less_than_half_a_second():
    code = (
        "import sys, time\n"
        "before, began = set(sys.modules), time.perf_counter()\n"
        "import segmamba\n"
        "taken = time.perf_counter() - began\n"
        f"heavy = ({HEAVY} | {{'numpy', 'rich', 'typer'}}) & (set(sys.modules) - before)\n"
        "ours = [name for name in sys.modules if name.startswith('segmamba.')]\n"
        "assert not heavy and not ours, (heavy, ours)\n"
        "assert set(segmamba.__all__) <= set(dir(segmamba))\n"
        "assert taken < 0.5, taken"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("load_predictor", "segmamba.inference.predictor"),
        ("find_cases", "segmamba.data.cases"),
        ("build_model", "segmamba.models"),
        ("load_config", "segmamba.config"),
        ("StudySpec", "segmamba.studies.spec"),
        ("Hypothesis", "segmamba.studies.hypothesis"),
    ],
)
def test_a_name_of_the_top_level_is_the_object_itself(name, home):
    assert name in segmamba.__all__
    assert getattr(segmamba, name) is getattr(importlib.import_module(home), name)


def test_every_public_name_of_the_top_level_is_there_and_no_other():
    for name in segmamba.__all__:
        assert getattr(segmamba, name)
    with pytest.raises(AttributeError, match="'segmamba' has no attribute 'find_case'"):
        segmamba.find_case  # noqa: B018 - the look-up is what fails
    assert segmamba.__version__ == importlib.metadata.version("segmamba")


def test_no_two_files_import_each_other_not_even_for_their_types():
    names = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in modules()}
    graph = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): set(imports(path)) & names
        for path in modules()
    }
    while leaves := {name for name, needed in graph.items() if not needed & graph.keys()}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph, f"among these files is a circle: {sorted(graph)}"
