"""Every command that README and the documentation show is a real one, with real options.

Commands are parsed by the command line's own parsers, in this process, and not run. README's
commands are also run: here where they take seconds, else by the test that COVERED names.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer

from docs.generate import script_app
from segmamba.cli import app
from segmamba.config import parse_assignments, preset
from segmamba.studies.spec import resolve

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"] + sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")
)
LOG = "benchmarks/README.md"  # its commands may be of a day with other settings
COMMAND = re.compile(r"([A-Z_]+=\S* )*(\.venv/bin/)?(make|python|segmamba|mlflow|pip) ")

# README's commands by their first words, and what runs them.
COVERED = {
    "make demo": "tests/orchestration/test_end_to_end.py",  # the same study with tiny trials
    "make test": ".ci/run",
    "make studies": "tests/orchestration/test_end_to_end.py",
    "make ensemble": "tests/orchestration/test_ensemble.py",
    "make docs": "tests/docs/test_site.py",
    "python experiments/ablate_depth.py": "tests/orchestration/test_end_to_end.py",
    "python experiments/ensemble.py": "tests/orchestration/test_ensemble.py",
    "python experiments/ablate_inference.py": "tests/orchestration/test_inference_ablation.py",
    "python experiments/tune_hyperparameters.py": "tests/orchestration/test_search.py",
    "python experiments/": "tests/orchestration/test_end_to_end.py",  # a script of the same form
    "python benchmarks/": "tests/benchmarks/test_figures.py",  # its options; measured by hand
    "mlflow ui": "tests/docs/test_commands.py",  # parsed alone: a server
    "segmamba study": "tests/docs/test_commands.py",  # the tutorial's study, below
    "segmamba train": "tests/test_train_command.py",
    "segmamba reproduce": "tests/test_train_command.py",
    "segmamba predict": "tests/inference/test_predict_command.py",
    "segmamba evaluate": "tests/evaluation/test_evaluate.py",
    "segmamba compare": "tests/evaluation/test_evaluate.py",
    "segmamba export": "tests/inference/test_exported_files.py",
    "segmamba doctor": "tests/test_doctor.py",
    "segmamba demo": "tests/test_cli.py",  # the study that `make demo` runs
    "segmamba ensemble": "tests/test_cli.py",  # the code of experiments/ensemble.py
    "segmamba ablate-inference": "tests/test_cli.py",  # the code of its script
    "segmamba --install-completion": "tests/test_cli.py",  # what it installs
    "segmamba compare-studies": "tests/orchestration/test_compare_studies.py",
    "segmamba data check": "tests/docs/test_commands.py",  # below
}


@dataclass(frozen=True)
class Shown:
    """A command as a page shows it."""

    page: str
    text: str
    whole: bool
    """Whether it can be run as it stands; words within a sentence may lack required options."""

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"

    @property
    def words(self) -> list[str]:
        text = re.sub(r"[][]", "", self.text).removesuffix("&")  # [--data DIR]
        words = shlex.split(text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        return [words[0].removeprefix(".venv/bin/"), *words[1:]] if words else []


def shown_commands(page: str) -> Iterator[Shown]:
    """The commands of a page: lines of code blocks without a language, and code in sentences."""
    text = (ROOT / page).read_text()
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in ("", "bash", "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if COMMAND.match(line):
                    yield Shown(page, line.strip(), True)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`]+)`", prose):
        code = " ".join(code.split())
        if (ROOT / "experiments" / code.partition(" ")[0]).is_file():  # of a table of scripts
            code = f"python experiments/{code}"
        if COMMAND.match(code) and not re.search(r"\.\.\.|…|NAME", code):
            yield Shown(page, code, False)


ALL = list(dict.fromkeys(shown for page in PAGES for shown in shown_commands(page)))


def parsed(command: Any, words: list[str], name: str) -> dict[str, Any]:
    """The parameters of the innermost command, by its own parser."""
    try:
        context = command.make_context(name, list(words))
    except Exception as error:
        if type(error).__name__ == "Exit":  # of --help; typer's click has no public name
            return {}
        raise
    if not hasattr(command, "commands"):
        return context.params | {"": list(context.args)}
    rest = [*getattr(context, "_protected_args", ()), *context.args]
    word, subcommand, rest = command.resolve_command(context, rest)
    with context:
        return parsed(subcommand, rest, word) if subcommand else {}


def check(words: list[str], *, settings: bool = True) -> None:
    """Fail where the command's program, words, options or settings do not exist."""
    program, rest = words[0], words[1:]
    if program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(rest) <= targets
    elif program == "segmamba" and rest == ["--install-completion"]:
        # Parsed, it would already change the files of this machine's shell.
        declared = typer.main.get_command(app).params
        assert any(rest[0] in parameter.opts for parameter in declared)
    elif program == "segmamba":
        options = parsed(typer.main.get_command(app), rest, program)
        if settings:
            check_settings(options)
        if rest[0] == "study" and options.get(""):
            check(["python", "experiments/ablate_depth.py", *options[""]])
    elif program == "pip":
        for extra in re.findall(r"segmamba\[(\w+)\]", " ".join(rest)):
            assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    elif program == "mlflow":
        cli = pytest.importorskip("mlflow.cli").cli
        parsed(cli, rest, program)
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1].partition(".")[0])
    elif program == "python":
        check_script(Path(rest[0]), rest[1:], settings=settings)


def check_script(script: Path, words: list[str], *, settings: bool) -> None:
    script = Path(*script.parts[-2:])
    assert (ROOT / script).is_file()
    if script.parts[0] == "experiments":
        options = parsed(typer.main.get_command(script_app(ROOT / script)), words, script.name)
        if settings:
            check_settings(options)
        check_arms(script.stem, options.get("arms") or ())
    elif script.parts[0] == "benchmarks":
        sys.path.insert(0, str(ROOT / "benchmarks"))
        try:
            module = importlib.import_module(script.stem)
        finally:
            sys.path.remove(str(ROOT / "benchmarks"))
        parse = argparse.ArgumentParser.parse_args
        with mock.patch.object(argparse.ArgumentParser, "parse_args", autospec=True) as parser:
            parser.side_effect = lambda self: (parse(self, words), self.exit())
            with pytest.raises(SystemExit) as ended:
                module.main()
        assert not ended.value.code


def check_settings(options: dict[str, Any]) -> None:
    """Settings exist and take these values."""
    assignments = options.get("set") or options.get("changes") or ()
    preset(options.get("preset") or options.get("preset_name") or "demo").changed(
        parse_assignments(assignments)
    )


def check_arms(study: str, arms: list[str]) -> None:
    module = importlib.import_module(f"search_spaces.{study}")
    if arms and hasattr(module, "STUDY"):
        assert set(arms) <= {"all", *resolve(module.STUDY, preset("demo")).arms}


@pytest.mark.parametrize("shown", ALL, ids=str)
def test_a_command_and_its_options_exist(shown):
    try:
        check(shown.words, settings=shown.page != LOG)
    except Exception as error:
        if shown.whole or type(error).__name__ != "MissingParameter":
            raise


def test_commands_are_found_and_wrong_ones_are_refused():
    texts = {shown.text.partition("  ")[0] for shown in ALL if shown.page == "README.md"}
    assert {"make demo", "segmamba doctor", "python experiments/ablate_patch_size.py"} <= texts
    for wrong in (
        "make demos",
        "segmamba trian",
        "segmamba train --dta x",
        "segmamba train --set optim.lrr=1",
        "segmamba evaluate --rule",
        "python experiments/ablate_depth.py --seeds many",
        "python experiments/ablate_depth.py --arms 'depth 3'",
        "python benchmarks/scan.py --jsn x",
        "python experiments/none.py",
        "segmamba study my_study.py --sed 3",
        "pip install 'segmamba[all]'",
    ):
        with pytest.raises((Exception, SystemExit)):
            check(shlex.split(wrong))


def test_what_runs_each_command_of_readme_is_known():
    for shown in ALL:
        if shown.page == "README.md":
            text = " ".join(shown.words)
            (longest, *_) = sorted(
                (key for key in COVERED if text.startswith(key)), key=len, reverse=True
            ) or [None]
            assert longest is not None, f"{shown}: say in COVERED what runs it"
    for path in COVERED.values():
        assert (ROOT / path).is_file(), path


def run(*words: str, cwd: Path) -> str:
    """Run a command as a process; what it prints."""
    ended = subprocess.run(
        [sys.executable, "-m", "segmamba.cli", *words], cwd=cwd, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def test_the_tutorials_study_is_one(tmp_path):
    text = (ROOT / "docs" / "tutorial.md").read_text()
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "STUDY" in block
    ]
    (tmp_path / "my_study.py").write_text(code)
    printed = run("study", "my_study.py", "--help", cwd=tmp_path)
    assert "Does instance norm help at batch 2?" in printed and "--seeds" in printed


def test_data_check_passes_a_whole_data_set(cases_folder, tmp_path):
    run("data", "check", str(cases_folder), cwd=tmp_path)


def test_settings_are_printed(tmp_path):
    assert "optim.lr = 0.003" in run("settings", "--preset", "demo", cwd=tmp_path)
