"""The Dockerfile and the Apptainer recipe, as far as they can be tried without images."""

import re
import subprocess

import pytest
import typer

from segmamba.cli import app
from segmamba.commands.challenge import MODEL, MODEL_FOLDER
from segmamba.models.cpu_prebuilt import VARIABLE
from tests.container.image import DOCKERFILE, image

ROOT = DOCKERFILE.parent
RECIPE = ROOT / "segmamba.def"


def section(name: str) -> str:
    """A section of the Apptainer recipe, with its arguments filled in."""
    text = RECIPE.read_text()
    (body,) = re.findall(rf"^%{name}\n(.*?)(?=^%|\Z)", text, re.DOTALL | re.MULTILINE)
    return re.sub(r"\{\{ (\w+) \}\}", r"\1", body)


def runs() -> list[str]:
    """The shell scripts of the Dockerfile."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    return re.findall(r"^RUN (.*)$", text, re.MULTILINE)


def test_the_image_runs_challenge_as_nobody_without_arguments():
    assert image()["ENTRYPOINT"] == ["segmamba"] and image()["CMD"] == ["challenge"]
    assert image()["USER"] == "65534:65534"
    command = typer.main.get_command(app)
    name, found, rest = command.resolve_command(
        command.make_context("x", ["challenge"]), ["challenge"]
    )
    taken = found.make_context(name, rest).params
    assert [str(taken["input"]), str(taken["output"])] == ["/input", "/output"]


def test_model_and_kernels_are_where_the_program_looks():
    assert image()["ENV"][MODEL] == str(MODEL_FOLDER)
    assert f"${{MODEL}} {MODEL_FOLDER}" in image()["COPY"]
    kernels = image()["ENV"][VARIABLE]
    assert any(f"segmamba.models.cpu_build {kernels}" in script for script in runs())


def test_both_recipes_give_the_program_the_same_environment():
    given = dict(re.findall(r"export (\w+)=(\S+)", section("environment")))
    assert given.pop("PATH")
    docker = {
        k: v
        for k, v in image()["ENV"].items()
        if k.isupper() and not k.startswith(("NVIDIA", "DEBIAN"))
    }
    assert given == docker


@pytest.mark.parametrize("script", [*runs(), *map(section, ("post", "runscript", "test"))])
def test_the_scripts_are_shell(script):
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_what_the_recipes_copy_is_there_and_not_ignored():
    copied = re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    copied += [line.strip() for line in section("files").splitlines() if line.strip()]
    names = {word.rstrip("/") for line in copied for word in line.split()[:-1]}
    names -= {"${MODEL}", "model"}
    assert {"segmamba", "search_spaces", "requirements", "pyproject.toml"} <= names
    ignored = (ROOT / ".dockerignore").read_text().split()
    for name in names:
        assert (ROOT / name).exists() and name not in ignored


def test_a_build_for_a_cpu_asks_for_the_locked_torch():
    (expression,) = set(
        re.findall(r"sed -n '([^']+)'", DOCKERFILE.read_text() + RECIPE.read_text())
    )
    command = ["sed", "-n", expression, str(ROOT / "requirements" / "torch.txt")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(found) == 1 and found[0] in (ROOT / "constraints.txt").read_text().split()
