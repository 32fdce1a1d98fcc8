"""The code is that of the oldest Python that pyproject.toml allows, whichever runs the tests."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OLDEST = tuple(
    map(
        int,
        re.search(
            r'requires-python = ">=(\d+)\.(\d+)"', (ROOT / "pyproject.toml").read_text()
        ).groups(),
    )
)
SINCE = {
    "tomllib": (3, 11),
    "annotationlib": (3, 14),
    "compression": (3, 14),
}
"""Modules that later versions of Python brought."""
GONE = {
    "asynchat": (3, 12),
    "asyncore": (3, 12),
    "distutils": (3, 12),
    "imp": (3, 12),
    "smtpd": (3, 12),
    "cgi": (3, 13),
    "crypt": (3, 13),
    "imghdr": (3, 13),
    "pipes": (3, 13),
    "telnetlib": (3, 13),
}
"""Modules that later versions left out."""
FILES = sorted(
    path
    for folder in (
        "segmamba",
        "search_spaces",
        "experiments",
        "benchmarks",
        "requirements",
        "docs",
        "tests",
        "examples",
    )
    for path in (ROOT / folder).rglob("*.py")
)


def imported(tree: ast.AST, *, guarded: bool = False):
    """The modules that a file imports, but for those behind a comparison of sys.version_info."""
    for node in ast.iter_child_nodes(tree):
        behind = guarded or (isinstance(node, ast.If) and "version_info" in ast.unparse(node.test))
        if isinstance(node, ast.Import) and not guarded:
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not guarded:
            yield node.module or ""
        yield from imported(node, guarded=behind)


def test_every_file_is_the_syntax_of_the_oldest_python():
    for path in FILES:
        ast.parse(path.read_text(), str(path), feature_version=OLDEST)
    with pytest.raises(SyntaxError):
        ast.parse("try:\n    pass\nexcept* ValueError:\n    pass\n", feature_version=OLDEST)


def test_no_file_imports_what_some_python_lacks():
    lacking = {name for name, since in SINCE.items() if since > OLDEST} | set(GONE)
    for path in FILES:
        names = {name.partition(".")[0] for name in imported(ast.parse(path.read_text()))}
        assert not names & lacking, f"{path}: import it where sys.version_info allows"


def test_a_guarded_import_is_no_fault_and_another_is():
    guarded = "import sys\nif sys.version_info >= (3, 11):\n    import tomllib\n"
    assert set(imported(ast.parse(guarded))) == {"sys"}
    hidden = "def read():\n    try:\n        import tomllib\n    finally:\n        pass\n"
    assert set(imported(ast.parse(hidden))) == {"tomllib"}


def test_the_list_of_modules_is_that_of_this_python():
    here = sys.version_info[:2]
    for name, since in SINCE.items():
        assert (name in sys.stdlib_module_names) == (here >= since)
    for name, gone in GONE.items():
        assert (name in sys.stdlib_module_names) == (here < gone)
