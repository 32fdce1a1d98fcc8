"""The documentation: pages that are made from the code, links, words, and the site itself."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs.generate import command_line_page, settings_page
from segmamba.config import PRESETS, Config, preset

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + [
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
GENERATED = {"settings.md", "command-line.md", "figures.md", "contributing.md", "changelog.md"}
OLD_WORDS = re.compile(r"\b(mini" + r"val|jud" + r"ges?|miss" + r"ion)\b", re.IGNORECASE)


def test_every_setting_is_on_the_page_with_its_value_in_each_preset():
    page = settings_page()
    for name, value in Config().to_flat_dict().items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.count(" | ") == 2
        for which in PRESETS:
            other = preset(which).to_flat_dict()[name]
            assert (f"{which}: " in row) == (other != value), name


def test_every_command_and_script_is_on_the_page():
    page = command_line_page()
    for command in ("train", "data check", "tune-postprocessing", "study"):
        assert f"\n## segmamba {command}\n" in page
    for script in ("ablate_depth", "ensemble", "ablate_inference"):
        assert f"\n### python experiments/{script}.py\n" in page
    assert "`--gpus-per-trial" in page and "`--members" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path = target.partition("#")[0]
        if path and "://" not in path and Path(path).name not in GENERATED:
            assert (page.parent / path).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_sets_of_patients_have_the_fields_names(page):
    if page.name != "CHANGELOG.md":
        assert not OLD_WORDS.findall(page.read_text())


def test_pages_that_the_code_names_exist():
    for path in [*ROOT.glob("segmamba/**/*"), *ROOT.glob("experiments/*.py")]:
        if path.suffix in (".py", ".j2") and path.name not in ("bundle_files.py", "export.py"):
            for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|png)", path.read_text()):
                assert (ROOT / name).exists(), f"{path}: {name}"


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 130


def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "site" / "reference" / "settings" / "index.html").is_file()
