"""Text is UTF-8 in every locale: whoever reads or writes a file says so."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("segmamba", "experiments", "search_spaces", "examples")
BINARY = {"gzip", "Image", "os", "tarfile", "zipfile", "blosc2", "self"}
"""What has an `open` of its own, not for text or with nothing to say of its encoding."""


def without_encoding(source):
    """The lines of calls that open a text file in the encoding of the locale."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        given = {keyword.arg for keyword in call.keywords}
        if "encoding" in given or None in given:
            continue
        function = call.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        if name in ("read_text", "write_text") and isinstance(function, ast.Attribute):
            yield call.lineno
        if name in ("run", "Popen", "check_output") and {"text", "universal_newlines"} & given:
            yield call.lineno
        if name == "open":
            builtin = isinstance(function, ast.Name)
            if not builtin and getattr(function.value, "id", "") in BINARY:
                continue
            modes = [*call.args[builtin : builtin + 1], *(k.value for k in call.keywords)]
            text = [isinstance(m, ast.Constant) and "b" in str(m.value) for m in modes]
            if not any(text):
                yield call.lineno


@pytest.mark.parametrize("room", ROOMS)
def test_every_text_file_has_an_encoding(room):
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in without_encoding(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_what_is_looked_for_is_found():
    lines = """
path.read_text()
path.read_text(encoding="utf-8")
open(path)
open(path, "rb")
path.open("w")
path.open("wb")
subprocess.run(words, text=True)
write_text(path, "x")
gzip.open(path)
"""
    assert list(without_encoding(lines)) == [2, 4, 6, 8]
