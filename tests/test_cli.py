"""The `segmamba` command as a user types it."""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from search_spaces.ablate_inference import BASELINE
from search_spaces.ensemble import EXPECTED_GAIN
from segmamba.cli import app
from segmamba.commands import ensemble, shared, tune
from segmamba.commands.shared import run_app
from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.evaluation.rules import CHALLENGES
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.studies.spec import resolve
from tests import warm

TINY_NETWORK = ["--preset", "demo", "--batch", "1", "--patch", "32,32,32"]
TINY_NETWORK += ["--set", "model.base_channels=4"]


def segmamba(*arguments, cwd):
    """Run the command in a process of its own."""
    command = [sys.executable, "-c", "from segmamba.cli import main; main()", *arguments]
    return warm.run(command, cwd=cwd)


@pytest.fixture
def run_here(tmp_path, monkeypatch, capsys):
    """Runs the command in this process and in tmp_path: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_app(app, list(map(str, arguments)))
        return end.value.code, *capsys.readouterr()

    return run


def words_of(command, words=()):
    """The words of a command and of every command below it."""
    below = getattr(command, "commands", {}).items()
    return [words, *(more for name, one in below for more in words_of(one, (*words, name)))]


COMMANDS = words_of(typer.main.get_command(app))


def test_the_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "segmamba.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "Usage: " in done.stdout


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(tmp_path, option):
    code = (
        f"import sys; sys.argv = ['segmamba', '{option}']\n"
        "from segmamba.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'numpy', 'ray', 'mlflow', 'monai', 'scipy', 'matplotlib', 'pandas'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    if option == "--version":
        assert shown == f"segmamba {importlib.metadata.version('segmamba')}\n"
    else:
        assert all(f"\n  {words[0]} " in shown for words in COMMANDS if words)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_shortens_no_sentence(run_here, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, shown, _ = run_here(*words, "--help")
    assert code == 0 and shown.startswith("Usage: ")
    assert max(map(len, shown.splitlines())) <= 80 and "...\n" not in shown.split("\n", 1)[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "--preset", "huge"], "unknown preset 'huge'"),
        (["describe", "--patch", "100,96,96"], "data.patch_size = (100, 96, 96)"),
        (["describe", "--patch", "96"], "data.patch_size = 96: must be 3 values"),
        (["describe", "--batch", "0"], "train.batch_size = 0"),
        (["describe", "--set", "optm.lr=1"], "unknown setting 'optm.lr'"),
        (["settings", "--preset", "huge"], "unknown preset 'huge'"),
        (["phantom", "new", "--cases", "1"], "phantom.cases = 1"),
        (["phantom", "new", "--size", "8,8,8"], "phantom.size = (8, 8, 8)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_gets_one_line_and_code_2(tmp_path, arguments, message):
    result = segmamba(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_settings_lists_every_setting_of_the_preset_with_its_meaning(run_here):
    _, shown, _ = run_here("settings", "--preset", "demo")
    assert "data.patch_size = (48, 48, 32)" in shown and "Voxels along NIfTI x, y, z" in shown


def test_phantom_writes_cases_that_are_found_again(run_here, tmp_path):
    options = ["--cases", "2", "--size", "48,48,48", "--seed", "3"]
    code, shown, errors = run_here("phantom", "made", *options)
    assert code == 0 and shown == "made\n", errors
    cases = find_cases(tmp_path / "made", "auto")
    assert [case.id for case in cases] == ["Phantom_000", "Phantom_001"]


def test_describe_says_the_same_in_json_and_in_a_table_of_100_columns(run_here):
    description = json.loads(run_here("describe", *TINY_NETWORK, "--json")[1])
    assert description["input"] == {"patch_size": [32, 32, 32], "batch_size": 1}
    assert description["measured"] is None
    assert description["totals"]["training_flops"] == 3 * sum(
        part["forward_flops"] for part in description["parts"]
    )
    memory = description["training_memory"]["fp32"]
    assert memory["total"] == sum(
        memory[key] for key in ("weights", "optimizer", "kept", "passing", "workspace")
    )

    _, table, _ = run_here("describe", *TINY_NETWORK)
    assert f"{description['totals']['parameters']:,}" in table
    assert "bottleneck" in table and "estimated peak" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_paper_network_is_described_within_100_columns_untruncated(run_here):
    _, table, _ = run_here("describe")
    assert "128x128x64" in table and "…" not in table
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.slow
def test_describe_measures_a_true_step_beside_the_estimate(tmp_path):
    options = ["describe", "--preset", "demo", "--set", "train.precision=fp32", "--measure"]
    description = json.loads(segmamba(*options, "--json", cwd=tmp_path).stdout)
    assert list(description["training_memory"]) == ["fp32"]
    assert description["measured"]["precision"] == "float32"
    assert 0.5 < description["measured"]["estimate_share"] < 2


def test_doctor_examines_this_machine_in_json_and_in_a_checklist(run_here, tmp_path):
    code, shown, _ = run_here("doctor", "--json", "--output", tmp_path / "Results")
    report = json.loads(shown)
    states = {check["name"]: check["state"] for check in report["checks"]}
    assert {"torch", "scan", "precision", "memory", "disk", "ray", "mlflow"} <= set(states)
    assert code == int("problem" in states.values())
    assert report["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    code, checklist, _ = run_here("doctor", "--output", tmp_path / "Results")
    assert code == int("problem" in states.values()) and all(name in checklist for name in states)


TYPES = re.compile(r"<[\w\[\], |]+>|\blist\[")
"""Python's types, which say nothing to a user."""


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_help_names_no_python_type_and_cuts_no_sentence(run_here, words, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    _, shown, _ = run_here(*words, "--help")
    assert not TYPES.findall(shown)
    assert not re.search(r"(\.\.\.|…)$", shown.partition("Commands:")[2], re.MULTILINE)


def test_what_writes_takes_output_and_no_help_shows_another_name_for_it(run_here):
    for words in COMMANDS:
        shown = run_here(*words, "--help")[1]
        assert "--results" not in shown and "--bundle" not in shown
    for words in (["phantom"], ["export"], ["predict"], ["demo"], ["ensemble"]):
        assert "--output DIR" in run_here(*words, "--help")[1]


@pytest.mark.parametrize("word", ["--bundle=made", "--bundle made", "--output made"])
def test_export_takes_its_folder_by_the_old_name_too(run_here, monkeypatch, word):
    given = []
    export = importlib.import_module("segmamba.inference.export")
    monkeypatch.setattr(export, "export_bundle", lambda *names, **options: given.append(names))
    code, _, errors = run_here("export", "--checkpoint", "run", *word.split())
    assert code == 0 and given == [(Path("run"), Path("made"))]
    assert errors == ("note: --bundle is now --output\n" if "bundle" in word else "")


def test_phantom_takes_its_folder_either_way_but_once(run_here, tmp_path):
    options = ["--cases", "2", "--size", "48,48,48", "--output", "made"]
    code, shown, _ = run_here("phantom", *options)
    assert code == 0 and shown == "made\n" and (tmp_path / "made").is_dir()
    for wrong in (["phantom"], ["phantom", "made", "--output", "other"]):
        code, _, errors = run_here(*wrong)
        assert code == 2 and errors == "error: say once where the cases go: --output DIR\n"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("segmamba ab", ["ablate-inference"]),
        ("segmamba data ch", ["check"]),
        ("segmamba train --preset d", ["demo"]),
        ("segmamba train --set optim.l", ["optim.lr="]),
        ("segmamba predict --labels brats2024", ["brats2024", "brats2024ped"]),
        ("segmamba evaluate --out", ["--output"]),
    ],
)
def test_the_shell_completes_commands_options_and_values(tmp_path, typed, offered):
    words = typed.split()
    asked = {
        "_SEGMAMBA_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv = ['segmamba']; from segmamba.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | asked,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == offered, done.stderr


def test_the_words_that_are_completed_are_those_that_are_taken():
    from segmamba.data.labels import convention

    assert all(convention(name) for name in shared.CONVENTIONS)
    assert set(CHALLENGES) == set(shared.CHALLENGES) - {"auto"}


def test_demo_is_the_depth_study_in_the_demo_preset(run_here, monkeypatch, tmp_path):
    ran = []

    def interrupted(*given):
        ran.append(given)
        raise KeyboardInterrupt

    monkeypatch.setattr("segmamba.orchestration.study.run_study", interrupted)
    code, shown, _ = run_here("demo", "--cpus", "1", "--output", "there")
    assert code == 130 and shown == f"{shared.STOPPED}\n"
    ((study, options, _),) = ran
    assert study is importlib.import_module("search_spaces.ablate_depth").STUDY
    assert options == StudyOptions(cpus=1, output=Path("there")) and options.preset == "demo"


def test_ensemble_trains_the_members_that_its_script_trains(run_here, monkeypatch):
    ran = []
    monkeypatch.setattr(ensemble, "_run", lambda *given, **options: ran.append(given) or 0)
    assert run_here("ensemble", "--size", "3", "--members", "diverse")[0] == 0
    ((study, options, gain),) = ran
    spec = resolve(study, preset(options.preset))
    assert list(spec.arms) == [f"{kind} {i}" for kind in ("plain", "diverse") for i in (1, 2, 3)]
    assert gain == EXPECTED_GAIN
    assert run_here("ensemble", "--size", "1")[0] == 2


def test_ablate_inference_runs_the_arms_of_its_script(run_here, monkeypatch):
    ran = []

    def interrupted(*given):
        ran.append(given)
        raise KeyboardInterrupt

    name = "segmamba.orchestration.inference_ablation.run_inference_ablation"
    monkeypatch.setattr(name, interrupted)
    code, shown, _ = run_here("ablate-inference", "--checkpoint", "run", "--arms", "CRF")
    assert code == 130 and shown.startswith("stopped  ")
    assert set(ran[0][1]) == {BASELINE, "CRF"} and ran[0][2] == BASELINE
    code, _, errors = run_here("ablate-inference", "--checkpoint", "run", "--arms", "CRV")
    assert code == 2 and "no such arm" in errors


def test_the_results_of_a_checkpoint_are_the_folder_that_has_its_phantom(tmp_path):
    trial = tmp_path / "Results" / "x_Run01" / "trials" / "a_seed0"
    trial.mkdir(parents=True)
    assert tune._results_of(trial) == shared.RESULTS
    (tmp_path / "Results" / "phantom").mkdir()
    assert tune._results_of(trial) == tmp_path.resolve() / "Results"
