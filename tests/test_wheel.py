"""The built package, installed outside of the checkout, runs without it."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("segmamba", "search_spaces")
BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", *PACKAGES)
LIMIT_S = 900

WATCH = """
import atexit, os, sys

def tell():
    root, told = os.environ["CHECKOUT"], os.environ["FOREIGN"]
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    ours = [name for name in sys.modules if name.partition(".")[0] in {packages}]
    foreign = sorted(f for f in files if f.startswith(root + os.sep) and "site-packages" not in f)
    with open(os.path.join(told, str(os.getpid())), "w") as file:
        print(len(ours), *foreign, file=file)

atexit.register(tell)
"""


def data_files() -> list[Path]:
    """The files of the packages that are no Python, relative to ROOT."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*"))
    ignored = {".py", ".pyc"}
    return sorted(p.relative_to(ROOT) for p in found if p.is_file() and p.suffix not in ignored)


def test_every_file_beside_the_code_is_declared_as_part_of_the_package():
    text = re.search(r"^package-data = \{(.*)\}$", (ROOT / "pyproject.toml").read_text(), re.M)[1]
    declared = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in re.findall(r'"([\w.]+)" = \[([^\]]*)\]', text)
        for pattern in re.findall(r'"([^"]+)"', patterns)
    ]
    files = [str(path) for path in data_files()]
    assert files
    left_out = [f for f in files if not any(fnmatch.fnmatch(f, pattern) for pattern in declared)]
    assert not left_out, "add them to package-data in pyproject.toml"


def test_every_folder_of_the_packages_is_a_package():
    folders = {p.parent for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what it is built from."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    leave = shutil.ignore_patterns("__pycache__")
    for name in BUILT_FROM:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        options = {"ignore": leave} if copy is shutil.copytree else {}
        copy(ROOT / name, source / name, **options)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def pip(command, *words):
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    arguments = [sys.executable, "-m", "pip", command, *options, *map(str, words)]
    subprocess.run(arguments, check=True, timeout=LIMIT_S)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {path.as_posix() for path in data_files()}
    wanted |= {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in held if ".dist-info/" not in name} == wanted


@pytest.mark.slow
@pytest.mark.timeout(3 * LIMIT_S)
def test_the_installed_wheel_runs_the_demo_and_predicts_without_the_checkout(wheel, tmp_path):
    site, tiny, foreign = (tmp_path / name for name in ("site", "tiny", "foreign"))
    elsewhere = tmp_path / "elsewhere"
    for folder in (tiny, foreign, elsewhere):
        folder.mkdir()
    pip("install", "--target", site, wheel)
    presets = (ROOT / "tests/docs/tiny_presets/sitecustomize.py").read_text()
    (tiny / "sitecustomize.py").write_text(presets + WATCH.replace("{packages}", str(PACKAGES)))
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (tiny, site))),
        "OMP_NUM_THREADS": "1",
        "CHECKOUT": str(ROOT),
        "FOREIGN": str(foreign),
    }

    def segmamba(*words):
        command = [sys.executable, "-c", "from segmamba.cli import main; main()", *words]
        ended = subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-3000:]
        return ended.stdout

    assert "demo" in segmamba("--help")
    segmamba("doctor")
    answer = json.loads(segmamba("demo", "--cpus", "2", "--no-viewer", "--json"))
    assert answer
    (study,) = (elsewhere / "Results").glob("ablate_depth_Run*")
    assert (study / "report.html").is_file()
    trial = next(path for path in (study / "trials").iterdir() if path.is_dir())
    data = elsewhere / "data"
    segmamba("phantom", "--help")
    (phantoms,) = (elsewhere / "Results" / "phantom").iterdir()
    case = next(path for path in phantoms.iterdir() if path.is_dir())
    shutil.copytree(case, data / case.name)
    options = ("--input", "data", "--output", "predictions")
    segmamba("predict", "--checkpoint", str(trial), *options)
    assert (elsewhere / "predictions" / f"{case.name}.nii.gz").is_file()
    told = [file.read_text().split() for file in foreign.iterdir()]
    assert told and any(int(count) > 50 for count, *_ in told), "the watch has seen our modules"
    assert not {file for _, *files in told for file in files}
